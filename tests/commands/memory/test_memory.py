"""`perdure memory`, against a worker that owns the index, and without one."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from pathlib import Path

import pytest
from kits.cli import Perdure, until

from perdure.commands.exits import Exit
from perdure.lineage import Lineage, StepRef
from perdure.memory import customer
from perdure.memory.contracts import RememberCall
from perdure.memory.conversations import Messages
from perdure.memory.conversations.contracts import ConversationRef, NewMessage
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


def test_search_explains(desk: Perdure, user: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`search --explain` says why each record came, the same by way of the worker as in the process that has the index."""
    asked = ("memory", "search", "what is liked to drink, tea?", "--user", user, "--explain")
    shown, by_worker = desk(*asked), desk(*asked, "-o", "json").rows
    monkeypatch.setenv("PERDURE_DATABASE_URL", f"sqlite+aiosqlite:///{_copy(home)}")
    monkeypatch.setenv("PERDURE_INDEX_URL", ":memory:")
    here = desk(*asked, "-o", "json").rows

    assert 2 == len(by_worker)
    assert [each["record"]["content"] for each in here] == [each["record"]["content"] for each in by_worker]
    for mine, workers in zip(here, by_worker, strict=True):
        assert (
            pytest.approx(sum(value for value in mine["why"].values() if isinstance(value, float)), abs=0.001)
            == mine["score"]
        )
        assert mine["why"].keys() == workers["why"].keys()
        assert pytest.approx(mine["score"], abs=0.01) == workers["score"]
    assert "dense +" in " ".join(shown.out.split())
    assert "WHY" in shown.out
    assert "why" not in desk(*asked[:-1], "-o", "json").rows[0]


def _copy(home: Path) -> Path:
    """Return a copy of the database, so that an index of its own may follow it."""
    copy = home / f"copy-{uuid.uuid4().hex[:6]}.db"
    with sqlite3.connect(home / "perdure.db") as original, sqlite3.connect(copy) as other:
        original.backup(other)
    return copy


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


@pytest.fixture
def talked(home: Path, user: str) -> str:
    """The run of which `user` is known, now with two conversations."""

    async def talk() -> None:
        run = Lineage(namespace="test", workflow_id=user, first_execution_run_id="1")
        async with open_database(f"sqlite+aiosqlite:///{home / 'perdure.db'}") as database:
            for name in ("desk", "shop"):
                said = NewMessage(role="user", content=f"something that nobody may see, {user}")
                await Messages(database, len).append(run, ConversationRef(name=name), [said])

    asyncio.run(talk())
    return user


def test_conversations_are_listed_held_and_erased(desk: Perdure, talked: str) -> None:
    """`conversation` lists what a run, or the runs of a user, have said, without content; holds it; and has it erased."""
    of_user = desk("conversation", "list", "--user", talked, "-o", "jsonl")
    of_run = desk("conversation", "list", talked)
    held = desk("conversation", "hold", talked, "--name", "desk")
    refused = desk("memory", "forget", "--everything", "--how", "erase", "--user", talked)
    released = desk("conversation", "hold", talked, "--release")
    one = desk("conversation", "erase", talked, "--name", "desk", "--why", "asked")
    dry = desk("memory", "forget", "--everything", "--how", "erase", "--user", talked, "--dry-run")
    rest = desk("memory", "forget", "--everything", "--how", "erase", "--user", talked, "-o", "json")

    assert [("desk", 1), ("shop", 1)] == [(each["name"], each["messages"]) for each in of_user.rows]
    assert (True, True, False) == ("shop" in of_run.out, talked in of_run.out, "nobody may see" in of_run.out + of_user.out)
    assert ("1 conversations held", "2 conversations released") == (held.err.strip(), released.err.strip())
    assert (Exit.ERROR, True) == (
        refused.code,
        f"keeps 1 conversations that would be erased: '{talked}/1/desk'" in refused.err,
    )
    assert "0 versions and 1 messages of conversations erased, receipt" in one.err
    assert (f"{talked}/1/shop", "3 versions and 1 messages of conversations would be erased") == (
        *(dry.out.splitlines()[-1], dry.err.strip()),
    )
    assert ([f"{talked}/1/shop"], 1, True) == (rest.json["conversations"], rest.json["messages"], rest.json["complete"])
    assert "has said nothing that is kept" in desk("conversation", "erase", "nobody").err
    assert "erased" in desk("conversation", "list").out


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
    as_list = desk("memory", "export", "--user", user, "-o", "json")
    assert as_list.json == [json.loads(line) for line in lines.splitlines()], "(case 80: `memory export -o json`)"
    (tmp_path / "memories.jsonl").write_text(as_list.out)
    monkeypatch.setenv("PERDURE_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    imported = desk("memory", "import", str(tmp_path / "memories.jsonl"))

    assert ["export", *["record"] * 3, *["source"] * 3] == [next(iter(json.loads(line))) for line in lines.splitlines()]
    assert "3 versions added" in imported.err
    assert ["Wien", "likes tea"] == [each["content"] for each in desk("memory", "list", "--user", user, "-o", "jsonl").rows]
    verified, filled = desk("memory", "verify", "-o", "json"), desk("memory", "reindex")
    assert (Exit.OK, 3, Exit.OK) == (verified.code, verified.json["records"], filled.code), verified.err
    found = desk("memory", "search", "drinks", "--user", user, "-n", "1", "-o", "json")
    assert ["likes tea"] == [each["record"]["content"] for each in found.rows], found.err
    exported = [json.loads(line) for line in lines.splitlines()]
    then = min(line["record"]["recorded_at"] for line in exported if "record" in line)
    early = desk("memory", "search", "home", "--user", user, "--as-of", then, "-o", "json")
    assert ["Graz"] == [each["record"]["content"] for each in early.rows], early.err


def test_erasures_are_kept_beside_backups(
    desk: Perdure, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an old export brings back into an empty home goes again with the erasures that were kept since."""
    old, erasures = tmp_path / "old.jsonl", tmp_path / "erasures.jsonl"
    old.write_text(desk("memory", "export", "--user", user).out)
    desk("memory", "forget", "home", "--how", "erase", "--user", user)
    erasures.write_text(desk("memory", "export", "--erasures").out)
    monkeypatch.setenv("PERDURE_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    brought, gone = desk("memory", "import", str(old)), desk("memory", "import", str(erasures))

    assert "Graz" not in erasures.read_text()
    assert "3 versions added;" in brought.err
    assert "0 versions added, 2 erased, as the export says" in gone.err
    assert ["likes tea"] == [each["content"] for each in desk("memory", "list", "--user", user, "-o", "jsonl").rows]
    assert desk("memory", "verify", "-o", "json").json["sound"]


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
        (("export", "--user", ""), "say whose memory"),
        (("export", "--tenant", ""), "--tenant is empty"),
        (("stats", "--user", "u", "--session", " "), "names nobody"),
        (("list", "--user", "u", "--tenant", ""), "tenant"),
        (("serve-mcp", "--user", "u", "--allow", "erase"), "choose from forget, recall, remember"),
    ],
)
def test_mistakes_are_named(perdure: Perdure, arguments: tuple[str, ...], said: str) -> None:
    """What is missing or wrong is named, before anybody is asked."""
    ended = perdure("memory", *arguments)

    assert ended.code != Exit.OK
    assert said in ended.err
