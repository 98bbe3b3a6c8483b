"""The systems that the marked tests act on: `make test-targets` installs them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from kits.targets import TARGETS, free_port, running, wait_for
from kits.vendure import Shop, a_shop
from kits.wordpress import Site, a_site


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give these tests time: the first to need a system waits until it has started, and a matrix waits for settle times."""
    for item in items:
        if item.get_closest_marker("targets"):
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def localstripe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of localstripe, a process of its own."""
    port = free_port()
    command = [str(TARGETS / "venv/bin/localstripe"), "--port", str(port), "--from-scratch"]
    url = f"http://127.0.0.1:{port}"
    with running(command, tmp_path_factory.mktemp("localstripe")) as process:
        wait_for(url, process)
        yield url


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A Vendure shop."""
    with a_shop(tmp_path_factory.mktemp("vendure"), variants=100) as shop:
        yield shop


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A WordPress site."""
    if not (TARGETS / "wordpress").exists() or not all(map(shutil.which, ("php", "mariadbd"))):
        pytest.skip("WordPress was not there when the targets were installed")
    with a_site(tmp_path_factory.mktemp("wordpress")) as site:
        yield site
