r"""What a regular expression of JSON Schema, which is ECMAScript's, matches. Safe to import in workflow code.

ECMAScript (ECMA-262, with the `u` flag) and Python differ where nobody looks: `\d` is ASCII there, `$` is the very end,
`\p{L}` is a letter, `\Z` is an error. So a pattern is read by ECMAScript's rules and written anew by those of the `regex`
package.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["UnreadableError", "is_found", "require_readable"]

_SECONDS: Final = 0.5
"""How long a search may take: a pattern that backtracks without end must not stop a worker."""

_DIGIT: Final = "0-9"
_WORD: Final = "A-Za-z0-9_"
_SPACE: Final = "\\t\\n\\v\\f\\r \\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff"
_ANY: Final = "(?s:.)"
_SETS: Final = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROLS: Final = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
_BORDER: Final = f"(?:(?<=[{_WORD}])(?![{_WORD}])|(?<![{_WORD}])(?=[{_WORD}]))"
_NO_BORDER: Final = f"(?:(?<=[{_WORD}])(?=[{_WORD}])|(?<![{_WORD}])(?![{_WORD}]))"


class UnreadableError(ValueError):
    """The pattern is none of ECMAScript's, or none that can be checked here."""


def is_found(pattern: str, text: str) -> bool:
    """Say whether PATTERN matches somewhere in TEXT. Raises `UnreadableError`, or `TimeoutError` if it takes too long."""
    return _compile(pattern)(text)


def require_readable(pattern: str) -> None:
    """Raise `UnreadableError` if PATTERN cannot be checked here."""
    _compile(pattern)


@lru_cache(maxsize=1000)
def _compile(pattern: str) -> Callable[[str], bool]:
    import regex  # type: ignore[import-untyped]  # ships no types

    try:
        found = regex.compile(_Reader(pattern).read(), flags=regex.VERSION0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise UnreadableError(f"the pattern {pattern!r} cannot be read: {error}") from None
    return lambda text: found.search(text, timeout=_SECONDS) is not None


class _Set(NamedTuple):
    """An element of a class: text that stands in brackets, and whether everything but that is meant."""

    text: str
    negated: bool = False


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def read(self) -> str:
        written: list[str] = []
        repeatable = False
        while self._at < len(self._pattern):
            quantifier = self._quantifier()
            if quantifier:
                # What Python and PCRE take here, such as `a++`, is an error in ECMAScript.
                if not repeatable:
                    raise self._unreadable("nothing to repeat")
                written.append(quantifier)
                repeatable = False
                continue
            piece, repeatable = self._atom()
            written.append(piece)
        return "".join(written)

    def _atom(self) -> tuple[str, bool]:
        """Return the next atom and whether it can be repeated."""
        char = self._next()
        if char == "\\":
            return self._escape()
        if char == "[":
            return self._class(), True
        if char == "(":
            return self._group(), False
        if char == "$":
            return "\\Z", False
        if char == ".":
            return "[^\\n\\r\\u2028\\u2029]", True
        if char in "^|":
            return char, False
        if char == ")":
            return char, True
        return _literal(char), True

    def _quantifier(self) -> str:
        """Take a quantifier if one is next. A brace that begins none is a brace, as browsers have it."""
        rest = self._pattern[self._at :]
        if rest[0] in "*+?":
            taken = rest[0]
        elif rest[0] == "{" and (end := rest.find("}")) > 0 and _is_count(rest[1:end]):
            taken = rest[: end + 1]
        else:
            return ""
        self._at += len(taken)
        if self._peek() == "?":
            self._at += 1
            taken += "?"
        return taken

    def _group(self) -> str:
        if self._peek() != "?":
            return "("
        for opening in ("?:", "?=", "?!", "?<=", "?<!"):
            if self._pattern.startswith(opening, self._at):
                self._at += len(opening)
                return f"({opening}"
        if self._pattern.startswith("?<", self._at):
            self._at += 2
            return f"(?P<{self._name()}>"
        raise self._unreadable("a group of another dialect")

    def _name(self) -> str:
        end = self._pattern.find(">", self._at)
        name = self._pattern[self._at : max(end, 0)]
        if not name.isidentifier():
            raise self._unreadable("a group without a name")
        self._at = end + 1
        return name

    def _escape(self) -> tuple[str, bool]:
        char = self._peek()
        if char in ("b", "B"):
            self._at += 1
            return _BORDER if char == "b" else _NO_BORDER, False
        if char == "k":
            self._at += 1
            if self._next() != "<":
                raise self._unreadable("a reference without a name")
            return f"(?P={self._name()})", True
        if char in "123456789" and char:
            start = self._at
            while self._peek().isdecimal():
                self._at += 1
            return f"(?:\\{self._pattern[start : self._at]})", True
        found = self._set()
        if found is not None:
            return f"[{'^' if found.negated else ''}{found.text}]", True
        return _literal(self._character()), True

    def _set(self) -> _Set | None:
        """Take what stands for several characters after a backslash, if that is next."""
        char = self._peek()
        if char and char.lower() in _SETS:
            self._at += 1
            return _Set(_SETS[char.lower()], negated=char.isupper())
        if char in ("p", "P"):
            end = self._pattern.find("}", self._at)
            name = self._pattern[self._at + 2 : max(end, 0)]
            if self._pattern[self._at + 1 : self._at + 2] != "{" or not name.replace("=", "").replace("_", "").isalnum():
                raise self._unreadable("a property without a name")
            self._at = end + 1
            return _Set(f"\\{char}{{{name}}}")
        return None

    def _character(self) -> str:
        """Take one character after a backslash."""
        char = self._next()
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "c" and self._peek().isascii() and self._peek().isalpha():
            return chr(ord(self._next()) % 32)
        if char == "0" and not self._peek().isdecimal():
            return "\0"
        if char == "x":
            return chr(self._hexadecimal(2))
        if char == "u":
            return self._unicode()
        if char.isalnum() or char == "_":
            # `\A`, `\Z`, `\Q`, `\h`: other dialects have a use for them, ECMAScript has none.
            raise self._unreadable(f"the escape \\{char}")
        return char

    def _unicode(self) -> str:
        if self._peek() == "{":
            end = self._pattern.find("}", self._at)
            digits = self._pattern[self._at + 1 : max(end, 0)]
            self._at = end + 1
            return chr(self._number(digits))
        high = self._hexadecimal(4)
        if 0xD800 <= high < 0xDC00 and self._pattern.startswith("\\u", self._at):
            before = self._at
            self._at += 2
            low = self._hexadecimal(4)
            if 0xDC00 <= low < 0xE000:
                return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
            self._at = before
        return chr(high)

    def _hexadecimal(self, length: int) -> int:
        digits = self._pattern[self._at : self._at + length]
        if len(digits) < length:
            raise self._unreadable("an escape that ends too early")
        self._at += length
        return self._number(digits)

    def _number(self, digits: str) -> int:
        if not digits or set(digits) - set("0123456789abcdefABCDEF") or int(digits, 16) > 0x10FFFF:
            raise self._unreadable(f"the character number {digits!r}")
        return int(digits, 16)

    def _class(self) -> str:
        if self._pattern.startswith("[:", self._at):
            raise self._unreadable("a class of another dialect")
        negated = self._peek() == "^"
        self._at += negated
        inside: list[str] = []
        outside: list[str] = []
        while (first := self._element()) is not None:
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
                mark = self._at
                self._at += 1
                last = self._element()
                if isinstance(first, str) and isinstance(last, str):
                    if first > last:
                        raise self._unreadable("a range that ends before it begins")
                    inside.append(f"{_literal(first)}-{_literal(last)}")
                    continue
                self._at = mark + 1  # a dash beside `\w` is a dash, as browsers have it
                _keep("-", inside, outside)
                mark = -1
            _keep(first, inside, outside)
        every = [*([f"[{''.join(inside)}]"] if inside else []), *(f"[^{each}]" for each in outside)]
        if not every:
            return _ANY if negated else "(?!)"
        return f"(?:(?!{'|'.join(every)}){_ANY})" if negated else f"(?:{'|'.join(every)})"

    def _element(self) -> str | _Set | None:
        """Take one element of a class; None at its end."""
        char = self._next()
        if char == "]":
            return None
        if char != "\\":
            return char
        found = self._set()
        if found is not None:
            return found
        if self._peek() == "b":
            self._at += 1
            return "\b"
        if self._peek() == "-":
            self._at += 1
            return "-"
        return self._character()

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        if not char:
            raise self._unreadable("it ends too early")
        self._at += 1
        return char

    def _unreadable(self, why: str) -> UnreadableError:
        return UnreadableError(f"the pattern {self._pattern!r} cannot be read: {why}")


def _keep(element: str | _Set, inside: list[str], outside: list[str]) -> None:
    if isinstance(element, str):
        inside.append(_literal(element))
    else:
        (outside if element.negated else inside).append(element.text)


def _is_count(text: str) -> bool:
    least, comma, most = text.partition(",")
    return least.isdecimal() and least.isascii() and (not comma or not most or (most.isdecimal() and most.isascii()))


def _literal(char: str) -> str:
    return char if char.isalnum() or char == "_" else f"\\U{ord(char):08x}"
