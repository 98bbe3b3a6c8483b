"""Tests of cases/60-temporal: a client's codec, converters and storage hold with the plugin, and go together with it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from kits.converters import Garbling, GarblingConverter, Shelf
from kits.neighbour_workflows import TellsSecrets
from kits.toy_workflows import Big, Echo, Unwinds
from neighbours.conftest import Serve
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowHistory
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    DefaultPayloadConverter,
    ExternalStorage,
)
from temporalio.plugin import SimplePlugin
from temporalio.worker import Replayer

from perdure.errors import InvalidSettings
from perdure.governance.contracts import APPROVALS, DECIDE, ApprovalRequest, Decision, DecisionCall
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.storage import open_database

SECRET = "the-heron-flies-at-noon"

CONVERTERS = {
    "codec": DataConverter(payload_codec=Garbling(), failure_converter_class=DefaultFailureConverterWithEncodedAttributes),
    "converter": DataConverter(
        payload_converter_class=GarblingConverter, failure_converter_class=DefaultFailureConverterWithEncodedAttributes
    ),
}


class MoreOfIt(PydanticPayloadConverter):
    """A converter of somebody's who has gone on from pydantic's."""


async def _approve(handle: WorkflowHandle[Any, Any]) -> None:
    while True:
        waiting: list[ApprovalRequest] = await handle.query(APPROVALS, result_type=list[ApprovalRequest])
        for each in waiting:
            call = DecisionCall(approval=each.approval, digest=each.digest, verdict="approve", by="mo", comment=SECRET)
            await handle.execute_update(DECIDE, call, result_type=Decision)
            return


async def _histories(client: Client, id: str) -> AsyncIterator[WorkflowHistory]:
    async for run in client.list_workflows(f"WorkflowId = '{id}'"):
        yield await client.get_workflow_handle(id, run_id=run.run_id).fetch_history()


@pytest.mark.parametrize("kind", CONVERTERS)
async def test_what_was_encrypted_stays_encrypted(
    temporal_address: str, plugin: PerdurePlugin, serve: Serve, task_queue: str, settings: Settings, *, kind: str
) -> None:
    """With a client's codec, or its converter, no step of perdure's leaves a word of a run in its history in clear."""
    client = await Client.connect(temporal_address, data_converter=CONVERTERS[kind], plugins=[plugin])
    bare = await Client.connect(temporal_address, data_converter=CONVERTERS[kind])
    id = str(uuid.uuid4())
    async with serve(client, TellsSecrets):
        handle = await client.start_workflow("TellsSecrets", args=[SECRET], id=id, task_queue=task_queue)
        await _approve(handle)
        by_perdure = await handle.result()
        by_bare: list[str] = await bare.get_workflow_handle(id, result_type=list[str]).result()
    histories = [each async for each in _histories(client, id)]
    replayed = await Replayer(workflows=[TellsSecrets], data_converter=CONVERTERS[kind], plugins=[plugin]).replay_workflow(
        histories[0]
    )

    assert [SECRET] == by_perdure == by_bare
    assert 2 == len(histories)
    assert [] == [
        event.event_id for history in histories for event in history.events if SECRET.encode() in event.SerializeToString()
    ]
    assert replayed.replay_failure is None


@pytest.mark.parametrize("kind", CONVERTERS)
async def test_failures_are_encoded_as_before(
    temporal_address: str, plugin: PerdurePlugin, serve: Serve, task_queue: str, *, kind: str
) -> None:
    """What a run failed with is encoded by the client's failure converter."""
    client = await Client.connect(temporal_address, data_converter=CONVERTERS[kind], plugins=[plugin])
    async with serve(client, Unwinds):
        handle = await client.start_workflow("Unwinds", "fail", id=str(uuid.uuid4()), task_queue=task_queue)
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    ended = (await handle.fetch_history()).events[-1].workflow_execution_failed_event_attributes.failure

    assert "told to fail" in str(failed.value.__cause__)
    assert "Encoded failure" == ended.message


async def test_large_payloads_go_where_they_went(
    temporal_address: str, plugin: PerdurePlugin, serve: Serve, task_queue: str, settings: Settings
) -> None:
    """A client's external storage stores what it did without perdure, and what perdure has stored before is still read."""
    shelf = Shelf()
    storing = DataConverter(external_storage=ExternalStorage(drivers=[shelf], payload_size_threshold=50_000))
    before = await Client.connect(temporal_address, plugins=[plugin])
    client = await Client.connect(temporal_address, data_converter=storing, plugins=[plugin])
    async with serve(before, Echo):
        old = await before.start_workflow(Echo.run, 100_000, id=str(uuid.uuid4()), task_queue=task_queue)
        await old.result()
    on_the_shelf_before = len(shelf.payloads)
    async with serve(client, Echo):
        small = await client.execute_workflow(Echo.run, 40_000, id=str(uuid.uuid4()), task_queue=task_queue)
        large = await client.execute_workflow(Echo.run, 100_000, id=str(uuid.uuid4()), task_queue=task_queue)
    read: Big = await client.get_workflow_handle(old.id, result_type=Big).result()
    async with open_database(settings.database) as database:
        stored = await database.query(
            lambda connection: connection.exec_driver_sql("SELECT count(*) FROM payload").scalar()
        )
    await plugin.close()

    assert (40_000, 100_000, 100_000) == (len(small.text), len(large.text), len(read.text))
    assert (0, 1, 1) == (on_the_shelf_before, len(shelf.payloads), stored)


async def test_a_codec_comes_before_the_database(
    temporal_address: str, plugin: PerdurePlugin, serve: Serve, task_queue: str, settings: Settings
) -> None:
    """What perdure stores of an encrypted run is encrypted, too."""
    client = await Client.connect(temporal_address, data_converter=CONVERTERS["codec"], plugins=[plugin])
    async with serve(client, Echo):
        large = await client.execute_workflow(Echo.run, 100_000, id=str(uuid.uuid4()), task_queue=task_queue)
    async with open_database(settings.database) as database:
        [stored] = await database.query(
            lambda connection: connection.exec_driver_sql("SELECT content FROM payload").scalars().all()
        )
    await plugin.close()

    assert 100_000 == len(large.text)
    assert b"garbled" in stored
    assert b"xxxxx" not in stored


async def test_two_stores_of_one_name_are_refused(temporal_address: str, plugin: PerdurePlugin) -> None:
    """Where both cannot hold, connecting says which two they are."""
    storing = DataConverter(external_storage=ExternalStorage(drivers=[Shelf("perdure.database")]))

    with pytest.raises(InvalidSettings, match=r"external_storage has a driver called 'perdure\.database'"):
        await Client.connect(temporal_address, data_converter=storing, plugins=[plugin])


class Stubborn(DataConverter):
    """A data converter that is not made of the fields of one."""

    def __init__(self, key: str) -> None:
        super().__init__()
        object.__setattr__(self, "key", key)


async def test_a_converter_of_another_make_is_refused(temporal_address: str, plugin: PerdurePlugin) -> None:
    """A data converter that cannot be taken apart is refused at connect, with its name."""
    with pytest.raises(InvalidSettings, match=r"test_converters\.Stubborn, cannot be combined with perdure's"):
        await Client.connect(temporal_address, data_converter=Stubborn("k"), plugins=[plugin])


@dataclass(frozen=True)
class Tenanted(DataConverter):
    """A data converter with a field of its own."""

    tenant: str = field(default="none", kw_only=True)


@pytest.mark.parametrize("perdure_first", [True, False])
async def test_what_another_plugin_puts_in(temporal_address: str, plugin: PerdurePlugin, *, perdure_first: bool) -> None:
    """Another plugin that looks at the converter and changes it, as those of agent SDKs do, may come before or after."""

    def change(converter: DataConverter | None) -> DataConverter:
        assert isinstance(converter, Tenanted)
        assert DefaultPayloadConverter is converter.payload_converter_class
        return replace(converter, payload_converter_class=MoreOfIt, payload_codec=Garbling())

    other = SimplePlugin("other", data_converter=change)
    client = await Client.connect(
        temporal_address,
        data_converter=Tenanted(tenant="north"),
        plugins=[plugin, other] if perdure_first else [other, plugin],
    )
    converter = client.data_converter

    assert isinstance(converter, Tenanted)
    assert ("north", MoreOfIt) == (converter.tenant, converter.payload_converter_class)
    assert isinstance(converter.payload_codec, Garbling)
    assert converter.external_storage is not None
    [payload] = await converter.encode([Decision(**_DECISION)])
    assert (b"garbled", [Decision(**_DECISION)]) == (
        payload.metadata["encoding"],
        await converter.decode([payload], [Decision]),
    )


async def test_applied_twice(temporal_address: str, plugin: PerdurePlugin, tmp_path: Any) -> None:
    """A client made of another one's active configuration has perdure's part once."""
    client = await Client.connect(temporal_address, data_converter=CONVERTERS["codec"], plugins=[plugin])
    again = Client(**client.config(active_config=True))
    other = PerdurePlugin(Settings(home=tmp_path / "other"))
    config = client.config(active_config=True)
    config["plugins"] = [other]
    elsewhere = Client(**config)

    for each in (again, elsewhere):
        storage = each.data_converter.external_storage
        assert storage is not None
        assert ["perdure.database"] == [driver.name() for driver in storage.drivers]
        assert isinstance(each.data_converter.payload_codec, Garbling)


_DECISION: dict[str, Any] = {
    "approval": "a",
    "digest": "d",
    "verdict": "approve",
    "by": "mo",
    "via": "update",
    "decided_at": "2026-11-29T12:00:00Z",
}
