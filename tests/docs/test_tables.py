"""Tests of what the pages list: the settings, the errors of steps, and the plans that they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
import yaml
from kits.doc_pages import Page
from pydantic import TypeAdapter
from pydantic_core import PydanticUndefined, to_json

import perdure
from perdure import errors
from perdure.connectors.contracts import EffectState
from perdure.connectors.ledger.states import TRANSITIONS
from perdure.settings import Settings
from perdure.workflows.plan_model import (
    ActStep,
    ApprovalStep,
    GenerateStep,
    Plan,
    RecallStep,
    RememberStep,
)

ROOT = Path(perdure.__file__).parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def rows(page: Path, heading: str) -> Iterator[list[str]]:
    """Yield the cells of the rows of PAGE's tables whose first header is HEADING."""
    inside = False
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith(f"| {heading} |"):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not set(cells[0]) <= {"-"}:
            yield cells


def in_toml(value: object) -> str:
    """Return a default as the table shows it: nothing for what is empty by default."""
    if isinstance(value, timedelta):
        return f"`{TypeAdapter(timedelta).dump_python(value, mode='json')}`"
    if isinstance(value, dict) and value:
        return f"`{to_json(value).decode()}`"
    return "" if value in (None, "") else f"`{value}`"


def test_settings_table() -> None:
    """docs/operations.md lists each setting in the order of the class, with its variable and its default."""
    listed = [cells[:3] for cells in rows(DOCS / "operations.md", "setting")]

    wanted = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        assert default is not PydanticUndefined, f"{name} has no default"
        wanted.append([f"`{name}`", f"`PERDURE_{name.upper()}`", in_toml(default)])
    assert wanted == listed


def test_choices_are_named() -> None:
    """Where a setting is one of a few words, its row says each of them, or that it chooses by the terminal."""
    meaning = {cells[0].strip("`"): " ".join(cells[2:]) for cells in rows(DOCS / "operations.md", "setting")}

    for name, field in Settings.model_fields.items():
        for choice in get_args(field.annotation):
            if isinstance(choice, str):
                assert f"`{choice}`" in meaning[name], f"{name} may be {choice}"


@pytest.mark.parametrize("page", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_plans_are_plans(page: Path) -> None:
    """Each YAML block with steps is a plan that would be taken."""
    for block in Page(page).blocks:
        data = yaml.safe_load(block.text) if block.language == "yaml" else None
        if isinstance(data, dict) and "steps" in data:
            Plan.model_validate(data)


def test_transitions() -> None:
    """docs/effects.md lists each transition that an effect may make, and no other, and when it comes."""
    listed = [(before, after, when) for before, after, when in rows(DOCS / "effects.md", "from")]

    allowed = {(before or "new", after) for before, following in TRANSITIONS.items() for after in following}
    assert sorted(allowed) == sorted((before, after) for before, after, _ in listed)
    assert all(when for _, _, when in listed)


def test_states() -> None:
    """docs/connectors.md says of each state what is known in it."""
    assert list(get_args(EffectState)) == [cells[0] for cells in rows(DOCS / "connectors.md", "state")]


def test_plan_fields() -> None:
    """docs/plans.md names every field of a plan and of each kind of step."""
    kinds = {cells[0].split(":")[0].strip("` "): cells[1] for cells in rows(DOCS / "plans.md", "kind")}
    for model in (GenerateStep, RecallStep, RememberStep, ActStep, ApprovalStep):
        kind = model.__name__.removesuffix("Step").lower()
        fields = {field.alias or name for name, field in model.model_fields.items()} - {"id", "needs", "when", kind}
        named = set(re.findall(r"`([a-z_]+)`", kinds.pop(kind)))
        assert fields <= named, f"{kind} does not name {fields - named}"
    assert not kinds

    told = {cells[0].strip("`") for cells in rows(DOCS / "plans.md", "field")}
    assert told >= set(Plan.model_fields)
    assert told >= {"id", "needs", "when"}


def test_errors_of_steps() -> None:
    """The errors that docs/authoring.md says a step raises are there."""
    listed = {name for cells in rows(DOCS / "authoring.md", "step") for name in re.findall(r"`(\w+)`", cells[2])}

    assert listed
    assert listed <= set(vars(errors))


def test_the_map_names_files() -> None:
    """Each file and folder that docs/architecture.md names is in the tree, and each room and package is on the map."""
    text = (DOCS / "architecture.md").read_text()
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", text))
    here = {name for name in named if "/" in name.strip("/") or (ROOT / name).exists()}

    assert [] == sorted(name for name in here if not (ROOT / name).exists())
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"bench"}
    assert [] == sorted(room for room in rooms if f"{room}/" not in text)
    packages = {path.parent.relative_to(ROOT) for path in ROOT.glob("*/*/__init__.py")}
    inside = {path.name for path in packages if path.parts[0] in ("connectors", "memory", "routing")}
    assert [] == sorted(name for name in inside if f"`{name}/`" not in text)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """A path in a page that begins with a room or with tests/, docs/ or bench/ leads to a file."""
    first = "|".join(sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0].isalpha()))
    named = set(re.findall(rf"`((?:{first})/[a-z0-9_/.]+\.(?:py|md|toml|yaml))`", page.read_text()))

    assert [] == sorted(path for path in named if not (ROOT / path).exists())


def test_decisions_are_numbered_and_listed() -> None:
    """Each decision has a number of its own, says it in its heading, and is listed in docs/index.md."""
    files = sorted((DOCS / "decisions").glob("*.md"))
    numbers = [int(file.name[:4]) for file in files]
    index = (DOCS / "index.md").read_text()

    assert sorted(set(numbers)) == numbers
    assert numbers == [int(re.findall(r"\A# (\d+)\. ", file.read_text())[0]) for file in files]
    assert [] == [file.name for file in files if f"(decisions/{file.name})" not in index]
