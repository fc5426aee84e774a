"""Whether results that a board gave are what a runner writes, before anything reads them as such."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import Unreachable

SERIES_CALLS = 10_000_000
"""More calls than that no job makes."""


def check_results(job: Path, facts: dict[str, Any]) -> None:
    """Refuse results that no runner writes.

    Args:
        job: The folder with the results.
        facts: Its `job.json`.

    Raises:
        Unreachable: The message says which.
    """
    result = _read(job / "result.json")
    if facts["task"] == "evaluate":
        wrong = _find_wrong_evaluation(result) or _find_wrong_arrays(job, facts)
    elif facts["task"] != "measure":
        wrong = None  # the task's own reader refuses what it does not know
    else:
        wrong = find_wrong_series(result, {subject["name"] for subject in facts["subjects"]})
    if wrong:
        raise Unreachable(f"gives a result in which {wrong}, which no runner writes; look at the board by hand")


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Unreachable(f"gives no result that can be read ({type(error).__name__}); look at the board by hand") from error
    if not isinstance(document, dict):
        raise Unreachable("gives a result that is no object; look at the board by hand")
    return document


def _find_wrong_evaluation(result: dict[str, Any]) -> str | None:
    if not isinstance(result.get("effective"), dict):
        return "it does not say what ran"
    memory = [result.get(key) for key in ("peak_memory_bytes", "baseline_memory_bytes")]
    return None if all(each is None or _is_number(each) for each in memory) else "the memory is no number"


def _find_wrong_arrays(job: Path, facts: dict[str, Any]) -> str | None:
    wanted = {"logits", *(("class", "score") if facts["subjects"][0].get("gives_class") else ())}
    for path in sorted(job.glob("*.npy")):
        if path.stem not in wanted:
            continue
        try:
            np.load(path, mmap_mode="r", allow_pickle=False)  # reads the head, and compares the length with it
        except (OSError, ValueError) as error:
            return f"{path.name} is no array ({str(error)[:80]})"
    return None if (job / "logits.npy").is_file() else "there are no logits"


def find_wrong_series(result: dict[str, Any], names: set[str]) -> str | None:
    """Return what no runner writes in the series of some files, or nothing."""
    subjects = result.get("subjects")
    if not isinstance(subjects, dict) or subjects.keys() != names:
        return "there are other files than were sent"
    for name, one in subjects.items():
        if not isinstance(one, dict) or not isinstance(one.get("effective"), dict) or not isinstance(one.get("settled"), bool):
            return f"{name} has no series"
        rounds = one.get("rounds_ns")
        lists = isinstance(rounds, list) and rounds and all(isinstance(each, list) and each for each in rounds)
        calls: list[list[object]] = rounds if isinstance(rounds, list) and lists else [[None]]
        if sum(len(each) for each in calls) > SERIES_CALLS or not all(_is_number(call) for each in calls for call in each):
            return f"the rounds of {name} are no times"
        if not all(_are_numbers(one.get(key)) for key in ("first_call_ns", "load_ns")):
            return f"{name} does not say how long it took to load"
    return None


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and bool(values) and all(map(_is_number, values))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
