"""Whose memory a command means: the scope that its options name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.commands.inputs import describe_first
from perdure.errors import InvalidInput

if TYPE_CHECKING:
    from perdure.memory.contracts import Scope


def required_scope(tenant: str, agent: str | None, user: str | None, session: str | None) -> Scope:
    """Return the scope that the options name. Raises `InvalidInput` if they name nobody."""
    from pydantic import ValidationError

    from perdure.memory.contracts import Scope

    if not (agent or user or session):
        raise InvalidInput("say whose memory: --user, --agent or --session; a tenant alone would be everyone in it")
    try:
        return Scope(tenant=tenant, agent=agent, user=user, session=session)
    except ValidationError as error:
        raise InvalidInput(describe_first(error)) from None


def optional_scope(tenant: str | None, agent: str | None, user: str | None, session: str | None) -> Scope | None:
    """Return the scope that the options name, or None if they say nothing of one.

    An option that is empty, as an unset variable of a shell leaves it, names nobody; it does not mean everybody.
    """
    if (agent, user, session) == (None, None, None):
        if tenant is not None and not tenant.strip():
            raise InvalidInput("--tenant is empty; leave it out for all tenants, or name one")
        return None
    return required_scope("default" if tenant is None else tenant, agent, user, session)
