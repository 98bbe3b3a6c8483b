"""The key of each scope, under which its content may lie outside of the database; erasing the scope destroys it.

Nothing is encrypted with it yet: it is where the codec of the histories will get its keys from. See docs/decisions.
"""

from __future__ import annotations

import base64
import secrets
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import col

from perdure.errors import NotFound
from perdure.memory.contracts import Scope
from perdure.memory.records import lock, scope_key
from perdure.memory.tables import SubjectKeyRow


def subject_key(connection: sa.Connection, scope: Scope, now: datetime) -> bytes:
    """Return the 32 bytes of SCOPE's key, made when it is first wanted. Raises `NotFound` if it was destroyed."""
    name = scope_key(scope)
    lock(connection, name, "key")
    row = connection.execute(sa.select(SubjectKeyRow).where(col(SubjectKeyRow.scope_key) == name)).first()
    if row is None:
        key = secrets.token_bytes(32)
        values = {"scope_key": name, "scope_tenant": scope.tenant, "created_at": now}
        connection.execute(sa.insert(SubjectKeyRow).values(**values, key=base64.b64encode(key).decode()))
        return key
    if row.key is None:
        raise NotFound(
            f"the key of {name} was destroyed on {row.destroyed_at:%Y-%m-%d}, when everything in that scope was erased; "
            "what lies under it can't be read any more"
        )
    return base64.b64decode(row.key)
