"""How an action looks as SQL statements, and how its rows are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Generic, Literal

from pydantic import ValidationError

from perdure.connectors.contracts import (
    Action,
    In,
    Out,
    Target,
)
from perdure.connectors.sql._statement import find_fault, find_parameters
from perdure.errors import EffectRejected

SQL_TARGET: Final = Target(mechanism="natural-key", settle=timedelta(seconds=1), deadline=timedelta(seconds=10))
"""The row that is written in the same transaction is found by its key, and cannot be written twice."""

KEY_PARAMETER: Final = "effect_key"


@dataclass(frozen=True)
class SqlAction(Action[In, Out], Generic[In, Out]):
    """An action that is one transaction. `:field` in a statement stands for that field of the input, `:effect_key` for the
    effect's key. Values are always bound, never written into the text.
    """

    statements: Sequence[str] = ()
    """Done in order. What the last one returns is the answer."""
    returns: Literal["row", "rows", "nothing"] = "row"
    """`row`: exactly one, and its columns are the output's fields; where there is none, nothing is done and the effect is
    rejected. `rows`: any number, in the output's field `rows`. `nothing`: the output's field `changed` is how many."""
    refusal: str = ""
    """What to say where there is no row, e.g. `there is not enough in stock`."""
    target: Target = field(default_factory=lambda: SQL_TARGET)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.statements or isinstance(self.statements, str):
            raise ValueError(f"action {self.name}: statements is a sequence of at least one SQL statement")
        for statement in self.statements:
            if fault := find_fault(statement):
                raise ValueError(f"action {self.name}: the statement {statement.strip()[:60]!r} {fault}")
            unknown = find_parameters(statement) - set(self.input.model_fields) - {KEY_PARAMETER}
            if unknown:
                raise ValueError(f"action {self.name}: {self.input.__name__} has no field {', '.join(sorted(unknown))}")

    def parameters(self, statement: str, args: In, key: str) -> dict[str, object]:
        """Return the values that STATEMENT binds for ARGS under KEY."""
        values = {name: getattr(args, name) for name in self.input.model_fields} | {KEY_PARAMETER: key}
        return {name: values[name] for name in find_parameters(statement)}

    def read(self, rows: Sequence[Mapping[str, object]] | None, changed: int) -> Out:
        """Return the answer that ROWS of the last statement make; None: it returned none and CHANGED so many.

        Raises `EffectRejected` where the statement says no by returning no row, and `ValueError` where it does not fit.
        """
        if self.returns == "nothing":
            return self._validate_output({"changed": changed})
        if rows is None:
            raise ValueError(f"the last statement of {self.name} returns no rows: end it with RETURNING, or say `returns`")
        if self.returns == "rows":
            return self._validate_output({"rows": [dict(row) for row in rows]})
        if not rows:
            raise EffectRejected(f"{self.name}: {self.refusal or 'no row answers to the arguments'}; nothing was changed")
        if len(rows) > 1:
            raise EffectRejected(
                f"{self.name}: {len(rows)} rows answer to the arguments, and it wants one; nothing was changed"
            )
        return self._validate_output(dict(rows[0]))

    def _validate_output(self, values: Mapping[str, object]) -> Out:
        try:
            return self.output.model_validate(values)
        except ValidationError as error:
            # Drivers hand out JSON columns as text.
            if (decoded := _decode_json(values, error)) is not None:
                return self._validate_output(decoded)
            wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise ValueError(f"what {self.name} returns does not fit {self.output.__name__}: {wrong}") from None


_STRUCTURES: Final = ("dict_type", "list_type", "model_type", "mapping_type", "tuple_type", "set_type")


def _decode_json(values: Mapping[str, object], error: ValidationError) -> dict[str, object] | None:
    """Return VALUES with the texts decoded that ERROR wants to be objects or lists; None if there are none such."""
    decoded = dict(values)
    for item in error.errors():
        name = str(item["loc"][0]) if len(item["loc"]) == 1 else ""
        if item["type"] in _STRUCTURES and isinstance(text := values.get(name), str):
            with suppress(ValueError):
                decoded[name] = json.loads(text)
    return decoded if decoded != values else None
