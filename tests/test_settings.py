"""Tests of perdure.settings."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from perdure.errors import InvalidSettings
from perdure.settings import KiB, Settings, load_settings


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_need_nothing() -> None:
    """Without a file, a variable or an argument there are settings: SQLite under .perdure, the queue `perdure`."""
    settings = load_settings()

    assert "perdure" == settings.task_queue
    assert f"sqlite+aiosqlite:///{Path('.perdure/perdure.db').absolute()}" == settings.database


def test_order_of_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument goes before a variable, and a variable before perdure.toml."""
    Path("perdure.toml").write_text('task_queue = "file"\nlog_level = "error"\nlog_format = "json"\n')
    monkeypatch.setenv("PERDURE_TASK_QUEUE", "variable")
    monkeypatch.setenv("PERDURE_LOG_LEVEL", "warning")

    settings = load_settings(task_queue="argument")

    assert ("argument", "warning", "json") == (settings.task_queue, settings.log_level, settings.log_format)


def test_another_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PERDURE_CONFIG names another file."""
    (tmp_path / "mine.toml").write_text('drain = "PT5S"\n\n[connectors.shop]\nurl = "http://127.0.0.1:8100"\n')
    monkeypatch.setenv("PERDURE_CONFIG", str(tmp_path / "mine.toml"))

    settings = load_settings()

    assert (timedelta(seconds=5), "http://127.0.0.1:8100") == (settings.drain, settings.connectors["shop"]["url"])


def test_nested_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two underscores lead into a table."""
    monkeypatch.setenv("PERDURE_CONNECTORS__SHOP__URL", "http://shop")

    assert {"shop": {"url": "http://shop"}} == load_settings().connectors


def test_stray_env_file() -> None:
    """A `.env` file that lies around is not read."""
    Path(".env").write_text("PERDURE_TASK_QUEUE=stray\n")

    assert "perdure" == load_settings().task_queue


@pytest.mark.parametrize("url", ["postgres://u:p@db/x", "postgresql://u:p@db/x", "postgresql+asyncpg://u:p@db/x"])
def test_postgres_urls(url: str) -> None:
    """The usual forms of a PostgreSQL URL all mean the same."""
    assert "postgresql+asyncpg://u:p@db/x" == load_settings(database_url=url).database


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('task_que = "x"', "'task_que' in perdure.toml or PERDURE_TASK_QUE"),
        ('log_level = "loud"', "'log_level' in perdure.toml or PERDURE_LOG_LEVEL"),
        ("activity_slots = 0", "greater than or equal to 1"),
        (f"payload_threshold = {KiB // 2}", "PERDURE_PAYLOAD_THRESHOLD"),
        ('database_url = "mysql://db"', "sqlite+aiosqlite:///PATH"),
        ("[connectors.shop]\nurl = 3", "PERDURE_CONNECTORS__SHOP__URL"),
        ("task_queue =", "cannot be read"),
    ],
)
def test_wrong_file(line: str, named: str) -> None:
    """A wrong line is refused with a message that names the field and where it is set."""
    Path("perdure.toml").write_text(line + "\n")

    with pytest.raises(InvalidSettings, match=re.escape(named)):
        load_settings()


def test_wrong_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that should be JSON and is not is refused with a message."""
    monkeypatch.setenv("PERDURE_MODULES", "shop,desk")

    with pytest.raises(InvalidSettings, match="cannot be read"):
        load_settings()


def test_passwords_stay_out_of_messages() -> None:
    """The message about a wrong database URL does not repeat it."""
    with pytest.raises(InvalidSettings) as raised:
        load_settings(database_url="mysql://me:hunter2@db/x")

    assert "hunter2" not in str(raised.value)


def test_frozen() -> None:
    """Settings don't change while a process runs."""
    settings = Settings()

    with pytest.raises(ValueError, match="frozen"):
        settings.task_queue = "other"  # type: ignore[misc]  # what is tried


def test_a_duration_may_be_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """PERDURE_DRAIN=20 is twenty seconds, like PT20S."""
    monkeypatch.setenv("PERDURE_DRAIN", "20")

    assert timedelta(seconds=20) == load_settings().drain


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("PERDURE_TASKQUEUE", "PERDURE_TASKQUEUE (did you mean PERDURE_TASK_QUEUE?)"),
        ("PERDURE_FOO", "no setting is called PERDURE_FOO."),
        ("perdure_foo", "no setting is called PERDURE_FOO."),
        ("PERDURE_CONECTORS__SHOP__URL", "PERDURE_CONECTORS__SHOP__URL"),
    ],
)
def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, said: str) -> None:
    """A PERDURE_* variable that is no setting ends the process, as an unknown name in perdure.toml does (case 80)."""
    monkeypatch.setenv(variable, "1")

    with pytest.raises(InvalidSettings, match=re.escape(said)):
        load_settings()


def test_an_unknown_name_in_the_file_is_told_with_what_is_like_it() -> None:
    """A mistyped name is told with the one that was meant, in words and not in pydantic's (case 80: odd texts)."""
    Path("perdure.toml").write_text('task_que = "x"\n')

    with pytest.raises(InvalidSettings, match=r"there is no such setting \(did you mean task_queue\?\)"):
        load_settings()


def test_a_secret_may_have_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that the configuration reads by `env:` is no setting, whatever it is called."""
    Path("perdure.toml").write_text('[connectors.shop]\ntoken = "env:PERDURE_SHOP_TOKEN"\n')
    Path("models.toml").write_text('[deployments.big]\napi_key = "env:PERDURE_MODEL_KEY"\n')
    monkeypatch.setenv("PERDURE_SHOP_TOKEN", "s3cr3t")
    monkeypatch.setenv("PERDURE_MODEL_KEY", "s3cr3t")

    assert "env:PERDURE_SHOP_TOKEN" == load_settings().connectors["shop"]["token"]


def test_a_missing_file_that_was_named_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """PERDURE_CONFIG names a file that is there, or nothing starts (case 80: PERDURE_CONFIG=missing.toml)."""
    monkeypatch.setenv("PERDURE_CONFIG", "missing.toml")

    with pytest.raises(InvalidSettings, match=r"PERDURE_CONFIG names missing\.toml, which is not there"):
        load_settings()


def test_a_home_under_a_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home that cannot be a folder is told as one message, before anything is written (case 80: PERDURE_HOME)."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PERDURE_HOME", str(tmp_path / "file" / "home"))

    with pytest.raises(InvalidSettings, match="is a file, so no folder can be there"):
        load_settings()
