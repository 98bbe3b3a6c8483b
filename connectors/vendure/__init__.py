"""What can be done in a Vendure shop: orders, refunds and stock, by its admin API. Safe to import in workflow code.

`VendureConnector` and the models of what is asked and answered. Must not break: every write carries its key where a
look-up finds it again (`_reading`). A new action is a model in `_models` and a declaration in `_connector`.
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
