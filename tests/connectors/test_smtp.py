"""Tests of the mail connector against a real mail server: at most once, and who can't tell says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import cast

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from kits.connectors import key_of, step
from pydantic import JsonValue, ValidationError

from perdure.connectors import Attempt, EffectCall, Resolution, Target
from perdure.connectors.ledger import Ledger
from perdure.connectors.smtp import Mail, SmtpConnector
from perdure.connectors.testing import Case, TcpFaultProxy, check
from perdure.errors import (
    EffectParked,
    EffectRejected,
    InvalidSettings,
    PerdureError,
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


@asynccontextmanager
async def _listening(*, utf8: bool = False) -> AsyncIterator[MailServer]:
    mailbox = Mailbox()
    listening = await asyncio.get_running_loop().create_server(lambda: SMTP(mailbox, enable_SMTPUTF8=utf8), "127.0.0.1", 0)
    try:
        yield MailServer(mailbox, listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        await listening.wait_closed()


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    """A mail server, listening."""
    async with _listening() as server:
        yield server


@asynccontextmanager
async def _scripted(replies: dict[str, str], slow: float = 0) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Serve what answers with REPLIES, by verb, `.` for the message; an empty one ends the connection."""
    mails: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(b"220 here\r\n")
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                verb = line[:4].decode().strip().upper()
                reply = replies.get(verb, "250 OK" if verb != "DATA" else "354 go on")
                if verb == "RCPT":
                    await asyncio.sleep(slow)  # what is tested is a server that takes its time
                writer.write(f"{reply}\r\n".encode() if reply else b"")
                if not reply:
                    break
                if verb == "DATA" and reply.startswith("354"):
                    content = await reader.readuntil(b"\r\n.\r\n")
                    reply = replies.get(".", "250 taken")
                    if reply.startswith("250"):
                        mails.append(content)
                    if not reply:
                        break
                    writer.write(f"{reply}\r\n".encode())
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1], mails
    finally:
        listening.close()
        for writer in writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
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
    "address",
    [
        *("ada", "", "a@", "@b", "a b@c.d", "a@b..c", "a@b.c>", "a@b@c", "Ada <a@b.c> x", "a@b.c <d@e.f>", "a@-b.c"),
        *("a@example.org, b@example.org", "a@example.org; b@example.org", "team: a@example.org, b@example.org;"),
        *("Lovelace, Ada <a@example.org>", "a@b.c,", "Ada <a@b.c> <d@e.f>", "team:;", "mailto:a@b.c", "<@a:b@c.d>"),
        *("a@b.c\r\nBcc: x@y.z", "a@b.c\u2028", "Ada\x85 <a@b.c>", "a@b.c\0", "a@\u200bb.c", "a(c)@b.c", "x" * 65 + "@b.c"),
        *("a@1.2.3.4]", "a@[1.2.3]", "a@ex\u2028ample.org", "ada@\u2488com"),
    ],
)
@pytest.mark.parametrize("field", ["to", "cc", "sender", "reply_to"])
def test_what_is_not_one_address(field: str, address: str) -> None:
    """An entry that is no address, or several, does not fit: it would reach one of them, or another (case 07)."""
    if field == "reply_to" and (not address or address == "a@example.org, b@example.org"):
        return
    if field == "sender" and not address:
        return
    mail: dict[str, JsonValue] = {"to": ["ada@example.org"], "subject": "x", "text": "x"}
    with pytest.raises(ValidationError):
        Mail.model_validate({**mail, field: [address] if field in ("to", "cc") else address})


@pytest.mark.parametrize("field", ["to", "cc", "sender", "reply_to"])
@pytest.mark.parametrize(
    "address",
    [
        *("ada@example.org", "Ada <ada@example.org>", '"Lovelace, Ada" <ada@example.org>', "J. Doe <j@localhost>"),
        *("info@m\u00fcller.example", "j\u00f6rg@example.org", '"a b"@example.org', "o'b+tag@x.co", "a@[127.0.0.1]"),
        *("<a@b.c>", '"A \\"x\\" B" <a@b.c>', "M\u00fcller & S\u00f6hne <x@y.z>", "a@xn--mller-kva.example"),
    ],
)
def test_what_is_one_address(field: str, address: str) -> None:
    """What real people have for an address is taken as it is (case 07)."""
    mail = {"to": ["ada@example.org"], "subject": "x", "text": "x", field: [address] if field in ("to", "cc") else address}

    assert address in str(Mail.model_validate(mail).model_dump(mode="json")[field]).replace("\\\\", "\\")


@pytest.mark.parametrize("char", [*"\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\0\x7f"])
def test_no_header_by_the_back_door(char: str) -> None:
    """A subject is one line for everybody who reads it (case 15)."""
    with pytest.raises(ValidationError, match="it has to be one line"):
        Mail(to=["ada@example.org"], subject=f"Hi{char}there", text="x")
    with pytest.raises(ValidationError, match="it has to be one line"):
        Mail(to=["ada@example.org"], subject=f"Hi{char}", text="x")


async def test_domain_in_other_letters(ledger: Ledger, server: MailServer) -> None:
    """A domain goes over the wire as it is looked up, and ß is not ss (case 15)."""
    to = ["Info <info@M\u00fcller.example>", "a@stra\u00dfe.example"]
    done = await ledger.perform(_mail(to=cast("JsonValue", to), cc=[]))
    (mail,) = server.mailbox.mails

    assert "info@xn--mller-kva.example,a@xn--strae-oqa.example" == mail["X-To"]
    assert "Info <info@xn--mller-kva.example>, a@xn--strae-oqa.example" == mail["To"]
    assert isinstance(done.value, dict)
    assert to == done.value["to"]


async def test_addresses_beyond_ascii(sqlite_database: Database) -> None:
    """They go to a server that takes them, and are refused, not parked, where it does not (case 15)."""
    async with _listening(utf8=True) as server:
        await Ledger(sqlite_database, {"smtp": _smtp(server.port)}).perform(_mail(to=["J\u00f6rg <j\u00f6rg@example.org>"]))
        assert ["j\u00f6rg@example.org,bob@example.org"] == [mail["X-To"] for mail in server.mailbox.mails]
        assert "J\u00f6rg <j\u00f6rg@example.org>" == server.mailbox.mails[0]["To"]
    async with _listening() as server:
        with pytest.raises(EffectRejected, match="no SMTPUTF8"):
            await Ledger(sqlite_database, {"smtp": _smtp(server.port)}).perform(
                _mail("plain", to=["j\u00f6rg@example.org"])
            )
        assert [] == server.mailbox.mails


async def test_seven_bits(ledger: Ledger, server: MailServer) -> None:
    """No server has to take eight bits or long lines, and the text comes out as it went in (case 15)."""
    text = "Gr\u00fc\u00dfe\n" + "x" * 3_000 + "\n.\n\U0001f600\u2028\n"
    await ledger.perform(_mail(text=text, html=f"<p>{text}</p>"))
    (mail,) = server.mailbox.mails
    plain = mail.get_body(("plain",))

    assert mail.as_bytes().isascii()
    assert 998 >= max(map(len, mail.as_bytes().splitlines()))
    assert plain is not None
    assert text == plain.get_content().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("replies", "error", "said"),
    [
        ({"QUIT": "500 what"}, None, ""),
        ({"QUIT": ""}, None, ""),
        ({"MAIL": "503 no"}, EffectRejected, "refused the sender with 503"),
        ({"MAIL": "552 too large"}, EffectRejected, "refused the sender with 552"),
        ({"MAIL": "354 go on"}, TargetUnavailable, "does not take the sender now .354"),
        ({"RCPT": "252 maybe"}, None, ""),
        ({"RCPT": "550 nobody", "QUIT": "500 what"}, EffectRejected, "refused a recipient with 550"),
        ({"RCPT": ""}, TargetUnavailable, "cannot be reached"),
        ({"RCPT": "421 closing"}, TargetUnavailable, "does not take a recipient now"),
        ({"DATA": "250 done already"}, TargetUnavailable, "does not take the message now .250"),
        ({"DATA": "554 no"}, EffectRejected, "refused the message with 554"),
        ({"DATA": ""}, TargetUnavailable, "cannot be reached"),
        ({".": "554 spam"}, EffectRejected, "refused the message with 554"),
        ({".": "451 later"}, TargetUnavailable, "does not take the message now"),
        ({".": "354 go on"}, EffectParked, "answered 354 to the message"),
        ({".": ""}, EffectParked, "when the message was on its way"),
    ],
)
async def test_every_answer(
    sqlite_database: Database, replies: dict[str, str], error: type[PerdureError] | None, said: str
) -> None:
    """What was refused before the message was sent is not parked, and what was taken stays taken (case 15)."""
    async with _scripted(replies) as (port, mails):
        ledger = Ledger(sqlite_database, {"smtp": _smtp(port)})
        if error is None:
            await ledger.perform(_mail())
            await ledger.perform(_mail())
            assert 1 == len(mails)
        else:
            with pytest.raises(error, match=said):
                await ledger.perform(_mail())


async def test_server_that_takes_its_time(sqlite_database: Database) -> None:
    """Where the recipients take too long nothing is sent, also not after the ledger has given up (case 15)."""
    async with _scripted({}, slow=0.3) as (port, mails):
        connector = _smtp(port)
        attempt = Attempt(key="pe-1", fence=1, deadline=timedelta(seconds=1))
        to = [f"{number}@example.org" for number in range(20)]
        with pytest.raises(TargetUnavailable):
            await connector.execute(connector.actions["smtp.send"], Mail(to=to, subject="x", text="x"), attempt)

    assert [] == mails


@pytest.mark.parametrize("remote_ref", ["", "seen in mail.log"])
async def test_answer_that_follows_from_the_key(sqlite_database: Database, server: MailServer, remote_ref: str) -> None:
    """Who says that a parked mail was sent need not make up what the server answered (case 80)."""
    async with TcpFaultProxy(f"127.0.0.1:{server.port}", at=b"\r\n.\r\n") as proxy:
        ledger = Ledger(sqlite_database, {"smtp": _smtp(proxy.port)})
        proxy.faults.script("lose response")
        with pytest.raises(EffectParked):
            await ledger.perform(_mail())
    key = key_of(_mail())
    said = Resolution(effect=key, verdict="happened", by="dana", comment="it is there", remote_ref=remote_ref)
    effect = await ledger.resolve(said)

    message_id = f"<{key}@shop.example>"
    assert {"message_id": message_id, "to": ["ada@example.org", "bob@example.org"]} == effect.response
    assert (remote_ref or message_id) == effect.remote_ref


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "x"}, "needs sender"),
        ({"host": "x", "sender": "x@x", "tls": "maybe"}, "tls is starttls, tls or none"),
        ({"host": "x", "sender": "x@x", "port": "smtp"}, "port has to be a number"),
        ({"host": "x", "sender": "the desk"}, "sender is 'the desk': an address is like"),
    ],
)
def test_wrong_options(options: dict[str, str], said: str) -> None:
    """Options that make no sense are found at the start."""
    with pytest.raises(InvalidSettings, match=said):
        SmtpConnector().with_options(options)


def _smtp(port: int) -> SmtpConnector:
    options = {"host": "127.0.0.1", "port": str(port), "sender": "The desk <desk@shop.example>", "tls": "none"}
    return SmtpConnector().with_options(options)


def _mail(name: str = "pay", /, **args: JsonValue) -> EffectCall:
    text = "Hello,\n.\n..dots\n"
    mail: dict[str, JsonValue] = {"to": ["ada@example.org"], "cc": ["bob@example.org"], "subject": "Grüße", "text": text}
    return EffectCall(step=step(name), action="smtp.send", args=mail | args)
