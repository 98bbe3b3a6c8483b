"""A WordPress site: how it is started, and what it says when it is asked from beside the connector."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
from kits.targets import HERE, TARGETS, free_port, running, wait_for
from pydantic import JsonValue

Json = dict[str, JsonValue]


@dataclass
class Site:
    """A site with one account."""

    url: str
    user: str
    password: str

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=f"{self.url}/wp-json/wp/v2", auth=(self.user, self.password), timeout=60)

    @property
    def options(self) -> dict[str, str]:
        """What a connector is configured with."""
        return {"url": self.url, "user": self.user, "password": self.password}

    def post(self, path: str, **given: JsonValue) -> Json:
        """Send GIVEN to PATH and return the answer."""
        return cast(Json, self.client.post(path, json=given).raise_for_status().json())

    def one(self, post: int) -> Json:
        """Return a post."""
        return cast(Json, self.client.get(f"/posts/{post}", params={"context": "edit"}).raise_for_status().json())

    def titled(self, title: str) -> list[Json]:
        """Return the posts with TITLE, in whatever state."""
        asked: dict[str, str | int] = {
            "search": title,
            "status": "publish,future,draft,pending,private,trash",
            "context": "edit",
            "per_page": 100,
        }
        found = cast("list[Json]", self.client.get("/posts", params=asked).raise_for_status().json())
        return [post for post in found if cast(Json, post["title"])["raw"] == title]

    def revisions(self, post: int) -> list[int]:
        """Return the revisions of POST, the newest first."""
        found = self.client.get(f"/posts/{post}/revisions").raise_for_status().json()
        return [revision["id"] for revision in cast("list[dict[str, int]]", found)]

    def saved(self, *contents: str) -> int:
        """Return a new draft that had one of CONTENTS after the other."""
        post = cast(int, self.post("/posts", title="A post", content="at first")["id"])
        for content in contents:
            self.post(f"/posts/{post}", content=content)
        return post


@contextmanager
def a_site(folder: Path) -> Iterator[Site]:
    """Run a WordPress site, and MariaDB for it."""
    database, url = folder / "db.sock", f"http://127.0.0.1:{free_port()}"
    made = ["mariadb-install-db", "--no-defaults", f"--datadir={folder / 'db'}", "--skip-test-db"]
    as_root = ["--user=root"] if os.getuid() == 0 else []
    subprocess.run(
        [*made, "--auth-root-authentication-method=normal", *as_root], cwd=folder, capture_output=True, check=True
    )
    served = [
        "mariadbd",
        "--no-defaults",
        f"--datadir={folder / 'db'}",
        f"--socket={database}",
        "--skip-networking",
        *as_root,
    ]
    environment = {
        "TARGETS_DATABASE": str(database),
        "TARGETS_ADDRESS": url,
        "TARGETS_SITE": str(TARGETS / "wordpress"),
        "PHP_CLI_SERVER_WORKERS": "4",
    }
    shutil.copy(HERE / "wordpress/wp-config.php", TARGETS / "wordpress/wp-config.php")
    with running(served, folder, environment) as mariadb:
        _wait_for_socket(database, mariadb)
        install = ["php", str(HERE / "wordpress/install.php")]
        done = subprocess.run(
            install, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=120
        )
        with running(
            ["php", "-S", url.removeprefix("http://"), "-t", str(TARGETS / "wordpress")], folder, environment
        ) as php:
            wait_for(url, php)
            site = Site(url, "perdure", done.stdout.strip())
            yield site
            site.client.close()


def _wait_for_socket(path: Path, process: subprocess.Popen[bytes], within: float = 120) -> None:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{process.args!r} ended at once"
        with closing(socket.socket(socket.AF_UNIX)) as asked:
            if asked.connect_ex(str(path)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens at {path}")
