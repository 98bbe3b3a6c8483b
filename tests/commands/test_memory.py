"""`perdure memory`, against a worker that owns the index, and without one."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import pytest
from cli_kit import Perdure, until

from perdure.commands.exits import Exit
from perdure.lineage import Lineage, StepRef
from perdure.memory import customer
from perdure.memory.contracts import RememberCall
from perdure.memory.unindexed import records_only
from perdure.storage import open_database


@pytest.fixture
def desk(desk: Perdure) -> Perdure:
    """Run `perdure` while a worker owns the index and polls."""
    until(lambda: desk("memory", "sweep", "--dry-run").code == Exit.OK, seconds=100)
    return desk


@pytest.fixture
def user(home: Path) -> str:
    """A user of this test's own, of whom something is known: where she lives, twice, and what she likes."""
    name = f"user-{uuid.uuid4().hex[:6]}"

    async def tell() -> None:
        async with open_database(f"sqlite+aiosqlite:///{home / 'perdure.db'}") as database:
            memory = records_only(database)
            for number, (memory_id, content) in enumerate([("home", "Graz"), ("home", "Wien"), ("taste", "likes tea")]):
                lineage = Lineage(namespace="test", workflow_id=name, first_execution_run_id="1")
                step = StepRef(lineage=lineage, name=f"tell {number}")
                call = RememberCall(step=step, scope=customer(name), content=content, memory_id=memory_id)
                await memory.remember(call)

    asyncio.run(tell())
    return name


def test_the_worker_searches(desk: Perdure, user: str) -> None:
    """`search` finds what the worker's index holds, and reads what it says here."""
    found = desk("memory", "search", "drinks", "--user", user, "-o", "json").rows

    assert {"likes tea", "Wien"} == {each["record"]["content"] for each in found}
    assert "likes tea" in desk("memory", "search", "drinks", "--user", user).out
    assert "nothing bears on it" in desk("memory", "search", "drinks", "--user", "nobody-at-all").err


def test_records_are_shown(desk: Perdure, user: str) -> None:
    """`list`, `show` and `history` read what holds, what held then, and every version with who said it."""
    versions = desk("memory", "history", "home", "--user", user, "-o", "json").rows
    then = versions[0]["recorded_at"]
    shown = desk("memory", "show", "home", "--user", user).out

    assert ["Graz", "Wien"] == [each["content"] for each in versions]
    assert ["Wien", "likes tea"] == [each["content"] for each in desk("memory", "list", "--user", user, "-o", "jsonl").rows]
    assert ["Graz"] == [
        each["content"] for each in desk("memory", "list", "--user", user, "--as-of", then, "-o", "jsonl").rows
    ]
    for said in ("Wien", "home v2", f"test/{user}/1/tell 1"):
        assert said in shown
    assert "Graz" == desk("memory", "show", "home", "--user", user, "--as-of", then, "-o", "json").json["content"]
    assert "superseded" in desk("memory", "history", "home", "--user", user).out


def test_memories_are_forgotten(desk: Perdure, user: str) -> None:
    """`forget` says what it would do, does it on the worker, and stops at a legal hold."""
    of_user = ("--user", user)
    dry = desk("memory", "forget", "home", "--how", "erase", "--dry-run", *of_user)
    held = desk("memory", "hold", "home", *of_user)
    refused = desk("memory", "forget", "--everything", "--how", "erase", *of_user)
    released = desk("memory", "hold", "home", "--release", *of_user)
    erased = desk("memory", "forget", "home", "--how", "erase", "--why", "asked", *of_user, "-o", "json")
    over = desk("memory", "forget", "taste", "--how", "expire", *of_user)

    assert ("2 versions would be erased", "2 versions held", "2 versions released") == (
        *(dry.err.strip(), held.err.strip()),
        released.err.strip(),
    )
    assert (Exit.ERROR, True) == (refused.code, "a legal hold keeps 1" in refused.err), refused.err
    assert (2, True) == (erased.json["versions"], erased.json["complete"]), erased.err
    assert "1 versions expired" in over.err
    assert "nothing is known" in desk("memory", "list", *of_user).err


def test_index_is_checked_and_filled(desk: Perdure, user: str) -> None:
    """`verify` compares on the worker; `reindex` fills the index anew; `stats` counts."""
    verified = desk("memory", "verify", "-o", "json")
    filled = desk("memory", "reindex", "-o", "json")
    stats = desk("memory", "stats", "--user", user, "-o", "json").json

    assert (Exit.OK, True) == (verified.code, verified.json["sound"]), verified.out
    assert verified.json["records"] == filled.json["count"]
    assert (2, 3, 2) == (stats["memories"], stats["versions"], stats["live"])
    assert "they agree" in desk("memory", "verify", "--no-vectors").err
    assert "hold now: " in desk("memory", "stats").out


def test_export_goes_into_another_home(desk: Perdure, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `export` prints, `import` writes into an empty home, which needs neither worker nor server for it."""
    lines = desk("memory", "export", "--user", user).out
    (tmp_path / "memories.jsonl").write_text(lines)
    monkeypatch.setenv("PERDURE_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    imported = desk("memory", "import", str(tmp_path / "memories.jsonl"))

    assert ["export", *["record"] * 3, *["source"] * 3] == [next(iter(json.loads(line))) for line in lines.splitlines()]
    assert "3 versions added" in imported.err
    assert ["Wien", "likes tea"] == [each["content"] for each in desk("memory", "list", "--user", user, "-o", "jsonl").rows]
    (tmp_path / "other" / "index").mkdir()
    found = desk("memory", "search", "drinks", "--user", user, "-n", "1", "-o", "json")
    assert ["likes tea"] == [each["record"]["content"] for each in found.rows], found.err


def test_sweep_is_run_and_scheduled(desk: Perdure, worker: object) -> None:
    """`sweep` runs on the worker, at once or on a schedule, and stops again."""
    assert "versions would be erased" in desk("memory", "sweep", "--dry-run").err
    scheduled = desk("memory", "sweep", "--schedule", "1d")
    stopped = desk("memory", "sweep", "--unschedule")

    assert (Exit.OK, True) == (scheduled.code, "perdure.sweep_memory/memory every 1d" in scheduled.err), scheduled.err
    assert "no more perdure.sweep_memory/memory" in stopped.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list",), "say whose memory"),
        (("forget", "--how", "erase", "--user", "u"), "say which"),
        (("show", "nothing", "--user", "u"), "no memory 'nothing'"),
        (("history", "nothing", "--user", "u"), "no memory 'nothing'"),
        (("list", "--user", "u", "--as-of", "someday"), "is no moment"),
        (("serve-mcp", "--user", "u", "--allow", "erase"), "choose from forget, recall, remember"),
    ],
)
def test_mistakes_are_named(perdure: Perdure, arguments: tuple[str, ...], said: str) -> None:
    """What is missing or wrong is named, before anybody is asked."""
    ended = perdure("memory", *arguments)

    assert ended.code != Exit.OK
    assert said in ended.err
