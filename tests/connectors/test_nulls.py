"""What is given as null is sent as null, and what is not given is left out, on every way to the target (case 08)."""

from __future__ import annotations

from pathlib import Path

import pytest
from kits.connectors import Server, call, reply
from kits.openapi import ATTEMPT, Json, Trial, asking, document_of, taking
from pydantic import JsonValue

from perdure.connectors.json_models import JsonModel, build_model
from perdure.connectors.ledger import Ledger
from perdure.connectors.wire import canonical_json, parse_args
from perdure.errors import EffectRejected
from perdure.storage import Database

OR_NULL: Json = {"type": ["string", "null"]}
FIELDS: Json = {"title": {"type": "string"}, "due": OR_NULL, "a-b": OR_NULL, "any": {}, "needed": OR_NULL}
TASK: Json = {"type": "object", "properties": FIELDS, "required": ["needed"]}


@pytest.fixture
def trial(server: Server, tmp_path: Path) -> Trial:
    """Sends to the scripted server."""
    return Trial(server, tmp_path)


def patching(schema: Json, media: str = "application/json") -> Json:
    """Return a document with a PATCH of SCHEMA."""
    parameter: Json = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    return document_of({**asking(parameter), **taking({media: {"schema": schema}})}, "/tasks/{id}", "patch")


GIVEN: list[tuple[Json, Json]] = [
    ({}, {}),
    ({"due": None}, {"due": None}),
    ({"title": "a", "due": None}, {"title": "a", "due": None}),
    ({"a_b": None}, {"a-b": None}),
    ({"a-b": None, "any": None}, {"a-b": None, "any": None}),
    ({"title": None}, {}),
    ({"any": {"deep": None}}, {"any": {"deep": None}}),
]


@pytest.mark.parametrize(("given", "sent"), GIVEN)
async def test_null_is_sent_where_it_is_given(trial: Trial, sqlite_database: Database, given: Json, sent: Json) -> None:
    """By arguments, through a run's payload and the ledger, and as a plan writes it down, the same is sent."""
    shop = trial.connector(patching(TASK)).with_options({"url": trial.server.url})
    action = shop.action("do")
    values: dict[str, JsonValue] = {"id": "1", "needed": None, **given}
    args = shop.args("do", **values)
    trial.server.answers = [reply(204)] * 3

    await shop.execute(shop.actions["t.do"], args, ATTEMPT)
    ledger = Ledger(sqlite_database, {"t": shop})
    await ledger.perform(call("t.do", "typed").model_copy(update={"args": args.model_dump(mode="json")}))
    written: dict[str, JsonValue] = {"id": "1", "needed": None, **given}
    await ledger.perform(call("t.do", "planned").model_copy(update={"args": written, "exact": True}))
    await shop.close()

    assert [{"needed": None, **sent}] * 3 == trial.server.bodies
    assert parse_args(action, args.model_dump(mode="json")) == args  # type: ignore[arg-type]  # of this model


async def test_what_runs_of_before_have_passed_on(trial: Trial, sqlite_database: Database) -> None:
    """A payload of 0.1.0 has None for all that was not given; it still means that, and its digest is the same."""
    shop = trial.connector(patching(TASK)).with_options({"url": trial.server.url})
    before: dict[str, JsonValue] = {"id": "1", "title": "a", "due": None, "a_b": None, "any": None, "needed": None}
    trial.server.answers = [reply(204)]
    await Ledger(sqlite_database, {"t": shop}).perform(call("t.do").model_copy(update={"args": before}))
    await shop.close()

    assert [{"title": "a", "needed": None}] == trial.server.bodies
    assert canonical_json(before) == canonical_json(shop.args("do", id="1", title="a", needed=None).model_dump(mode="json"))


@pytest.mark.parametrize("body", [None, {"a": None}])
async def test_body_that_is_null(trial: Trial, body: JsonValue) -> None:
    """Null is a body as well; none at all is none."""
    document = patching({"type": ["object", "null"], "properties": {"a": OR_NULL}})
    sent = await trial.send(document, {"id": "1", "body": body})
    without = await trial.send(document, {"id": "1"})

    assert body == sent.json
    assert "application/json" == sent.headers["content-type"]
    assert "" == without.content


@pytest.mark.parametrize(
    "document",
    [
        patching({"type": "object", "properties": {"due": OR_NULL}}, "application/x-www-form-urlencoded"),
        patching({"type": "object", "properties": {"due": OR_NULL}}, "multipart/form-data"),
        document_of(asking({"name": "due", "in": "query", "schema": OR_NULL}), "/tasks/{id}"),
        document_of(asking({"name": "due", "in": "header", "schema": OR_NULL}), "/tasks/{id}"),
    ],
)
async def test_null_where_nobody_can_say_it(trial: Trial, document: Json) -> None:
    """A form, a query and a header have no null, so it is refused before anything is sent."""
    with pytest.raises(EffectRejected, match="due is null, which cannot be written here; nothing was sent"):
        await trial.send(document, {"id": "1", "due": None})

    assert [] == trial.server.heads


async def test_null_that_is_fixed_or_that_an_undo_gives(trial: Trial) -> None:
    """What a declaration says is sent as well."""
    fixed = await trial.send(patching(TASK), {"id": "1", "needed": "x"}, use={"fixed": {"due": None}})

    assert {"needed": "x", "due": None} == fixed.json


def test_answers_know_no_difference() -> None:
    """In what a target answers, null and absent are the same, and a dump names nothing."""
    model = build_model("Answer", TASK, answers=True)
    answered = model.model_validate({"needed": None, "due": None, "title": "a"})

    assert {"needed": None, "title": "a"} == answered.outward()
    assert "$null" not in answered.model_dump(mode="json")
    assert answered.outward() == model.model_validate(answered.model_dump(mode="json")).outward()


def test_property_with_the_name_of_the_marker() -> None:
    """Whatever a target calls its fields, what was given as null comes through."""
    model = build_model("Odd", {"type": "object", "properties": {"$null": OR_NULL, "due": OR_NULL}})
    args = model.model_validate({"$null": "x", "due": None})
    again = model.model_validate(args.model_dump(mode="json"))

    assert isinstance(args, JsonModel)
    assert {"$null": "x", "due": None} == args.outward() == again.outward()
