"""How this process tells what it does: structured logs on stderr, and spans where the settings send them.

Everything that is logged, by us through structlog or by libraries through `logging`, goes through one handler, so that
one format, one level and one redaction hold for all of it. Standard output stays free for results.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, TextIO

import structlog
from structlog.contextvars import merge_contextvars
from structlog.stdlib import ProcessorFormatter

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger
    from temporalio.contrib.opentelemetry import ReplaySafeTracerProvider

    from perdure.settings import Settings

REDACTED = "[redacted]"

# At info they say what our own events say already, and below that LiteLLM and the HTTP clients print prompts and headers.
_QUIET = (
    "LiteLLM",
    "LiteLLM Proxy",
    "LiteLLM Router",
    "aiosqlite",
    "alembic",
    "asyncio",
    "hpack",
    "httpcore",
    "httpx",
    "openai",
    "qdrant_client",
    "sqlalchemy",
    "urllib3",
)
# These put handlers of their own on their loggers, which would print every line twice.
_SELF_HANDLED = ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router", "uvicorn", "uvicorn.access", "uvicorn.error")

_SECRET_KEY = re.compile(
    r"(?:^|[_.\- ])(?:pass(?:word|wd|phrase)|secrets?|token|api[_\-]?keys?|access[_\-]?keys?|private[_\-]?keys?"
    r"|authorization|cookie|credentials?|bearer)$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)|(?<=\bbearer )[\w.~+/=-]{8,}", re.IGNORECASE)
_TEMPORAL_FACTS = ("workflow_id", "workflow_type", "activity_type", "attempt")
_TEMPORAL_DETAILS = re.compile(r" \(\{'.*\}\)$", re.DOTALL)
_DEEPEST = 6

_handler: logging.Handler | None = None
_tracer_provider: ReplaySafeTracerProvider | None = None


def configure(settings: Settings, *, stream: TextIO | None = None) -> None:
    """Set logs and spans up as SETTINGS say. Logs go to STREAM, else to stderr. Calling it again replaces what was there.

    Spans are set up once a process: OpenTelemetry does not let its tracer provider be replaced.
    """
    level = settings.log_level.upper()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    target = stream or sys.stderr
    # A process that was started without stderr has nowhere to log.
    _replace_handler(
        _formatted_handler(target, _format_for(target, settings.log_format)) if target else logging.NullHandler()
    )
    logging.getLogger().setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    adopt()
    logging.captureWarnings(True)
    _start_tracing(settings.tracing)


def adopt(*names: str) -> None:
    """Take the handlers off the loggers called NAMES, so that their lines go through ours.

    Without names: off those of LiteLLM and uvicorn, which put handlers there when they are imported. Call it after that.
    """
    for name in names or _SELF_HANDLED:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def shutdown() -> None:
    """Send the spans that still wait, and give logging back as it was found."""
    if _tracer_provider is not None:
        _tracer_provider.force_flush()
    _replace_handler(None)
    logging.captureWarnings(False)


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace what obviously is a secret: by its key, as the password in a URL, as a bearer token.

    A last line of defence. Secrets should not come this far.
    """
    return {key: REDACTED if _secret(key) and value else _redact(value) for key, value in event.items()}


# Logs


def _format_for(stream: TextIO, wanted: Literal["auto", "console", "json"]) -> Literal["console", "json"]:
    if wanted != "auto":
        return wanted
    return "console" if stream.isatty() else "json"


def _formatted_handler(stream: TextIO, form: Literal["console", "json"]) -> logging.Handler:
    render: list[Processor]
    if form == "json":
        render = [structlog.processors.JSONRenderer(default=_jsonable)]
    else:
        colors = stream.isatty() and "NO_COLOR" not in os.environ
        # The plain traceback: the pretty one prints the values of local variables.
        plain = structlog.dev.plain_traceback
        render = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _lift_temporal],
            processors=[
                merge_contextvars,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.StackInfoRenderer(),
                structlog.processors.format_exc_info,
                ProcessorFormatter.remove_processors_meta,
                redact,
                *render,
            ],
        )
    )
    return handler


def _replace_handler(handler: logging.Handler | None) -> None:
    global _handler
    root = logging.getLogger()
    if _handler is not None:
        root.removeHandler(_handler)
    if handler is not None:
        root.addHandler(handler)
    _handler = handler


def _lift_temporal(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Turn what Temporal's own loggers add to a line into fields, and take its copy off the end of the text."""
    lifted = False
    for name in ("temporal_workflow", "temporal_activity"):
        details = event.pop(name, None)
        if isinstance(details, Mapping):
            lifted = True
            run_id = details.get("run_id") or details.get("workflow_run_id")
            known = {key: details[key] for key in _TEMPORAL_FACTS if key in details}
            event = {**known, **({"run_id": run_id} if run_id else {}), **event}
    if lifted and isinstance(event.get("event"), str):
        event["event"] = _TEMPORAL_DETAILS.sub("", event["event"])
    return event


def _secret(key: object) -> bool:
    return isinstance(key, str) and _SECRET_KEY.search(key) is not None


def _redact(value: object, depth: int = 0) -> object:
    if isinstance(value, str):
        return _SECRET_TEXT.sub(REDACTED, value)
    if depth >= _DEEPEST:
        return value
    if isinstance(value, Mapping):
        return {key: REDACTED if _secret(key) and inner else _redact(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_redact(inner, depth + 1) for inner in value]
    return value


def _jsonable(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return _SECRET_TEXT.sub(REDACTED, str(value))


# Spans


def _start_tracing(tracing: Literal["off", "console", "otlp"]) -> None:
    global _tracer_provider
    if tracing == "off" or _tracer_provider is not None:
        return
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
    from temporalio.contrib.opentelemetry import create_tracer_provider

    exporter: SpanExporter
    if tracing == "console":
        exporter = ConsoleSpanExporter(out=sys.stderr)
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over our name.
    name = os.environ.get("OTEL_SERVICE_NAME", "perdure")
    # Replay-safe: a replayed workflow does not send its spans again.
    _tracer_provider = create_tracer_provider(resource=Resource.create({"service.name": name}))
    _tracer_provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(_tracer_provider)
