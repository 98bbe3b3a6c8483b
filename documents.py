"""What a text says: JSON, and YAML 1.2, where nothing that has two readings is read as either.

What must not break: what is written down is what is read. A key that stands twice, a number with more digits than a float
keeps, half a surrogate pair, NaN, a second document and a tag of no JSON value are refused at their line and column.
Formats of ours are read here; `foreign` is for documents of others, which nobody here can mend.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from math import isfinite
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from perdure.errors import Malformed

if TYPE_CHECKING:
    import yaml
    from pydantic import JsonValue

__all__ = ["read_foreign", "read_json", "read_yaml"]

_DEEPEST: Final = 100
"""Levels. Pydantic, which reads what a run is started with, takes 200, and a value stands a few levels down in that."""
_MOST_PARTS: Final = 200_000
_DEEPEST_FOREIGN: Final = 200
_MOST_PARTS_FOREIGN: Final = 2_000_000


class _Place(NamedTuple):
    line: int
    column: int


_Path = tuple[str | int, ...]


def read_json(text: str, *, foreign: bool = False) -> JsonValue:
    """Return the value that TEXT is (RFC 8259). Raises `Malformed`.

    In a FOREIGN document numbers are rounded to floats, and halves of surrogate pairs stay as they are.
    """
    text = text.removeprefix("\ufeff")
    exact = float if foreign else _exact
    try:
        value: JsonValue = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse, parse_float=exact)
        if not foreign and _HALF.search(text):
            _walk(_tokens(text), ())  # pairs are written with the same escapes
    except json.JSONDecodeError as error:
        raise Malformed(error.msg, line=error.lineno, column=error.colno, syntax=True) from None
    except _Suspicious:
        raise _spot(text) from None
    except RecursionError:
        raise Malformed("it is nested too deeply") from None
    except Malformed:
        raise
    except ValueError as error:  # an integer of more than 4300 digits
        raise Malformed(str(error).partition(";")[0]) from None
    _measure(value, foreign=foreign)
    return value


def read_yaml(text: str, *, foreign: bool = False) -> JsonValue:
    """Return the value that the one document in TEXT is, by the core schema of YAML 1.2.2. Raises `Malformed`.

    In a FOREIGN document a key that is no text becomes it (`200:`), `<<` merges as in YAML 1.1, and numbers are rounded.
    """
    import yaml

    text = text.removeprefix("\ufeff")
    # To the parser, which is one of YAML 1.1, these end lines; so they would be folded away.
    if not foreign and (odd := re.search("[\x85\u2028\u2029]", text)):
        raise Malformed(f"write U+{ord(odd[0]):04X} as an escape in double quotes", **_at(text, odd.start())._asdict())
    try:
        events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        value = _Yaml(events, foreign=foreign).document()
    except yaml.reader.ReaderError as error:
        # Whether its position counts bytes or characters depends on how PyYAML was built.
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise Malformed(f"U+{code:04X} is not allowed", **_at(text, text.find(chr(code)))._asdict(), syntax=True) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _Place(mark.line + 1, mark.column + 1) if mark else _Place(0, 0)
        raise Malformed(error.problem or str(error), **place._asdict(), syntax=True) from None
    _measure(value, foreign=foreign)
    return value


def read_foreign(content: bytes) -> JsonValue:
    """Return the value of CONTENT, JSON or YAML that somebody else wrote. Raises `Malformed`."""
    try:
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        raise Malformed(f"it is no text in {error.encoding}", syntax=True) from None
    try:
        return read_json(text, foreign=True)
    except Malformed as error:
        if not error.syntax:
            raise
    return read_yaml(text, foreign=True)


def _measure(value: JsonValue, *, foreign: bool) -> None:
    # A few lines of YAML can stand for more than any memory holds.
    deepest, most = (_DEEPEST_FOREIGN, _MOST_PARTS_FOREIGN) if foreign else (_DEEPEST, _MOST_PARTS)
    waiting = [(value, 0)]
    parts = 0
    while waiting:
        each, depth = waiting.pop()
        parts += 1
        if parts > most:
            raise Malformed(f"it stands for more than {most} values")
        if not isinstance(each, dict | list):
            continue
        if depth == deepest:
            raise Malformed(f"it is nested more than {deepest} levels deep")
        inner = each.values() if isinstance(each, dict) else each
        waiting += [(one, depth + 1) for one in inner]


def _at(text: str, position: int) -> _Place:
    return _Place(text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))


def _refuse_second(key: str, seen: Mapping[str, _Place], place: _Place, path: _Path, inside: Mapping[str, object]) -> None:
    if key in seen:
        problem = f"`{_shorten(key)}` stands twice"
        raise Malformed(f"{problem} (first in line {seen[key].line})", path=path, inside=inside, **place._asdict())


def _shorten(written: str) -> str:
    return written if len(written) <= 40 else f"{written[:37]}..."


# --- numbers


def _loss(written: str) -> str:
    """Return what is wrong with the decimal that is WRITTEN as a float, if anything is."""
    value = float(written)
    if not isfinite(value):
        return f"{_shorten(written)} is larger than a number can be"
    # The shortest text that stands for the float says what its readers take it for.
    if Decimal(repr(value)) != Decimal(written):
        return f"{_shorten(written)} has more digits than a number keeps, it would be {value!r}: put it in quotes"
    return ""


# --- JSON: Python's own parser, which is fast, and a slow look for the place where it met something odd


class _Suspicious(Exception):
    """The parser takes something that we don't, and doesn't know where it stands."""


def _once(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Suspicious
    return found


def _exact(written: str) -> float:
    if _loss(written):
        raise _Suspicious
    return float(written)


def _refuse(_: str) -> JsonValue:
    raise _Suspicious


_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
# Commas and colons tell nothing more about what the parser takes.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]|[^\s{}\[\]:,"]+')


def _tokens(text: str) -> Iterator[tuple[str, _Place]]:
    line, start, position = 1, 0, 0
    for match in _TOKEN.finditer(text):
        if lines := text.count("\n", position, match.start()):
            line, start = line + lines, text.rfind("\n", position, match.start()) + 1
        position = match.start()
        yield match[0], _Place(line, position - start + 1)


def _spot(text: str) -> Malformed:
    try:
        _walk(_tokens(text), ())
    except Malformed as found:
        return found
    return Malformed("it says something that has no one meaning")


def _walk(tokens: Iterator[tuple[str, _Place]], path: _Path) -> bool:
    """Check the value that begins in TOKENS. Returns False if the list that it would stand in ends instead."""
    lexeme, place = next(tokens)
    if len(path) > _DEEPEST_FOREIGN:
        raise Malformed("it is nested too deeply", **place._asdict())
    if lexeme == "]":
        return False
    if lexeme == "[":
        index = 0
        while _walk(tokens, (*path, index)):
            index += 1
    elif lexeme == "{":
        seen: dict[str, _Place] = {}
        for quoted, where in tokens:
            if quoted == "}":
                break
            key = _unquote(quoted, where)
            _refuse_second(key, seen, where, path, {})
            seen[key] = where
            _walk(tokens, (*path, key))
    elif lexeme[0] == '"':
        _unquote(lexeme, place)
    elif lexeme in ("NaN", "Infinity", "-Infinity"):
        raise Malformed(f"{lexeme} is not a JSON value", **place._asdict())
    elif lexeme[0] in "-0123456789" and not lexeme.removeprefix("-").isdigit() and (wrong := _loss(lexeme)):
        raise Malformed(wrong, **place._asdict())
    return True


def _unquote(token: str, place: _Place) -> str:
    text = cast(str, json.loads(token))
    if any("\ud800" <= each <= "\udfff" for each in text):
        raise Malformed("half a surrogate pair stands for no character", **place._asdict())
    return text


# --- YAML: PyYAML's parser, and the schema of 1.2 on what it finds. Its own is that of 1.1, where `no` is false.

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NO_JSON = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: Final[Mapping[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TAG: Final = "tag:yaml.org,2002:"
_KINDS: Final = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None)}
"""What a scalar with one of the core schema's tags is."""


class _Yaml:
    """Builds the value of a document out of the parser's events."""

    def __init__(self, events: Iterator[yaml.Event], *, foreign: bool) -> None:
        self._events = events
        self._foreign = foreign
        self._anchors: dict[str, JsonValue] = {}
        self._open: set[str] = set()
        """Anchors of what isn't finished yet."""

    def document(self) -> JsonValue:
        """Return its value; nothing at all is null."""
        import yaml

        next(self._events)
        begin = next(self._events)
        if isinstance(begin, yaml.StreamEndEvent):
            return None
        assert isinstance(begin, yaml.DocumentStartEvent)
        if begin.version not in (None, (1, 2)) and not self._foreign:
            raise self._wrong("it says that it is YAML 1.1, and is read as YAML 1.2: leave the line `%YAML` out", begin)
        value = self._value(next(self._events), ())
        next(self._events)
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._wrong("a second document begins, and one is read", after)
        return value

    def _value(self, event: yaml.Event, path: _Path) -> JsonValue:
        import yaml

        if len(path) > _DEEPEST_FOREIGN:
            raise self._wrong("it is nested too deeply", event)
        if isinstance(event, yaml.AliasEvent):
            return self._name_of(event)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.anchor:
            self._open.add(event.anchor)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, "seq")
            value = self._sequence(path)
        else:
            self._check_tag(event, "map")
            value = self._mapping(path)
        if event.anchor:
            self._open.discard(event.anchor)
            self._anchors[event.anchor] = value
        return value

    def _sequence(self, path: _Path) -> list[JsonValue]:
        import yaml

        found: list[JsonValue] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            found.append(self._value(event, (*path, len(found))))
        return found

    def _name_of(self, event: yaml.AliasEvent) -> JsonValue:
        if event.anchor in self._open:
            raise self._wrong(f"`*{event.anchor}` stands inside of what it stands for", event)
        if event.anchor not in self._anchors:
            raise self._wrong(f"there is no `&{event.anchor}` before `*{event.anchor}`", event)
        return self._anchors[event.anchor]

    def _mapping(self, path: _Path) -> dict[str, JsonValue]:
        import yaml

        found: dict[str, JsonValue] = {}
        merged: dict[str, JsonValue] = {}
        seen: dict[str, _Place] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if _merges(event):
                merged = {**self._merge(event, path), **merged}
                continue
            key, place = self._key(event, path), _place(event)
            _refuse_second(key, seen, place, path, found)
            seen[key] = place
            found[key] = self._value(next(self._events), (*path, key))
        return {**merged, **found} if merged else found

    def _key(self, event: yaml.Event, path: _Path) -> str:
        import yaml

        if self._foreign and isinstance(event, yaml.ScalarEvent):
            self._value(event, path)  # it may be an anchor
            return str(event.value)
        key = self._value(event, path)
        if not isinstance(key, str):
            written = f"`{event.value}` " if isinstance(event, yaml.ScalarEvent) else ""
            raise self._wrong(f"the key {written}is not a text: put it in quotes", event)
        return key

    def _merge(self, event: yaml.Event, path: _Path) -> dict[str, JsonValue]:
        if not self._foreign:
            raise self._wrong("`<<` merges in YAML 1.1 only: write the fields out, or quote it if it is a key", event)
        value = self._value(next(self._events), path)
        found: dict[str, JsonValue] = {}
        for each in reversed(value if isinstance(value, list) else [value]):
            if not isinstance(each, dict):
                raise self._wrong("`<<` merges mappings only", event)
            found |= each
        return found

    def _scalar(self, event: yaml.ScalarEvent) -> JsonValue:
        tag = event.tag or ""
        if tag and tag != "!" and tag.removeprefix(_TAG) not in _KINDS:
            raise self._wrong(f"JSON has no value for the tag {tag.replace(_TAG, '!!')}", event)
        plain = event.implicit[0] and not tag
        if not plain and tag in ("", "!", f"{_TAG}str"):
            return event.value
        value = self._resolve(event)
        if tag and type(value) is not _KINDS[tag.removeprefix(_TAG)]:
            if tag == f"{_TAG}float" and type(value) is int:
                return float(value)
            raise self._wrong(f"`{_shorten(event.value)}` is not what its tag {tag.replace(_TAG, '!!')} says", event)
        return value

    def _resolve(self, event: yaml.ScalarEvent) -> JsonValue:
        """Return what a plain scalar is in the core schema."""
        text = event.value
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            try:
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            except ValueError:  # more than 4300 digits
                raise self._wrong("the number has too many digits", event) from None
        if _FLOAT.fullmatch(text):
            if not self._foreign and (wrong := _loss(text)):
                raise self._wrong(wrong, event)
            return float(text)
        if _NO_JSON.fullmatch(text):
            raise self._wrong(f"{text} is not a JSON value: put it in quotes if it is a text", event)
        return text

    def _check_tag(self, event: yaml.CollectionStartEvent, own: str) -> None:
        if event.tag not in (None, "!", f"{_TAG}{own}"):
            raise self._wrong(f"JSON has no value for the tag {event.tag.replace(_TAG, '!!')}", event)

    def _wrong(self, problem: str, event: yaml.Event) -> Malformed:
        return Malformed(problem, **_place(event)._asdict())


def _merges(event: yaml.Event) -> bool:
    import yaml

    return isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0] and not event.tag


def _place(event: yaml.Event) -> _Place:
    assert event.start_mark is not None
    return _Place(event.start_mark.line + 1, event.start_mark.column + 1)
