"""Tests of the order in which candidates come, and of the reasons for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from perdure.memory.recall import Ranking
from perdure.memory.recall.ranking import Candidate, Preference, rank

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def _order(*candidates: Candidate, preference: Preference | None = None) -> list[str]:
    named = {each.version_id: each for each in candidates}
    return [each.candidate.version_id for each in rank(named, NOON, ranking=Ranking(), preference=preference)]


def test_reasons_add_up_to_the_score() -> None:
    """What each sign gave is the score in sum, and ranks are told."""
    first = Candidate("a", dense=0.5, lexical=6.0, dense_rank=1, lexical_rank=2, following="b", thread="run")
    second = Candidate("b", dense=0.4, lexical=20.0, previous="a", thread="run", astray=1.0, importance=1.0)
    ranked = rank({"a": first, "b": second}, NOON, ranking=Ranking(), preference=Preference(importance=0.5))

    assert {"a", "b"} == {each.candidate.version_id for each in ranked}
    assert [pytest.approx(each.score, abs=1e-5) for each in ranked] == [each.why.total for each in ranked]
    assert (1, 2) == next((one.why.dense_rank, one.why.lexical_rank) for one in ranked if one.candidate is first)


def test_words_count_beside_meaning() -> None:
    """Of two that are equally near in meaning, the one that shares rare words comes first."""
    assert ["b", "a"] == _order(Candidate("a", dense=0.5), Candidate("b", dense=0.5, lexical=4.0))


def test_weak_match_by_words_stays_weak() -> None:
    """The best match by words is not worth much if it is a bad one."""
    assert ["a", "b"] == _order(Candidate("a", dense=0.5), Candidate("b", dense=0.4, lexical=1.0))
    assert ["b", "a"] == _order(Candidate("a", dense=0.5), Candidate("b", dense=0.4, lexical=9.0))


def test_answer_follows_its_question() -> None:
    """A record comes sooner if the one that the same run remembered just before is near."""
    asked = Candidate("asked", dense=0.6, following="answer", thread="run")
    answer = Candidate("answer", dense=0.3, previous="asked", thread="run")
    other = Candidate("other", dense=0.35, thread="another run")

    assert ["asked", "answer", "other"] == _order(other, answer, asked)


def test_other_subject_comes_later() -> None:
    """A record about somebody else than the question names loses; one about nobody in particular loses half."""
    about = [
        Candidate("her", dense=0.3),
        Candidate("nobody", dense=0.4, astray=0.5),
        Candidate("him", dense=0.5, astray=1.0),
    ]

    assert ["her", "nobody", "him"] == _order(*about)


def test_recency_and_importance_count_when_asked_for() -> None:
    """Age and importance change nothing unless the caller gives them weight."""
    old = Candidate("old", dense=0.5, valid_from=NOON - timedelta(days=60), importance=1.0)
    new = Candidate("new", dense=0.45, valid_from=NOON - timedelta(days=1))

    assert ["old", "new"] == _order(old, new)
    assert ["new", "old"] == _order(old, new, preference=Preference(recency=0.2))
    assert ["old", "new"] == _order(replace(old, dense=0.4), new, preference=Preference(importance=0.2))


def test_equal_ones_newer_first() -> None:
    """Of equal ones the newer comes first, then the order of the ids decides, so that it is always the same."""
    new, old = (Candidate(name, dense=0.5, valid_from=NOON - timedelta(days=days)) for name, days in (("new", 1), ("a", 2)))

    assert ["new", "a", "b"] == _order(replace(old, version_id="b"), old, new)


def test_version_tells_the_weights() -> None:
    """Another weight is another version."""
    assert Ranking().version == Ranking().version
    assert Ranking().version != Ranking(lexical=0.5).version
