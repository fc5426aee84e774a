"""The measuring harness: protocol, comparison, environment, report.

    from benchmarks import Subject, evaluate, find_runtime, measure

Importing this package loads nothing; the first use of one of these names loads `benchmarks.protocol`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.protocol import Evaluation, Measurement, Subject, compute_ratio, evaluate, find_runtime, measure

__all__ = ["Evaluation", "Measurement", "Subject", "compute_ratio", "evaluate", "find_runtime", "measure"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from benchmarks import protocol

    return getattr(protocol, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__", "__file__", "__name__", "__path__"])
