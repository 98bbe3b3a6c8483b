"""What a worker finds in the modules that it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.settings import Settings
from perdure.worker import load_modules

DESK = """
from temporalio import workflow
from books import books

@workflow.defn
class Pays:
    @workflow.run
    async def run(self) -> None: ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of workflows that imports a module with a connector."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("names", [["desk_twice", "desk_twice"], ["desk_twice", "books_twice"]])
def test_a_module_may_be_named_twice(folder: Path, names: list[str]) -> None:
    """A module that the command line and perdure.toml name, or that another one imports, is served once (case 80)."""
    (folder / "books_twice.py").write_text("from perdure.connectors.null import null as books\n")
    (folder / "desk_twice.py").write_text(DESK.replace("from books", "from books_twice"))

    served = load_modules(names, Settings())

    assert ["Pays"] == [each.__name__ for each in served.workflows]
    assert 1 == len(served.connectors)
