"""Which answers were right: who says so, and since when. A label has no prompt and no answer in it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

import sqlalchemy as sa
from pydantic import AwareDatetime, Field, ValidationError, model_validator

from perdure.documents import read_json
from perdure.errors import InvalidInput, Malformed
from perdure.lineage import Frozen
from perdure.routing.canary import record_verdict
from perdure.routing.contracts import JudgeCall, LabelResult, Tier
from perdure.routing.tables import LabelRow, ModelCallRow
from perdure.storage import AdvisoryLock, Database, GroupCommit, now

_LABELS = LabelRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # SQLModel's
_CALLS = ModelCallRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as above


class Label(Frozen):
    """The last word about one answer, and what is known of it."""

    question: str
    tier: Tier
    model: str
    confidence: float | None
    prompt_bytes: int
    cost_nano_usd: int
    correct: bool


class LabelLine(Frozen):
    """One line of a file of labels: of a recorded call, or of an answer that was not made here."""

    correct: bool
    call_id: str = ""
    task: str = ""
    question: str = Field(default="", max_length=80, pattern=r"^[\w.:-]*$")
    """What stands for the question, such as its digest; never its text."""
    tier: Tier | None = None
    model: str = ""
    confidence: float | None = Field(default=None, ge=0, le=1)
    prompt_bytes: int = Field(default=0, ge=0)
    cost_usd: float = Field(default=0.0, ge=0, le=1_000_000)
    by: str = ""
    at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _names_an_answer(self) -> LabelLine:
        if not self.call_id and not (self.task and self.question and self.tier and self.model):
            raise ValueError("write a `call_id`, or `task`, `question`, `tier` and `model`")
        return self


def label_answer(connection: sa.Connection, call: JudgeCall) -> LabelResult:
    """Write down what CALL says of an answer, once for its step. Raises `InvalidInput` if there is no such answer."""
    call_id = call.call_id or _call_of(connection, call)
    found = _answer(connection, call_id)
    # A run that was reset takes the step anew, perhaps about another answer, and says then what holds.
    said = f"{call.step}/{call.step.run_id}/{call_id}"
    _write(connection, {**found, "id": said, "correct": call.correct, "by": call.by, "source": call.source})
    return LabelResult(call_id=call_id, task=str(found["task"]), correct=call.correct)


def last_verdict(connection: sa.Connection, call_id: str) -> bool:
    """Return whether the answer of call CALL_ID, which was judged, is right by what was said of it last."""
    query = (
        sa.select(_LABELS.c.correct).where(_LABELS.c.answer == call_id).order_by(_LABELS.c.at.desc(), _LABELS.c.id.desc())
    )
    return bool(connection.execute(query.limit(1)).scalar_one())


async def label_call(database: Database, call_id: str, *, correct: bool, by: str) -> LabelResult:
    """Write down that the answer of call CALL_ID was CORRECT or not, as BY says. What was said before counts no more."""

    def write(connection: sa.Connection) -> LabelResult:
        found = _answer(connection, call_id)
        _write(connection, {**found, "id": uuid.uuid4().hex, "correct": correct, "by": by, "source": "command"})
        record_verdict(connection, call_id, correct=last_verdict(connection, call_id))
        return LabelResult(call_id=call_id, task=str(found["task"]), correct=correct)

    return await GroupCommit(database, lock=AdvisoryLock.MODEL_CALLS).run(write, exclusive=True)


async def import_labels(database: Database, path: Path, *, by: str) -> int:
    """Write down the labels of the JSONL file at PATH, all or none, and return how many; read again they change nothing.

    Raises `InvalidInput` naming the line.
    """
    lines = list(_lines(path))

    def write(connection: sa.Connection) -> int:
        for number, line in lines:
            try:
                row = _answer(connection, line.call_id) if line.call_id else _foreign_answer(line)
            except InvalidInput as error:
                raise InvalidInput(f"{path}, line {number}: {error.message}") from None
            row |= {"id": _line_id(line), "correct": line.correct, "by": line.by or by, "source": "import"}
            # A line that is said again holds from now on, also against what was said in between.
            _write(connection, row | {"at": line.at or now()}, again=True)
            if line.call_id:
                record_verdict(connection, line.call_id, correct=last_verdict(connection, line.call_id))
        return len(lines)

    return await GroupCommit(database, lock=AdvisoryLock.MODEL_CALLS).run(write, exclusive=True)


async def labels_of(database: Database, task: str) -> list[Label]:
    """Return the last word about each answer to TASK that somebody has judged."""
    query = sa.select(_LABELS).where(_LABELS.c.task == task).order_by(_LABELS.c.at, _LABELS.c.id)
    async with database.read() as connection:
        last = {row["answer"]: row for row in (await connection.execute(query)).mappings()}
    return [Label.model_validate({name: row[name] for name in Label.model_fields}) for row in last.values()]


async def count_labels(database: Database) -> dict[str, dict[str, int]]:
    """Return how many answers to each task were judged, by tier."""
    query = sa.select(_LABELS.c.task, _LABELS.c.tier, sa.func.count(sa.distinct(_LABELS.c.answer))).group_by(
        _LABELS.c.task, _LABELS.c.tier
    )
    found: dict[str, dict[str, int]] = {}
    async with database.read() as connection:
        for task, tier, count in await connection.execute(query):
            found.setdefault(task, {})[tier] = count
    return found


def _call_of(connection: sa.Connection, call: JudgeCall) -> str:
    """Return the id of the call that CALL describes, the last one of its run that does."""
    lineage = call.step.lineage
    query = sa.select(_CALLS.c.call_id).where(
        _CALLS.c.namespace == lineage.namespace,
        _CALLS.c.workflow_id == lineage.workflow_id,
        _CALLS.c.first_execution_run_id == lineage.first_execution_run_id,
        _CALLS.c.task == call.task,
        _CALLS.c.deployment == call.deployment,
        _CALLS.c.prompt_digest == call.prompt_digest,
        _CALLS.c.answer_digest == call.answer_digest,
    )
    found = connection.execute(query.order_by(_CALLS.c.sent_at.desc()).limit(1)).scalar()
    if found is None:
        raise InvalidInput(f"run {lineage.workflow_id!r} has no such answer to {call.task!r} recorded in this database.")
    return str(found)


def _answer(connection: sa.Connection, call_id: str) -> dict[str, object]:
    """Return what a label keeps of the answer of CALL_ID."""
    row = connection.execute(sa.select(_CALLS).where(_CALLS.c.call_id == call_id)).mappings().one_or_none()
    if row is None:
        raise InvalidInput(f"there is no call {call_id!r} in this database. A record names it as `call_id`.")
    if row["outcome"] not in ("answered", "unsure", "cached"):
        raise InvalidInput(
            f"call {call_id!r} has brought no answer that could be right or wrong: it is {row['outcome']!r}."
        )
    kept = {name: row[name] for name in ("task", "tier", "deployment", "model", "confidence", "prompt_bytes")}
    # An answer out of the cache is worth what it had cost.
    cost = row["saved_nano_usd"] if row["outcome"] == "cached" else row["cost_nano_usd"]
    return {**kept, "answer": call_id, "question": row["prompt_digest"], "cost_nano_usd": cost}


def _foreign_answer(line: LabelLine) -> dict[str, object]:
    return {
        "answer": f"{line.task}/{line.tier}/{line.model}/{line.question}",
        "task": line.task,
        "question": line.question,
        "tier": line.tier,
        "deployment": "",
        "model": line.model,
        "confidence": line.confidence,
        "prompt_bytes": line.prompt_bytes,
        "cost_nano_usd": round(line.cost_usd * 1e9),
    }


def _write(connection: sa.Connection, row: Mapping[str, object], *, again: bool = False) -> None:
    known = connection.execute(sa.select(_LABELS.c.id).where(_LABELS.c.id == row["id"])).first() is not None
    if known and again:
        connection.execute(sa.update(_LABELS).where(_LABELS.c.id == row["id"]).values(at=row["at"], by=row["by"]))
    elif not known:
        connection.execute(sa.insert(_LABELS), {"at": now(), **row})


def _line_id(line: LabelLine) -> str:
    return hashlib.sha256(line.model_dump_json(exclude={"by"}).encode()).hexdigest()


def _lines(path: Path) -> Iterable[tuple[int, LabelLine]]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    for number, written in enumerate(text.split("\n"), start=1):
        if not written.strip():
            continue
        try:
            yield number, LabelLine.model_validate(read_json(written))
        except Malformed as error:
            what = "it is not JSON: " if error.syntax else ""
            raise InvalidInput(f"{path}, line {number}: {what}{error.problem} in column {error.column}") from None
        except ValidationError as error:
            wrong = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, wrong["loc"]))
            message = wrong["msg"].removeprefix("Value error, ")
            raise InvalidInput(f"{path}, line {number}: {f'{where}: ' if where else ''}{message}") from None
