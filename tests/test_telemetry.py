"""Tests of perdure.telemetry."""

from __future__ import annotations

import io
import json
import logging
import socket
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Iterator
from datetime import timedelta

import pytest
import structlog
from temporalio import activity, workflow
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure import telemetry
from perdure.connection import runtime
from perdure.lineage import Lineage, StepRef
from perdure.settings import Settings

STEP = StepRef(
    lineage=Lineage(namespace="default", workflow_id="return-7", first_execution_run_id="r-0"), name="triage", run_id="r-1"
)


class Log(io.StringIO):
    """Where a test's lines go."""

    @property
    def lines(self) -> list[dict[str, object]]:
        """The lines, read as JSON."""
        return [json.loads(line) for line in self.getvalue().splitlines()]

    @property
    def last(self) -> dict[str, object]:
        """The newest line."""
        return self.lines[-1]


class Terminal(Log):
    """A terminal."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


@pytest.fixture
def log() -> Iterator[Log]:
    """What was logged, as JSON."""
    stream = Log()
    telemetry.configure(Settings(log_level="info"), stream=stream)
    yield stream
    telemetry.shutdown()


def test_no_terminal_means_json(log: Log) -> None:
    """Where stderr is no terminal, each line is one JSON object with the event, its facts, level, time and logger."""
    structlog.get_logger("perdure.test").info("effect confirmed", action="shop.refund", took=timedelta(seconds=2))

    line = log.last
    assert "20" == str(line.pop("timestamp"))[:2]
    assert {
        "event": "effect confirmed",
        "action": "shop.refund",
        "took": 2.0,
        "level": "info",
        "logger": "perdure.test",
    } == line


@pytest.mark.parametrize(
    ("stream", "log_format", "is_json"),
    [(Log(), "auto", True), (Terminal(), "auto", False), (Terminal(), "json", True), (Log(), "console", False)],
)
def test_format(stream: Log, log_format: str, is_json: bool) -> None:
    """A terminal gets text and everything else JSON, unless the settings say which."""
    telemetry.configure(Settings.model_validate({"log_format": log_format}), stream=stream)
    structlog.get_logger().info("hello", who="world")
    telemetry.shutdown()

    assert is_json == stream.getvalue().startswith("{")


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR is honoured on a terminal."""
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    telemetry.configure(Settings(), stream=stream)
    structlog.get_logger().info("hello")
    telemetry.shutdown()

    assert "\x1b" not in stream.getvalue()


def test_level(log: Log) -> None:
    """Lines below the level are dropped, whoever logs them."""
    structlog.get_logger().debug("quiet")
    logging.getLogger("temporalio").debug("quiet")

    assert "" == log.getvalue()


def test_library_lines_look_the_same(log: Log) -> None:
    """What a library logs through `logging` comes out in the same form, with its extra facts as fields."""
    logging.getLogger("temporalio.worker").warning("slot %s is free", 3, extra={"slot": 3})

    assert ("slot 3 is free", 3, "temporalio.worker") == tuple(log.last[key] for key in ("event", "slot", "logger"))


def test_chatty_libraries(log: Log) -> None:
    """What HTTP clients and LiteLLM say below a warning is dropped also at debug: prompts and headers are in it."""
    telemetry.configure(Settings(log_level="debug"), stream=log)
    logging.getLogger("httpx").info("HTTP Request: GET http://shop/?key=s3cr3t")
    logging.getLogger("LiteLLM").debug("prompt: ...")

    assert "" == log.getvalue()


def test_adopt(log: Log) -> None:
    """A library's own handler is taken off, so that its lines come out once and in our form."""
    library = logging.getLogger("LiteLLM")
    own = io.StringIO()
    library.addHandler(logging.StreamHandler(own))

    telemetry.adopt()
    library.warning("slow")

    assert ("", ["slow"]) == (own.getvalue(), [line["event"] for line in log.lines])


def test_ids_on_every_line(log: Log) -> None:
    """What is bound around an activity is on every line inside, also of libraries; outside, none has it."""
    bound = {"workflow_id": "return-7", "run_id": "r-1", "step": "triage", "attempt": 2}
    with structlog.contextvars.bound_contextvars(**bound):
        structlog.get_logger().info("ours")
        logging.getLogger("library").info("theirs")
    structlog.get_logger().info("after")

    ids = [{key: line.get(key) for key in ("workflow_id", "run_id", "step", "attempt")} for line in log.lines]
    assert [bound, bound, dict.fromkeys(bound)] == ids


async def test_activity_logger(log: Log) -> None:
    """Temporal's activity logger gives fields, not a dictionary at the end of the text."""

    @activity.defn
    async def act() -> None:
        activity.logger.info("refunding")

    await ActivityEnvironment().run(act)

    assert ("refunding", "test", "test-run") == tuple(log.last[key] for key in ("event", "workflow_id", "run_id"))


@workflow.defn
class Speaks:
    """Logs one line."""

    @workflow.run
    async def run(self) -> None:
        """Log it."""
        workflow.logger.info("deciding", extra={"step": "triage"})


async def test_workflow_logger(log: Log, temporal: WorkflowEnvironment) -> None:
    """Temporal's workflow logger gives fields, not a dictionary at the end of the text."""
    async with Worker(temporal.client, task_queue="t", workflows=[Speaks], workflow_runner=UnsandboxedWorkflowRunner()):
        await temporal.client.execute_workflow(Speaks.run, id="speaks-1", task_queue="t")

    line = next(line for line in log.lines if line["event"] == "deciding")
    assert ("speaks-1", "Speaks", "triage") == (line["workflow_id"], line["workflow_type"], line["step"])
    assert "temporal_workflow" not in line


@pytest.mark.parametrize(
    "key",
    ["password", "api_key", "X-Api-Key", "access_token", "Authorization", "client_secret", "set-cookie", "credentials"],
)
def test_secret_keys(log: Log, key: str) -> None:
    """A value under a key that names a secret is never printed, however deep it lies."""
    structlog.get_logger().info("call", **{key: "hunter2"}, request={"headers": [{key: "hunter2"}]})

    assert "hunter2" not in log.getvalue()
    assert telemetry.REDACTED == log.last[key]


@pytest.mark.parametrize("key", ["prompt_tokens", "token_limit", "passed", "secretary", "key"])
def test_other_keys(log: Log, key: str) -> None:
    """A key that only looks a little like a secret's is printed."""
    structlog.get_logger().info("call", **{key: 12})

    assert 12 == log.last[key]


def test_secrets_in_text(log: Log) -> None:
    """The password in a URL and a bearer token are cut out of texts, messages and tracebacks alike."""
    try:
        raise ValueError("no route to postgresql://perdure:hunter2@db/perdure")
    except ValueError:
        structlog.get_logger().exception("failed: Bearer hunter2hunter2", url="https://me:hunter2@shop/")

    assert "hunter2" not in log.getvalue()
    assert "postgresql://[redacted]@db/perdure" in str(log.last["exception"])


def test_local_variables_stay_private() -> None:
    """A traceback on a terminal does not show the values of local variables."""
    stream = Terminal()
    telemetry.configure(Settings(), stream=stream)
    secret = "hunter" + str(2)
    try:
        _ = 1 / (len(secret) - 7)
    except ZeroDivisionError:
        structlog.get_logger().exception("failed")
    telemetry.shutdown()

    assert "hunter2" not in stream.getvalue()
    assert "ZeroDivisionError" in stream.getvalue()


def test_warnings_are_lines(log: Log) -> None:
    """A Python warning comes out as a line of the log and doesn't break the form."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        telemetry.configure(Settings(), stream=log)
        warnings.warn("old", stacklevel=1)
        telemetry.shutdown()

    assert "py.warnings" == log.last["logger"]


def test_shutdown_gives_logging_back() -> None:
    """After `shutdown`, the root logger has the handlers that it had before."""
    before = list(logging.getLogger().handlers)
    telemetry.configure(Settings(), stream=Log())
    telemetry.configure(Settings(), stream=Log())
    telemetry.shutdown()

    assert before == logging.getLogger().handlers


def test_off_loads_nothing() -> None:
    """With tracing off, nothing of OpenTelemetry is imported."""
    found = _python(
        "import sys; from perdure import telemetry; from perdure.settings import Settings;"
        "telemetry.configure(Settings()); print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )

    assert "[]" == found.stdout.strip()


def test_console_spans() -> None:
    """With tracing to the console, a span is on stderr when `shutdown` returns, under our service name."""
    found = _python(
        "from opentelemetry import trace; from perdure import telemetry; from perdure.settings import Settings\n"
        "telemetry.configure(Settings(tracing='console'))\n"
        "with trace.get_tracer('test').start_as_current_span('chat small'): pass\n"
        "telemetry.shutdown()"
    )

    assert "" == found.stdout
    assert '"name": "chat small"' in found.stderr
    assert '"service.name": "perdure"' in found.stderr


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)


def test_model_calls_have_buckets_of_their_size() -> None:
    """Prometheus tells milliseconds from minutes and cents from dollars, which p50, p95 and p99 are made of."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    served = runtime(address)
    assert served is not None
    for name in ("gen_ai_client_operation_duration", "perdure_model_call_cost"):
        histogram = served.metric_meter.create_histogram_float(name, "", "")
        for value in (0.0002, 0.03, 2):
            histogram.record(value)

    text = urllib.request.urlopen(f"http://{address}/metrics").read().decode()

    for name in ("gen_ai_client_operation_duration", "perdure_model_call_cost"):
        counts = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{name}_bucket")]
        assert {"1", "2", "3"} <= set(counts)
