"""Which options a connector takes from the settings, and how it reads those that are secret."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import ClassVar, Self

from perdure.connectors.contracts import AnyAction
from perdure.errors import InvalidSettings, TargetUnavailable


class Configured:
    """A connector called NAME with ACTIONS, whose options come from `[connectors.NAME]` of the worker's settings.

    A value `env:VARIABLE` is read from the environment each time it is needed, and kept nowhere.
    """

    takes: ClassVar[Mapping[str, str]] = {}
    """The options by name, or by a pattern such as `header\\.[\\w-]+`, with an example for the message."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Those without which it cannot work."""

    def __init__(self, name: str, actions: Mapping[str, AnyAction]) -> None:
        foreign = [action.name for action in actions.values() if action.connector != name]
        if foreign:
            raise ValueError(f"connector {name!r} has an action {foreign[0]!r}: its name has to begin with {name + '.'!r}")
        self._name = name
        self._actions = dict(actions)
        self._options: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """The part of the action names before the dot."""
        return self._name

    @property
    def actions(self) -> Mapping[str, AnyAction]:
        """The actions by full name."""
        return self._actions

    def configured(self, options: Mapping[str, str]) -> Self:
        """Return a copy of it that works with OPTIONS. Raises `InvalidSettings`."""
        where = f"[connectors.{self._name}]"
        for name, value in options.items():
            if not any(re.fullmatch(taken, name) for taken in self.takes):
                raise InvalidSettings(f"{where} does not take {name!r}; it takes {', '.join(self.takes)}")
            if value.startswith("env:") and value.removeprefix("env:") not in os.environ:
                raise InvalidSettings(f"{where} {name} is {value!r}, and that variable is not set")
        for name in self.needs:
            if not options.get(name):
                raise InvalidSettings(f"{where} needs {name}, e.g. {name} = {self.takes[name]!r}")
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, _options=dict(options))
        copy._opened()
        return copy

    def option(self, name: str, default: str = "") -> str:
        """Return the option NAME. Raises `TargetUnavailable` where nobody has configured the connector."""
        if self._options is None:
            raise TargetUnavailable(f"nobody said where {self._name} is. Set [connectors.{self._name}] in perdure.toml.")
        value = self._options.get(name, default)
        if not value.startswith("env:"):
            return value
        try:
            return os.environ[value.removeprefix("env:")]
        except KeyError as error:
            raise TargetUnavailable(f"{self._name}: the variable {error} is not set") from None

    def _opened(self) -> None:
        """Begin anew as a copy: what the original holds open is not the copy's."""
