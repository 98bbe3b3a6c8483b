"""How a table is fitted to the terminal."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from perdure.commands.output import Column, table

COLUMNS = ("RUN", Column("OF", least=6, drop=1), Column("STATE", drop=2), Column("QUESTION", least=12))
ROW = ("return-R-1001-1f3a9c2e", "support-lead-of-the-north", "waiting", "Refund 129.00 EUR for order R-1001 at once?")


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int) -> list[str]:
    """Print ROW on a terminal that is COLUMNS wide and return the lines."""
    monkeypatch.setenv("COLUMNS", str(columns))
    table(COLUMNS, [ROW])
    return capsys.readouterr().out.splitlines()


def test_a_wide_terminal_cuts_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all fits, all is there."""
    head, row = printed(capsys, monkeypatch, 200)

    assert ["RUN", "OF", "STATE", "QUESTION"] == head.split()
    assert all(cell in row for cell in ROW)


@pytest.mark.parametrize("columns", [140, 110, 80, 60, 40])
def test_an_id_is_never_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """However narrow the terminal is, the id stands whole, and no line is longer than the terminal (case 80: lists)."""
    head, row = printed(capsys, monkeypatch, columns)

    assert row.startswith(ROW[0])
    assert max(len(head), len(row)) <= columns


def test_what_matters_less_goes_first(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Long texts are cut first, then whole columns go in the order that they say (case 80: lists)."""
    heads = [printed(capsys, monkeypatch, columns)[0].split() for columns in (90, 50, 40)]

    assert [["RUN", "OF", "STATE", "QUESTION"], ["RUN", "OF", "QUESTION"], ["RUN", "QUESTION"]] == heads


def test_a_pipe_gets_everything(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal nothing is cut."""
    monkeypatch.delenv("COLUMNS", raising=False)

    table(COLUMNS, [ROW])

    assert ROW[3] in capsys.readouterr().out


def test_wide_characters_take_two_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of Chinese texts is as straight as any."""
    monkeypatch.setenv("COLUMNS", "40")

    table((Column("SAYS", least=8), "ID"), [("退款给客户, 因为包裹丢失了很久很久很久很久很久", "m-1"), ("ok", "m-2")])

    lines = capsys.readouterr().out.splitlines()
    assert [40, 40] == [cell_len(line) for line in lines[1:]]


def test_a_text_that_may_wrap_goes_on_below(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that wraps loses no word."""
    monkeypatch.setenv("COLUMNS", "30")

    table(("ID", Column("WHY", least=10, wrap=True)), [("c-1", "the evidence against it is strong enough")])

    lines = capsys.readouterr().out.splitlines()[1:]
    assert "the evidence against it is strong enough" == " ".join(
        " ".join(line.removeprefix("c-1").split()) for line in lines
    )
