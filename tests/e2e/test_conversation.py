"""Tests that a conversation survives its worker: references that one process stored, another one resolves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from kits.conversation_workflows import Chats, Talk
from kits.e2e import TESTS, environment, running
from stand_ins.provider import Answers, Hangs, stub_provider
from temporalio.client import Client
from temporalio.worker import Replayer, Worker

from perdure.memory.conversations.tables import MessageRow
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.storage import Database

ROUTES = """
[tasks.reply]
tier = "small"

[deployments.stub]
tier = "small"
model = "openai/stub"
api_base = "{url}"
input_usd_per_mtok = 0
output_usd_per_mtok = 0
"""


@pytest.mark.faults
@pytest.mark.timeout(300)  # a worker starts while other tests run
async def test_kill_in_the_middle_of_a_turn(temporal_address: str, database: Database, tmp_path: Path) -> None:
    """A worker is killed with -9 while the model thinks: another one goes on, and nothing is said twice or lost."""
    routes = tmp_path / "models.toml"
    settings = Settings(home=tmp_path / "home", task_queue=tmp_path.name, database_url=database.url, models=routes)
    more = {
        "PYTHONPATH": str(TESTS),
        "PERDURE_TASK_QUEUE": settings.task_queue,
        "PERDURE_DATABASE_URL": database.url,
        "PERDURE_MODELS": str(routes),
    }
    env = environment(temporal_address, settings.home, more)
    command = [sys.executable, "-m", "perdure.worker", "kits.conversation_workflows"]
    client = await Client.connect(temporal_address, plugins=[PerdurePlugin(settings)])
    async with stub_provider() as stub:
        stub.will(Answers('{"say": "first"}'), Hangs(), Answers('{"say": "second"}'))
        routes.write_text(ROUTES.format(url=stub.url))
        talk = Talk(says=("one", "two"))
        handle = await client.start_workflow(Chats.run, talk, id=tmp_path.name, task_queue=settings.task_queue)
        async with running(command, env, cwd=tmp_path, log=tmp_path / "log") as worker:
            while stub.calls < 2:
                stub.arrived.clear()
                await stub.arrived.wait()
            worker.process.kill()
            await worker.process.wait()
        async with Worker(client, task_queue=settings.task_queue, workflows=[Chats]):
            answers = await handle.result()

        shown = json.loads(stub.messages[-1][1]["content"])["conversation"]
    assert ["first", "second"] == answers
    assert ["one", {"say": "first"}, "two"] == [each["content"] for each in shown]
    async with database.read() as connection:
        assert 4 == (await connection.execute(sa.select(sa.func.count()).select_from(MessageRow))).scalar_one()
    # And without any database: what steers a replay is in the history.
    replayer = Replayer(workflows=[Chats], plugins=[PerdurePlugin(Settings(home=tmp_path / "none"))])
    assert (await replayer.replay_workflow(await handle.fetch_history())).replay_failure is None
    assert not (tmp_path / "none").exists()
