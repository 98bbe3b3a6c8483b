"""Tests of how statements are read."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from perdure.connectors.sql import SqlAction
from perdure.connectors.sql._statement import escape_colons, find_fault, find_parameters
from perdure.lineage import Frozen


class Input(Frozen):
    """An input."""

    v: str = ""
    w: str = ""


@pytest.mark.parametrize(
    ("statement", "names", "sent"),
    [
        ("SELECT :v::text AS v", {"v"}, "SELECT $1::text AS v"),
        ("SELECT (:v)::int[], a[1:2], a[:2], b[2:]", {"v"}, "SELECT ($1)::int[], a[1:2], a[:2], b[2:]"),
        ("SELECT ':v', \":w\", E'it\\'s :v', :v", {"v"}, "SELECT ':v', \":w\", E'it\\'s :v', $1"),
        ("SELECT $$ :v $$, $a$ :w $$ $a$, :v", {"v"}, "SELECT $$ :v $$, $a$ :w $$ $a$, $1"),
        (
            "SELECT :v -- :w\n, '12:30' /* :w /* :x */ */, :w",
            {"v", "w"},
            "SELECT $1 -- :w\n, '12:30' /* :w /* :x */ */, $2",
        ),
        ("SELECT 'it''s :w', :v, :v", {"v"}, "SELECT 'it''s :w', $1, $1"),
        (
            "SELECT CAST(:v AS text), x::jsonb -> 'a:b', 3::bigint;",
            {"v"},
            "SELECT CAST($1 AS text), x::jsonb -> 'a:b', 3::bigint;",
        ),
    ],
)
def test_parameters(statement: str, names: set[str], sent: str) -> None:
    """A colon that begins a name is a parameter, also before a cast; any other stays as it is (case 23)."""
    compiled = sa.text(escape_colons(statement)).compile(dialect=postgresql.asyncpg.dialect())  # type: ignore[no-untyped-call]

    assert names == find_parameters(statement)
    assert sent == str(compiled)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE t SET a = :v; DELETE FROM u", "holds several statements"),
        ("SELECT 1;; SELECT 2", "holds several statements"),
        ("/* only */ -- a comment", "is empty"),
        (" ; ", "is empty"),
        ("-- so\nCOMMIT", "begins with COMMIT"),
        ("begin", "begins with BEGIN"),
        ("Rollback to x", "begins with ROLLBACK"),
    ],
)
def test_what_is_no_step_of_a_transaction(statement: str, said: str) -> None:
    """What no transaction can do in one step is refused when it is declared (case 23)."""
    with pytest.raises(ValueError, match=said):
        SqlAction("w.x", Input, Input, statements=[statement])


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT ';' AS a, $$;$$; -- done; really\n",
        "/* ; */ UPDATE t SET a = ';' WHERE \";\" = 1;",
        "WITH begin AS (SELECT 1) SELECT * FROM begin",
        "INSERT INTO t VALUES (E'\\'; COMMIT')",
    ],
)
def test_one_statement(statement: str) -> None:
    """A semicolon in a text, a name or a comment ends nothing (case 23)."""
    assert not find_fault(statement)
