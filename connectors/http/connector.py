"""How actions reach a system that speaks JSON over HTTP. Safe to import in workflow code: httpx comes with the call."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, ClassVar, cast
from urllib.parse import urlencode

from pydantic import BaseModel, JsonValue

from perdure.connectors.configured import ConfiguredConnector, class_actions, shared_name
from perdure.connectors.contracts import (
    Absent,
    AnyAction,
    Attempt,
    CannotTell,
    Executed,
    In,
    Listed,
    Out,
    Probe,
)
from perdure.connectors.drift.contracts import Contract
from perdure.connectors.http.action import HttpAction, Request
from perdure.connectors.http.listing import Item, Listing
from perdure.errors import (
    EffectError,
    EffectRejected,
    EffectUnknown,
    InvalidSettings,
    TargetUnavailable,
)

if TYPE_CHECKING:
    import httpx

    from perdure.connectors.http._oauth import OAuthGrant
    from perdure.connectors.http._token_cache import TokenCache

__all__ = ["HttpAction", "HttpConnector", "Listing"]

_Action = HttpAction[BaseModel, BaseModel]

_SAMPLE_WINDOW = timedelta(days=30)
_SAMPLE_EVERY = timedelta(minutes=5)
_MAX_SAMPLES = 200


class HttpConnector(ConfiguredConnector):
    """The actions of one system, declared as class attributes. Their names begin with its name.

        class Payments(HttpConnector):
            refund = HttpAction("payments.refund", Refund, RefundDone, request="POST /refunds")

    `configured` gives the connector that can act. It needs `url`; `token` goes along as bearer token, `header.NAME` as
    that header, `query.NAME` as that parameter of each address. With `token_url` and a client or refresh token, it gets
    access tokens that all workers share.

    One call is one request: nothing is retried, no redirect is followed.
    """

    takes: ClassVar[Mapping[str, str]] = {
        "url": "https://...",
        "token": "env:SHOP_TOKEN",
        r"header\.[\w-]+": "env:SHOP_KEY",
        r"query\.[\w-]+": "env:SHOP_KEY",
        "token_url": "https://.../oauth/token",
        "client_id": "desk",
        "client_secret": "env:SHOP_CLIENT_SECRET",
        "refresh_token": "env:SHOP_REFRESH_TOKEN",
        "scope": "refunds",
        "client_auth": "body",
        "seal": "env:TOKEN_SEAL",
    }

    default_url: ClassVar[str] = ""
    """Where the system is if nobody says so."""
    openapi: str = ""
    """Where the system describes itself, e.g. `/openapi.json`. Its actions rely on what that says of their requests."""

    def __init__(self, *actions: HttpAction[In, Out]) -> None:
        every = cast("list[_Action]", list(actions)) or class_actions(self, HttpAction)
        super().__init__(shared_name(self, every), {action.name: cast(AnyAction, action) for action in every})
        self._reset()

    def _reset(self) -> None:
        self._client: httpx.AsyncClient | None = None
        self._token_cache: TokenCache | None = None
        if self._options is not None and not re.match(r"https?://[^/]", self.option("url", self.default_url)):
            raise InvalidSettings(
                f'{self.where} in perdure.toml needs the address of the system: url = "https://...", '
                f"or set PERDURE_CONNECTORS__{self.name.upper()}__URL"
            )
        if self.option_names and self.option("token_url") and not self.option("client_id"):
            raise InvalidSettings(f"{self.where} has token_url, so it needs client_id")
        if self.option_names and self.option("token_url") and not (self.option("client_secret") or self.option("seal")):
            raise InvalidSettings(
                f'{self.where} has no client_secret, so it needs seal, e.g. seal = "env:TOKEN_SEAL": '
                "the secret under which its tokens are kept in the database"
            )

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Send the request of ACTION once. Raises as `Connector.execute` says."""
        spec = _http_action(action)
        open_end: type[EffectUnknown | TargetUnavailable] = TargetUnavailable if spec.reads else EffectUnknown
        response = await self._send(spec, spec.build_request(args, attempt.key), attempt, open_end)
        status = response.status_code
        if status in spec.untouched:
            raise TargetUnavailable(self._describe_failure(spec, response), retry_after=parse_retry_after(response))
        if status == 401 and await self._token_expired(response.request):
            raise TargetUnavailable(
                f"{self._describe_failure(spec, response)}, so the next attempt uses a new access token"
            )
        # To a repeated key, 409 says that the first request with it is still at work.
        at_work = status == 409 and bool(spec.key_headers(attempt.key))
        if 400 <= status < 500 and status != 408 and not at_work:
            raise EffectRejected(self._describe_failure(spec, response))
        if not 200 <= status < 300:
            if spec.reads and status < 400:
                raise EffectRejected(f"{self._describe_failure(spec, response)}: check the connector's url")
            raise open_end(self._describe_failure(spec, response), retry_after=parse_retry_after(response))
        try:
            return spec.parse_result(self.decode_response(spec, response))
        except ValueError as error:
            raise open_end(f"{spec.name}: {self._name} answered {status}, but {error}") from None

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Ask for the effect of `attempt.key`. Raises `TargetUnavailable` where there is no answer."""
        spec = _http_action(action)
        if not spec.probe:
            return CannotTell(f"{spec.name} declares no probe")
        response = await self._send(spec, spec.build_probe(args, attempt.key), attempt, TargetUnavailable)
        status = response.status_code
        if status == 401 and await self._token_expired(response.request):
            raise TargetUnavailable(
                f"{self._describe_failure(spec, response)}, so the next attempt uses a new access token"
            )
        if status == 404 and spec.absent_is_404:
            return Absent()
        if status in (408, 429) or status >= 500:
            raise TargetUnavailable(self._describe_failure(spec, response), retry_after=parse_retry_after(response))
        if status != 200:
            return CannotTell(self._describe_failure(spec, response))
        try:
            return spec.parse_probe(_decode_json(response), attempt.key)
        except ValueError as error:
            return CannotTell(f"{spec.name}: the probe answered {status}, but {error}")

    async def get_json(self, spec: HttpAction[In, Out], request: Request, attempt: Attempt) -> JsonValue:
        """Return the JSON that REQUEST gets, for probes that take more than one look; None if there is none.

        Raises `TargetUnavailable` where there is no answer.
        """
        response = await self._send(cast("_Action", spec), request, attempt, TargetUnavailable)
        status = response.status_code
        if status in (408, 429) or status >= 500:
            raise TargetUnavailable(
                self._describe_failure(cast("_Action", spec), response), retry_after=parse_retry_after(response)
            )
        try:
            return _decode_json(response) if status == 200 else None
        except ValueError:
            return None

    @property
    def _specs(self) -> list[_Action]:
        return [_http_action(action) for action in self.actions.values()]

    @property
    def listed_actions(self) -> Collection[str]:
        """The actions that declare a `listing`."""
        return [action.name for action in self._specs if action.listing is not None]

    async def listing(self, since: datetime, until: datetime) -> AsyncIterator[Listed]:
        """Yield what the target lists, page by page, in the window or around it. Raises as `Reconcilable.listing` says."""
        for listing, actions in self._listings():
            async for page in self._pages(actions[0], listing, since, until):
                for listed in (each for action in actions for each in action.parse_listing(page)):
                    if listed.at is None or since <= listed.at < until:
                        yield listed

    def _listings(self) -> list[tuple[Listing, list[_Action]]]:
        """Return each listing with the actions whose results it has: several may be found in one."""
        alike: dict[tuple[Listing, str], list[_Action]] = {}
        for action in self._specs:
            if action.listing is not None:
                alike.setdefault((action.listing, action.remote_ref), []).append(action)
        return [(listing, actions) for (listing, _), actions in alike.items()]

    @property
    def contract_age(self) -> timedelta:
        """How old the last look at the contract may be in any case: to infer it from lists takes many requests."""
        return timedelta(0) if self.openapi else _SAMPLE_EVERY

    async def contract(self) -> Contract | None:
        """Return what the target's OpenAPI document says of the actions, else what their listings let infer."""
        from perdure.connectors.http._contract import contract_from_items, contract_from_openapi

        if self.openapi:
            spec = self._specs[0]
            response = await self._read(spec, self.openapi)
            return contract_from_openapi(response.content, self._specs)
        until = datetime.now(UTC)
        items: dict[str, list[Item]] = {}
        for listing, actions in self._listings():
            found: list[Item] = []
            async for page in self._pages(actions[0], listing, until - _SAMPLE_WINDOW, until):
                found += page
                if len(found) >= _MAX_SAMPLES:
                    break
            items |= {action.name: found for action in actions if found}
        return contract_from_items(items, {action.name: action for action in self._specs}) if items else None

    async def close(self) -> None:
        """Close the connections."""
        tokens, self._token_cache = self._token_cache, None
        if tokens is not None:
            await tokens.close()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _pages(self, spec: _Action, listing: Listing, since: datetime, until: datetime) -> AsyncIterator[list[Item]]:
        path: str | None = listing.page_path(since, until, page=1, after="")
        seen: set[str] = set()
        number = 1
        while path is not None:
            response = await self._read(spec, path)
            try:
                answer = _decode_json(response)
                items = listing.parse_items(answer)
                following = listing.next_page(
                    answer, response.headers.get("Link", ""), self.option("url", self.default_url)
                )
            except ValueError as error:
                raise EffectRejected(f"{spec.name}: {self._name} its list cannot be read: {error}") from None
            new = [item for item in items if str(item.get(spec.remote_ref)) not in seen]
            if new:
                yield new
            if listing.is_past(items, since):
                return
            seen.update(str(item.get(spec.remote_ref)) for item in new)
            number += 1
            if listing.next:
                path = following
            elif not listing.has_pages or not new:
                # A page with nothing new is the end, also of a target that does not know the parameter.
                path = None
            else:
                path = listing.page_path(since, until, page=number, after=str(items[-1].get(spec.remote_ref)))

    async def _read(self, spec: _Action, path: str) -> httpx.Response:
        attempt = Attempt(key="", fence=0, deadline=spec.target.deadline)
        response = await self._send(spec, Request("GET", path), attempt, TargetUnavailable, key=False)
        status = response.status_code
        if status in (408, 429) or status >= 500:
            raise TargetUnavailable(self._describe_failure(spec, response), retry_after=parse_retry_after(response))
        if status != 200:
            raise EffectRejected(f"{self._describe_failure(spec, response)}: check {path.partition('?')[0]}")
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
        url = self.option("url", self.default_url).rstrip("/")
        content, described = self.encode_body(spec, request, attempt.key)
        keyed = spec.key_headers(attempt.key) if key else {}
        headers = httpx.Headers(dict(request.headers))
        headers.update(await self._authenticate(spec, attempt) | keyed | described)
        try:
            return await self._client.request(
                request.method,
                url + self._add_query_options(request.path),
                content=content,
                headers=headers,
                timeout=attempt.deadline.total_seconds(),
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError):
            # No connection, so no request. The text of httpx's errors may hold the address with all that is in it.
            raise TargetUnavailable(f"{spec.name}: {self._name} cannot be reached") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise open_end(f"{spec.name}: the connection to {self._name} broke ({type(error).__name__})") from None

    def encode_body(self, spec: AnyAction, request: Request, key: str) -> tuple[bytes | None, dict[str, str]]:
        """Return the content of REQUEST and the headers that describe it. A target that does not take JSON has its own."""
        if request.body is None:
            return None, {}
        content = json.dumps(request.body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        return content, {"Content-Type": "application/json"}

    def decode_response(self, spec: AnyAction, response: httpx.Response) -> JsonValue:
        """Return the JSON of RESPONSE, which says that SPEC was done. Raises `ValueError` if it has none."""
        return _decode_json(response)

    def _add_query_options(self, path: str) -> str:
        keys = {name.removeprefix("query."): self.option(name) for name in self.option_names if name.startswith("query.")}
        return f"{path}{'&' if '?' in path else '?'}{urlencode(keys)}" if keys else path

    async def auth_headers(self, within: timedelta) -> dict[str, str]:
        """Return, WITHIN that time, the headers that say who asks."""
        headers = {
            name.removeprefix("header."): self.option(name) for name in self.option_names if name.startswith("header.")
        }
        if self.option("token_url"):
            headers["Authorization"] = f"Bearer {await (await self._open_token_cache()).get_token(within)}"
        elif token := self.option("token"):
            headers["Authorization"] = f"Bearer {token}"
        return headers

    async def _authenticate(self, spec: _Action, attempt: Attempt) -> dict[str, str]:
        try:
            return await self.auth_headers(attempt.deadline / 2)
        except EffectError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, nothing has been sent
            raise TargetUnavailable(f"{spec.name}: no access token could be obtained ({type(error).__name__})") from None

    async def _open_token_cache(self) -> TokenCache:
        if self._token_cache is None:
            from perdure.connectors.http._token_cache import TokenCache

            assert self._client is not None
            if self._database is None:
                raise TargetUnavailable(f"{self.name}: its access token is kept in a database, and none is open")
            self._token_cache = TokenCache(self._database, self.name, self._oauth_grant(), self._client)
        return self._token_cache

    def _oauth_grant(self) -> OAuthGrant:
        from perdure.connectors.http._oauth import OAuthGrant

        names = ("token_url", "client_id", "client_secret", "refresh_token", "scope", "seal")
        return OAuthGrant(
            **{name: self.option(name) for name in names}, secret_in_body=self.option("client_auth") == "body"
        )

    async def _token_expired(self, request: httpx.Request) -> bool:
        """Say whether the target refused only our access token, and another one may do."""
        used = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return self._token_cache is not None and await self._token_cache.invalidate(used)

    def _describe_failure(self, spec: _Action, response: httpx.Response) -> str:
        text = f"{spec.name}: {self._name} answered {response.status_code}"
        message = _error_message(response)
        for option in self.option_names:
            if option != "url" and (secret := self.option(option)):
                message = message.replace(secret, "***")
        return f"{text}: {message}" if message else text


def _http_action(action: AnyAction) -> _Action:
    if not isinstance(action, HttpAction):
        raise TypeError(f"action {action.name} is not an HttpAction")
    return action


def _decode_json(response: httpx.Response) -> JsonValue:
    if not response.content:
        return {}
    try:
        parsed: JsonValue = response.json()
    except ValueError:
        raise ValueError("its body is not JSON") from None
    return parsed


def _error_message(response: httpx.Response, limit: int = 200) -> str:
    try:
        body = json.loads(response.content)
    except ValueError:
        return ""
    for name in ("error", "message", "detail", "title"):
        body = body.get(name, body) if isinstance(body, dict) else body
    line = " ".join(body.split()) if isinstance(body, str) else ""
    return line if len(line) <= limit else line[: limit - 1] + "…"


def parse_retry_after(response: httpx.Response) -> timedelta | None:
    # RFC 9110, 10.2.3: seconds, or a date.
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return timedelta(seconds=int(value))
    try:
        return max(parsedate_to_datetime(value) - datetime.now(UTC), timedelta())
    except (ValueError, TypeError):
        return None
