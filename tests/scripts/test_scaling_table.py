"""The table of predictions for several numbers of cards."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.run.errors import UserError
from scripts.benchmarks import scaling_table

CONFIG = str(Path(__file__).parents[2] / "configs" / "alpaca-lora-7b.yaml")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "no config, or no tokens of a row"),
        ([CONFIG], "no config, or no tokens of a row"),
        ([CONFIG, "--tokens=x"], "'x' is no number above 0"),
        ([CONFIG, "--tokens=9", "--cards=1.5"], "'1.5' is no whole number above 0"),
        ([CONFIG, "--tokens=9", "--card=h20"], "no such card: 'h20'"),
        ([CONFIG, "--tokens=9", "--types=bf16,fp4"], "no such type: 'fp4'"),
        ([CONFIG, "--tokens=9", "--ards=8"], "no such option: '--ards=8'"),
    ],
)
def test_wrong_words(words: list[str], what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling_table", *words])
    with pytest.raises(UserError, match=what):
        scaling_table.main()


def test_price_is_card_hours_times_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = [CONFIG, "--tokens=100", "--cards=4", "--rows=128", "--types=bf16", "--price=1000"]
    monkeypatch.setattr(sys, "argv", ["scaling_table", *words])
    scaling_table.main()
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| bf16 | 128 | 4 |"))
    cells = [cell.strip().replace(",", "") for cell in row.strip("|").split("|")]
    milliseconds, price = float(cells[4]), float(cells[8])
    assert price == pytest.approx(milliseconds / 1000 * 1170 * 4 / 3600 * 1000, rel=1e-3)  # 1,170 steps of four cards
