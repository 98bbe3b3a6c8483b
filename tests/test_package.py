"""Tests of what people install: the wheel's files, what `import perdure` costs, what its public names say."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import perdure

ROOT = Path(perdure.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGED = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
NOT_PACKAGED = {"bench", "docs", "requirements", "tests"}
HEAVY = ("litellm", "sqlmodel", "sqlalchemy", "alembic", "qdrant_client", "qdrant_edge", "onnxruntime", "hvac", "httpx")
# What comes with a dependency as part of its own interface.
PART_OF = {"google": "temporalio", "pydantic_core": "pydantic"}
FACES = [
    ".".join(("perdure", *path.parent.relative_to(ROOT).parts))
    for path in sorted((*ROOT.glob("*/__init__.py"), *ROOT.glob("*/*/__init__.py")))
    if path.relative_to(ROOT).parts[0] in PACKAGED and "__all__" in path.read_text()
]
PACKAGES = ["perdure", *(f"perdure.{part}" for part in PACKAGED if "." not in part)]


# Names


def test_what_0_1_0_had_is_found() -> None:
    """Each public name that 0.1.0 had for its users is found where it was. Goes with `perdure.moved`."""
    names: dict[str, list[str]] = json.loads((ROOT / "tests/data/public_names_0.1.0.json").read_text())
    gone = []
    for module, of_module in names.items():
        there = importlib.import_module(module)
        gone += [f"{module}.{name}" for name in of_module if not hasattr(there, name)]

    assert [] == gone


@pytest.mark.parametrize("package", FACES)
def test_a_face_has_what_it_names(package: str) -> None:
    """What a package's `__all__` names can be imported from it."""
    face = importlib.import_module(package)

    assert [] == [name for name in face.__all__ if not hasattr(face, name)]


def test_what_is_private_to_a_package_stays_there() -> None:
    """No module imports a file of another package whose name begins with an underscore, or a name that does."""
    reached = []
    for path in sorted(ROOT.glob("**/*.py")):
        inside = path.relative_to(ROOT)
        if inside.parts[0] in NOT_PACKAGED | {".dev", ".venv"} or inside.parts[0].startswith("."):
            continue
        package = ".".join(("perdure", *inside.parent.parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("perdure."):
                continue
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                owner, _, private = name.partition("._")
                if private and package != owner and not package.startswith(f"{owner}."):
                    reached.append(f"{inside}:{node.lineno} imports {name}")

    assert [] == reached


# The wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the work tree without network."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed, without its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    _run(*pip, "--target", str(folder), str(wheel))
    return folder


def test_wheel_files(wheel: Path, tracked: list[PurePosixPath]) -> None:
    """The wheel holds every tracked file of the packaged rooms and nothing else beside its own records."""
    with zipfile.ZipFile(wheel) as archive:
        files = {PurePosixPath(name) for name in archive.namelist()}
    inside = {file.relative_to("perdure") for file in files if file.parts[0] == "perdure"}
    records = {file.parts[0] for file in files if file.parts[0] != "perdure"}

    assert {file for file in tracked if file.parts[0] in PACKAGED} == inside
    assert {f"perdure-{perdure.__version__}.dist-info"} == records


def test_every_room_is_packaged(tracked: list[PurePosixPath]) -> None:
    """A module or a package in the root is either packaged or known to stay at home."""
    code = {file.parts[0] for file in tracked if file.suffix == ".py" and not file.parts[0].startswith(".")}

    assert set() == code - set(PACKAGED) - NOT_PACKAGED


def test_wheel_has_licence_types_and_command(wheel: Path) -> None:
    """The wheel carries the licence, the marker for its types and the command."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (points,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
        (licence,) = (archive.read(name).decode() for name in names if name.endswith("/LICENSE"))

    assert "perdure/py.typed" in names
    assert "perdure = perdure.cli:main" in points
    assert "Apache License" in licence


def test_beside_a_folder_of_the_same_name(installed: Path, tmp_path: Path) -> None:
    """The installed package works beside a `workflows` package and a `memory.py` of the user's own."""
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows/__init__.py").write_text("MINE = True\n")
    (tmp_path / "memory.py").write_text("MINE = True\n")
    code = """
import perdure, perdure.workflows, perdure.memory, workflows, memory
print(perdure.__file__, workflows.MINE and memory.MINE, *perdure.workflows.__path__)
"""
    where, mine, rooms = _python(code, first=installed, folder=tmp_path).split()

    assert (str(installed / "perdure/__init__.py"), "True") == (where, mine)
    assert str(installed / "perdure/workflows") == rooms


def test_nothing_generic_in_site_packages(installed: Path) -> None:
    """Installing puts one name into site-packages, and one command beside them."""
    assert {"bin", "perdure"} == {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert ["perdure"] == [path.name for path in (installed / "bin").iterdir()]


# What an import costs


@pytest.mark.parametrize("module", ["perdure", "perdure.cli", "perdure.workflows"])
def test_light_import(module: str) -> None:
    """Importing the package, the command or what workflows import loads no model, database, HTTP or Vault client."""
    loaded = _python(f"import sys, {module}; print(*sys.modules)").split()

    assert set() == set(HEAVY) & set(loaded)


# What the public names say


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist(package: str) -> None:
    """Each name in `__all__` exists, and `__all__` is sorted so that a change of it is easy to see."""
    module = importlib.import_module(package)
    names = list(getattr(module, "__all__", []))

    assert [] == [name for name in names if not hasattr(module, name)]
    assert sorted(names, key=_by_kind) == names


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_documented(package: str) -> None:
    """Each public class and function, and each public method of it that is our own, has a docstring of its own."""
    module = importlib.import_module(package)

    bare = [where for where, thing in _public(module) if not inspect.getdoc(thing) or thing.__doc__ is None]

    assert [] == bare


# What it needs


def test_every_import_is_declared(tracked: list[PurePosixPath]) -> None:
    """Each package that a packaged module imports is a dependency, not only what some dependency happens to need."""
    extras = [text for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra]
    names = [Requirement(text).name for text in [*PROJECT["project"]["dependencies"], *extras]]
    declared = {canonicalize_name(name) for name in names}
    homes = packages_distributions()
    undeclared = {
        f"{file}: {module}"
        for file in tracked
        if file.suffix == ".py" and file.parts[0] in PACKAGED
        for module in _imports(ROOT / file) - set(sys.stdlib_module_names) - {"perdure", *PART_OF}
        if not declared & {canonicalize_name(home) for home in homes.get(module, [])}
    }

    assert set() == undeclared


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_lock_fits(name: str) -> None:
    """Each dependency that pyproject.toml names is locked, in the range that it gives."""
    wanted = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
    if name == "dev.txt":
        wanted += [Requirement(text) for text in PROJECT["dependency-groups"]["dev"]]
    locked = _locked(name)

    misfits = [
        str(requirement)
        for requirement in wanted
        if not any(map(requirement.specifier.contains, locked.get(canonicalize_name(requirement.name), [])))
    ]

    assert [] == misfits, "run requirements/compile"


def test_one_lock_extends_the_other() -> None:
    """dev.txt has every version of run.txt, so that tests run on what people install."""
    run, dev = _locked("run.txt"), _locked("dev.txt")

    assert run == {name: dev.get(name) for name in run}


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_lock_names_no_index(name: str) -> None:
    """A lock file holds versions and hashes only, so that it works with whatever index the machine uses."""
    text = (ROOT / "requirements" / name).read_text()

    assert [] == re.findall(r"\w+://\S*|^-.*", text, re.MULTILINE)
    assert text.count("==") <= text.count("--hash=sha256:")


@pytest.fixture(scope="session")
def tracked() -> list[PurePosixPath]:
    """The files that git knows, and those that it would take: what a checkout of this work tree is."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git work tree")
    listed = _run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return [PurePosixPath(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _by_kind(name: str) -> tuple[int, str]:
    """Order names as ruff does: constants, classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def _public(module: object) -> Iterator[tuple[str, Callable[..., object]]]:
    for name in getattr(module, "__all__", []):
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        yield name, thing
        for member, function in vars(thing).items() if inspect.isclass(thing) else ():
            ours = inspect.isfunction(function) and function.__module__.startswith("perdure")
            if ours and not member.startswith("_"):
                yield f"{name}.{member}", function


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def _locked(name: str) -> dict[str, list[Version]]:
    found: dict[str, list[Version]] = {}
    for package, version in re.findall(
        r"^([\w.-]+)(?:\[.*?\])?==([^\s;]+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE
    ):
        found.setdefault(canonicalize_name(package), []).append(Version(version))
    return found


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def _python(code: str, *, first: Path | None = None, folder: Path | None = None) -> str:
    """Run CODE as a script in FOLDER, with the packages in the folder FIRST ahead of those installed."""
    start = f"import sys; sys.path[:0] = {[str(path) for path in (folder, first) if path]!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout
