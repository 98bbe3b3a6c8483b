"""What is kept of access tokens: one row a connector, shared by all workers."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field, SQLModel

from perdure.storage import UtcDateTime


class AccessTokenRow(SQLModel, table=True):
    """The access token of a connector, shared by all workers. What is secret is sealed."""

    __tablename__ = "access_token"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    connector: str = Field(primary_key=True)
    origin: str
    """The digest of the grant that it began with: another one, and the row begins anew."""
    sealed: str | None = None
    """The access token and the next refresh token, encrypted."""
    obtained_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    fence: int
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    """Until when somebody may be getting the next one."""
    refreshes: int
    error: str
