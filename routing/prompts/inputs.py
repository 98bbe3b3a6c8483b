"""Which inputs may go into a prompt: those that the task declares, of their kind, and no secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import JsonValue

from perdure.errors import InvalidInput
from perdure.routing.prompts.prompts import Messages
from perdure.routing.routes import Task

# The forms that providers give their keys, so that few innocent texts have them.
_SECRET = re.compile(
    r"\b(?:sk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|AKIA[0-9A-Z]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,}|xox[abprs]-[A-Za-z0-9-]{10,}|AIza[0-9A-Za-z_-]{35}"
    r"|hv[sb]\.[A-Za-z0-9_-]{24,})|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_KINDS: Mapping[str, tuple[type, ...]] = {
    "text": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "object": (dict,),
    "list": (list,),
}


def check_inputs(task: Task, inputs: Mapping[str, JsonValue]) -> None:
    """Raise `InvalidInput` if INPUTS are not those that TASK declares. It says which, and never repeats a value."""
    if not task.inputs:
        return
    declared = {name.removesuffix("?"): (kind, name.endswith("?")) for name, kind in task.inputs.items()}
    if strange := sorted(inputs.keys() - declared.keys()):
        raise InvalidInput(
            f"task {task.name!r} takes no input {strange[0]!r}; it takes {', '.join(declared)}. Change the step, or "
            "`inputs` of the task in models.toml."
        )
    for name, (kind, optional) in declared.items():
        value = inputs.get(name)
        if value is None and not (optional or (kind == "any" and name in inputs)):
            raise InvalidInput(f"task {task.name!r} needs the input {name!r}, {_article(kind)}.")
        if value is not None and not _is_kind(value, kind):
            raise InvalidInput(f"input {name!r} of task {task.name!r} has to be {_article(kind)}.")


def holds_secret(text: str) -> bool:
    """Return whether TEXT holds what looks like a key."""
    return _SECRET.search(text) is not None


def refuse_secrets(task: str, messages: Messages) -> None:
    """Raise `InvalidInput` if there is something like a key in the prompt MESSAGES of TASK."""
    for message in messages:
        if holds_secret(message["content"]):
            where = "instructions" if message["role"] == "system" else "inputs"
            raise InvalidInput(
                f"the {where} of task {task!r} hold what looks like a key, and prompts go to providers and into records. "
                "Take it out; connectors read their keys by themselves."
            )


def _is_kind(value: JsonValue, kind: str) -> bool:
    if kind == "any":
        return True
    return isinstance(value, _KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _article(kind: str) -> str:
    words = {"text": "a text", "number": "a number", "integer": "an integer", "boolean": "true or false"}
    return words.get(kind) or {"object": "an object", "list": "a list"}.get(kind, "any value")
