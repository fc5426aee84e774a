"""The study of fidelity: its pairs, its verdicts, and what it reads from other tools."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.studies.fidelity.__main__ import main
from benchmarks.studies.fidelity.records import Fidelity, Row
from benchmarks.studies.fidelity.timers import read_median
from compress.errors import CompressError
from compress.records import read


def row(*ratios: float) -> Row:
    """Return a row with these ratios."""
    return Row(
        network="digits", precision="fp32", runtime="openvino", against="bare loop",
        ours_ms=ratios, other_ms=tuple(1.0 for _ in ratios),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ((1.0, 1.01, 0.99, 1.02, 1.0), "met"),
        ((1.2, 1.21, 1.19, 1.22, 1.2), "missed"),
        ((0.8, 0.81, 0.79, 0.82, 0.8), "missed"),
        ((1.0, 1.2, 0.9, 1.02, 1.0), "undecided"),
        ((1.0, 1.0, 1.0, 1.0), "undecided"),
    ],
)
def test_a_verdict_needs_an_interval_on_one_side(ratios: tuple[float, ...], verdict: str) -> None:
    """Within the goal, outside it, or not known: by the whole interval, and never from fewer than five rounds."""
    found = row(*ratios)
    assert found.verdict == verdict
    assert found.ci95[0] <= found.ratio <= found.ci95[1]


@pytest.mark.parametrize(
    ("line", "milliseconds"), [("[ INFO ]    Median:        4.37 us", 0.00437), ("[ INFO ]    Median:        17.20 ms", 17.2)]
)
def test_the_median_of_benchmark_app_is_read_in_its_unit(line: str, milliseconds: float) -> None:
    """It prints microseconds below a millisecond."""
    assert read_median(f"[ INFO ] Latency:\n{line}\n[ INFO ]    Average:       26.65 us") == pytest.approx(milliseconds)


def test_a_tool_that_prints_no_median_is_an_error() -> None:
    """Another version that prints otherwise is said to, with its last words."""
    with pytest.raises(CompressError, match=r"printed no median \(nothing here\)"):
        read_median("nothing here")


@pytest.mark.slow
def test_the_study_times_every_file_by_every_timer(tmp_path: Path) -> None:
    """One short round of the smallest network gives a row for each pair, in both files of the result."""
    arguments = ["--network", "digits", "--rounds", "1", "--seconds", "0.2", "--out", str(tmp_path)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    result = read(tmp_path / "fidelity.json", Fidelity)
    pairs = {(each.precision, each.runtime, each.against) for each in result.rows}
    others = {("openvino", "benchmark_app"), ("openvino", "bare loop"), ("onnxruntime", "bare loop")}
    assert pairs == {(precision, *other) for precision in ("fp32", "int8") for other in others}
    assert all(0 < time < 100 for each in result.rows for time in (*each.ours_ms, *each.other_ms))
    assert (tmp_path / "report.md").read_text().count("| digits |") == len(pairs)
