"""How actions reach a system that speaks JSON over HTTP. Safe to import in workflow code: httpx comes with the call."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Self, cast

from pydantic import BaseModel, JsonValue

from perdure.connectors.contracts import Absent, AnyAction, Attempt, CannotTell, Contract, Executed, Listed, Probe
from perdure.connectors.http_action import HttpAction, Request
from perdure.connectors.http_listing import Item, Listing
from perdure.errors import EffectRejected, EffectUnknown, InvalidSettings, TargetUnavailable

if TYPE_CHECKING:
    import httpx

__all__ = ["HttpAction", "HttpConnector", "Listing"]

_Action = HttpAction[BaseModel, BaseModel]

_SAMPLED = timedelta(days=30)
_SAMPLES = 200


class HttpConnector:
    """The actions of one system, declared as class attributes. Their names begin with its name.

        class Payments(HttpConnector):
            refund = HttpAction("payments.refund", Refund, RefundDone, request="POST /refunds")

    `configured` gives the connector that can act. One call is one request: nothing is retried, no redirect is followed.
    """

    openapi: str = ""
    """Where the system describes itself, e.g. `/openapi.json`. Its actions rely on what that says of their requests."""

    def __init__(self) -> None:
        declared = {name: value for one in reversed(type(self).__mro__) for name, value in vars(one).items()}
        every = [value for value in declared.values() if isinstance(value, HttpAction)]
        names = {action.connector for action in every}
        if len(names) != 1:
            raise ValueError(f"{type(self).__name__} needs the actions of one connector, not of {sorted(names) or 'none'}")
        self._name = names.pop()
        self._actions = {action.name: cast(_Action, action) for action in every}
        self._options: Mapping[str, str] = {}
        self._client: httpx.AsyncClient | None = None

    @property
    def name(self) -> str:
        """The part of the action names before the dot."""
        return self._name

    @property
    def actions(self) -> Mapping[str, AnyAction]:
        """The actions by full name."""
        return self._actions

    def configured(self, options: Mapping[str, str]) -> Self:
        """Return a copy of it that talks to the system that OPTIONS name.

        `url` is needed; `token` goes along as bearer token, `header.NAME` as that header. A value `env:VARIABLE` is read
        from the environment for each request and kept nowhere. Raises `InvalidSettings`.
        """
        where = f"[connectors.{self._name}]"
        for name, value in options.items():
            if name not in ("url", "token") and not re.fullmatch(r"header\.[\w-]+", name):
                raise InvalidSettings(f"{where} does not take {name!r}; it takes url, token and header.NAME")
            if value.startswith("env:") and value.removeprefix("env:") not in os.environ:
                raise InvalidSettings(f"{where} {name} is {value!r}, and that variable is not set")
        if not re.match(r"https?://[^/]", _resolved(options.get("url", ""))):
            variable = f"PERDURE_CONNECTORS__{self.name.upper()}__URL"
            raise InvalidSettings(
                f'{where} in perdure.toml needs the address of the system: url = "https://...", or set {variable}'
            )
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, _options=dict(options), _client=None)
        return copy

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Send the request of ACTION once. Raises as `Connector.execute` says."""
        spec = _spec(action)
        open_end: type[EffectUnknown | TargetUnavailable] = TargetUnavailable if spec.reads else EffectUnknown
        response = await self._send(spec, spec.asks(args, attempt.key), attempt, open_end)
        status = response.status_code
        if status in spec.untouched:
            raise TargetUnavailable(self._said(spec, response), retry_after=_retry_after(response))
        # To a repeated key, 409 says that the first request with it is still at work.
        at_work = status == 409 and spec.target.mechanism == "header"
        if 400 <= status < 500 and status != 408 and not at_work:
            raise EffectRejected(self._said(spec, response))
        if not 200 <= status < 300:
            if spec.reads and status < 400:
                raise EffectRejected(f"{self._said(spec, response)}: check the connector's url")
            raise open_end(self._said(spec, response), retry_after=_retry_after(response))
        try:
            return spec.executed(_parsed(response))
        except ValueError as error:
            raise open_end(f"{spec.name}: {self._name} answered {status}, and {error}") from None

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Ask for the effect of `attempt.key`. Raises `TargetUnavailable` where there is no answer."""
        spec = _spec(action)
        if not spec.probe:
            return CannotTell(f"{spec.name} declares no probe")
        response = await self._send(spec, spec.looks_up(args, attempt.key), attempt, TargetUnavailable)
        status = response.status_code
        if status == 404 and spec.absent_is_404:
            return Absent()
        if status in (408, 429) or status >= 500:
            raise TargetUnavailable(self._said(spec, response), retry_after=_retry_after(response))
        if status != 200:
            return CannotTell(self._said(spec, response))
        try:
            return spec.matched(_parsed(response), attempt.key)
        except ValueError as error:
            return CannotTell(f"{spec.name}: the probe answered {status}, and {error}")

    @property
    def listed_actions(self) -> Collection[str]:
        """The actions that declare a `listing`."""
        return [action.name for action in self._actions.values() if action.listing is not None]

    async def listing(self, since: datetime, until: datetime) -> AsyncIterator[Listed]:
        """Yield what the target lists, page by page, in the window or around it. Raises as `Reconcilable.listing` says."""
        for action in self._actions.values():
            if action.listing is not None:
                async for page in self._pages(action, action.listing, since, until):
                    for listed in action.listed(page):
                        if listed.at is None or since <= listed.at < until:
                            yield listed

    async def contract(self) -> Contract | None:
        """Return what the target's OpenAPI document says of the actions, else what their listings let infer."""
        from perdure.connectors.http_contract import from_document, from_items

        if self.openapi:
            spec = next(iter(self._actions.values()))
            response = await self._read(spec, self.openapi)
            return from_document(response.content, self._actions.values())
        until = datetime.now(UTC)
        items: dict[str, list[Item]] = {}
        for action in self._actions.values():
            if action.listing is not None:
                async for page in self._pages(action, action.listing, until - _SAMPLED, until):
                    items.setdefault(action.name, []).extend(page)
                    if len(items[action.name]) >= _SAMPLES:
                        break
        return from_items(items, self._actions) if items else None

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _pages(self, spec: _Action, listing: Listing, since: datetime, until: datetime) -> AsyncIterator[list[Item]]:
        path: str | None = listing.path(since, until, page=1, after="")
        seen: set[str] = set()
        number = 1
        while path is not None:
            response = await self._read(spec, path)
            try:
                answer = _parsed(response)
                items = listing.read(answer)
                following = listing.following(answer, response.headers.get("Link", ""), self._address(spec)[0])
            except ValueError as error:
                raise EffectRejected(f"{spec.name}: {self._name} answered its list, and {error}") from None
            new = [item for item in items if str(item.get(spec.remote_ref)) not in seen]
            if new:
                yield new
            seen.update(str(item.get(spec.remote_ref)) for item in new)
            number += 1
            if listing.next:
                path = following
            elif not listing.paged or not new:
                # A page with nothing new is the end, also of a target that does not know the parameter.
                path = None
            else:
                path = listing.path(since, until, page=number, after=str(items[-1].get(spec.remote_ref)))

    async def _read(self, spec: _Action, path: str) -> httpx.Response:
        attempt = Attempt(key="", fence=0, deadline=spec.target.deadline)
        response = await self._send(spec, Request("GET", path), attempt, TargetUnavailable, key=False)
        status = response.status_code
        if status in (408, 429) or status >= 500:
            raise TargetUnavailable(self._said(spec, response), retry_after=_retry_after(response))
        if status != 200:
            raise EffectRejected(f"{self._said(spec, response)}: check {path.partition('?')[0]}")
        return response

    async def _send(
        self,
        spec: _Action,
        request: Request,
        attempt: Attempt,
        open_end: type[EffectUnknown | TargetUnavailable],
        *,
        key: bool = True,
    ) -> httpx.Response:
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(follow_redirects=False)
        url, headers = self._address(spec)
        try:
            return await self._client.request(
                request.method,
                url + request.path,
                json=request.body,
                headers=headers | (spec.headers(attempt.key) if key else {}),
                timeout=attempt.deadline.total_seconds(),
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError):
            # No connection, so no request. The text of httpx's errors may hold the address with all that is in it.
            raise TargetUnavailable(f"{spec.name}: {self._name} cannot be reached") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise open_end(f"{spec.name}: the connection to {self._name} ended ({type(error).__name__})") from None

    def _address(self, spec: _Action) -> tuple[str, dict[str, str]]:
        if not self._options:
            raise TargetUnavailable(f"{spec.name}: nobody said where {self._name} is. Set [connectors.{self._name}] url.")
        try:
            options = {name: _resolved(value) for name, value in self._options.items()}
        except KeyError as error:
            raise TargetUnavailable(f"{spec.name}: the variable {error} is not set") from None
        headers = {name.removeprefix("header."): value for name, value in options.items() if name.startswith("header.")}
        if "token" in options:
            headers["Authorization"] = f"Bearer {options['token']}"
        return options["url"].rstrip("/"), headers

    def _said(self, spec: _Action, response: httpx.Response) -> str:
        text = f"{spec.name}: {self._name} answered {response.status_code}"
        message = _message(response)
        for option, value in self._options.items():
            if option != "url" and (secret := _resolved(value)):
                message = message.replace(secret, "***")
        return f"{text}: {message}" if message else text


def _spec(action: AnyAction) -> _Action:
    if not isinstance(action, HttpAction):
        raise TypeError(f"action {action.name} is not an HttpAction")
    return action


def _resolved(value: str) -> str:
    return os.environ[value.removeprefix("env:")] if value.startswith("env:") else value


def _parsed(response: httpx.Response) -> JsonValue:
    if not response.content:
        return {}
    try:
        parsed: JsonValue = response.json()
    except ValueError:
        raise ValueError("its body is not JSON") from None
    return parsed


def _message(response: httpx.Response, limit: int = 200) -> str:
    try:
        body = json.loads(response.content)
    except ValueError:
        return ""
    for name in ("error", "message", "detail", "title"):
        body = body.get(name, body) if isinstance(body, dict) else body
    line = " ".join(body.split()) if isinstance(body, str) else ""
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _retry_after(response: httpx.Response) -> timedelta | None:
    # RFC 9110, 10.2.3: seconds, or a date.
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return timedelta(seconds=int(value))
    try:
        return max(parsedate_to_datetime(value) - datetime.now(UTC), timedelta())
    except (ValueError, TypeError):
        return None
