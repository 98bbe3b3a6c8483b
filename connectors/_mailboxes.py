"""Which one mailbox a text such as `Ada <ada@example.org>` names (RFC 5322, 6531). Safe to import in workflow code."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from email.headerregistry import Address
from typing import Final, NamedTuple

__all__ = ["Mailbox", "find_break", "parse_mailbox", "parse_mailboxes"]

_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_LOCAL: Final = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_NAME: Final = re.compile(r"[^\"\\<>()\[\],;:@]*")
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_INVISIBLE: Final = ("Cf", "Zl", "Zp")
_MAX_LOCAL: Final = 64
_MAX_DOMAIN: Final = 253


class Mailbox(NamedTuple):
    """One mailbox: the NAME to show, and LOCAL and DOMAIN as they go over the wire, the domain in ASCII."""

    name: str
    local: str
    domain: str

    @property
    def path(self) -> str:
        """What stands between the angle brackets of `MAIL FROM` and `RCPT TO`."""
        return self.to_header().addr_spec

    @property
    def needs_utf8(self) -> bool:
        """Whether only a server with SMTPUTF8 can take it."""
        return not self.local.isascii()

    def to_header(self) -> Address:
        """Return it as a header has it."""
        return Address(self.name, self.local, self.domain)


def parse_mailbox(text: str) -> Mailbox:
    """Return the mailbox that TEXT names. Raises `ValueError` saying why if it names none, or several."""
    if find_break(text):
        raise ValueError("an address is one line")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("an address is made of whole characters")
    text = text.strip()
    name, address = "", text
    if text.endswith(">"):
        name, bracket, address = text[:-1].rpartition("<")
        if not bracket:
            raise ValueError(_LIKE)
        name = _parse_name(name.strip())
    if any(unicodedata.category(char) in _INVISIBLE for char in address):
        raise ValueError("an address has no characters that nobody can see")
    quoted = _QUOTED.match(address)
    local, _, domain = address[quoted.end() :].partition("@") if quoted else address.rpartition("@")
    if quoted:
        if local or not domain:
            raise ValueError(_LIKE)
        local = re.sub(r"\\(.)", r"\1", quoted[1])
    elif not _LOCAL.fullmatch(local):
        raise ValueError(_ONE if re.search("[,;]", text) else _LIKE)
    if not local or len(local.encode()) > _MAX_LOCAL:
        raise ValueError(f"what stands before the @ of an address has 1 to {_MAX_LOCAL} bytes")
    return Mailbox(name, local, _parse_domain(domain))


def parse_mailboxes(text: str) -> list[Mailbox]:
    """Return the mailboxes that TEXT names, with commas between them. Raises `ValueError`."""
    parts = re.findall(r'(?:"(?:[^"\\]|\\.)*"|[^,"])+', text)
    if ",".join(parts) != text:
        raise ValueError(_LIKE)
    return [parse_mailbox(part) for part in parts]


def find_break(text: str) -> bool:
    """Say whether TEXT has what ends a line, for whom ever, or another control character that a header must not have."""
    return any((ord(char) < 32 and char != "\t") or 127 <= ord(char) < 160 or char in "\u2028\u2029" for char in text)


_LIKE: Final = "an address is like ada@example.org or Ada <ada@example.org>"
_ONE: Final = "each entry is one address; a name with a comma stands in quotes"


def _parse_name(name: str) -> str:
    if quoted := _QUOTED.fullmatch(name):
        return re.sub(r"\\(.)", r"\1", quoted[1])
    if not _NAME.fullmatch(name):
        raise ValueError(_ONE if re.search("[,;]", name) else _LIKE)
    return name


def _parse_domain(domain: str) -> str:
    """Return DOMAIN in ASCII (IDNA 2008), as it is looked up."""
    if domain.startswith("[") and domain.endswith("]"):
        return _parse_literal(domain)
    if not domain.isascii():
        import idna

        try:
            # By the tables of UTS 46, so that capitals and full-width letters are what they look like, and ß stays one.
            domain = idna.encode(domain, uts46=True).decode()
        except (idna.IDNAError, UnicodeError):
            raise ValueError("the domain of an address has characters that no domain has") from None
    if len(domain) > _MAX_DOMAIN or not all(_LABEL.fullmatch(label) for label in domain.split(".")):
        raise ValueError(_LIKE)
    return domain


def _parse_literal(domain: str) -> str:
    address = domain[1:-1]
    try:
        if address.upper().startswith("IPV6:"):
            ipaddress.IPv6Address(address[5:])
        else:
            ipaddress.IPv4Address(address)
    except ValueError:
        raise ValueError(_LIKE) from None
    return domain
