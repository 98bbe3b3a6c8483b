"""How actions reach a system that speaks JSON over HTTP. Safe to import in workflow code: httpx comes with the call."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, cast
from urllib.parse import urlsplit

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
from perdure.connectors.http._address import check_address, join, secrets_in
from perdure.connectors.http._encoding import FORM, encode_form, encode_json, list_pairs
from perdure.connectors.http._responses import decode_json, describe_redirect, error_message, parse_retry_after
from perdure.connectors.http.action import HttpAction, Request
from perdure.connectors.http.listing import Item, Listing
from perdure.connectors.paging import find_more
from perdure.errors import (
    AlreadyThere,
    EffectError,
    EffectRejected,
    EffectUnknown,
    InvalidSettings,
    TargetUnavailable,
    UnusableAnswer,
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
_MAX_PROBE_PAGES = 100


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
        if self._options is not None:
            self._check_url(self.option("url", self.default_url))
        if self.option_names and (url := self.option("token_url")) and (wrong := check_address(url)):
            raise InvalidSettings(f"{self.where} token_url cannot be used: {wrong}")
        if self.option_names and self.option("token_url") and not self.option("client_id"):
            raise InvalidSettings(f"{self.where} has token_url, so it needs client_id")
        if self.option_names and self.option("token_url") and not (self.option("client_secret") or self.option("seal")):
            raise InvalidSettings(
                f'{self.where} has no client_secret, so it needs seal, e.g. seal = "env:TOKEN_SEAL": '
                "the secret under which its tokens are kept in the database"
            )

    def _check_url(self, url: str) -> None:
        if not re.match(r"https?://[^/]", url, re.IGNORECASE):
            raise InvalidSettings(
                f'{self.where} in perdure.toml needs the address of the system: url = "https://...", '
                f"or set PERDURE_CONNECTORS__{self.name.upper()}__URL"
            )
        if wrong := check_address(url):
            raise InvalidSettings(f"{self.where} url cannot be used: {wrong}")
        ours = {name.lower() for name in self.option_names} & {"token", "token_url", "header.authorization", "password"}
        if urlsplit(url).username and ours:
            raise InvalidSettings(
                f"{self.where} has a user in its url and {', '.join(sorted(ours))}: a request can carry only one of them"
            )

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Send the request of ACTION once. Raises as `Connector.execute` says."""
        spec = _http_action(action)
        open_end: type[EffectUnknown | TargetUnavailable] = TargetUnavailable if spec.reads else EffectUnknown
        response = await self._send(spec, build_request(spec, args, attempt.key), attempt, open_end)
        status = response.status_code
        if status in spec.untouched:
            raise TargetUnavailable(self._describe_failure(spec, response), retry_after=parse_retry_after(response))
        if status == 401 and await self._token_expired(response.request):
            raise TargetUnavailable(
                f"{self._describe_failure(spec, response)}, so the next attempt uses a new access token"
            )
        if status in spec.exists and not spec.reads:
            raise AlreadyThere(f"{self._describe_failure(spec, response)}: it may be what an earlier attempt has made")
        # To a repeated key, 409 says that the first request with it is still at work.
        at_work = status == 409 and bool(spec.key_headers(attempt.key))
        if 400 <= status < 500 and status != 408 and not at_work:
            raise EffectRejected(self._describe_failure(spec, response))
        # To be sent elsewhere with the same method means that nothing was done (RFC 9110, 15.4); 302 and 303 may follow it.
        if status in (301, 307, 308):
            raise EffectRejected(f"{self._describe_failure(spec, response)}: check the connector's url")
        if not 200 <= status < 300:
            if spec.reads and status < 400:
                raise EffectRejected(f"{self._describe_failure(spec, response)}: check the connector's url")
            kind = UnusableAnswer if status < 400 and not spec.reads else open_end
            raise kind(self._describe_failure(spec, response), retry_after=parse_retry_after(response))
        try:
            return spec.parse_result(self.decode_response(spec, response))
        except ValueError as error:
            kind = TargetUnavailable if spec.reads else UnusableAnswer
            raise kind(f"{spec.name}: {self._name} answered {status}, but {error}") from None

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Ask for the effect of `attempt.key`. Raises `TargetUnavailable` where there is no answer."""
        spec = _http_action(action)
        if not spec.probe:
            return CannotTell(f"{spec.name} declares no probe")
        try:
            request = spec.build_probe(args, attempt.key)
        except EffectRejected as error:
            return CannotTell(f"{spec.name}: the probe cannot be asked: {error.message}")
        response = await self._send(spec, request, attempt, TargetUnavailable)
        if spec.probe_has_pages:
            return await self._probe_pages(spec, args, attempt, request, response)
        return await self._read_probe(spec, attempt, response)

    async def _read_probe(self, spec: _Action, attempt: Attempt, response: httpx.Response) -> Probe:
        refused = await self._refuse_probe(spec, response)
        if refused is not None:
            return refused
        try:
            answer = decode_json(response)
            probe = spec.parse_probe(answer, attempt.key)
        except ValueError as error:
            return CannotTell(f"{spec.name}: the probe answered {response.status_code}, but {error}")
        more = find_more(answer, spec.found, link=response.headers.get("Link", "")) if isinstance(probe, Absent) else ""
        if more:
            return CannotTell(
                f"{spec.name}: the probe answered a page without it, and {more} says that there are more; declare "
                "`probe_next`, or {page} or {after} in the probe"
            )
        return probe

    async def _refuse_probe(self, spec: _Action, response: httpx.Response) -> Probe | None:
        """Return what RESPONSE means if it is no answer that could be read. Raises `TargetUnavailable`."""
        status = response.status_code
        if status == 401 and await self._token_expired(response.request):
            raise TargetUnavailable(
                f"{self._describe_failure(spec, response)}, so the next attempt uses a new access token"
            )
        if status == 404 and spec.absent_is_404:
            return Absent()
        if status in (408, 429) or status >= 500:
            raise TargetUnavailable(self._describe_failure(spec, response), retry_after=parse_retry_after(response))
        return None if status == 200 else CannotTell(self._describe_failure(spec, response))

    async def _probe_pages(
        self, spec: _Action, args: BaseModel, attempt: Attempt, request: Request, response: httpx.Response
    ) -> Probe:
        """Read the probe's answer, of which RESPONSE to REQUEST is the first page, to its end."""
        pages = await self._read_probe_pages(spec, args, attempt, request, response)
        if not isinstance(pages, list):
            return pages
        probe = spec.parse_probe_pages(pages, attempt.key)
        if not isinstance(probe, Absent) or len(pages) == 1:
            return probe
        # While the pages were read, it may have moved from one that was to come to one that had been.
        first = spec.build_probe(args, attempt.key)
        response = await self._send(spec, first, attempt, TargetUnavailable)
        again = await self._read_probe_pages(spec, args, attempt, first, response)
        if not isinstance(again, list):
            return again
        probe = spec.parse_probe_pages(again, attempt.key)
        if isinstance(probe, Absent) and spec.list_references(pages) != spec.list_references(again):
            return CannotTell(
                f"{spec.name}: the pages of the probe changed while they were read, and it is on none of them"
            )
        return probe

    async def _read_probe_pages(
        self, spec: _Action, args: BaseModel, attempt: Attempt, request: Request, response: httpx.Response
    ) -> list[JsonValue] | Probe:
        pages: list[JsonValue] = []
        seen: set[str] = set()
        reader = Listing(request="GET /", items=spec.found, next=spec.probe_next)
        while len(pages) < _MAX_PROBE_PAGES:
            refused = await self._refuse_probe(spec, response)
            if refused is not None:
                return refused
            try:
                pages.append(decode_json(response))
                items = reader.parse_items(pages[-1])
                link, base = response.headers.get("Link", ""), self.base_url(spec, request)
                following = reader.next_page(pages[-1], link, base, str(response.request.url))
            except ValueError as error:
                return CannotTell(f"{spec.name}: page {len(pages)} of the probe cannot be read: {error}")
            new = {str(item.get(spec.remote_ref)) for item in items} - seen
            if (spec.probe_next and following is None) or (not spec.probe_next and not new):
                return pages
            seen |= new
            if following is not None:
                request = Request("GET", following, template=spec.probe)
            else:
                last = str(items[-1].get(spec.remote_ref))
                request = spec.build_probe_page(args, attempt.key, page=len(pages) + 1, after=last)
            response = await self._send(spec, request, attempt, TargetUnavailable)
        return CannotTell(f"{spec.name}: it is not on the first {_MAX_PROBE_PAGES} pages, and there are more")

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
            return decode_json(response) if status == 200 else None
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
            response = await self._read(spec, path, template=listing.request)
            try:
                answer = decode_json(response)
                items = listing.parse_items(answer)
                base = self.base_url(spec, Request("GET", path, template=listing.request))
                following = listing.next_page(answer, response.headers.get("Link", ""), base, str(response.request.url))
            except ValueError as error:
                raise EffectRejected(f"{spec.name}: the list that {self._name} answered cannot be read: {error}") from None
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

    async def _read(self, spec: _Action, path: str, *, template: str = "") -> httpx.Response:
        attempt = Attempt(key="", fence=0, deadline=spec.target.deadline)
        request = Request("GET", path, template=template)
        response = await self._send(spec, request, attempt, TargetUnavailable, key=False)
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

        clock = asyncio.get_running_loop().time
        until = clock() + attempt.deadline.total_seconds()
        if self._client is None:
            self._client = httpx.AsyncClient(follow_redirects=False)
        address = self.address(spec, request)
        content, described = self.encode_body(spec, request, attempt.key)
        keyed = spec.key_headers(attempt.key) if key else {}
        headers = dict(request.headers) | await self._authenticate(spec, attempt) | keyed | described
        left = max(until - clock(), 0.1)
        # Whoever waits for a connection has sent nothing, and has to know that before the ledger's own deadline comes. This
        # time is for each handshake, and TLS is one more.
        timeout = httpx.Timeout(left, connect=left * (0.4 if address.startswith("https") else 0.8), pool=left * 0.1)
        try:
            message = self._client.build_request(request.method, address, content=content, timeout=timeout)
            message.headers.update({name: _checked(spec, name, value) for name, value in headers.items()})
        except (httpx.InvalidURL, UnicodeError):
            raise TargetUnavailable(
                f"{spec.name}: its address cannot be used, check {self.where}; nothing was sent"
            ) from None
        try:
            return await self._client.send(message)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol):
            # No connection, so no request. The text of httpx's errors may hold the address with all that is in it.
            raise TargetUnavailable(f"{spec.name}: {self._name} cannot be reached") from None
        except httpx.LocalProtocolError:
            raise TargetUnavailable(f"{spec.name}: the request is not valid HTTP, so nothing was sent") from None
        except httpx.HTTPError as error:
            raise open_end(f"{spec.name}: the connection to {self._name} broke ({type(error).__name__})") from None

    def base_url(self, spec: AnyAction, request: Request) -> str:
        """Return the address that the path of REQUEST is below."""
        return self.option("url", self.default_url)

    def address(self, spec: AnyAction, request: Request) -> str:
        """Return the address that REQUEST of SPEC goes to: what the settings and the action say, and nothing else."""
        keys = [(name.removeprefix("query."), self.option(name)) for name in self.option_names if name.startswith("query.")]
        return join(self.base_url(spec, request), request.path, keys)

    def encode_body(self, spec: AnyAction, request: Request, key: str) -> tuple[bytes | None, dict[str, str]]:
        """Return the content of REQUEST and the headers that describe it. Raises `EffectRejected` if it has none."""
        if request.body is None and not request.content_type:
            return None, {}
        content_type = request.content_type or "application/json"
        if content_type == FORM and isinstance(request.body, dict):
            return encode_form(list_pairs(request.body)), {"Content-Type": content_type}
        return encode_json(request.body), {"Content-Type": content_type}

    def decode_response(self, spec: AnyAction, response: httpx.Response) -> JsonValue:
        """Return the JSON of RESPONSE, which says that SPEC was done. Raises `ValueError` if it has none."""
        return decode_json(response)

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
        if 300 <= response.status_code < 400 and response.headers.get("Location"):
            return f"{text}: {describe_redirect(response)}"
        message = error_message(response)
        secrets = [self.option(option) for option in self.option_names if option != "url"]
        for secret in filter(None, [*secrets, *secrets_in(self.option("url", self.default_url))]):
            message = message.replace(secret, "***")
        return f"{text}: {message}" if message else text


def build_request(spec: HttpAction[In, Out], args: In, key: str) -> Request:
    """Return the request of SPEC with ARGS under KEY. Raises `TargetUnavailable` where its own functions break: unsent."""
    try:
        return spec.build_request(args, key)
    except EffectError:
        raise
    except Exception as error:
        # What an action's own functions raise, they raise before anything is sent.
        raise TargetUnavailable(
            f"{spec.name}: its request cannot be built ({type(error).__name__}), nothing was sent"
        ) from error


def _http_action(action: AnyAction) -> _Action:
    if not isinstance(action, HttpAction):
        raise TypeError(f"action {action.name} is not an HttpAction")
    return action


def _checked(spec: _Action, name: str, value: str) -> str:
    # What h11 would refuse when the connection is open already. A secret often ends with the line end of its file.
    if not re.fullmatch(r"[\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?|", value):
        raise TargetUnavailable(
            f"{spec.name}: the header {name} has a character that no header can have, or a space or line end at its end; "
            "nothing was sent"
        )
    return value
