"""The workflows that tests of the command line run, served by a real worker in a process of its own."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel
from stand_ins.box import Box, Thing, put
from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError

from perdure.connectors import AnyAction, Attempt, Executed
from perdure.connectors.null import Entry, null
from perdure.errors import TargetUnavailable
from perdure.lineage import Frozen
from perdure.workflows import (
    Saga,
    act,
    approval,
    customer,
    generate,
    recall,
    remember,
)

__all__ = ["ROUTES", "Asks", "Breaks", "Chats", "Counts", "Desk", "Knocks", "Stores", "Waits", "knock", "null", "shy"]

ROUTES = Path(__file__).parent.parent / "commands" / "routes.toml"


class Answer(Frozen):
    """What the model says."""

    verdict: str


class Mail(Frozen):
    """What the desk is given."""

    message: str
    customer: str = "ann"
    ask: bool = False
    fail: bool = False


@workflow.defn
class Desk:
    """Every kind of step once."""

    @workflow.run
    async def run(self, mail: Mail) -> dict[str, object]:
        past = await recall("earlier notes", scope=customer(mail.customer))
        answer = await generate("triage", Answer, inputs={"message": mail.message, "past": past})
        if mail.ask:
            await approval("Write it down?", of="editor", about={"message": mail.message}, risk="high")
        async with Saga() as saga:
            done = await saga.act(null.write, Entry(text=mail.message))
            if mail.fail:
                raise ApplicationError("told to fail", type="Told", non_retryable=True)
        await remember(customer(mail.customer), f"noted: {mail.message}")
        return {"verdict": answer.value.verdict, "number": done.value.number}


@workflow.defn
class Asks:
    """Asks two people, one after the other."""

    @workflow.run
    async def run(self) -> list[str]:
        first = await approval("First?", of="editor", name="first", within=timedelta(hours=1))
        second = await approval("Second?", of="owner", name="second", within=timedelta(hours=1))
        return [first.by, second.by]


@activity.defn(name="tests.knock")
async def knock(times: int) -> str:
    """Open at the TIMES-th attempt."""
    if activity.info().attempt < times:
        raise TargetUnavailable("nobody opens", retry_after=timedelta(milliseconds=100))
    return "open"


@workflow.defn
class Chats:
    """A child."""

    @workflow.run
    async def run(self, word: str) -> str:
        return word


@workflow.defn
class Knocks:
    """What any Temporal workflow does: an own activity that is retried, a timer and a child."""

    @workflow.run
    async def run(self, times: int) -> str:
        said: str = await workflow.execute_activity(
            knock, times, start_to_close_timeout=timedelta(seconds=5), summary="Knock at the door"
        )
        await workflow.sleep(0.01, summary="Take a breath")
        await workflow.execute_child_workflow(Chats.run, "hello")
        return said


@workflow.defn
class Waits:
    """Waits for its signal."""

    def __init__(self) -> None:
        self._word = ""

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self._word != "")
        return self._word

    @workflow.signal
    def say(self, word: str) -> None:
        """Take WORD."""
        self._word = word

    @workflow.query
    def word(self) -> str:
        """Return the word."""
        return self._word


@workflow.defn
class Counts:
    """Counts down, one run a number."""

    @workflow.run
    async def run(self, number: int) -> str:
        if number:
            workflow.continue_as_new(number - 1)
        return "done"


@workflow.defn
class Breaks:
    """Has a bug, which Temporal retries until the code is put right."""

    @workflow.run
    async def run(self) -> None:
        raise KeyError("a bug")


class Shy(Box):
    """Keeps its first answer to itself, and tells nobody what it has: each effect is parked."""

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        self.wrong = {"put": [] if attempt.key in self.sent else ["silent"]}
        return await super().execute(action, args, attempt)


shy = Shy()
shy.blind = True


@workflow.defn
class Stores:
    """Puts something into the box."""

    @workflow.run
    async def run(self, text: str) -> str:
        return (await act(put, Thing(text=text))).receipt.remote_ref
