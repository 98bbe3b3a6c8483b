"""What can be done in a Vendure shop: orders, refunds, notes and stock, by its admin API? Safe to import in workflow code.

Must not break: every write carries its effect's key in a field that a later look-up reads (a reason or a note), amounts are
integers in minor units, and stock is only set from the reading that it was decided on.
A new action is a model in `_models`, its variables and look-up in `_reading` and a declaration in `_connector`; how perdure
logs in is in `_login`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.connectors.vendure._connector import (
        VENDURE,
        AdjustStock,
        Cancel,
        CancelledLine,
        Note,
        Noted,
        NoteOf,
        Order,
        OrderCode,
        OrderState,
        Refund,
        Refunded,
        SettleRefund,
        Sku,
        StockLevel,
        VendureConnector,
    )
else:
    __getattr__ = lazy(
        __name__,
        {
            "_connector": [
                "AdjustStock",
                "Cancel",
                "CancelledLine",
                "Note",
                "NoteOf",
                "Noted",
                "Order",
                "OrderCode",
                "OrderState",
                "Refund",
                "Refunded",
                "SettleRefund",
                "Sku",
                "StockLevel",
                "VENDURE",
                "VendureConnector",
            ],
        },
    )

__all__ = [
    "VENDURE",
    "AdjustStock",
    "Cancel",
    "CancelledLine",
    "Note",
    "NoteOf",
    "Noted",
    "Order",
    "OrderCode",
    "OrderState",
    "Refund",
    "Refunded",
    "SettleRefund",
    "Sku",
    "StockLevel",
    "VendureConnector",
]
