"""What a model call costs the history as a conversation gets longer.

An agent asks a model, looks something up, and asks again: one call of each a turn. The same agent runs hand-written on
bare Temporal with its messages inline, and governed with a `Conversation`, whose tool is a `look`, which only reads, or an
effect: by the conversation's `act`, or by `act` and `tool`. Bytes and events are those of the whole history, start and end
included, divided by the number of model calls; the tool is in them. With `--where` it says what takes the bytes.

    python -m bench.context [--turns 6 24 100] [--where VARIANT] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

from google.protobuf.message import Message
from pydantic import BaseModel
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from perdure.connectors.contracts import (
        Absent,
        Action,
        AnyAction,
        Attempt,
        Executed,
        Probe,
    )
    from perdure.lineage import Frozen
    from perdure.workflows import Conversation, act, generate

BAR = 1600
"""How many bytes of history a model call and its tool may take."""

QUESTION = "The parcel of order R-1024 came open and two of the six glasses in it are broken. What can you do for me?"
FOUND = "Order R-1024 of 3 November: six glasses, 49.90 EUR, paid by card, sent on 4 November with the parcel service. " * 3
CHOICES = ("orders.find", "parcels.find")


class Choice(Frozen):
    """Which tool the model wants, and for which order."""

    tool: str
    order: str


class Found(Frozen):
    """What a tool found."""

    text: str


class Messages(Frozen):
    """All that was said so far."""

    messages: list[dict[str, str]]


# Hand-written


@activity.defn(name="bench.model")
async def model(_: Messages) -> Choice:
    """Answer as the model does."""
    return Choice(tool=CHOICES[0], order="R-1024")


@activity.defn(name="bench.tool")
async def tool(_: Choice) -> Found:
    """Look it up."""
    return Found(text=FOUND)


@workflow.defn(name="bench.inline")
class Inline:
    """The agent on bare Temporal: each call is given all messages."""

    @workflow.run
    async def run(self, turns: int) -> int:
        """Take TURNS turns."""
        messages = [{"role": "user", "content": QUESTION}]
        for _ in range(turns):
            choice = await workflow.execute_activity(
                model, Messages(messages=messages), start_to_close_timeout=timedelta(minutes=1), summary="Ask a model: next"
            )
            messages = [*messages, {"role": "assistant", "content": choice.model_dump_json()}]
            found = await workflow.execute_activity(
                tool, choice, start_to_close_timeout=timedelta(minutes=1), summary=choice.tool
            )
            messages = [*messages, {"role": "tool", "content": found.text}]
        return turns


# Governed


class Orders:
    """The connector: one look-up and one effect, which answer the same whatever is asked."""

    name = "orders"
    find = Action("orders.find", Choice, Found, risk="low", reads=True)
    mark = Action("orders.mark", Choice, Found, risk="low")
    actions: Mapping[str, AnyAction] = {each.name: cast(AnyAction, each) for each in (find, mark)}

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Do it."""
        return Executed(Found(text=FOUND), remote_ref="" if action.reads else f"mark_{attempt.key[-8:]}")

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Find nothing: no answer is ever lost."""
        return Absent()

    async def close(self) -> None:
        """Do nothing: there is no connection."""


@workflow.defn(name="bench.look")
class Looks:
    """The agent with a conversation; its tool only reads."""

    @workflow.run
    async def run(self, turns: int) -> int:
        """Take TURNS turns."""
        talk = Conversation("desk")
        talk.user(QUESTION)
        for _ in range(turns):
            choice = await generate("next", Choice, conversation=talk)
            await talk.look(Orders.find, choice.value)
        return turns


@workflow.defn(name="bench.act")
class Acts:
    """The agent with a conversation; its tool is an effect, whose answer only the model needs."""

    @workflow.run
    async def run(self, turns: int) -> int:
        """Take TURNS turns."""
        talk = Conversation("desk")
        talk.user(QUESTION)
        for _ in range(turns):
            choice = await generate("next", Choice, conversation=talk)
            await talk.act(Orders.mark, choice.value)
        return turns


@workflow.defn(name="bench.tell")
class Tells:
    """The agent with a conversation; its tool is an effect, whose answer the workflow needs as well."""

    @workflow.run
    async def run(self, turns: int) -> int:
        """Take TURNS turns."""
        talk = Conversation("desk")
        talk.user(QUESTION)
        for _ in range(turns):
            choice = await generate("next", Choice, conversation=talk)
            found = await act(Orders.mark, choice.value)
            talk.tool("orders.mark", found.value)
        return turns


VARIANTS = {"inline": Inline, "look": Looks, "act": Acts, "tell": Tells}

ROUTES = """
[tasks.next]
tier = "small"
instructions = "Say what to look at next."
examples = "next.jsonl"
text = ["conversation"]
label = ["tool"]

[deployments.local]
tier = "small"
model = "perdure-local/examples"
input_usd_per_mtok = 0
output_usd_per_mtok = 0
"""


@dataclass(frozen=True)
class Cost:
    """What a model call and its tool took of the history, and which field took how many bytes."""

    bytes: float
    events: float
    where: Mapping[str, float]


async def compare(turns: list[int], home: Path) -> dict[str, dict[int, Cost]]:
    """Return what each variant takes at each number of TURNS."""
    from perdure.commands.dev.server import DevServer
    from perdure.plugin import PerdurePlugin
    from perdure.settings import Settings

    (home / "models.toml").write_text(ROUTES)
    examples = [
        {"inputs": {"conversation": f"{tool} {each}"}, "output": {"tool": tool, "order": "R-1024"}}
        for tool in CHOICES
        for each in range(3)
    ]
    (home / "next.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    settings = Settings(home=home, models=home / "models.toml", log_level="error")
    # The SDK writes its warnings to stdout, where the result goes.
    quiet = LoggingConfig(filter=TelemetryFilter(core_level="ERROR", other_level="ERROR"))
    runtime = Runtime(telemetry=TelemetryConfig(logging=quiet))
    async with DevServer(home / "server", headless=True, port=0, in_memory=True) as server:
        bare = await Client.connect(server.address, data_converter=pydantic_data_converter, runtime=runtime)
        plugin = PerdurePlugin(settings, connectors=[Orders()])
        governed = await Client.connect(server.address, plugins=[plugin], runtime=runtime)
        async with (
            Worker(bare, task_queue="inline", workflows=[Inline], activities=[model, tool]),
            Worker(governed, task_queue="governed", workflows=[Looks, Acts, Tells]),
        ):
            return {
                name: {number: await measure(bare if name == "inline" else governed, name, number) for number in turns}
                for name in VARIANTS
            }


async def measure(client: Client, variant: str, turns: int) -> Cost:
    """Run VARIANT for TURNS turns and return what a turn took."""
    queue = "inline" if variant == "inline" else "governed"
    handle = await client.start_workflow(
        f"bench.{variant}",
        turns,
        id=f"{variant}-{uuid.uuid4()}",
        task_queue=queue,
        # Long, so that a busy machine doesn't put late workflow tasks and their repetitions into what is counted.
        task_timeout=timedelta(seconds=60),
    )
    await handle.result()
    # Without the plugin's data converter on the way, so that what is counted is what the server keeps.
    events = [event async for event in handle.fetch_history_events()]
    sizes: Counter[str] = Counter()
    for event in events:
        name = (event.WhichOneof("attributes") or "").removesuffix("_event_attributes")
        sizes[name] += event.ByteSize()
        spread(event, name, sizes)
    return Cost(
        bytes=round(sum(event.ByteSize() for event in events) / turns),
        events=round(len(events) / turns, 1),
        where={name: size / turns for name, size in sizes.items()},
    )


def spread(message: Message, name: str, sizes: Counter[str]) -> None:
    """Add to SIZES how many bytes each field of MESSAGE takes, and the fields in it: NAME is what that is called."""
    for field, value in message.ListFields():
        without = type(message)()
        without.CopyFrom(message)
        without.ClearField(field.name)
        path = name if field.name.endswith("_event_attributes") else f"{name}.{field.name}"
        if path != name:
            sizes[path] += message.ByteSize() - without.ByteSize()
        if isinstance(value, Message):
            spread(value, path, sizes)
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in value:
                spread(each, path, sizes)


def summary(found: dict[str, dict[int, Cost]]) -> dict[str, object]:
    """Return FOUND as one flat object; the agent whose tool only reads comes without a prefix."""
    result: dict[str, object] = {}
    for name, costs in found.items():
        prefix = "" if name == "look" else f"{name}_"
        for turns, cost in costs.items():
            result |= {f"{prefix}bytes_per_call_{turns}": cost.bytes, f"{prefix}events_per_call_{turns}": cost.events}
    most = max(cost.bytes for cost in found["look"].values())
    return {**result, "most_bytes_per_call": most, "bar_bytes_per_call": BAR, "within_bar": most <= BAR}


def table(found: dict[str, dict[int, Cost]]) -> str:
    """Return FOUND for people."""
    turns = list(next(iter(found.values())))
    lines = [f"{'':10}" + "".join(f"{f'{number} turns':>22}" for number in turns)]
    for name, costs in found.items():
        cells = (f"{cost.bytes:,.0f} bytes {cost.events:>5.1f} ev." for cost in costs.values())
        lines.append(f"{name:10}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def breakdown(cost: Cost, least: float = 4) -> str:
    """Return for people which fields took at least LEAST bytes of what COST, in the order of their names."""
    rows = [(name, size) for name, size in sorted(cost.where.items()) if size >= least]
    return "\n".join(f"{size:8.1f}  {'  ' * name.count('.')}{name.rpartition('.')[2]}" for name, size in rows)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="What does a model call cost the history as a conversation gets longer?")
    parser.add_argument("--turns", type=int, nargs="+", default=[6, 24, 100])
    parser.add_argument("--where", choices=VARIANTS, help="say which fields of the history take the bytes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(compare(options.turns, Path(folder)))
    print(json.dumps(summary(found)) if options.json else table(found))
    if options.where:
        print(breakdown(found[options.where][max(options.turns)]))


if __name__ == "__main__":
    # Under its own name: the worker looks up the class of an answer by the name of its module.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from bench.context import main as run

    run()
