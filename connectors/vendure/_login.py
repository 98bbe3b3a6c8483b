"""How a shop lets us in: by user and password, for as long as the session lasts."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from perdure.connectors.http import parse_retry_after
from perdure.errors import TargetUnavailable

if TYPE_CHECKING:
    import httpx

_REFUSAL_LASTS: Final = timedelta(minutes=1)
_LOGIN: Final = (
    "mutation($user: String!, $password: String!) { login(username: $user, password: $password, rememberMe: true) "
    "{ __typename ... on ErrorResult { errorCode message } } }"
)


class Session:
    """A session of USER at the admin API at URL. A shop may have any number of them, so each worker gets its own."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self._user = user
        self._password = password
        self._headers: dict[str, str] = {}
        self._turn = asyncio.Lock()

    async def auth_headers(self, http: httpx.AsyncClient, within: timedelta) -> dict[str, str]:
        """Return the headers that carry the session, which is begun WITHIN that time if there is none.

        Raises `TargetUnavailable` where none is to be had: nothing was sent of what the headers are for.
        """
        async with self._turn:  # who comes while one logs in gets the same session
            if not self._headers:
                self._headers = await self._log_in(http, within)
            return self._headers

    async def is_over(self, http: httpx.AsyncClient, used: httpx.Headers, within: timedelta) -> bool:
        """Say whether the session of the headers USED is over, so that another one may do."""
        import httpx

        async with self._turn:
            if any(used.get(name) != value for name, value in self._headers.items()):
                return True  # somebody has logged in meanwhile
            asked = {"query": "{ me { id } }"}
            try:
                response = await http.post(self._url, json=asked, headers=self._headers, timeout=_seconds(within))
                lasts = '"me":{"id"' in response.text.replace(" ", "")
            except httpx.HTTPError:
                lasts = False
            if not lasts:
                self._headers = {}
            return not lasts

    async def _log_in(self, http: httpx.AsyncClient, within: timedelta) -> dict[str, str]:
        asked = {"query": _LOGIN, "variables": {"user": self._user, "password": self._password}}
        response = await http.post(self._url, json=asked, timeout=_seconds(within))
        cookies = "; ".join(f"{name}={value}" for name, value in response.cookies.items())
        # The client would send the cookies of this session along for ever, also those of a session that has ended.
        http.cookies.clear()
        if token := response.headers.get("vendure-auth-token"):
            return {"Authorization": f"Bearer {token}"}
        if cookies:
            return {"Cookie": cookies}
        said = "check `user` and `password`" if response.status_code == 200 else f"it answered {response.status_code}"
        wait = parse_retry_after(response) or _REFUSAL_LASTS
        raise TargetUnavailable(f"the shop does not let {self._user} in: {said}", retry_after=wait)


def _seconds(time: timedelta) -> float:
    return time.total_seconds()
