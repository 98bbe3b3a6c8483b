"""The options that every command takes, how to print and which Temporal to talk to, and those that families share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Concatenate, ParamSpec, get_type_hints

import typer

from perdure.commands.durations import parse_duration

P = ParamSpec("P")


class Format(StrEnum):
    """How results are printed."""

    text = "text"
    json = "json"
    jsonl = "jsonl"


@dataclass(frozen=True)
class Options:
    """What was given, before the command or after it; the latter wins."""

    output: Format | None = None
    address: str | None = None
    namespace: str | None = None
    profile: str | None = None

    @property
    def format(self) -> Format:
        """The output format in force."""
        return self.output or Format.text

    def with_fallback(self, earlier: Options) -> Options:
        """Return these options, and those of EARLIER where these say nothing."""
        return Options(
            output=self.output or earlier.output,
            address=self.address or earlier.address,
            namespace=self.namespace or earlier.namespace,
            profile=self.profile or earlier.profile,
        )


_NOTHING = Options()
global_options: ContextVar[Options] = ContextVar("given", default=_NOTHING)
"""What stood before the command."""

OutputOption = Annotated[
    Format | None,
    typer.Option(
        "--output",
        "-o",
        help="How to print results on stdout: text (default), json for one JSON value, jsonl for one a line.",
        show_default=False,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        help="Temporal's HOST:PORT. Default: TEMPORAL_ADDRESS or the profile's, else localhost:7233.",
        metavar="HOST:PORT",
    ),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        help="Temporal's namespace. Default: TEMPORAL_NAMESPACE or the profile's, else default.",
        metavar="NAME",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        help="A profile of Temporal's own TOML configuration. Default: TEMPORAL_PROFILE.",
        metavar="NAME",
    ),
]

RunArgument = Annotated[
    str, typer.Argument(help="The run: its workflow id, or WORKFLOW_ID/RUN_ID.", metavar="RUN", show_default=False)
]
AsOption = Annotated[
    str | None,
    typer.Option("--as", help="Who decides. Default: the user of this terminal. Nobody verifies it.", metavar="NAME"),
]
ScheduleOption = Annotated[
    timedelta | None,
    typer.Option(
        "--schedule",
        help="Do it from now on so often, on the worker, e.g. 1h; the first time at once.",
        metavar="EVERY",
        parser=parse_duration,
        show_default=False,
    ),
]
UnscheduleOption = Annotated[bool, typer.Option("--unschedule", help="Stop doing it on a schedule.")]

UserOption = Annotated[str | None, typer.Option("--user", help="Whose memory: this user's.", metavar="NAME")]
AgentOption = Annotated[str | None, typer.Option("--agent", help="Whose memory: this agent's.", metavar="NAME")]
SessionOption = Annotated[str | None, typer.Option("--session", help="Whose memory: this session's.", metavar="ID")]
TenantOption = Annotated[str, typer.Option("--tenant", help="Of which tenant.", metavar="NAME")]

_COMMON = {"output": OutputOption, "address": AddressOption, "namespace": NamespaceOption, "profile": ProfileOption}


def takes_options(command: Callable[Concatenate[Options, P], None]) -> Callable[..., None]:
    """Give COMMAND the options that every command takes; it gets them as one `Options`."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        own = Options(**{name: kwargs.pop(name) for name in _COMMON})  # type: ignore[arg-type]  # Typer has converted them
        command(own.with_fallback(global_options.get()), *args, **kwargs)

    # Typer reads a command's signature, so the four options take the place of the one.
    hints = get_type_hints(command, include_extras=True)
    [_, *rest] = inspect.signature(command).parameters.values()
    kept = [each.replace(annotation=hints[each.name]) for each in rest]
    keyword = inspect.Parameter.KEYWORD_ONLY
    common = [inspect.Parameter(name, keyword, default=None, annotation=hint) for name, hint in _COMMON.items()]
    signature = inspect.Signature([*kept, *common])
    run.__signature__ = signature  # type: ignore[attr-defined]  # inspect.signature honours it
    run.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
    return run
