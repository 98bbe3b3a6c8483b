"""Where the operations of an OpenAPI document are, where the document says so."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urljoin, urlsplit

from perdure.connectors.http import check_address
from perdure.connectors.openapi._document import Document, Part, is_address

__all__ = ["document_server", "own_server"]


def own_server(document: Document, path: str, part: Part) -> Part | None:
    """Return the first of the servers that the operation PART at PATH has of its own; None if it is where all are."""
    item = document.path_item(path)
    for holder in filter(None, (part, item)):
        if servers := holder.each("servers"):
            return servers[0]
    return None


def document_server(document: Document) -> str | None:
    """Return the address that DOCUMENT gives for the system, if it gives one that may be trusted.

    Raises `InvalidSettings` if it cannot be used as it stands.
    """
    servers = Part(document, dict(document.root), "#").each("servers")
    return server_address(servers[0]) if servers else None


def server_address(server: Part) -> str | None:
    """Return the address of SERVER; None if it is relative to nobody knows what, or leads away from where it came from.

    Raises `InvalidSettings` if it cannot be used as it stands.
    """
    variables = server.get("variables")

    def value_of(found: re.Match[str]) -> str:
        variable = variables.get(found[1]) if variables and found[1] in variables.value else None
        default = variable.value.get("default") if variable else None
        if isinstance(default, bool) or not isinstance(default, str | int | float):
            server.refuse(f"its variable {found[1]!r} has no default, so set the connector's url")
        return str(default)

    address = _VARIABLE.sub(value_of, server.text("url"))
    source = server.document.source
    if is_address(source):
        address = urljoin(source, address)
        if urlsplit(address)[:2] != urlsplit(source)[:2]:
            # A document that is fetched at each start must not say where our secrets go.
            return None
    if not is_address(address):
        return None
    if wrong := check_address(address):
        server.refuse(f"nothing can be sent to {address!r}: {wrong}")
    return address.rstrip("/")


_VARIABLE: Final = re.compile(r"{([^{}]+)}")
