"""How mail is sent: at most once, because a mail server neither drops repeats nor can be asked what it took."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from typing import TYPE_CHECKING, ClassVar, Final, cast

from pydantic import BaseModel, Field, field_validator

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


class Mail(Frozen):
    """What to send to whom. Addresses are like `ada@example.org` or `Ada <ada@example.org>`."""

    to: list[str] = Field(min_length=1)
    subject: str
    text: str
    html: str = ""
    cc: list[str] = Field(default_factory=list)
    reply_to: str = ""
    sender: str = ""
    """Empty: the sender that the settings name."""

    @field_validator("to", "cc")
    @classmethod
    def _addresses(cls, addresses: list[str]) -> list[str]:
        for address in addresses:
            if not _is_address(address):
                raise ValueError("an address is like ada@example.org")
        return addresses

    @field_validator("subject", "reply_to", "sender")
    @classmethod
    def _one_line(cls, value: str) -> str:
        # A line break would begin another header.
        if "\n" in value or "\r" in value:
            raise ValueError("it has to be one line")
        return value


class Sent(Frozen):
    """What the mail server took."""

    message_id: str
    to: list[str]


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

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Send the mail once. Raises as `Connector.execute` says."""
        assert isinstance(args, Mail)
        message = self._compose(args, attempt.key)
        return await asyncio.to_thread(self._deliver, message, [*args.to, *args.cc], attempt.deadline.total_seconds())

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Say that it cannot be told."""
        return CannotTell("a mail server cannot be asked what it took")

    async def close(self) -> None:
        """Do nothing: each mail has a connection of its own."""

    def _compose(self, mail: Mail, key: str) -> EmailMessage:
        message = EmailMessage()
        sender = mail.sender or self.option("sender")
        message["Message-ID"] = f"<{key}@{parseaddr(sender)[1].rpartition('@')[2]}>"
        message["Date"] = formatdate()
        message["From"] = sender
        message["To"] = ", ".join(mail.to)
        message["Subject"] = mail.subject
        if mail.cc:
            message["Cc"] = ", ".join(mail.cc)
        if mail.reply_to:
            message["Reply-To"] = mail.reply_to
        message.set_content(mail.text)
        if mail.html:
            message.add_alternative(mail.html, subtype="html")
        return message

    def _deliver(self, message: EmailMessage, recipients: list[str], seconds: float) -> Executed:
        import smtplib
        from email import policy

        said_data = False
        try:
            with self._connect(seconds) as server:
                _check_reply(server, server.mail(parseaddr(str(message["From"]))[1]), "the sender")
                for recipient in recipients:
                    _check_reply(server, server.rcpt(parseaddr(recipient)[1]), "a recipient")
                _check_reply(server, server.docmd("DATA"), "the message", wanted=354)
                said_data = True
                content = message.as_bytes(policy=policy.SMTP)
                server.send(content.replace(b"\r\n.", b"\r\n..").removesuffix(b"\r\n") + b"\r\n.\r\n")
                _check_reply(server, server.getreply(), "the message")
                said_data = False
        except smtplib.SMTPAuthenticationError as error:
            raise TargetUnavailable(f"{self.send.name}: {self.name} does not let us in ({error.smtp_code})") from None
        except (OSError, smtplib.SMTPException) as error:
            if said_data:
                raise EffectUnknown(
                    f"{self.send.name}: the connection ended when the message was on its way ({type(error).__name__})"
                ) from None
            raise TargetUnavailable(f"{self.send.name}: {self.name} cannot be reached ({type(error).__name__})") from None
        return Executed(Sent(message_id=str(message["Message-ID"]), to=recipients), remote_ref=str(message["Message-ID"]))

    def _connect(self, seconds: float) -> smtplib.SMTP:
        import smtplib
        import ssl

        # The ledger gives up at the deadline; a thread that still sends then would make what is parked happen after all.
        tls, timeout = self.option("tls", "starttls"), seconds / 6
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
        except BaseException:
            server.close()
            raise
        return server


def _check_reply(server: smtplib.SMTP, reply: tuple[int, bytes], what: str, *, wanted: int = 250) -> None:
    code = reply[0]
    if code in (wanted, 251):
        return
    if code >= 500:
        raise EffectRejected(f"the mail server refused {what} with {code}; nothing was sent")
    if code >= 400:
        raise TargetUnavailable(f"the mail server does not take {what} now ({code}); nothing was sent")
    server.close()
    raise EffectUnknown(f"the mail server answered {code} to {what}")


def _is_address(address: str) -> bool:
    name, _, domain = parseaddr(address)[1].rpartition("@")
    return bool(name and domain) and not set("\r\n") & set(address)
