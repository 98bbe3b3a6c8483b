"""Whose turn it is to get a connector's next access token: one worker's, whatever the others need meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col

from perdure.connectors.http._oauth import REQUEST_TIMEOUT, OAuthGrant, TokenCipher, TokenResponse
from perdure.connectors.http.tables import AccessTokenRow
from perdure.errors import EffectRejected, TargetUnavailable
from perdure.storage import Database, now

if TYPE_CHECKING:
    import httpx

EXPIRY_MARGIN: Final = timedelta(seconds=30)
"""How long before its end a token is not used any more."""
RENEWABLE_AFTER: Final = timedelta(seconds=60)
"""A token that is refused although it is younger than this will not be better when it is got anew."""
_LEASE: Final = REQUEST_TIMEOUT + timedelta(seconds=10)
_POLL_EVERY: Final = timedelta(milliseconds=100)
_REFUSAL_LASTS: Final = timedelta(minutes=1)


class TokenCache:
    """The access token that the workers of DATABASE share for CONNECTOR, by GRANT.

    A refresh token may serve only once, and using it twice can cost the whole authorization. So who gets the next token
    claims a row first, under a fence, and the others wait for what comes of it. If the claimant dies, its lease runs out.
    """

    def __init__(self, database: Database, connector: str, grant: OAuthGrant, http: httpx.AsyncClient) -> None:
        self._database = database
        self._connector = connector
        self._grant = grant
        self._http = http
        self._cipher = TokenCipher(grant.seal or grant.client_secret, connector)
        self._known: AccessTokenRow | None = None
        self._pending: asyncio.Task[str] | None = None

    async def get_token(self, within: timedelta) -> str:
        """Return an access token that is good for a while.

        Raises `TargetUnavailable` where none is to be had WITHIN that time: nothing was sent to the target then.
        """
        if self._pending is None or self._pending.done():
            # A task of its own: who gives up waiting must not take the answer along, with the only refresh token in it.
            self._pending = asyncio.create_task(self._fetch(), name=f"get a token for {self._connector}")
            self._pending.add_done_callback(_consume_exception)
        try:
            async with asyncio.timeout(within.total_seconds()):
                return await asyncio.shield(self._pending)
        except TimeoutError:
            raise TargetUnavailable(
                f"{self._connector}: no access token yet: the authorization server is slow",
                retry_after=timedelta(seconds=1),
            ) from None

    async def close(self) -> None:
        """Wait for a token that is on its way."""
        if self._pending is not None:
            await asyncio.gather(self._pending, return_exceptions=True)

    async def invalidate(self, token: str) -> bool:
        """Take note that the target refused TOKEN. Returns whether another one is worth a try."""
        row = await self._row()
        tokens = self._decrypt(row)
        if tokens is None or tokens.access_token != token:
            return True
        if row.obtained_at is not None and now() - row.obtained_at < RENEWABLE_AFTER:
            return False
        await self._write(row.fence, {"expires_at": now()})
        self._known = None
        return True

    async def _fetch(self) -> str:
        row = self._known
        while row is None or not self._is_usable(row) or (tokens := self._decrypt(row)) is None:
            row = self._known = await self._row()
            if self._is_usable(row) and self._decrypt(row) is not None:
                continue
            self._raise_last_refusal(row)
            if row.lease_until is not None and now() < row.lease_until and not row.error:
                await asyncio.sleep(_POLL_EVERY.total_seconds())  # the one that gets it may be another process
            elif await self._claim(row):
                return await self._renew(row)
        return tokens.access_token

    def _is_usable(self, row: AccessTokenRow) -> bool:
        if row.expires_at is None or row.obtained_at is None or row.origin != self._grant.origin:
            return False
        return now() + min(EXPIRY_MARGIN, (row.expires_at - row.obtained_at) / 4) < row.expires_at

    def _decrypt(self, row: AccessTokenRow) -> TokenResponse | None:
        return self._cipher.decrypt(row.sealed) if row.sealed else None

    def _raise_last_refusal(self, row: AccessTokenRow) -> None:
        if row.error and row.origin == self._grant.origin and row.lease_until is not None and now() < row.lease_until:
            raise TargetUnavailable(f"{self._connector}: {row.error}", retry_after=row.lease_until - now())

    async def _renew(self, row: AccessTokenRow) -> str:
        fence = row.fence + 1
        before = self._decrypt(row) if row.origin == self._grant.origin else None
        refresh_token = before.refresh_token if before and before.refresh_token else self._grant.refresh_token
        try:
            given = await self._grant.request_tokens(self._http, refresh_token)
        except EffectRejected as error:
            # It will say no again; the others need not ask as well.
            said = f"{error.message}. Authorize again, and put the new refresh token into the settings."
            later = now() + _REFUSAL_LASTS
            await self._write(fence, {"origin": self._grant.origin, "error": said, "lease_until": later})
            raise TargetUnavailable(f"{self._connector}: {said}", retry_after=_REFUSAL_LASTS) from None
        except TargetUnavailable as error:
            await self._write(fence, {"lease_until": None})
            raise TargetUnavailable(f"{self._connector}: {error.message}", retry_after=error.retry_after) from None
        kept = given if given.refresh_token else given.model_copy(update={"refresh_token": refresh_token})
        await self._write(
            fence,
            {
                "origin": self._grant.origin,
                "sealed": self._cipher.encrypt(kept),
                "obtained_at": now(),
                "expires_at": now() + timedelta(seconds=given.expires_in),
                "lease_until": None,
                "refreshes": row.refreshes + 1,
                "error": "",
            },
        )
        return given.access_token

    async def _row(self) -> AccessTokenRow:
        async with self._database.read() as connection:
            found = (await connection.execute(_SELECT, {"name": self._connector})).mappings().one_or_none()
        if found is not None:
            return AccessTokenRow.model_validate(dict(found))
        empty = AccessTokenRow(connector=self._connector, origin="", fence=0, refreshes=0, error="")
        async with self._database.write() as connection:
            await connection.execute(_INSERT_SQLITE if self._database.sqlite else _INSERT_POSTGRES, empty.model_dump())
        return empty

    async def _claim(self, row: AccessTokenRow) -> bool:
        return await self._write(row.fence, {"fence": row.fence + 1, "lease_until": now() + _LEASE, "error": ""})

    async def _write(self, fence: int, changes: Mapping[str, object]) -> bool:
        async with self._database.write() as connection:
            held = {"name": self._connector, "held": fence}
            return (await connection.execute(_UPDATE.values(changes), held)).rowcount == 1


def _consume_exception(task: asyncio.Task[str]) -> None:
    if not task.cancelled():
        task.exception()  # everybody may have given up waiting for it


_SELECT = sa.select(AccessTokenRow).where(col(AccessTokenRow.connector) == sa.bindparam("name"))
_INSERT_SQLITE = sqlite.insert(AccessTokenRow).on_conflict_do_nothing()
_INSERT_POSTGRES = postgresql.insert(AccessTokenRow).on_conflict_do_nothing()
_UPDATE = sa.update(AccessTokenRow).where(
    col(AccessTokenRow.connector) == sa.bindparam("name"), col(AccessTokenRow.fence) == sa.bindparam("held")
)
