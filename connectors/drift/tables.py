"""What is kept of contracts: what each connector relies on, and what was seen of it."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field, SQLModel

from perdure.storage import UtcDateTime


class ConnectorRow(SQLModel, table=True):
    """A connector as a worker last served it."""

    __tablename__ = "connector"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    name: str = Field(primary_key=True)
    version: str
    facts: str
    """The `ConnectorFacts` as JSON."""
    seen_at: datetime = Field(sa_type=UtcDateTime)


class ContractRow(SQLModel, table=True):
    """A contract that was relied on. The last one of a connector's version is in force."""

    __tablename__ = "contract"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    id: int | None = Field(default=None, primary_key=True)
    connector: str = Field(index=True)
    version: str
    """The connector's, which relies on it."""
    digest: str
    contract: str
    """The `Contract` as JSON."""
    relied: str
    """JSON: per action the digest of what it is declared as."""
    accepted_by: str
    """Empty: nobody was asked, it was the first of this version."""
    at: datetime = Field(sa_type=UtcDateTime)


class ContractCheckRow(SQLModel, table=True):
    """The last comparison of a contract with the live one: what the ledger looks at before it acts."""

    __tablename__ = "contract_check"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it

    connector: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    relied_on: str
    """Digest of the contract in force."""
    live: str
    """Digest of what the target said."""
    contract: str
    """What the target said, as JSON."""
    changes: str
    """JSON."""
    verdict: str
    blocked: str
    """JSON: the names of the actions that must not act."""
    at: datetime = Field(sa_type=UtcDateTime)
