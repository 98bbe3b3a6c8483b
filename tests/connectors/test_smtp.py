"""Tests of the mail connector against a real mail server: at most once, and who can't tell says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from kits.connectors import key_of, step
from pydantic import JsonValue, ValidationError

from perdure.connectors import EffectCall, Target
from perdure.connectors.ledger import Ledger
from perdure.connectors.smtp import Mail, SmtpConnector
from perdure.connectors.testing import Case, TcpFaultProxy, check
from perdure.errors import (
    EffectParked,
    EffectRejected,
    InvalidSettings,
    TargetUnavailable,
)
from perdure.storage import Database


@dataclass
class Mailbox:
    """What the mail server took. It refuses recipients at `refused.example`, and content that says so."""

    mails: list[EmailMessage] = field(default_factory=list)

    async def handle_RCPT(  # noqa: N802  aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a recipient."""
        if address.endswith("@refused.example"):
            return "550 nobody of that name"
        if address.endswith("@busy.example"):
            return "450 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take a mail."""
        assert isinstance(envelope.content, bytes)
        if b"spam" in envelope.content:
            return "554 no spam"
        mail = message_from_bytes(envelope.content, policy=policy.default)
        mail["X-To"] = ",".join(envelope.rcpt_tos)
        self.mails.append(mail)
        return "250 taken"


@dataclass
class MailServer:
    """A mail server and its mailbox."""

    mailbox: Mailbox
    port: int


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    """A mail server, listening."""
    mailbox = Mailbox()
    listening = await asyncio.get_running_loop().create_server(lambda: SMTP(mailbox), "127.0.0.1", 0)
    yield MailServer(mailbox, listening.sockets[0].getsockname()[1])
    listening.close()
    await listening.wait_closed()


@pytest.fixture
def ledger(sqlite_database: Database, server: MailServer) -> Ledger:
    """A ledger before the mail server."""
    return Ledger(sqlite_database, {"smtp": _smtp(server.port)})


async def test_sends_once(ledger: Ledger, server: MailServer) -> None:
    """A mail arrives once however often its step is asked for, and its Message-ID is made from the key."""
    first = await ledger.perform(_mail())
    again = await ledger.perform(_mail())
    (mail,) = server.mailbox.mails

    assert first == again
    assert f"<{key_of(_mail())}@shop.example>" == mail["Message-ID"] == first.receipt.remote_ref
    assert ("The desk <desk@shop.example>", "ada@example.org", "Grüße", "bob@example.org") == tuple(
        str(mail[name]) for name in ("From", "To", "Subject", "Cc")
    )
    assert "ada@example.org,bob@example.org" == mail["X-To"]
    assert "Hello,\n.\n..dots\n" == mail.get_content().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"to": ["ada@example.org", "x@refused.example"]}, "refused a recipient with 550; nothing was sent"),
        ({"text": "spam"}, "refused the message with 554; nothing was sent"),
    ],
)
async def test_refusal(ledger: Ledger, server: MailServer, args: dict[str, JsonValue], said: str) -> None:
    """When one recipient or the content is refused, nobody gets anything."""
    with pytest.raises(EffectRejected, match=said):
        await ledger.perform(_mail(**args))

    assert [] == server.mailbox.mails


async def test_not_now(ledger: Ledger, server: MailServer) -> None:
    """A server that is busy has taken nothing, so the step may try again."""
    with pytest.raises(TargetUnavailable, match="does not take a recipient now"):
        await ledger.perform(_mail(to=["x@busy.example"]))

    assert "proposed" == (await ledger.get(key_of(_mail()))).state


async def test_nobody_listens(sqlite_database: Database) -> None:
    """Without a connection nothing has happened."""
    with pytest.raises(TargetUnavailable, match="smtp cannot be reached"):
        await Ledger(sqlite_database, {"smtp": _smtp(1)}).perform(_mail())


async def test_lost_answer_is_parked(sqlite_database: Database, server: MailServer) -> None:
    """Where the answer to the message is lost nobody can tell, so it is parked and not sent again."""
    async with TcpFaultProxy(f"127.0.0.1:{server.port}", at=b"\r\n.\r\n") as proxy:
        ledger = Ledger(sqlite_database, {"smtp": _smtp(proxy.port)})
        proxy.faults.script("lose response")
        with pytest.raises(EffectParked, match="when the message was on its way"):
            await ledger.perform(_mail())
        with pytest.raises(EffectParked):
            await ledger.perform(_mail())

    assert 1 == len(server.mailbox.mails)


async def test_every_fault(server: MailServer) -> None:
    """Under every fault no mail is sent twice, while a client that retries sends some twice."""

    async def count(args: Mail) -> int:
        return sum(mail["Subject"] == args.subject for mail in server.mailbox.mails)

    async with TcpFaultProxy(f"127.0.0.1:{server.port}", at=b"\r\n.\r\n") as proxy:
        smtp = _smtp(proxy.port)
        matrix = await check(
            Case(
                connector=smtp,
                action=smtp.send,
                args=lambda number: Mail(to=["ada@example.org"], subject=f"no. {number}", text="Hello"),
                count=count,
                proxy=proxy,
                target=Target(settle=timedelta(seconds=0.2), deadline=timedelta(seconds=3)),
                operations=2,
            )
        )

    assert [] == matrix.problems
    parked = {row.fault: row.perdure.parked for row in matrix.rows}
    assert (0, 2, 2) == (parked["none"], parked["lose request"], parked["lose response"])
    assert 0 < matrix.total().naive.duplicates


@pytest.mark.parametrize(
    "args",
    [
        {"to": ["ada"]},
        {"to": []},
        {"to": ["ada@example.org\r\nBcc: eve@example.org"]},
        {"subject": "x\r\nBcc: eve@example.org"},
        {"sender": "x@example.org\nBcc: eve@example.org"},
    ],
)
def test_no_header_by_the_back_door(args: dict[str, JsonValue]) -> None:
    """What would begin another header, and what is no address, does not fit."""
    with pytest.raises(ValidationError):
        Mail.model_validate({"to": ["ada@example.org"], "subject": "x", "text": "x", **args})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "x"}, "needs sender"),
        ({"host": "x", "sender": "x@x", "tls": "maybe"}, "tls is starttls, tls or none"),
        ({"host": "x", "sender": "x@x", "port": "smtp"}, "port has to be a number"),
    ],
)
def test_wrong_options(options: dict[str, str], said: str) -> None:
    """Options that make no sense are found at the start."""
    with pytest.raises(InvalidSettings, match=said):
        SmtpConnector().with_options(options)


def _smtp(port: int) -> SmtpConnector:
    options = {"host": "127.0.0.1", "port": str(port), "sender": "The desk <desk@shop.example>", "tls": "none"}
    return SmtpConnector().with_options(options)


def _mail(**args: JsonValue) -> EffectCall:
    text = "Hello,\n.\n..dots\n"
    mail: dict[str, JsonValue] = {"to": ["ada@example.org"], "cc": ["bob@example.org"], "subject": "Grüße", "text": text}
    return EffectCall(step=step(), action="smtp.send", args=mail | args)
