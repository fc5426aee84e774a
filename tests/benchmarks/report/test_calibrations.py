"""Calibration stands beside accuracy in both pages; older reports, which know none, have no table."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report as reports
from benchmarks.report.calibrations import describe_calibrations
from compress.records import Calibration
from tests.benchmarks.sample_report import sample, with_seeds

FOUND = Calibration(
    samples=360, nll=0.271, ece_percent=8.64, bins=15, temperature=1.83, scaled_nll=0.213, scaled_ece_percent=1.27
)


@pytest.mark.parametrize("known", [True, False])
def test_calibration_stands_beside_accuracy(known: bool, tmp_path: Path) -> None:
    """Every file has a line with both errors and its temperature, every method the mean over its seeds."""
    record = with_seeds(sample())
    if known:
        scores = tuple(
            each.model_copy(update={"seeds": tuple(one.model_copy(update={"calibration": FOUND}) for one in each.seeds)})
            for each in record.scores
        )
        variants = tuple(each.model_copy(update={"calibration": FOUND}) for each in record.variants)
        record = record.model_copy(update={"variants": variants, "scores": scores})
    reports.write(record, tmp_path)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ("## Calibration" in markdown) == ("<h2>Calibration</h2>" in page) == known
    line = "| student-onnx-fp32 | dih(dist) | 0.271 | 8.6 | 1.83 | 0.213 | 1.3 |"
    assert (line in markdown) == known
    assert ("| 0.271 | 8.6 | 360 |" in markdown) == known
    table = describe_calibrations(record)
    assert (table is not None) == known
    assert table is None or (len(table.lines), table.bins, table.samples) == (len(record.variants), 15, 360)
