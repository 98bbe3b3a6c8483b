"""Tests of lineage.py: digests of values."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from perdure.lineage import digest


def test_large_whole_numbers_have_digests() -> None:
    """Numbers of 64 bits and more, which schemas have as bounds, are told apart, whatever order their keys are in."""
    one: JsonValue = {"least": -(2**63), "most": 2**63 - 1}

    assert digest(one) == digest({"most": 2**63 - 1, "least": -(2**63)})
    assert digest(one) != digest({"least": -(2**63), "most": 2**63})


@pytest.mark.parametrize("value", [float("inf"), float("nan"), {"a": float("-inf"), "b": 2**63}, "\ud800"])
def test_what_is_no_json_has_none(value: JsonValue) -> None:
    """Infinity, what is not a number, and half a character are refused, beside large numbers as well."""
    with pytest.raises(ValueError, match=r"."):
        digest(value)
