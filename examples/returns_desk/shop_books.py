"""What the stand-in shop remembers: orders, refunds and reservations. See `shop`."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

Json = dict[str, object]


class RequestRefused(Exception):
    """The request cannot be served: an HTTP status and what is wrong."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


class Books:
    """The shop's orders, refunds and reservations, in one SQLite file."""

    def __init__(self, path: Path, orders: list[Json]) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;" + _SCHEMA)
        self._db.executemany(
            "INSERT INTO orders VALUES (:order, :customer, :item, :amount, :currency, :bought_on, :delivered_on, "
            ":final_sale, :stock) ON CONFLICT DO NOTHING",
            [{"delivered_on": None, "final_sale": False, "stock": 1} | order for order in orders],
        )

    def order(self, number: str) -> Json:
        """Return one order with what is left of its stock."""
        row = self._one('SELECT * FROM orders WHERE "order" = ?', number)
        if row is None:
            raise RequestRefused(404, f"there is no order {number!r}")
        taken = self._all('SELECT 1 FROM reservations WHERE "order" = ? AND released_at IS NULL', number)
        return {**row, "final_sale": bool(row["final_sale"]), "stock": cast(int, row["stock"]) - len(taken)}

    def refund(self, asked: Json) -> Json:
        """Pay back. Asked twice, it pays twice."""
        order = self.order(_text(asked, "order"))
        amount, currency = asked.get("amount"), asked.get("currency", order["currency"])
        if not isinstance(amount, int) or isinstance(amount, bool) or amount <= 0:
            raise RequestRefused(422, "amount is not a positive number of minor units")
        if currency != order["currency"]:
            raise RequestRefused(422, f"order {order['order']} was paid in {order['currency']}, not in {currency}")
        if amount > cast(int, order["amount"]):
            raise RequestRefused(422, f"order {order['order']} was {order['amount']}, which is less than {amount}")
        reference, reason = _text(asked, "reference", ""), _text(asked, "reason", "")
        number = self._insert(
            'INSERT INTO refunds ("order", amount, currency, reference, reason, created_at) VALUES (?, ?, ?, ?, ?, ?)',
            *(order["order"], amount, currency, reference, reason, _now()),
        )
        return _with_id("re", self._one("SELECT * FROM refunds WHERE number = ?", number))

    def refunds(self, reference: str | None) -> list[Json]:
        """Return the refunds, or those of one REFERENCE."""
        if reference is None:
            rows = self._all("SELECT * FROM refunds ORDER BY number")
        else:
            rows = self._all("SELECT * FROM refunds WHERE reference = ? ORDER BY number", reference)
        return [_with_id("re", row) for row in rows]

    def reserve(self, asked: Json) -> Json:
        """Take one off the stock. Asked twice, it takes two."""
        number = _text(asked, "order")
        reference = _text(asked, "reference", "")
        self.order(number)
        # One statement, so that two at once cannot take the same last one.
        reservation = self._insert(
            'INSERT INTO reservations ("order", reference, created_at) SELECT "order", ?, ? FROM orders WHERE "order" = ?'
            ' AND stock > (SELECT count(*) FROM reservations r WHERE r."order" = orders."order" AND released_at IS NULL)',
            *(reference, _now(), number),
        )
        if reservation is None:
            raise RequestRefused(409, f"nothing is left in stock for order {number}")
        return _with_id("rs", self._one("SELECT * FROM reservations WHERE number = ?", reservation))

    def release(self, name: str, asked: Json) -> Json:
        """Give a reservation back. A second time changes nothing."""
        number = name.removeprefix("rs_")
        self._all(
            "UPDATE reservations SET released_by = ?, released_at = ? WHERE number = ? AND released_at IS NULL",
            *(_text(asked, "released_by", ""), _now(), number),
        )
        row = self._one("SELECT * FROM reservations WHERE number = ?", number)
        if row is None:
            raise RequestRefused(404, f"there is no reservation {name!r}")
        return _with_id("rs", row)

    def reservations(self, reference: str | None, released_by: str | None) -> list[Json]:
        """Return the reservations, or those of one REFERENCE or RELEASED_BY."""
        rows = self._all(
            "SELECT * FROM reservations WHERE reference = coalesce(?, reference)"
            " AND (? IS NULL OR released_by = ?) ORDER BY number",
            *(reference, released_by, released_by),
        )
        return [_with_id("rs", row) for row in rows]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _all(self, sql: str, *values: object) -> list[Json]:
        with self._lock:
            return [dict(row) for row in self._db.execute(sql, values)]

    def _one(self, sql: str, *values: object) -> Json | None:
        return next(iter(self._all(sql, *values)), None)

    def _insert(self, sql: str, *values: object) -> int | None:
        with self._lock:
            cursor = self._db.execute(sql, values)
            return cursor.lastrowid if cursor.rowcount == 1 else None


_SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    "order" TEXT PRIMARY KEY, customer TEXT NOT NULL, item TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL,
    bought_on TEXT NOT NULL, delivered_on TEXT, final_sale INTEGER NOT NULL, stock INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS refunds (
    number INTEGER PRIMARY KEY, "order" TEXT NOT NULL REFERENCES orders, amount INTEGER NOT NULL, currency TEXT NOT NULL,
    reference TEXT NOT NULL, reason TEXT NOT NULL, created_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS refunds_reference ON refunds (reference);
CREATE TABLE IF NOT EXISTS reservations (
    number INTEGER PRIMARY KEY, "order" TEXT NOT NULL REFERENCES orders, reference TEXT NOT NULL, created_at TEXT NOT NULL,
    released_by TEXT, released_at TEXT
);
CREATE INDEX IF NOT EXISTS reservations_reference ON reservations (reference);
CREATE INDEX IF NOT EXISTS reservations_released_by ON reservations (released_by);
"""


def _text(asked: Json, name: str, default: str | None = None) -> str:
    value = asked.get(name, default)
    if not isinstance(value, str):
        raise RequestRefused(422, f"{name} is missing, or is no text")
    return value


def _with_id(prefix: str, row: Json | None) -> Json:
    if row is None:
        raise RequestRefused(404, "it is gone")
    return {"id": f"{prefix}_{row['number']}", **{name: value for name, value in row.items() if name != "number"}}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
