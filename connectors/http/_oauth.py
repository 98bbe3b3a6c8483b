"""How an access token is got from an authorization server (OAuth 2.0, RFC 6749), and kept so that only we can read it."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from perdure.connectors.http._responses import parse_retry_after
from perdure.errors import EffectRejected, TargetUnavailable

if TYPE_CHECKING:
    import httpx

REQUEST_TIMEOUT: Final = timedelta(seconds=20)
"""How long the authorization server may take."""


class TokenResponse(BaseModel):
    """What the authorization server gave."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    access_token: str
    refresh_token: str = ""
    expires_in: float = 3600
    """In seconds; an hour where it does not say."""


@dataclass(frozen=True)
class OAuthGrant:
    """What entitles to tokens: a client, and a refresh token unless the client acts for itself."""

    token_url: str
    client_id: str
    client_secret: str = ""
    refresh_token: str = ""
    scope: str = ""
    secret_in_body: bool = False
    """Whether the client's secret goes into the body, for servers that do not take it in the header."""
    seal: str = ""
    """The secret under which the tokens are kept; by default the client's own."""

    @property
    def origin(self) -> str:
        """The digest of what it began with."""
        parts = [self.token_url, self.client_id, self.refresh_token, self.scope]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    async def request_tokens(self, http: httpx.AsyncClient, refresh_token: str) -> TokenResponse:
        """Ask once for new tokens, with REFRESH_TOKEN or as the client itself.

        Raises `EffectRejected` when the server says no, and `TargetUnavailable` when it gave no answer.
        """
        import httpx

        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        if not refresh_token:
            form = {"grant_type": "client_credentials"}
        if self.scope:
            form["scope"] = self.scope
        if self.secret_in_body or not self.client_secret:
            form |= {"client_id": self.client_id} | ({"client_secret": self.client_secret} if self.client_secret else {})
        basic = self.client_secret and not self.secret_in_body
        auth = httpx.BasicAuth(self.client_id, self.client_secret) if basic else httpx.Auth()
        try:
            response = await http.post(self.token_url, data=form, auth=auth, timeout=REQUEST_TIMEOUT.total_seconds())
        except httpx.HTTPError as error:
            raise TargetUnavailable(f"the authorization server gave no answer ({type(error).__name__})") from None
        if 400 <= response.status_code < 500 and response.status_code not in (408, 429):
            raise EffectRejected(f"the authorization server refused new tokens: {_error_code(response)}")
        if response.status_code != 200:
            raise TargetUnavailable(
                f"the authorization server answered {response.status_code}", retry_after=parse_retry_after(response)
            )
        try:
            return TokenResponse.model_validate_json(response.content)
        except ValidationError:
            raise TargetUnavailable("the authorization server's answer has no access token") from None


class TokenCipher:
    """Encrypts under SECRET what belongs to CONNECTOR (AES-256-GCM; the key by HKDF-SHA256)."""

    def __init__(self, secret: str, connector: str) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        key = HKDF(SHA256(), 32, salt=None, info=f"perdure tokens of {connector}".encode()).derive(secret.encode())
        self._cipher = AESGCM(key)
        self._connector = connector.encode()

    def encrypt(self, tokens: TokenResponse) -> str:
        """Return TOKENS encrypted."""
        import os

        nonce = os.urandom(12)
        sealed = self._cipher.encrypt(nonce, tokens.model_dump_json().encode(), self._connector)
        return base64.b64encode(nonce + sealed).decode()

    def decrypt(self, sealed: str) -> TokenResponse | None:
        """Return what was SEALED, or None if it was under another secret."""
        from cryptography.exceptions import InvalidTag

        content = base64.b64decode(sealed)
        try:
            return TokenResponse.model_validate_json(self._cipher.decrypt(content[:12], content[12:], self._connector))
        except InvalidTag:
            return None


def _error_code(response: httpx.Response) -> str:
    # The error code is one of a known few; a description could hold anything.
    try:
        body = response.json()
    except ValueError:
        body = None
    code = body.get("error") if isinstance(body, dict) else None
    known = ("invalid_grant", "invalid_client", "unauthorized_client", "invalid_scope", "invalid_request")
    return code if code in known else str(response.status_code)
