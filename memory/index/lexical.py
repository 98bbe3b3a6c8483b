"""Which words a text and a question have: BM25 as sparse vectors, names of subjects, and what says the same twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qdrant_edge import Bm25

LEXICON = "bm25-1"
"""Changes whenever the words of a text do; an index with other words is built anew."""

_WORD = re.compile(r"\w+(?:[\u2019'](?!s\b)\w+)*")
_NEGATIONS = frozenset(["no", "not", "nor", "none", "never", "without", "cannot"])
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True)
class Words:
    """The words of a text as a sparse vector: a number per word, and how much it counts there."""

    numbers: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


NO_WORDS = Words()


@dataclass(frozen=True)
class Name:
    """A word of a question that could name a subject: how it is written there and its number in the index."""

    word: str
    number: int


def words_of_record(content: str, said: datetime) -> Words:
    """Return the words of CONTENT and of the day it was SAID, so that a question can name the day."""
    return _words(_bm25().embed_document(f"{said.day} {_MONTHS[said.month - 1]} {said.year} {content}"))


def words_of_question(question: str) -> Words:
    """Return the words of QUESTION, each with weight 1; the index brings in how rare they are in the scope."""
    return _words(_bm25().embed_query(question))


def find_names(question: str, scope_key: str) -> list[Name]:
    """Return those words of QUESTION that could name a subject, in their order.

    Words such as "will" count only where they are written like a name: with a capital, and not as the first word.
    """
    names = []
    for place, word in enumerate(_WORD.findall(question)):
        if _stems(word.lower()) or (place > 0 and word[0].isupper()):
            names.append(Name(word, number_of_name(word, scope_key)))
    return names


def name_numbers(subject: str | None, scope_key: str) -> tuple[int, ...]:
    """Return the numbers under which the index keeps the words of SUBJECT."""
    return tuple(dict.fromkeys(number_of_name(word, scope_key) for word in _WORD.findall(subject or "")))


def number_of_name(word: str, scope_key: str) -> int:
    """Return the number of WORD in a scope. It differs from scope to scope, and fits a double exactly."""
    return int.from_bytes(hashlib.blake2b(f"{scope_key} {word.casefold()}".encode(), digest_size=6).digest())


def remove_names(question: str, names: Iterable[str]) -> str:
    """Return QUESTION without NAMES and their possessive endings; as it was if nothing else is left."""
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    rest = re.sub(rf"\b(?:{alternatives})\b(?:[\u2019']s\b)?", " ", question) if alternatives else question
    return " ".join(rest.split()) if _WORD.search(rest) else question


def mentions(content: str, numbers: frozenset[int], scope_key: str) -> bool:
    """Return whether CONTENT holds a word that has one of NUMBERS."""
    return any(number_of_name(word, scope_key) in numbers for word in _WORD.findall(content))


def gist(content: str) -> tuple[object, ...]:
    """Return what two contents share that say the same: their stems in order, without function words and punctuation.

    Negations stay, so "likes tea" and "doesn't like tea" differ. A text of function words alone is its own gist.
    """
    words = [word.lower().replace("\u2019", "'") for word in _WORD.findall(content)]
    kept = tuple(
        "not" if word in _NEGATIONS or word.endswith("n't") else stems[0]
        for word in words
        if (stems := _stems(word)) or word in _NEGATIONS or word.endswith("n't")
    )
    return kept or (content,)


def load_words() -> None:
    """Load what tells words apart, which blocks for a moment; the first use does so else."""
    _bm25()


def forget_words() -> None:
    """Keep no word of any text."""
    _stems.cache_clear()


@lru_cache(20_000)
def _stems(word: str) -> tuple[int, ...]:
    return tuple(_bm25().embed_query(word).indices)


@cache
def _bm25() -> Bm25:
    from qdrant_edge import Bm25, Bm25Config

    # Measured on the development conversations: length matters little, for records are short (docs/decisions/0019).
    return Bm25(Bm25Config(k=1.2, b=0.4, avg_len=30.0, language="english"))


def _words(sparse: object) -> Words:
    from qdrant_edge import SparseVector

    assert isinstance(sparse, SparseVector)
    return Words(tuple(sparse.indices), tuple(sparse.values))
