"""The latency gate of a continuous integration: is a file slower than its baseline by more than is allowed?

Milliseconds of two runs differ by what the machine did in each, which no interval of either knows. So they are never compared.
The file of the baseline is timed again, in the same rounds as the new one; or, where it is gone, both are compared by a third
file, the anchor, which was timed beside the old one then and beside the new one now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from compress.deployed.bench import FileTiming
from compress.deployed.files import find_subjects
from compress.errors import CompressError, GateFailed, Unstable
from compress.records import Record
from compress.statistics.slowdown import Slowdown, compute_slowdown, divide_intervals, judge_slowdown
from compress.system.files import hash_file, read_bounded

K = TypeVar("K")

LARGEST_BASELINE = 1 << 26
"""Bytes of a baseline's JSON."""
OTHER_WAIT_POINTS = 5.0
"""If one of two files waited for a core by so many points more than the other, their ratio is not that of the files alone."""


class FileVerdict(Record):
    """Verdict on one file."""

    baseline: str
    """What it is compared with."""
    compared: Literal["interleaved", "anchor", "same file"]
    """How: in the same rounds, by a third file that was timed beside both, or not at all, as nothing changed."""
    slower_percent: float
    """Below 0 where it is faster."""
    ci95_percent: tuple[float, float]
    verdict: Slowdown
    reason: str = ""


class LatencyVerdicts(Record):
    """Verdicts on all files, and what was timed for them."""

    max_slower_percent: float
    verdicts: dict[str, FileVerdict]
    """By the name of the new file."""
    timings: dict[str, FileTiming]


class Pair(NamedTuple):
    """A new file and the old one that it is compared with."""

    new: Path
    name: str
    """Of the old one."""
    old: Path | None
    """The old file, where it is still there."""
    then: FileTiming | None
    """What was measured of the old one."""


Measure = Callable[[Sequence[Path]], dict[str, FileTiming]]


def check_latency(paths: Sequence[Path], baseline: Path, *, max_slower: float, measure: Measure) -> LatencyVerdicts:
    """Time files against their baseline, and say for each whether it is slower by more than is allowed.

    Args:
        paths: New files, bundles or runs, and an anchor where it is needed.
        baseline: What `compress bench --json` wrote of the old files, or these files, their bundle or run.
        max_slower: How much slower is allowed, 0.05 for 5 %.
        measure: Times files together, as `measure_files` does.

    Raises:
        CompressError: The baseline has no file for a new one, or nothing by which the two can be compared.
        Unreachable: A file, runtime or device is not there.
        Unstable: The rounds of every file scatter so much that there is no figure.
    """
    known = read_baseline(baseline) if baseline.suffix == ".json" else None
    new = {subject.path: subject.runtime for subject in find_subjects(paths)}
    pairs = _pair_with_files(new, baseline) if known is None else _pair_with_records(new, known, baseline)
    old = [pair.old for pair in pairs if pair.old is not None and pair.old not in new]
    timings = measure([*new, *dict.fromkeys(old)])
    by_path = {Path(timing.path): timing for timing in timings.values()}
    named = {Path(timing.path): name for name, timing in timings.items()}
    verdicts = {named[pair.new]: _judge(pair, by_path, known or {}, max_slower) for pair in pairs}
    return LatencyVerdicts(max_slower_percent=100 * max_slower, verdicts=verdicts, timings=timings)


def read_baseline(path: Path) -> dict[str, FileTiming]:
    """Return what an earlier `compress bench --json` found.

    Raises:
        CompressError: The file is something else.
        Unreachable: It is not there.
    """
    text = read_bounded(path, limit_bytes=LARGEST_BASELINE, what="a baseline")
    try:
        return TypeAdapter(dict[str, FileTiming]).validate_json(text)
    except ValidationError as error:
        why = error.errors()[0]
        place = ".".join(str(part)[:60] for part in why["loc"])
        raise CompressError(
            f"{path}: is not what `compress bench --json` of this version writes ({place}: {why['msg'][:100]}); make it "
            "anew, or give the old files themselves"
        ) from error


def _pair_with_files(new: Mapping[Path, str], baseline: Path) -> list[Pair]:
    old = {subject.path: subject.runtime for subject in find_subjects([baseline])}
    pairs = []
    for path, runtime in new.items():
        found = _choose(path.name, runtime, {each: (each.name, kind) for each, kind in old.items()}, baseline)
        pairs.append(Pair(path, found.name, found, None))
    return pairs


def _pair_with_records(new: Mapping[Path, str], known: Mapping[str, FileTiming], baseline: Path) -> list[Pair]:
    anchors = {key for key, timing in known.items() for path in new if timing.sha256 == hash_file(path)}
    pairs = []
    for path, runtime in new.items():
        if len(new) > 1 and hash_file(path) in {known[key].sha256 for key in anchors}:
            continue  # it is there to compare the others by
        entries = {key: (Path(each.path).name, each.runtime) for key, each in known.items()}
        others = {key: entry for key, entry in entries.items() if key not in anchors}
        then = known[_choose(path.name, runtime, others or entries, baseline)]
        pairs.append(Pair(path, Path(then.path).name, _find_old_file(then, baseline), then))
    return pairs


def _choose(name: str, runtime: str, known: Mapping[K, tuple[str, str]], baseline: Path) -> K:
    """Return the one of some files, by name and runtime, that a file is compared with: of its name, or the only of its runtime.

    Raises:
        CompressError: There is none, or several.
    """
    alike = [key for key, (_, kind) in known.items() if kind == runtime]
    found = [key for key in alike if known[key][0] == name] or alike
    if len(found) != 1:
        names = ", ".join(sorted(each for each, _ in known.values()))
        raise CompressError(f"{name}: {baseline} has {len(found)} files for it among {names}; give them the same names")
    return found[0]


def _find_old_file(then: FileTiming, baseline: Path) -> Path | None:
    """Return the old file where it is still what it was, from here or from beside the record of it."""
    for path in (Path(then.path), baseline.parent / then.path, baseline.parent / Path(then.path).name):
        if path.is_file() and hash_file(path) == then.sha256:
            return path
    return None


def _judge(pair: Pair, now: Mapping[Path, FileTiming], known: Mapping[str, FileTiming], max_slower: float) -> FileVerdict:
    """Judge a file.

    Raises:
        CompressError: There is nothing by which it can be compared.
    """
    new = now[pair.new]
    if pair.old is not None and hash_file(pair.old) == new.sha256:
        return _judge_same(pair, new)
    if pair.old is not None:
        old = now[pair.old]
        slower, ci95, doubtful = compute_slowdown(old.latency_ms.rounds, new.latency_ms.rounds, new.latency_ms.launches)
        waits = [each.latency_ms.waited_percent or 0 for each in (old, new)]
        doubtful = doubtful or abs(waits[0] - waits[1]) > OTHER_WAIT_POINTS
        causes = _list_causes(old, new)
        return _make_verdict(pair, "interleaved", slower, ci95, max_slower, doubtful=doubtful, causes=causes)
    if pair.then is None:
        raise CompressError(f"{pair.new}: has no baseline; give one")
    return _judge_by_anchor(pair, pair.then, now, known, max_slower)


def _judge_same(pair: Pair, new: FileTiming) -> FileVerdict:
    """Judge a file that is the old one: nothing to compare, unless its runtime changed."""
    changed = pair.then is not None and pair.then.effective != new.effective
    reason = "the same file, byte for byte"
    if changed:
        reason += ", on another runtime or with other settings; two versions are compared by an anchor on neither"
    verdict: Slowdown = "not distinguishable" if changed else "pass"
    return FileVerdict(
        baseline=pair.name, compared="same file", slower_percent=0, ci95_percent=(0, 0), verdict=verdict, reason=reason
    )


def _judge_by_anchor(
    pair: Pair, then: FileTiming, now: Mapping[Path, FileTiming], known: Mapping[str, FileTiming], max_slower: float
) -> FileVerdict:
    new = now[pair.new]
    anchors = [
        (old, fresh)
        for old in known.values()
        for fresh in now.values()
        if old.sha256 == fresh.sha256 and fresh is not new and old is not then
    ]
    alike = [(old, fresh) for old, fresh in anchors if old.effective == fresh.effective]
    if not alike:
        why = "ran on another version of its runtime then" if anchors else "no file was timed then and now"
        raise CompressError(
            f"{pair.new}: cannot be compared, as {then.path} is gone and {why}, and milliseconds of two runs are not compared; "
            "give the old file as --baseline, or time an anchor in both runs (docs/howto/latency_gate.md)"
        )
    old, fresh = alike[0]
    ratio_now, ci_now, doubtful_now = compute_slowdown(fresh.latency_ms.rounds, new.latency_ms.rounds, new.latency_ms.launches)
    ratio_then, ci_then, doubtful_then = compute_slowdown(
        old.latency_ms.rounds, then.latency_ms.rounds, then.latency_ms.launches
    )
    slower, ci95 = divide_intervals(ratio_now, ci_now, ratio_then, ci_then)
    doubtful = doubtful_now or doubtful_then
    causes = _list_causes(fresh, new)
    return _make_verdict(pair, "anchor", slower, ci95, max_slower, doubtful=doubtful, causes=causes)


def _list_causes(*timings: FileTiming) -> list[str]:
    """Return why latencies are unstable, each once."""
    return list(dict.fromkeys(filter(None, (timing.latency_ms.instability for timing in timings))))


def _make_verdict(
    pair: Pair, compared: Literal["interleaved", "anchor"], slower: float, ci95: tuple[float, float], max_slower: float, *,
    doubtful: bool, causes: Sequence[str],
) -> FileVerdict:  # fmt: skip
    verdict = judge_slowdown(ci95, max_slower, doubtful=doubtful)
    low, high = (100 * (each - 1) for each in ci95)
    reason = {
        "pass": "",
        "fail": f"slower by {low:.1f} to {high:.1f} %, and {100 * max_slower:g} % are allowed",
        "not distinguishable": f"between {low:+.1f} and {high:+.1f} %, on both sides of the {100 * max_slower:g} % that are "
        "allowed; measure longer",
        "unstable": f"between {low:+.1f} and {high:+.1f} %, which says nothing ({'; '.join(causes) or 'no cause is known'}); "
        "stop what else runs there, or measure longer",
    }[verdict]
    return FileVerdict(
        baseline=pair.name, compared=compared, slower_percent=100 * (slower - 1), ci95_percent=(low, high), verdict=verdict,
        reason=reason,
    )  # fmt: skip


def refuse_slower(found: LatencyVerdicts) -> None:
    """Raise where a file is too slow, or where that cannot be said.

    Raises:
        GateFailed: A file is slower than is allowed; the message names each.
        Unstable: None is, and of some it cannot be said.
    """
    failed = [f"{name}: {each.reason}" for name, each in found.verdicts.items() if each.verdict == "fail"]
    if failed:
        raise GateFailed("; ".join(failed))
    open_ones = [
        f"{name}: {each.verdict}: {each.reason}"
        for name, each in found.verdicts.items()
        if each.verdict in ("unstable", "not distinguishable")
    ]
    if open_ones:
        raise Unstable("; ".join(open_ones))
