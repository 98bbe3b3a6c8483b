"""How a package's face loads what it names only when it is used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from perdure import moved


def lazy(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Return the `__getattr__` of PACKAGE, which loads each name from the module of the package that HOMES says it is in.

    Workflow code and the command line import faces, so a face must not bring along a database, an HTTP client or a model.
    """
    home = {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> object:
        if name in home:
            value: object = getattr(import_module(f"{package}.{home[name]}"), name)
        elif name.startswith("_"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        else:
            value = moved.find(package, name)
        setattr(sys.modules[package], name, value)
        return value

    return load
