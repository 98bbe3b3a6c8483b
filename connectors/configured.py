"""Which options a connector takes from the settings, and how it reads those that are secret."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

from perdure.connectors.contracts import (
    Action,
    AnyAction,
    In,
    Out,
)
from perdure.errors import InvalidSettings, TargetUnavailable
from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.storage import Database

A = TypeVar("A")


class ConfiguredConnector:
    """A connector called NAME with ACTIONS, whose options come from `[connectors.NAME]` of the worker's settings.

    A value `env:VARIABLE` is read from the environment each time it is needed, and kept nowhere.
    """

    takes: ClassVar[Mapping[str, str]] = {}
    """The options by name or by a pattern such as `header\\.[\\w-]+`, each with an example."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Those without which it cannot work."""

    def __init__(self, name: str, actions: Mapping[str, AnyAction]) -> None:
        foreign = [action.name for action in actions.values() if action.connector != name]
        if foreign:
            raise ValueError(f"connector {name!r} has an action {foreign[0]!r}: its name has to begin with {name + '.'!r}")
        self._name = name
        self._actions = dict(actions)
        self._options: Mapping[str, str] | None = None
        self._database: Database | None = None

    @property
    def name(self) -> str:
        """The part of the action names before the dot."""
        return self._name

    @property
    def where(self) -> str:
        """The section of the settings that its options are in."""
        return f"[connectors.{self._name}]"

    @property
    def option_names(self) -> Collection[str]:
        """The names of the options that it was given."""
        return (self._options or {}).keys()

    @property
    def actions(self) -> Mapping[str, AnyAction]:
        """The actions by full name."""
        return self._actions

    def with_options(self, options: Mapping[str, str]) -> Self:
        """Return a copy of it that works with OPTIONS. Raises `InvalidSettings`."""
        where = self.where
        for name, value in options.items():
            if not any(re.fullmatch(taken, name) for taken in self.takes):
                raise InvalidSettings(
                    f"{where} does not take {name!r}; it takes {', '.join(map(_option_label, self.takes))}"
                )
            if value.startswith("env:") and value.removeprefix("env:") not in os.environ:
                raise InvalidSettings(f"{where} {name} is {value!r}, and that variable is not set")
        for name in self.needs:
            if not options.get(name):
                raise InvalidSettings(f"{where} needs {name}, e.g. {name} = {self.takes[name]!r}")
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, _options=dict(options))
        copy._reset()
        return copy

    def configured(self, options: Mapping[str, str]) -> Self:
        """Do as `with_options`, which is what it is called now. Remove after 2027-06."""
        return self.with_options(options)

    def share(self, database: Database) -> None:
        """Keep in DATABASE what the workers of this connector share."""
        self._database = database

    def option(self, name: str, default: str = "") -> str:
        """Return the option NAME. Raises `TargetUnavailable` where nobody has configured the connector."""
        if self._options is None:
            raise TargetUnavailable(f"{self._name} is not configured. Set {self.where} {next(iter(self.takes))}.")
        value = self._options.get(name, default)
        if not value.startswith("env:"):
            return value
        try:
            return os.environ[value.removeprefix("env:")]
        except KeyError as error:
            raise TargetUnavailable(f"{self._name}: the variable {error} is not set") from None

    def _reset(self) -> None:
        """Begin anew as a copy: what the original holds open is not the copy's. Raises `InvalidSettings`."""


def class_actions(connector: object, kind: type[A]) -> list[A]:
    """Return the actions of KIND that the class of CONNECTOR has as attributes."""
    attributes = {name: value for one in reversed(type(connector).__mro__) for name, value in vars(one).items()}
    return [value for value in attributes.values() if isinstance(value, kind)]


def shared_name(connector: object, actions: Collection[Action[In, Out]]) -> str:
    """Return the name of the connector that all ACTIONS of CONNECTOR begin with."""
    names = {action.connector for action in actions}
    if len(names) != 1:
        raise ValueError(f"{type(connector).__name__} needs the actions of one connector, not of {sorted(names) or 'none'}")
    return names.pop()


def _option_label(pattern: str) -> str:
    return pattern.partition("\\")[0] + ".NAME" if "\\" in pattern else pattern


if not TYPE_CHECKING:
    # What 0.1.0 called `Configured`, `connector_of` and `declared`. Remove after 2027-06.
    __getattr__ = lazy(__name__, {})
