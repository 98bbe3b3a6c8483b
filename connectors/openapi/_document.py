"""How a target's OpenAPI document is read, and where in it what stands. Safe to import in workflow code."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import unquote, urlsplit

from pydantic import JsonValue

from perdure.documents import read_foreign
from perdure.errors import InvalidSettings, Malformed

__all__ = ["MAX_BYTES", "Document", "Part", "is_address", "parse_document", "read_document"]

MAX_BYTES: Final = 20 * 1024 * 1024
"""No document may be larger than this many bytes."""
_FETCH_TIMEOUT: Final = 20.0

METHODS: Final = ("get", "put", "post", "delete", "patch", "options", "head", "trace")

_documents: dict[tuple[str, int, int], Document] = {}
"""What was read in this process: workflow code imports the modules that it uses anew with each run."""


@dataclass(frozen=True, eq=False)
class Document:
    """An OpenAPI 3.0 or 3.1 document that came from SOURCE, a path or an address."""

    source: str
    root: Mapping[str, JsonValue]

    @property
    def is_3_0(self) -> bool:
        """Whether it is OpenAPI 3.0, whose schemas are not JSON Schema."""
        return str(self.root["openapi"]).startswith("3.0")

    @cached_property
    def operations(self) -> Mapping[str, Part]:
        """The operations by `METHOD /path`."""
        paths = Part(self, dict(self.root), "#").get("paths")
        found: dict[str, Part] = {}
        for path in paths.value if paths else ():
            # What leads out of the document matters to those only who want to use it.
            with suppress(InvalidSettings):
                item = paths.get(path) if paths and path.startswith("/") else None
                found |= (
                    {f"{method.upper()} {path}": each for method, each in item.items() if method in METHODS} if item else {}
                )
        return found

    def path_item(self, path: str) -> Part | None:
        """Return what the document says of all operations at PATH."""
        paths = Part(self, dict(self.root), "#").get("paths")
        return paths.get(path) if paths else None

    def operation(self, name: str) -> tuple[str, Part]:
        """Return `METHOD /path` and the operation that NAME stands for: that, or its operationId.

        Raises `InvalidSettings` with what comes close.
        """
        every = self.operations
        if name in every:
            return name, every[name]
        ids = [(place, part) for place, part in every.items() if part.text("operationId") == name]
        if len(ids) > 1:
            raise InvalidSettings(
                f"{self.source} has {len(ids)} operations with the operationId {name!r}: "
                f"use {' or '.join(place for place, _ in ids)}"
            )
        if not ids:
            known = [*every, *(part.text("operationId") for part in every.values())]
            near = difflib.get_close_matches(name, filter(None, known), n=3, cutoff=0.5)
            raise InvalidSettings(
                f"{self.source} has no operation {name!r}"
                + (f"; did you mean {', '.join(near)}" if near else "")
                + self._explain_missing(name)
                + f". `python -m perdure.connectors.openapi --list {self.source}` shows all."
            )
        return ids[0]

    def _explain_missing(self, name: str) -> str:
        path = name.partition(" ")[2]
        paths = Part(self, dict(self.root), "#").get("paths")
        try:
            if paths and path:
                paths.get(path)
        except InvalidSettings as error:
            return f", because {error.message}"
        return ""

    def resolve_pointer(self, pointer: str) -> JsonValue:
        """Return what stands at POINTER, e.g. `#/components/schemas/Refund`. Raises `KeyError`."""
        found: JsonValue = dict(self.root)
        for part in filter(None, pointer.removeprefix("#").split("/")):
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise KeyError(pointer)
        return found


@dataclass(frozen=True, eq=False)
class Part:
    """VALUE, an object that stands in DOCUMENT at WHERE, a JSON pointer."""

    document: Document
    value: Mapping[str, JsonValue]
    where: str

    def get(self, name: str) -> Part | None:
        """Return the object NAME in it, wherever a reference leads; None if there is none. Raises `InvalidSettings`."""
        return self._dereference(self.value[name], f"{self.where}/{_escape_pointer(name)}") if name in self.value else None

    def items(self) -> Iterator[tuple[str, Part]]:
        """Yield the objects in it by name; what is no object, and extensions, are left out."""
        for name, value in self.value.items():
            if isinstance(value, dict) and not name.startswith("x-"):
                yield name, self._dereference(value, f"{self.where}/{_escape_pointer(name)}")

    def each(self, name: str) -> list[Part]:
        """Return the objects in the list NAME. Raises `InvalidSettings` if it is not a list of objects."""
        values = self.value.get(name, [])
        if not isinstance(values, list):
            self.refuse(f"{name} is not a list")
        return [
            self._dereference(value, f"{self.where}/{_escape_pointer(name)}/{number}")
            for number, value in enumerate(values)
        ]

    def text(self, name: str) -> str:
        """Return the text NAME; empty if there is none."""
        value = self.value.get(name)
        return value if isinstance(value, str) else ""

    def refuse(self, what: str) -> NoReturn:
        """Raise `InvalidSettings` that says WHAT is wrong here."""
        raise InvalidSettings(f"{self.document.source} at {self.where}: {what}")

    def _dereference(self, value: JsonValue, where: str) -> Part:
        seen: set[str] = set()
        part = Part(self.document, value if isinstance(value, dict) else {}, where)
        while isinstance(reference := part.value.get("$ref"), str):
            if reference in seen:
                part.refuse(f"the reference {reference!r} refers to itself")
            seen.add(reference)
            part = part.resolve_reference(reference)
        if not isinstance(value, dict):
            part.refuse("expected an object here")
        return part

    def resolve_reference(self, reference: str) -> Part:
        """Return what REFERENCE, which stands here, leads to. Raises `InvalidSettings` if it leads out or nowhere."""
        if not reference.startswith("#"):
            self.refuse(
                f"the reference {reference!r} leads out of the document, and perdure fetches nothing for it. "
                "Put all of it into one document first; OpenAPI tools call that bundling."
            )
        try:
            found = self.document.resolve_pointer(reference)
        except KeyError:
            try:
                found = self.document.resolve_pointer(unquote(reference))
            except KeyError:
                self.refuse(f"the reference {reference!r} does not resolve")
        if not isinstance(found, dict):
            if isinstance(found, bool):
                return Part(self.document, {} if found else {"not": {}}, reference)
            self.refuse(f"the reference {reference!r} does not refer to an object")
        return Part(self.document, found, reference)


def is_address(source: str) -> bool:
    """Say whether SOURCE is an address and not a path."""
    return source.startswith(("http://", "https://"))


def read_document(source: str | Path) -> Document:
    """Return the document at SOURCE, a path or an address; JSON or YAML.

    It is read once in a process. Raises `InvalidSettings` that says what is wrong with it and where.
    """
    name = str(source)
    if is_address(name):
        key = (name, 0, 0)
    else:
        path = Path(source)
        try:
            known = path.stat()
        except OSError as error:
            raise InvalidSettings(f"the OpenAPI document {name} cannot be read: {error.strerror}") from None
        key = (name, known.st_mtime_ns, known.st_size)
    if key not in _documents:
        _documents[key] = parse_document(_fetch(name) if is_address(name) else Path(source).read_bytes(), name)
    return _documents[key]


def parse_document(content: bytes, source: str) -> Document:
    """Return the document that CONTENT is, JSON or YAML. Raises `InvalidSettings` naming SOURCE."""
    if len(content) > MAX_BYTES:
        raise InvalidSettings(f"{source} has more than {MAX_BYTES} bytes: no OpenAPI document is that large")
    found = _parse(content, source)
    if not isinstance(found, dict):
        raise InvalidSettings(f"{source} is neither JSON nor YAML with an object at its top")
    if "swagger" in found:
        raise InvalidSettings(f"{source} is Swagger {found['swagger']}; convert it to OpenAPI 3 first")
    version = str(found.get("openapi"))
    if not re.fullmatch(r"3\.[01](\.\d+)?(-.+)?", version):
        raise InvalidSettings(f"{source} at #/openapi: {version!r} is not a supported version; 3.0 and 3.1 are")
    dialect = found.get("jsonSchemaDialect", "")
    if dialect and not str(dialect).startswith(_DIALECTS):
        raise InvalidSettings(f"{source} at #/jsonSchemaDialect: {dialect!r} is not supported")
    return Document(source, found)


_DIALECTS = ("https://spec.openapis.org/oas/3.1/dialect/", "https://json-schema.org/draft/2020-12/schema")


def _fetch(address: str) -> bytes:
    import httpx

    content = b""
    try:
        with httpx.stream("GET", address, follow_redirects=False, timeout=_FETCH_TIMEOUT) as response:
            if response.status_code != 200:
                moved = response.headers.get("Location", "")
                raise InvalidSettings(
                    f"{_redact_address(address)} answered {response.status_code}, so there is no OpenAPI document"
                    + (f"; it points to {_redact_address(moved)}" if moved else "")
                )
            for part in response.iter_bytes():
                content += part
                if len(content) > MAX_BYTES:
                    break
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InvalidSettings(
            f"the OpenAPI document at {_redact_address(address)} cannot be fetched ({type(error).__name__}). "
            "Keep it in a file: then the worker starts without it."
        ) from None
    return content


def _redact_address(address: str) -> str:
    # What stands before the host and after the path may be secret.
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else parts.path


def _parse(content: bytes, source: str) -> JsonValue:
    try:
        return read_foreign(content)
    except Malformed as error:
        if error.syntax:
            raise InvalidSettings(f"{source} is neither JSON nor YAML: {error.message}") from None
        under = f" at {'/'.join(('#', *(_escape_pointer(str(each)) for each in error.path)))}" if error.path else ""
        raise InvalidSettings(f"{source}, {error.message}{under}") from None


def _escape_pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
