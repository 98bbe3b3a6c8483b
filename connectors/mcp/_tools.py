"""What the tools of an MCP server are, as they are kept in a file, and what they answer. Safe in workflow code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from perdure.documents import read_json
from perdure.errors import InvalidSettings, Malformed
from perdure.lineage import Frozen, digest

if TYPE_CHECKING:
    from mcp.types import CallToolResult, ContentBlock

__all__ = ["Hints", "Tool", "ToolAnswer", "drop_nulls", "join_texts", "read_tools", "takes_objects"]


class Hints(BaseModel):
    """What a server says of a tool. It may lie: what counts is what somebody looked at and kept."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    readOnlyHint: bool = False  # noqa: N815  the protocol's names
    destructiveHint: bool = True  # noqa: N815
    idempotentHint: bool = False  # noqa: N815
    openWorldHint: bool = True  # noqa: N815
    title: str = ""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        return {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value


class Tool(BaseModel):
    """A tool as `tools/list` has it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    title: str = ""
    description: str = ""
    inputSchema: dict[str, JsonValue] = Field(default_factory=dict)  # noqa: N815
    outputSchema: dict[str, JsonValue] | None = None  # noqa: N815
    annotations: Hints = Hints()

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        # Some servers and some files have null for what is not there.
        return {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value

    @property
    def digest(self) -> str:
        """The digest of all that an agent or the ledger goes by."""
        return digest(drop_nulls(self.model_dump(mode="json")))


class _Tools(BaseModel):
    tools: tuple[Tool, ...]


class ToolAnswer(Frozen):
    """What a tool answered: its texts, those of resources in it too, and its structured content where it has that."""

    text: str = ""
    structured: JsonValue = None
    other: int = 0
    """How many parts were left out because they are no text: pictures, sounds, files, links."""


def read_tools(path: str | Path) -> Sequence[Tool]:
    """Return the tools that are kept in the file at PATH. Raises `InvalidSettings` if it is not such a file.

    May be called where a workflow's module is imported: the file is read once, until it changes.
    """
    # In a workflow's module the path is one of the sandbox's, which must not read; it is a path like any other here.
    file = Path(str(path))
    try:
        known = file.stat()
        key = (str(file.absolute()), known.st_mtime_ns, known.st_size)
        if key not in _kept_tools:
            _kept_tools[key] = _Tools.model_validate(read_json(file.read_text("utf-8"), foreign=True)).tools
        return list(_kept_tools[key])
    except OSError as error:
        raise InvalidSettings(f"the tools in {file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        wrong = error.errors(include_input=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        raise InvalidSettings(
            f"{file} does not have the tools of an MCP server: {where + ': ' if where else ''}{wrong['msg']}"
        ) from None
    except Malformed as error:
        raise InvalidSettings(f"{file} does not have the tools of an MCP server: {error.message}") from None
    except ValueError as error:
        raise InvalidSettings(f"{file} does not have the tools of an MCP server: {type(error).__name__}") from None


_kept_tools: dict[tuple[str, int, int], Sequence[Tool]] = {}
"""What was read in this process: workflow code imports the modules that it uses anew with each run."""


def takes_objects(schema: dict[str, JsonValue]) -> bool:
    """Say whether SCHEMA takes an object, as far as its type tells."""
    kinds = schema.get("type", "object")
    every = kinds if isinstance(kinds, list) else [kinds]
    # What is no type of JSON Schema is left out where values are checked.
    return "object" in every or not all(kind in _OTHER_TYPES for kind in every)


def join_texts(result: CallToolResult) -> tuple[str, int]:
    """Return the texts of RESULT, and how many of its parts have none."""
    texts = [text for part in result.content if (text := _find_text(part)) is not None]
    return "\n".join(texts), len(result.content) - len(texts)


def drop_nulls(value: JsonValue) -> JsonValue:
    """Return VALUE without properties that are null: where a schema has them, they say nothing, and 0.1.0 kept none."""
    if isinstance(value, dict):
        return {name: drop_nulls(each) for name, each in value.items() if each is not None}
    return [drop_nulls(each) for each in value] if isinstance(value, list) else value


def _find_text(part: ContentBlock) -> str | None:
    """Return the text of PART, also where it is a resource that stands in the answer itself; None if it has none."""
    if part.type == "text":
        return part.text
    return getattr(part.resource, "text", None) if part.type == "resource" else None


_OTHER_TYPES = ("string", "number", "integer", "boolean", "array", "null")
