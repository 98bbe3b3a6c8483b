"""How this process is configured: perdure.toml, then PERDURE_* variables, then what the caller passes.

The connection to Temporal is not here: `temporalio.envconfig` reads TEMPORAL_* and Temporal's own TOML profiles.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, JsonValue, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from perdure.errors import WrongSetting

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

KiB = 1024
MiB = 1024 * KiB


_QUEUE_OPTIONS = frozenset({"queue", "per_second"})
_PREFIX = "PERDURE_"
# Read where they are needed, and by docker-compose.temporal.yml, whose .env a shell may have loaded.
_NO_SETTINGS = frozenset({"CONFIG", "DEBUG", "IMAGE", "DB_PASSWORD"})


@dataclass(frozen=True)
class ConnectorQueue:
    """The task queue of a connector, and how many of its effects the server hands out a second; None: as many as come."""

    name: str
    per_second: float | None = None


class Settings(BaseSettings):
    """Configuration of one perdure process. Every field is also a variable: `task_queue` is PERDURE_TASK_QUEUE."""

    model_config = SettingsConfigDict(env_prefix="PERDURE_", env_nested_delimiter="__", extra="forbid", frozen=True)

    home: Path = Path(".perdure")
    """Where the embedded parts keep their files: SQLite, the vector index, the dev server."""

    database_url: str = ""
    """`sqlite+aiosqlite:///PATH` or `postgresql+asyncpg://USER:PASSWORD@HOST/NAME`; empty means SQLite under `home`."""

    task_queue: str = Field(default="perdure", min_length=1)
    """The Temporal task queue that the worker polls and that `perdure run` starts runs on."""

    modules: list[str] = Field(default_factory=list)
    """Python modules whose workflows, activities and connectors the worker serves."""

    models: Path | None = None
    """The routing file; default: `models.toml` in the working directory, else the keyless one that is shipped."""

    index_url: str = ""
    """A Qdrant server; empty means an index beside the worker, and `:memory:` one that is gone at the end, for tests."""

    embedder: str = "minilm"
    """What turns texts into vectors for recall: `minilm`, which is shipped, `models:NAME` for an [embeddings.NAME] of
    models.toml, or `module:Class` of yours. A changed one takes over once it has embedded what is remembered; until then
    recalls go on with the one before."""

    retention: dict[str, timedelta] = Field(default_factory=lambda: {"standard": timedelta(days=30)})
    """How long memories of each retention class stay readable as of then once they have expired or were forgotten; then
    a sweep erases them. A class that is not named here is kept for ever."""

    connectors: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Options per connector, e.g. `[connectors.shop] url = "http://127.0.0.1:8100"`; `env:NAME` is read when it is used.

    Two belong to every connector: `per_second` is how many of its effects the server hands out, over all workers, and
    `queue` the task queue that they wait in, `own` for one that is named after it.
    """

    openapi: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    """Connectors made from OpenAPI documents, e.g. `[openapi.shop] document = "shop.openapi.yaml"`, with their actions."""

    contract_age: timedelta | None = timedelta(seconds=10)
    """How old the last look at a target's contract may be when a high-risk write relies on it; `PT0S` looks each time."""

    payload_threshold: int = Field(default=32 * KiB, ge=1 * KiB)
    """Payloads of at least this many bytes go to content-addressed storage instead of the history."""

    payload_limit: int = Field(default=16 * MiB, ge=64 * KiB)
    """No single payload may be larger than this many bytes."""

    unverified_decisions: Literal["allow", "refuse"] = "allow"
    """Whether a decision counts whose sender nobody verified, such as a signal sent from the Temporal Web UI."""

    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    tracing: Literal["off", "console", "otlp"] = "off"
    """Where spans go; `otlp` honours OTEL_EXPORTER_OTLP_ENDPOINT."""

    metrics_address: str = ""
    """`HOST:PORT` for Prometheus; empty means no metrics endpoint."""

    activity_slots: int = Field(default=100, ge=1)
    workflow_slots: int = Field(default=200, ge=2)
    drain: timedelta = timedelta(seconds=20)
    """How long a stopping worker lets running activities finish."""

    patience: timedelta = timedelta(seconds=20)
    """How long a starting worker waits for a Temporal server that does not answer yet."""

    @field_validator("home")
    @classmethod
    def _can_be_a_folder(cls, home: Path) -> Path:
        # Else it is found out at the first write, as whatever the operating system calls that.
        first = next((each for each in (home, *home.absolute().parents) if each.exists()), None)
        if first is not None and not first.is_dir():
            raise ValueError(f"{first} is a file, so no folder can be there; name another folder")
        return home

    @field_validator("drain", "patience", mode="before")
    @classmethod
    def _seconds(cls, value: object) -> object:
        # A variable is text, and a plain number of seconds is what people write.
        return float(value) if isinstance(value, str) and value.replace(".", "", 1).isdigit() else value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if url.startswith(("postgres://", "postgresql://")):
            url = "postgresql+asyncpg://" + url.split("://", 1)[1]
        if url and not url.startswith(("sqlite+aiosqlite:///", "postgresql+asyncpg://")):
            raise ValueError("start it with sqlite+aiosqlite:///PATH or postgresql+asyncpg://USER:PASSWORD@HOST/NAME")
        return url

    @field_validator("connectors", mode="before")
    @classmethod
    def _limits_as_text(cls, connectors: object) -> object:
        # per_second = 5 is as good as "5".
        for options in connectors.values() if isinstance(connectors, dict) else ():
            if isinstance(options, dict) and type(options.get("per_second")) in (int, float):
                options["per_second"] = str(options["per_second"])
        return connectors

    @field_validator("connectors")
    @classmethod
    def _limits_are_numbers(cls, connectors: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        for name, options in connectors.items():
            try:
                wrong = "per_second" in options and not float(options["per_second"]) > 0
            except ValueError:
                wrong = True
            if wrong:
                raise ValueError(f"{name}: per_second has to be a number above 0")
        return connectors

    def connector_options(self, connector: str) -> dict[str, str]:
        """Return what CONNECTOR itself is given."""
        return {name: value for name, value in self.connectors.get(connector, {}).items() if name not in _QUEUE_OPTIONS}

    @property
    def connector_queues(self) -> dict[str, ConnectorQueue]:
        """The queues of those connectors that have one."""
        queues: dict[str, ConnectorQueue] = {}
        for name, options in self.connectors.items():
            if _QUEUE_OPTIONS & options.keys():
                queue = options.get("queue", "own")
                per_second = options.get("per_second")
                queues[name] = ConnectorQueue(
                    name=f"{self.task_queue}.{name}" if queue == "own" else queue,
                    per_second=float(per_second) if per_second else None,
                )
        return queues

    @property
    def database(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite+aiosqlite:///{(self.home / 'perdure.db').absolute()}"

    @property
    def index_path(self) -> Path:
        """Where the embedded vector index lives."""
        return self.home / "index"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources; `.env` files are left out on purpose, so that nothing stray is picked up."""
        toml = TomlConfigSettingsSource(settings_cls, _file())
        return init_settings, env_settings, toml


def load_settings(**overrides: object) -> Settings:
    """Return the settings in force. Raises `WrongSetting` naming each wrong field and where it is set."""
    if "PERDURE_CONFIG" in os.environ and not _file().exists():
        raise WrongSetting(f"PERDURE_CONFIG names {_file()}, which is not there; looked in {Path.cwd()}")
    try:
        settings = Settings(**overrides)  # type: ignore[arg-type]  # overrides are validated by pydantic
    except ValidationError as error:
        wrong = "; ".join(f"{_place(item['loc'])}: {_reason(item)}" for item in error.errors())
        raise WrongSetting(f"settings are not valid: {wrong}") from None
    except ValueError as error:  # tomllib's, and a JSON value in a variable that does not parse
        raise WrongSetting(f"settings cannot be read: {error}") from None
    _refuse_unknown_variables(settings)
    return settings


def _place(location: tuple[int | str, ...]) -> str:
    name = ".".join(map(str, location))
    return f"{name!r} in perdure.toml or PERDURE_{'__'.join(map(str, location)).upper()}"


def _reason(wrong: ErrorDetails) -> str:
    if wrong["type"] == "extra_forbidden":
        return f"there is no such setting{_similar(str(wrong['loc'][0]), Settings.model_fields)}"
    return wrong["msg"].removeprefix("Value error, ")


def _refuse_unknown_variables(settings: Settings) -> None:
    """Raise `WrongSetting` for a PERDURE_* variable that is no setting, which pydantic-settings would pass over."""
    known = {name.upper() for name in Settings.model_fields}
    named = {
        name
        for name in (each.upper().removeprefix(_PREFIX) for each in os.environ if each.upper().startswith(_PREFIX))
        if name.partition("__")[0] not in known | _NO_SETTINGS
    }
    if named:
        named -= _secrets(settings)
    if named:
        wrong = "; ".join(f"{_PREFIX}{name}{_similar(name, known, _PREFIX)}" for name in sorted(named))
        raise WrongSetting(f"no setting is called {wrong}. docs/operations.md lists them")


def _similar(name: str, known: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


def _secrets(settings: Settings) -> set[str]:
    """Return the variables that the configuration reads by `env:NAME`, where a secret may have any name."""
    found: set[str] = set()
    for path in (_file(), settings.models or Path("models.toml")):
        if path.is_file():
            found |= set(re.findall(r"env:PERDURE_(\w+)", path.read_text("utf-8", errors="replace")))
    return found


def _file() -> Path:
    return Path(os.environ.get("PERDURE_CONFIG", "perdure.toml"))
