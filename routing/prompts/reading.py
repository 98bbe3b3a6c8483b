"""Which one JSON value a model's text says: also in prose or with small slips, but never by guessing."""

from __future__ import annotations

import json
import re

import rfc8785
from pydantic import JsonValue

from perdure.lineage import digest

LONGEST = 2_000_000
"""So many characters of an answer are read. More is no answer to a question that has a form."""

_MENDED = 100_000
"""So many are mended: it takes some microseconds for each of them, while nothing else runs."""

_DEEPEST = 64
"""So deep may be nested what is mended."""


class Misfit(Exception):
    """An answer cannot be read or does not fit. PROBLEMS name places and rules, and repeat nothing of the answer."""

    def __init__(self, problems: str) -> None:
        super().__init__(problems)
        self.problems = problems


def read_json(text: str) -> tuple[JsonValue, str]:
    """Return the one JSON value in TEXT, and how it had to be repaired, if it had.

    Prose, code fences and what a model thought aloud are dropped, and small slips of punctuation mended. Several values,
    NaN, infinity, a key that comes twice and what was cut off are refused: what was meant is a guess. Raises `Misfit`.
    """
    text = text.strip().removeprefix("\ufeff")
    if not text:
        raise Misfit("the answer is empty")
    if len(text) > LONGEST:
        raise Misfit(f"the answer has more than {LONGEST:,} characters")
    try:
        value, repairs = _load(text)
    except RecursionError:
        raise Misfit("the answer is nested too deeply") from None
    digest_faithfully(value)
    return value, repairs


def digest_faithfully(value: JsonValue) -> str:
    """Return the digest of VALUE. Raises `Misfit` if JSON cannot carry it to everybody unchanged."""
    try:
        rfc8785.dumps(value)  # `digest` also takes what has no canonical form
        return digest(value)
    except (ValueError, UnicodeEncodeError):  # infinity, integers past 2**53, half a surrogate pair
        raise Misfit("the answer holds a number or a character that JSON cannot carry faithfully") from None
    except RecursionError:
        raise Misfit("the answer is nested too deeply") from None


def _load(text: str) -> tuple[JsonValue, str]:
    try:
        return _DECODER.decode(text), ""
    except json.JSONDecodeError:
        said = _after_thinking(text)
        found = _inside(said)
    except ValueError:  # an integer with thousands of digits
        raise Misfit("a number is too large") from None
    if len(found) > 1:
        raise Misfit("there are several JSON values where one is wanted")
    return (found[0], "taken out of other text") if found else (_mend(said), "punctuation mended")


def _after_thinking(text: str) -> str:
    """Return what TEXT says after the thoughts that some models put before their answer."""
    if not text.startswith("<think>"):
        return text
    _, end, said = text.partition("</think>")
    if not end or "</think>" in said:
        raise Misfit("where the thoughts end and the answer begins is not clear")
    return said


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    if len(found := dict(pairs)) != len(pairs):
        raise Misfit("an object has the same key twice")
    return found


def _no_constant(name: str) -> JsonValue:
    raise Misfit(f"{name} is not a JSON value")


def _number(text: str) -> float | int:
    """Return the number that TEXT says: an integer if it is one, as in canonical JSON, where 1.0 and 1e0 are 1."""
    number = float(text)
    if number == 0 and re.match(r"-?[0.]*[1-9]", text):
        raise Misfit("a number is too small")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_number)


def _inside(text: str) -> list[JsonValue]:
    """Return the complete objects that stand in TEXT, outermost only. None: what stands there has to be mended."""
    found: list[JsonValue] = []
    around = ""
    end = 0
    while (at := text.find("{", end)) >= 0:
        around += text[end:at]
        try:
            value, end = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError:
            # A broken object: what stands inside it is not the answer. Leave it whole to the mending.
            return [] if not found else [*found, None]
        except ValueError:
            raise Misfit("a number is too large") from None
        found.append(value)
    # An object in a list that has no end, or one that goes on after its end, is part of something else.
    return found if _is_balanced(around + text[end:]) else []


def _is_balanced(text: str) -> bool:
    depth = 0
    for bracket in re.findall(r"[][}]", text):
        depth += 1 if bracket == "[" else -1
        if depth < 0 or bracket == "}":
            return False
    return depth == 0


def _mend(text: str) -> JsonValue:
    """Return what TEXT says if only its punctuation is wrong: quotes, commas, comments. No word or bracket is changed."""
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    broken = text[start:].rstrip("` \n")
    if start < 0 or not broken.endswith(("}", "]")):
        # Closing it would make up an answer: {"amount": 12 may have been going to be 1200.
        raise Misfit("the answer is cut off, or there is no JSON in it")
    if len(broken) > _MENDED:
        raise Misfit("the answer is too long to be mended")
    read = _tokens(broken)
    if any(kind == "word" and _UNKNOWN.fullmatch(word) for kind, word in read):
        raise Misfit("NaN and infinity are not JSON values")
    meaning = _meaning(read)
    import json_repair  # only here: most answers need none

    try:
        mended = json_repair.loads(broken, skip_json_loads=True, strict=True)
        dumped = json.dumps(mended, ensure_ascii=False)
        value: JsonValue = _DECODER.decode(dumped)
    except (ValueError, TypeError):
        raise Misfit("the answer cannot be read as one JSON value") from None
    if meaning != _meaning(_tokens(dumped)):
        raise _ambiguous()
    return value


# What the repair makes of an answer counts only if a second reading, which does nothing but cut it into words, strings and
# brackets, finds the same ones in the same order. Where the two disagree, about the end of a string say, it is refused.

_UNKNOWN = re.compile(r"[-+]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_SKIPPED = re.compile(r"(?:\s|//[^\n]*|\#[^\n]*|/\*(?s:.)*?\*/)+")
_WORD = re.compile(r"""[^\s{}\[\],:"'\u201c\u201d/#]+""")
_CLOSING = {'"': '"', "'": "'", "\u201c": "\u201d"}
_QUOTE = {close: re.compile(rf"\\.|{close}", re.DOTALL) for close in _CLOSING.values()}
# What comes after a string: a mark, a comment, or in a line of its own the next name, where only the comma is missing.
_AFTER = re.compile(r"""\s*(?:[,:}\]]|//|/\*|\#|\Z)|\s*\n\s*["']\w+["']\s*:""")
_BARE = {"None": "null", "True": "true", "False": "false"}
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")
_NAME = re.compile(r"[A-Za-z_]\w*")
Token = tuple[str, str]


def _tokens(text: str) -> list[Token]:
    """Return what TEXT consists of: marks by themselves, each `string` with its content, and every other `word`."""
    found: list[Token] = []
    at = depth = 0
    while at < len(text):
        if skipped := _SKIPPED.match(text, at):
            at = skipped.end()
        elif (mark := text[at]) in "{}[]:,":
            depth += (mark in "{[") - (mark in "}]")
            if depth > _DEEPEST:
                raise Misfit("the answer is nested too deeply")
            found.append((mark, ""))
            at += 1
        elif mark in _CLOSING:
            content, at = _string(text, at)
            found.append(("string", content))
        elif word := _WORD.match(text, at):
            found.append(("word", word[0]))
            at = word.end()
        else:
            raise _ambiguous()
    return found


def _string(text: str, start: int) -> tuple[str, int]:
    """Return the content of the string that begins at START of TEXT, and where it ends."""
    close = _CLOSING[text[start]]
    inner: list[int] = []
    for found in _QUOTE[close].finditer(text, start + 1):
        if found[0] != close:
            continue
        if _AFTER.match(text, found.end()):
            if not _quotation(text, inner):
                raise _ambiguous()
            return _content(text[start + 1 : found.start()]), found.end()
        inner.append(found.start())
    raise _ambiguous()


def _quotation(text: str, inner: list[int]) -> bool:
    """Say whether the quotes at INNER, which stand in a string without a backslash, open and close a quotation each."""
    opens = True
    for at in inner:
        before, after = text[at - 1], text[at + 1 : at + 2]
        if text[at] == "'" and before.isalnum() and after.isalnum():  # an apostrophe
            continue
        if opens and not ((before.isspace() or before in "(\"'\u201c") and after.isalnum()):
            return False
        if not opens and (before.isspace() or after.isalnum()):
            return False
        opens = not opens
    return opens


def _content(raw: str) -> str:
    """Return what RAW, the inside of a string, says. An escape that JSON does not know may mean two things."""
    escaped = re.sub(r"\\(.)|\"|[\n\r\t]", _escape, raw, flags=re.DOTALL)
    try:
        content: str = json.loads(f'"{escaped}"')
    except ValueError:
        raise _ambiguous() from None
    return content


def _escape(found: re.Match[str]) -> str:
    if found[1] == "'":
        return "'"
    return found[0] if found[1] else json.dumps(found[0])[1:-1]


def _meaning(tokens: list[Token]) -> list[Token]:
    """Return TOKENS as far as they are not a matter of punctuation."""
    meaning: list[Token] = []
    ends = [*tokens[1:], ("", "")]
    before = ""
    for (kind, content), (after, _) in zip(tokens, ends, strict=True):
        name = kind in ("string", "word") and after == ":"
        if kind in ("string", "word", "{", "[") and before in ("string", "word", "}", "]") and not name:
            raise _ambiguous()  # two values side by side: [12 345]
        if kind == "," and before not in ("string", "word", "}", "]"):
            raise _ambiguous()
        if kind == "word":
            meaning.append(_name_token(content) if name else _value_token(content))
        elif kind != ",":
            meaning.append((kind, content))
        before = kind
    return meaning


def _name_token(word: str) -> Token:
    if not _NAME.fullmatch(word):
        raise _ambiguous()
    return "string", word


def _value_token(word: str) -> Token:
    word = _BARE.get(word, word)
    if word in _BARE.values():
        return "word", word
    if not _NUMBER.fullmatch(word):
        raise _ambiguous()
    try:
        return "number", str(int(word) if word.lstrip("-").isdigit() else _number(word))
    except (ValueError, OverflowError):
        raise Misfit("a number is too large") from None


def _ambiguous() -> Misfit:
    return Misfit("the answer cannot be read as one JSON value without guessing")
