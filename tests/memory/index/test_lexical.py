"""Tests of the words of a text: which subjects a question could name, what is left of it, what says the same twice."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from perdure.memory.index.lexical import (
    find_names,
    gist,
    mentions,
    name_numbers,
    number_of_name,
    remove_names,
    words_of_question,
    words_of_record,
)

MAY = datetime(2026, 5, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("When did Caroline's sister visit?", ["Caroline", "sister", "visit"]),
        ("Will the order 1042 come?", ["order", "1042", "come"]),
        ("What did Will ask?", ["Will", "ask"]),
    ],
)
def test_words_that_could_name_a_subject(question: str, names: list[str]) -> None:
    """Function words name nobody, unless they are written as a name."""
    assert names == [name.word for name in find_names(question, "s")]


def test_a_name_is_found_whatever_its_case_and_scope() -> None:
    """Case and possessive endings don't matter; in another scope the same name has another number."""
    [caroline] = name_numbers("Caroline", "s")

    assert caroline == find_names("caroline’s sister", "s")[0].number  # noqa: RUF001  # as phones write it
    assert caroline != number_of_name("Caroline", "t")
    assert mentions("ask CAROLINE", frozenset({caroline}), "s")
    assert not mentions("ask Carol", frozenset({caroline}), "s")


@pytest.mark.parametrize(
    ("question", "left"),
    [
        ("When did Caroline visit?", "When did visit?"),
        ("What is Caroline's job?", "What is job?"),
        ("Caroline", "Caroline"),
        ("Carolines visit", "Carolines visit"),
    ],
)
def test_question_without_a_name(question: str, left: str) -> None:
    """What is left is the question, and never nothing."""
    assert left == remove_names(question, ["Caroline"])


def test_record_is_found_by_its_day() -> None:
    """The day on which something was said is among its words."""
    said = set(words_of_record("she moved", MAY).numbers)

    assert set(words_of_question("8 May 2026").numbers) <= said
    assert not set(words_of_question("June").numbers) & said


def test_words_are_stemmed() -> None:
    """Forms of a word are the same word."""
    assert words_of_question("paintings").numbers == words_of_question("painting").numbers


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Ada likes tea.", "ada likes the TEA", True),
        ("Ada likes tea", "Ada doesn't like tea", False),
        ("Ada gave Bob a gift", "Bob gave Ada a gift", False),
        ("Order 5 arrived", "Order 6 arrived", False),
        ("is it?", "was it?", False),
    ],
)
def test_what_says_the_same(one: str, other: str, *, same: bool) -> None:
    """Case, punctuation and function words make no difference; negations, order and numbers do."""
    assert same == (gist(one) == gist(other))
