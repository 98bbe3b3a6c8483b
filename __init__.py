"""Agents that finish the job, and can prove it: durable, governed AI workflows on Temporal."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from perdure import moved

if TYPE_CHECKING:
    from perdure.connection import connect
    from perdure.plugin import PerdurePlugin
    from perdure.settings import Settings, load_settings
    from perdure.visibility import ensure_search_attributes

__version__ = "0.1.0"

__all__ = ["PerdurePlugin", "Settings", "__version__", "connect", "ensure_search_attributes", "load_settings"]

# Importing the package loads nothing heavy; a name is imported when it is first used.
_HOMES = {
    "PerdurePlugin": "perdure.plugin",
    "Settings": "perdure.settings",
    "connect": "perdure.connection",
    "ensure_search_attributes": "perdure.visibility",
    "load_settings": "perdure.settings",
}


moved.install()


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
