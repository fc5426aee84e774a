"""Energy in reports: a table for each device, with its sensor or the reason."""

from __future__ import annotations

from pathlib import Path

from benchmarks import report
from benchmarks.report.energies import describe_energies
from compress.records import DeviceResults, Energy, Report
from tests.benchmarks.sample_report import sample

MEASURED = Energy(
    above_idle_mj=1.234, above_idle_ci95=(1.1, 1.4), total_mj=4.5, total_ci95=(4.2, 4.9), idle_watts=2.75,
    sensor="ina3221 VDD_IN", covers="the whole board", blocks=6, samples=1200,
)  # fmt: skip


def add_energy() -> Report:
    """Return a run whose first file was measured on this machine, and whose second could be measured nowhere."""
    record = sample()
    first, second, *rest = record.variants
    denied = Energy(unavailable="/sys/x <b> may be read by root only")
    rows = (first.model_copy(update={"energy": denied}), second)
    board = DeviceResults(name="pi", status="passed", rows=rows)
    own = (first.model_copy(update={"energy": MEASURED}), second.model_copy(update={"energy": denied}), *rest)
    return record.model_copy(update={"variants": own, "devices": (board,)})


def test_each_device_has_its_own_table_with_sensor_or_reason() -> None:
    """Where energy was not asked for there is no line, and no device stands in the table of another."""
    own, board = describe_energies(add_energy())
    assert (own.device, board.device) == ("local", "pi")
    assert own.lines[0][1:] == ("1.23 (1.10–1.40)", "4.50 (4.20–4.90)", "2.75", "")
    assert own.lines[1][1:4] == ("–", "–", "–")
    assert own.sensors == ("Measured by ina3221 VDD_IN, which covers the whole board; medians of 6 blocks",)
    assert [line.unavailable for line in board.lines] == ["/sys/x <b> may be read by root only"]
    assert board.sensors == ()
    assert describe_energies(sample()) == []


def test_page_and_markdown_show_it_and_nothing_where_it_was_not_asked_for(tmp_path: Path) -> None:
    """What a board says is text there as everywhere."""
    report.write(add_energy(), tmp_path)
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "<h2>Energy of a call</h2>" in page
    assert "/sys/x &lt;b&gt; may be read by root only" in page
    assert "| 1.23 (1.10–1.40) | 4.50 (4.20–4.90) | 2.75 | – |" in text
    report.write(sample(), tmp_path)
    assert "Energy" not in (tmp_path / "report.html").read_text() + (tmp_path / "report.md").read_text()
