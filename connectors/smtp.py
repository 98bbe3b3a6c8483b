"""How mail is sent: at most once, because a mail server neither drops repeats nor can be asked what it took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from email import policy
from email.message import EmailMessage
from email.utils import formatdate
from typing import TYPE_CHECKING, ClassVar, Final, cast

from pydantic import BaseModel, Field, field_validator

from perdure.connectors._mailboxes import Mailbox, find_break, parse_mailbox, parse_mailboxes
from perdure.connectors.configured import ConfiguredConnector
from perdure.connectors.contracts import (
    Action,
    AnyAction,
    Attempt,
    CannotTell,
    Executed,
    Probe,
    Target,
)
from perdure.errors import (
    EffectRejected,
    EffectUnknown,
    InvalidSettings,
    TargetUnavailable,
)
from perdure.lineage import Frozen

if TYPE_CHECKING:
    import smtplib

__all__ = ["Mail", "Sent", "SmtpConnector"]

SMTP_TARGET: Final = Target(mechanism="none", deadline=timedelta(seconds=60))
"""Tried: the same Message-ID sent twice is delivered twice."""

# Eight-bit content would need a server that takes it, so there is none.
_POLICY: Final = policy.SMTP.clone(cte_type="7bit")


class Mail(Frozen):
    """What to send to whom. An entry is one address: `ada@example.org`, `Ada <ada@example.org>`, `"Ada, MD" <ada@x.y>`."""

    to: list[str] = Field(min_length=1)
    subject: str
    text: str
    html: str = ""
    cc: list[str] = Field(default_factory=list)
    reply_to: str = ""
    """One address, or several with commas between them."""
    sender: str = ""
    """Empty: the sender that the settings name."""

    @field_validator("to", "cc")
    @classmethod
    def _check_addresses(cls, addresses: list[str]) -> list[str]:
        for address in addresses:
            parse_mailbox(address)
        return addresses

    @field_validator("sender")
    @classmethod
    def _check_sender(cls, value: str) -> str:
        if value:
            parse_mailbox(value)
        return value

    @field_validator("reply_to")
    @classmethod
    def _check_reply_to(cls, value: str) -> str:
        parse_mailboxes(value)
        return value

    @field_validator("subject")
    @classmethod
    def _check_line(cls, value: str) -> str:
        # What somebody takes for a line break would begin another header.
        if find_break(value):
            raise ValueError("it has to be one line")
        return value


class Sent(Frozen):
    """What the mail server took."""

    message_id: str
    to: list[str]


@dataclass(frozen=True)
class _Letter:
    """A mail as it goes over the wire."""

    message_id: str
    sender: Mailbox
    recipients: Sequence[Mailbox]
    content: bytes
    needs_utf8: bool


class SmtpConnector(ConfiguredConnector):
    """Sends mail through one server.

    Its Message-ID is made from the effect's key, so whoever looks into a parked one can find it in a log or mailbox. All
    recipients are taken or nothing is sent. When the answer to the message itself is lost, nobody can tell: it is parked.
    """

    takes: ClassVar = {
        "host": "mail.example.org",
        "port": "587",
        "sender": "desk@example.org",
        "user": "desk",
        "password": "env:SMTP_PASSWORD",
        "tls": "starttls",
    }
    needs: ClassVar = ("host", "sender")

    def __init__(self, name: str = "smtp") -> None:
        self.send = Action(
            f"{name}.send",
            Mail,
            Sent,
            risk="medium",
            reversibility="irreversible",
            target=SMTP_TARGET,
            describe=lambda mail: f"send mail {mail.subject!r} to {', '.join(mail.to + mail.cc)}",
        )
        super().__init__(name, {self.send.name: cast(AnyAction, self.send)})

    def _reset(self) -> None:
        options = self._options or {}
        if options.get("tls", "starttls") not in ("starttls", "tls", "none"):
            raise InvalidSettings(f"{self.where} tls is starttls, tls or none, not {options['tls']!r}")
        if not options.get("port", "1").isdecimal():
            raise InvalidSettings(f"{self.where} port has to be a number, not {options['port']!r}")
        if "sender" in options and not options["sender"].startswith("env:"):
            try:
                parse_mailbox(options["sender"])
            except ValueError as error:
                raise InvalidSettings(f"{self.where} sender is {options['sender']!r}: {error}") from None
        if self._options is not None:
            # Whatever a person found in a log or mailbox, its Message-ID follows from the key.
            self.send = replace(self.send, assume=self._build_answer)
            self._actions = {self.send.name: cast(AnyAction, self.send)}

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Send the mail once. Raises as `Connector.execute` says."""
        assert isinstance(args, Mail)
        try:
            letter = self._compose(args, attempt.key)
        except ValueError as error:
            raise EffectRejected(f"{self.send.name}: the mail cannot be written ({error}); nothing was sent") from None
        await asyncio.to_thread(self._deliver, letter, attempt.deadline.total_seconds())
        return self._build_answer(args, attempt.key)

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Say that it cannot be told."""
        return CannotTell("a mail server cannot be asked what it took")

    async def close(self) -> None:
        """Do nothing: each mail has a connection of its own."""

    def _build_answer(self, mail: Mail, key: str) -> Executed:
        message_id = self._message_id(mail, key)
        return Executed(Sent(message_id=message_id, to=[*mail.to, *mail.cc]), remote_ref=message_id)

    def _message_id(self, mail: Mail, key: str) -> str:
        return f"<{key}@{parse_mailbox(mail.sender or self.option('sender')).domain}>"

    def _compose(self, mail: Mail, key: str) -> _Letter:
        """Return MAIL as it is sent under KEY. Raises `ValueError` where it cannot be."""
        sender = parse_mailbox(mail.sender or self.option("sender"))
        to, cc = ([parse_mailbox(each) for each in addresses] for addresses in (mail.to, mail.cc))
        reply_to = parse_mailboxes(mail.reply_to)
        needs_utf8 = any(each.needs_utf8 for each in (sender, *to, *cc, *reply_to))
        message = EmailMessage(_POLICY.clone(utf8=needs_utf8))
        message["Message-ID"] = self._message_id(mail, key)
        message["Date"] = formatdate()
        message["Subject"] = mail.subject
        for name, mailboxes in (("From", [sender]), ("To", to), ("Cc", cc), ("Reply-To", reply_to)):
            if mailboxes:
                message[name] = [each.to_header() for each in mailboxes]
        message.set_content(mail.text)
        if mail.html:
            message.add_alternative(mail.html, subtype="html")
        return _Letter(str(message["Message-ID"]), sender, [*to, *cc], message.as_bytes(), needs_utf8)

    def _deliver(self, letter: _Letter, seconds: float) -> None:
        """Send LETTER within SECONDS: the ledger gives up then, and what it takes for lost must not be sent after all."""
        import smtplib

        began = time.monotonic()
        begun = False
        try:
            with self._connect(seconds) as server:
                self._introduce(server, letter, began + seconds * _SHARE_BEFORE_DATA)
                _check_reply(server.docmd("DATA")[0], "the message", wanted=3)
                begun = True
                server.send(letter.content.replace(b"\r\n.", b"\r\n..").removesuffix(b"\r\n") + b"\r\n.\r\n")
                _wait_until(server, began + seconds * _SHARE_BEFORE_END)
                code = server.getreply()[0]
                if not 200 <= code < 300 and not 400 <= code < 600:
                    raise EffectUnknown(f"{self.send.name}: the mail server answered {code} to the message")
                _check_reply(code, "the message")
        except smtplib.SMTPAuthenticationError as error:
            raise TargetUnavailable(f"{self.send.name}: {self.name} does not let us in ({error.smtp_code})") from None
        except (OSError, smtplib.SMTPException) as error:
            if begun:
                raise EffectUnknown(
                    f"{self.send.name}: the connection ended when the message was on its way ({type(error).__name__})"
                ) from None
            raise TargetUnavailable(f"{self.send.name}: {self.name} cannot be reached ({type(error).__name__})") from None

    def _introduce(self, server: smtplib.SMTP, letter: _Letter, until: float) -> None:
        """Say from whom and to whom LETTER goes. Raises where the server does not want it, or is not done at UNTIL."""
        options = f" SIZE={len(letter.content)}" if server.has_extn("size") else ""
        if letter.needs_utf8:
            if not server.has_extn("smtputf8"):
                raise EffectRejected(
                    f"{self.send.name}: an address has characters other than ASCII before its @, and {self.name} takes "
                    "none of those (it has no SMTPUTF8); nothing was sent"
                )
            server.command_encoding = "utf-8"
            options += " SMTPUTF8"
        _check_reply(server.docmd("MAIL", f"FROM:<{letter.sender.path}>{options}")[0], "the sender")
        for recipient in letter.recipients:
            _check_reply(server.docmd("RCPT", f"TO:<{recipient.path}>")[0], "a recipient")
            if time.monotonic() > until:
                raise TargetUnavailable(f"{self.send.name}: {self.name} takes too long; nothing was sent")

    @contextmanager
    def _connect(self, seconds: float) -> Iterator[smtplib.SMTP]:
        import smtplib
        import ssl

        tls, timeout = self.option("tls", "starttls"), seconds / _MAX_STEPS
        host, port = self.option("host"), self.option("port", "465" if tls == "tls" else "587")
        if tls == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, int(port), timeout=timeout, context=ssl.create_default_context())
        else:
            server = smtplib.SMTP(host, int(port), timeout=timeout)
        try:
            if tls == "starttls":
                server.starttls(context=ssl.create_default_context())
            server.ehlo_or_helo_if_needed()
            if user := self.option("user"):
                server.login(user, self.option("password"))
            yield server
            # What is taken is taken, however the server says goodbye.
            with suppress(OSError, smtplib.SMTPException):
                server.quit()
        finally:
            server.close()


_MAX_STEPS: Final = 10
"""A step of the exchange may take this part of the time: it takes seven to be let in."""
_SHARE_BEFORE_DATA: Final = 0.6
_SHARE_BEFORE_END: Final = 0.95


def _wait_until(server: smtplib.SMTP, until: float) -> None:
    assert server.sock is not None
    server.sock.settimeout(max(until - time.monotonic(), 0.1))


def _check_reply(code: int, what: str, *, wanted: int = 2) -> None:
    if code // 100 == wanted:
        return
    if code >= 500:
        raise EffectRejected(f"the mail server refused {what} with {code}; nothing was sent")
    raise TargetUnavailable(f"the mail server does not take {what} now ({code}); nothing was sent")
