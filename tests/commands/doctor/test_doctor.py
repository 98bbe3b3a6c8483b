"""What `perdure doctor` finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from kits.cli import Perdure

from perdure.commands.exits import Exit


def states(perdure: Perdure, *options: str) -> dict[object, object]:
    """Return how each check stands."""
    return {row["name"]: row["state"] for row in perdure("doctor", "-o", "json", *options).rows}


def test_everything_is_looked_at(desk: Perdure) -> None:
    """`doctor` looks at each thing perdure stands on, and fails nothing where all is well."""
    desk("run", "Knocks", "-i", "1")

    ended = desk("doctor", "-o", "json")

    assert Exit.OK == ended.code, ended.out
    assert [
        "versions",
        "settings",
        "temporal",
        "namespace",
        "search attributes",
        "worker",
        "database",
        "models",
        "embedder",
        "index",
        "decisions",
    ] == [row["name"] for row in ended.rows]
    assert {"ok", "warn"} == {row["state"] for row in ended.rows}


def test_a_server_that_is_down_fails(perdure: Perdure) -> None:
    """Without a server `doctor` ends with 1, says what to do, and still looks at the rest."""
    ended = perdure("doctor", "--address", "127.0.0.1:1")

    assert Exit.ERROR == ended.code
    assert "fail temporal: no Temporal server answers at 127.0.0.1:1" in ended.out
    assert "ok   embedder" in ended.out


def test_a_missing_schema_is_told_and_made(perdure: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty database is a warning; `--migrate` brings it up to date."""
    monkeypatch.setenv("PERDURE_HOME", str(tmp_path))

    before, after = states(perdure), states(perdure, "--migrate")

    assert ("warn", "ok") == (before["database"], after["database"])


def test_a_database_that_cannot_be_opened_fails(perdure: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that does not answer is a failure, and its password is not printed."""
    monkeypatch.setenv("PERDURE_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/x")

    ended = perdure("doctor")

    assert Exit.ERROR == ended.code
    assert "fail database" in ended.out
    assert "hunter2" not in ended.out + ended.err


def test_a_bad_models_file_fails(perdure: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A routing file that cannot be used is told with its line."""
    models = tmp_path / "models.toml"
    models.write_text("[tasks.x]\ntier = 'huge'\n")
    monkeypatch.setenv("PERDURE_MODELS", str(models))

    assert "fail" == states(perdure)["models"]


def test_keys_that_are_not_set_are_told(perdure: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment whose key is not in the environment is a warning that names the variable."""
    models = tmp_path / "models.toml"
    models.write_text(
        '[deployments.hosted]\ntier = "large"\nmodel = "openai/x"\napi_key = "env:NOT_SET_HERE"\n'
        "input_usd_per_mtok = 1\noutput_usd_per_mtok = 1\n"
    )
    monkeypatch.setenv("PERDURE_MODELS", str(models))

    assert "Set NOT_SET_HERE" in perdure("doctor").out


def test_bad_settings_are_told(perdure: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that does not fit fails and names its variable."""
    monkeypatch.setenv("PERDURE_ACTIVITY_SLOTS", "many")

    ended = perdure("doctor")

    assert Exit.ERROR == ended.code
    assert "PERDURE_ACTIVITY_SLOTS" in ended.out


def test_strict_decisions_are_no_warning(perdure: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where unverified decisions are refused there is nothing to warn of."""
    monkeypatch.setenv("PERDURE_UNVERIFIED_DECISIONS", "refuse")

    assert "ok" == states(perdure)["decisions"]
