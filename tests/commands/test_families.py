"""Each family of commands has the same shape, so that who knows one finds the way in all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

COMMANDS = Path(__file__).parent.parent.parent / "commands"
FAMILIES = sorted(each.parent for each in COMMANDS.glob("*/__init__.py"))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_has_what_is_typed_and_what_is_done(family: Path) -> None:
    """A family says in its `__init__` what it answers, declares its commands in `cli.py` and does them elsewhere."""
    cli = (family / "cli.py").read_text("utf-8")

    assert (family / "work.py").exists()
    assert "`cli.py` declares the commands" in (family / "__init__.py").read_text("utf-8")
    assert re.search(r"^app = typer.Typer\(", cli, re.MULTILINE)
    assert not re.search(r"open_database|\.start_workflow\(|stdout_console", cli)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_family_imports_what_another_has_typed(family: Path) -> None:
    """What families share lies above them: none imports the `cli.py` of another."""
    others = "|".join(each.name for each in FAMILIES if each != family)

    found = [
        f"{path.name}: {line}"
        for path in family.glob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if re.search(rf"from perdure\.commands\.({others})(\.cli import| import cli)", line)
    ]

    assert [] == found
