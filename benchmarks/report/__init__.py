"""Report of a run and comparison of runs: HTML, Markdown, terminal tables, and the record for programs.

from benchmarks import report
report.write(record, Path("runs/digits"))
rich.print(report.make_headline(record), report.make_table(record))
report.write_comparison([record, other], Path("comparison.html"))
"""

from __future__ import annotations

from benchmarks.report.compare_runs import (
    Comparison,
    compare,
    make_comparison_table,
    make_document,
    make_student_tables,
    write_comparison,
)
from benchmarks.report.devices import make_device_tables
from benchmarks.report.headline import compute_headline
from benchmarks.report.report import add_headline, make_headline, make_table, write
from benchmarks.report.scores import make_score_tables

__all__ = [
    "Comparison",
    "add_headline",
    "compare",
    "compute_headline",
    "make_comparison_table",
    "make_device_tables",
    "make_document",
    "make_headline",
    "make_score_tables",
    "make_student_tables",
    "make_table",
    "write",
    "write_comparison",
]
