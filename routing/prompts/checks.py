"""What a task's validators say of an answer that fits its form: plain functions that know what makes sense."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from perdure.errors import InvalidSettings
from perdure.routing.routes import Task


@dataclass(frozen=True)
class Check:
    """One validator: a function of the answer, and of the inputs if it takes two arguments.

    It returns what is wrong, as a sentence for the model, or None. What it says is kept with the call's record, so it
    should name the rule and not repeat the answer.
    """

    name: str
    function: Callable[..., object]
    takes_inputs: bool

    def problem(self, answer: object, inputs: Mapping[str, JsonValue]) -> str | None:
        """Return what is wrong with ANSWER to INPUTS."""
        try:
            said = self.function(answer, dict(inputs)) if self.takes_inputs else self.function(answer)
        except ValueError as error:
            said = str(error)
        except Exception as error:  # noqa: BLE001  a user's function; the answer counts only if it says so
            said = f"the validator failed with {type(error).__name__}"
        return None if said is None or said is True else f"{self.name}: {said}"


def load_checks(task: Task) -> Sequence[Check]:
    """Return the validators of TASK, imported. Raises `InvalidSettings` naming the one that is not there."""
    return [_check(task, name) for name in task.validators]


def _check(task: Task, name: str) -> Check:
    where = f"[tasks.{task.name}] validators: {name!r}"
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name, None)
    except ImportError as error:
        raise InvalidSettings(
            f"{where} cannot be imported: {error}. Name a module that the worker can import, as `module:function`."
        ) from error
    if not callable(function):
        raise InvalidSettings(f"{where}: the module has no such function.")
    takes = len(inspect.signature(function).parameters)
    if takes not in (1, 2):
        raise InvalidSettings(f"{where} takes {takes} arguments; it has to take the answer, and may take the inputs.")
    return Check(function_name, function, takes == 2)
