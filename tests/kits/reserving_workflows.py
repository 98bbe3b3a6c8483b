"""A workflow of tests that needs the returns desk's connectors. A worker serves what its modules import, so it is alone."""

from __future__ import annotations

from temporalio import workflow

from perdure.examples.returns_desk.desk_connectors import Reserve, inventory
from perdure.workflows import act


@workflow.defn
class ReservesPlainly:
    """Reserves a slot for an order, in no saga."""

    @workflow.run
    async def run(self, order: str) -> str:
        return (await act(inventory.reserve, Reserve(order=order))).receipt.key
