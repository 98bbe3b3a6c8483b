"""Who asks for the effects of the matrix: workers with a ledger, and a client that sends again when there is no answer."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final, Literal

from pydantic import BaseModel

from perdure.connectors.contracts import Attempt, EffectCall, effect_key
from perdure.connectors.ledger import Ledger
from perdure.connectors.testing.at_the_seam import Died, Seam
from perdure.errors import EffectError, EffectParked, EffectRejected
from perdure.lineage import Lineage, StepRef

Ending = Literal["done", "refused", "parked", "unknown", "given up"]
"""What the client believes in the end."""
Death = Literal["before sending", "after sending"]

PATIENCE: Final = timedelta(minutes=2)
"""How long an effect may take to come to an end before the matrix calls it unknown."""
_PAUSE: Final = timedelta(milliseconds=20)


class LedgerClient:
    """One effect with ARGS, asked for by steps of workers that have a ledger. Retries as Temporal does."""

    def __init__(self, workers: Sequence[tuple[Seam, Ledger]], action: str, args: BaseModel) -> None:
        self._workers = workers
        self._action = action
        self._args = args
        self._workflow_id = uuid.uuid4().hex

    async def act(self, *, worker: int = 0, run: str = "run-1") -> Ending:
        """Ask for the effect until it has come to an end."""
        ledger = self._workers[worker][1]
        call = self._call(run)
        try:
            async with asyncio.timeout(PATIENCE.total_seconds()):
                while True:
                    try:
                        await ledger.perform(call)
                    except EffectParked:
                        return "parked"
                    except EffectRejected:
                        return "refused"
                    except EffectError as error:
                        if not error.retryable:
                            return "unknown"
                        await asyncio.sleep((error.retry_after or _PAUSE).total_seconds())
                    else:
                        return "done"
        except TimeoutError:
            effect = await ledger.get(effect_key(call.step))
            return "parked" if effect.state == "parked" else "unknown"

    async def act_after_death(self, where: Death) -> Ending:
        """Have the worker that performs it die WHERE, and another one go on."""
        seam, ledger = self._workers[0]
        seam.dies = where
        with suppress(Died, EffectError):
            await ledger.perform(self._call("run-1"))
        return await self.act(worker=1)

    async def act_three_times(self) -> Ending:
        """Ask for it three times at once, from two workers."""
        return _worst(await asyncio.gather(self.act(), self.act(worker=1), self.act()))

    async def act_again(self) -> Ending:
        """Ask for it, and again from the run that a reset makes."""
        return _worst([await self.act(), await self.act(worker=1, run="run-2")])

    async def act_after_cancel(self) -> Ending:
        """Cancel it while it is on its way, then ask for it again."""
        seam, ledger = self._workers[0]
        await _cancel_on_its_way(asyncio.create_task(_perform_quietly(ledger, self._call("run-1"))), seam)
        return await self.act(worker=1)

    def _call(self, run: str) -> EffectCall:
        lineage = Lineage(namespace="matrix", workflow_id=self._workflow_id, first_execution_run_id="run-1")
        step = StepRef(lineage=lineage, name="act", run_id=run, workflow_type="Matrix")
        return EffectCall(step=step, action=self._action, args=self._args.model_dump(mode="json"))


class NaiveClient:
    """One effect with ARGS, asked for by a client that tries up to TRIES times, each time as if it were the first."""

    def __init__(self, seam: Seam, action: str, args: BaseModel, *, tries: int) -> None:
        self._seam = seam
        self._action = seam.actions[action]
        self._args = args
        self._tries = tries

    async def act(self) -> Ending:
        """Send it until there is an answer."""
        for _ in range(self._tries):
            try:
                await self._send()
            except EffectRejected:
                return "refused"
            except EffectError as error:
                await asyncio.sleep((error.retry_after or _PAUSE).total_seconds())
            except Exception:  # noqa: BLE001  it tries again whatever it was, and that is the point of it
                await asyncio.sleep(_PAUSE.total_seconds())
            else:
                return "done"
        return "given up"

    async def act_after_death(self, where: Death) -> Ending:
        """Have the process die WHERE, and another one begin again."""
        self._seam.dies = where
        with suppress(Died, Exception):
            await self._send()
        self._seam.dies = "never"
        return await self.act()

    async def act_three_times(self) -> Ending:
        """Be delivered three times."""
        return _worst(await asyncio.gather(self.act(), self.act(), self.act()))

    async def act_again(self) -> Ending:
        """Be run again from the beginning."""
        return _worst([await self.act(), await self.act()])

    async def act_after_cancel(self) -> Ending:
        """Be cancelled on the way, and be asked again."""
        await _cancel_on_its_way(asyncio.create_task(self._send()), self._seam)
        return await self.act()

    async def _send(self) -> None:
        deadline = self._action.target.deadline
        attempt = Attempt(key=f"naive-{uuid.uuid4().hex}", fence=0, deadline=deadline)
        async with asyncio.timeout(deadline.total_seconds()):
            await self._seam.execute(self._action, self._args, attempt)


async def _cancel_on_its_way(attempt: asyncio.Task[None], seam: Seam) -> None:
    # It may also end before it sends anything: a ledger that was held up for too long does not begin.
    on_the_way = asyncio.create_task(seam.on_the_way.wait())
    await asyncio.wait({attempt, on_the_way}, return_when=asyncio.FIRST_COMPLETED)
    attempt.cancel()
    on_the_way.cancel()
    await asyncio.gather(attempt, on_the_way, return_exceptions=True)


async def _perform_quietly(ledger: Ledger, call: EffectCall) -> None:
    with suppress(EffectError):
        await ledger.perform(call)


def _worst(endings: Sequence[Ending]) -> Ending:
    order: tuple[Ending, ...] = ("unknown", "given up", "parked", "refused", "done")
    return min(endings, key=order.index)
