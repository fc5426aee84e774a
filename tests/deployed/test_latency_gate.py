"""The latency gate: what is compared with what, and what is said where noise lets nothing be said."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree as Tree

import numpy as np
import pytest

from compress.deployed.bench import FileTiming
from compress.deployed.junit import write_junit
from compress.deployed.latency_gate import LatencyVerdicts, check_latency, read_baseline, refuse_slower
from compress.errors import CompressError, GateFailed, Unreachable, Unstable
from compress.records import Latency
from compress.statistics.slowdown import compute_slowdown, divide_intervals, judge_slowdown
from compress.system.files import hash_file
from tests.deployed.brightness import invoke

VERSION = {"version": "1"}


def make_latency(median: float, *, noise: float = 0.001) -> Latency:
    """Return a latency of 15 rounds by three processes."""
    rounds = tuple(np.exp(np.random.default_rng(round(1000 * median)).normal(np.log(median), noise, 15)))
    return Latency(
        p50=median, p90=None, p99=None, mean=median, stdev=0.0, ci95=(median, median), samples=15, rounds=rounds,
        launches=(5, 5, 5), first_call=1.0, load=1.0, threads=1, batch_size=1, stable=True,
    )  # fmt: skip


def make_timer(medians: dict[str, float], *, noise: float = 0.001) -> Callable[[Sequence[Path]], dict[str, FileTiming]]:
    """Return what times files as if they took so many milliseconds, by the text in each."""

    def time(paths: Sequence[Path]) -> dict[str, FileTiming]:
        return {
            str(path): FileTiming(
                path=str(path), runtime="onnxruntime", latency_ms=make_latency(medians[path.read_text()], noise=noise),
                throughput_per_s=1.0, effective=VERSION, sha256=hash_file(path),
            )
            for path in paths
        }  # fmt: skip

    return time


def write(folder: Path, name: str, text: str) -> Path:
    """Write a file that stands for a model."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def write_baseline(path: Path, timings: dict[str, FileTiming], **changed: object) -> Path:
    """Write what `bench --json` writes."""
    path.write_text(json.dumps({name: each.model_dump(mode="json") | changed for name, each in timings.items()}))
    return path


def read_junit(path: Path) -> Tree.Element:
    """Return the suite that a test wrote."""
    return Tree.fromstring(path.read_bytes())  # noqa: S314 (our own file)


@pytest.mark.parametrize(
    ("new", "noise", "verdict"),
    [
        (1.0, 0.001, "pass"), (0.5, 0.001, "pass"), (1.2, 0.001, "fail"), (1.05, 0.01, "not distinguishable"),
        (1.05, 0.3, "unstable"),
    ],
)  # fmt: skip
def test_the_old_file_is_timed_again_beside_the_new_one(new: float, noise: float, verdict: str, tmp_path: Path) -> None:
    """The verdict is that of the same rounds, whatever the milliseconds of the old record were."""
    measure = make_timer({"old": 1.001, "new": new}, noise=noise)
    old, fresh = write(tmp_path / "a", "net.onnx", "old"), write(tmp_path / "b", "net.onnx", "new")
    for baseline in (old, write_baseline(tmp_path / "old.json", make_timer({"old": 77.0})([old]))):
        found = check_latency([fresh], baseline, max_slower=0.05, measure=measure)
        (one,) = found.verdicts.values()
        assert (one.verdict, one.compared) == (verdict, "interleaved")
        assert one.ci95_percent[0] <= one.slower_percent <= one.ci95_percent[1]


def test_an_open_verdict_says_what_disturbed(tmp_path: Path) -> None:
    """What made the latencies unstable stands in the reason, once for all files."""

    def time(paths: Sequence[Path]) -> dict[str, FileTiming]:
        timed = make_timer({"old": 1.0, "new": 1.05}, noise=0.3)(paths)
        update = {"stable": False, "instability": "disturbed: it waited"}
        return {
            name: each.model_copy(update={"latency_ms": each.latency_ms.model_copy(update=update)})
            for name, each in timed.items()
        }

    old, new = write(tmp_path / "a", "net.onnx", "old"), write(tmp_path / "b", "net.onnx", "new")
    with pytest.raises(Unstable, match=r"which says nothing \(disturbed: it waited\); stop what else runs there"):
        refuse_slower(check_latency([new], old, max_slower=0.05, measure=time))


def test_an_old_file_that_is_gone_needs_an_anchor(tmp_path: Path) -> None:
    """By a file that was timed in both runs, a machine of half the speed changes nothing; without one nothing is compared."""
    old, anchor = write(tmp_path, "net.onnx", "old"), write(tmp_path, "anchor.onnx", "anchor")
    then = make_timer({"old": 1.0, "anchor": 3.0})([old, anchor])
    baseline = write_baseline(tmp_path / "old.json", then)
    fresh = write(tmp_path, "net.onnx", "new")
    slow = make_timer({"new": 2.0, "anchor": 6.0})
    found = check_latency([fresh, anchor], baseline, max_slower=0.05, measure=slow)
    assert {name: (each.verdict, each.compared) for name, each in found.verdicts.items()} == {str(fresh): ("pass", "anchor")}
    failed = check_latency([fresh, anchor], baseline, max_slower=0.05, measure=make_timer({"new": 2.3, "anchor": 6.0}))
    with pytest.raises(GateFailed, match=r"slower by 1\d.* %, and 5 % are allowed"):
        refuse_slower(failed)
    with pytest.raises(CompressError, match="milliseconds of two runs are not compared; give the old file"):
        check_latency([fresh], write_baseline(tmp_path / "alone.json", {"a": then[str(old)]}), max_slower=0.05, measure=slow)
    other = write_baseline(tmp_path / "other.json", then, effective={"version": "2"})
    with pytest.raises(CompressError, match="ran on another version of its runtime then"):
        check_latency([fresh, anchor], other, max_slower=0.05, measure=slow)


def test_the_same_file_passes_unless_its_runtime_changed(tmp_path: Path) -> None:
    """Nothing that did not change is slower; but of a new runtime, a file that was timed once on each says nothing."""
    path, measure = write(tmp_path, "net.onnx", "old"), make_timer({"old": 1.0})
    same = check_latency([path], write_baseline(tmp_path / "same.json", measure([path])), max_slower=0.0, measure=measure)
    refuse_slower(same)
    changed = write_baseline(tmp_path / "changed.json", measure([path]), effective={"version": "2"})
    with pytest.raises(Unstable, match="on another runtime"):
        refuse_slower(check_latency([path], changed, max_slower=0.05, measure=measure))


def test_several_files_are_paired_by_name(tmp_path: Path) -> None:
    """A file is compared with that of its name; where that leaves several, the names are asked for."""
    old = [write(tmp_path / "a", name, "old") for name in ("x.onnx", "y.onnx")]
    new = [write(tmp_path / "b", "x.onnx", "new"), write(tmp_path / "b", "z.onnx", "new")]
    baseline = write_baseline(tmp_path / "old.json", make_timer({"old": 1.0})(old))
    measure = make_timer({"old": 1.0, "new": 1.0})
    found = check_latency(new[:1], baseline, max_slower=0.05, measure=measure)
    assert found.verdicts[str(new[0])].baseline == "x.onnx"
    with pytest.raises(CompressError, match=r"z.onnx: .*old.json has 2 files for it among x.onnx, y.onnx"):
        check_latency(new[1:], baseline, max_slower=0.05, measure=measure)


def test_a_baseline_that_is_none_is_refused(tmp_path: Path) -> None:
    """What `bench --json` did not write gives one message."""
    with pytest.raises(Unreachable):
        read_baseline(tmp_path / "nonesuch.json")
    for text in ("{", '{"a": 3}', "[]"):
        with pytest.raises(CompressError, match="is not what `compress bench --json` of this version writes"):
            read_baseline(write(tmp_path, "bad.json", text))


def test_junit_tells_failed_from_undecided(tmp_path: Path) -> None:
    """A file that is too slow is a failure, one of which nothing can be said is skipped, and names obey no terminal."""
    old, new = write(tmp_path / "a", "net.onnx", "old"), write(tmp_path / "b", "n\x1bet.onnx", "new")
    for median, noise, counts in ((1.0, 0.001, "00"), (1.5, 0.001, "10"), (1.05, 0.3, "01")):
        found = check_latency([new], old, max_slower=0.05, measure=make_timer({"old": 1.0, "new": median}, noise=noise))
        write_junit(tmp_path / "junit.xml", found)
        suite = read_junit(tmp_path / "junit.xml")
        assert (suite.get("tests"), f"{suite.get('failures')}{suite.get('skipped')}") == ("1", counts)
        assert len(suite.findall("testcase")) == 1


def test_a_limit_is_missed_kept_or_open() -> None:
    """An interval beyond the limit fails, one within it passes; a doubtful one must do either by a fifth."""
    assert judge_slowdown((1.06, 1.09), 0.05) == "fail"
    assert judge_slowdown((0.9, 1.05), 0.05) == "pass"
    assert judge_slowdown((1.04, 1.06), 0.05) == "not distinguishable"
    assert judge_slowdown((0.9, 1.3), 0.05) == "unstable"
    assert judge_slowdown((1.06, 1.09), 0.05, doubtful=True) == "unstable"
    assert judge_slowdown((1.3, 1.4), 0.05, doubtful=True) == "fail"


def test_a_quotient_of_figures_has_the_interval_of_a_simulation() -> None:
    """Of two normal figures in the logarithm, the interval of their quotient is that of the difference, and it covers it."""
    middle, (low, high) = divide_intervals(2.0, (2.0 / 1.03, 2.0 * 1.03), 4.0, (4.0 / 1.04, 4.0 * 1.04))
    half = float(np.hypot(np.log(1.03), np.log(1.04)))
    assert (middle, low, high) == pytest.approx((0.5, 0.5 * np.exp(-half), 0.5 * np.exp(half)))
    draws = np.random.default_rng(0).normal(size=(2, 100_000)) * np.array([[np.log(1.03)], [np.log(1.04)]]) / 1.959964
    assert np.mean(np.abs(draws[0] - draws[1]) <= half) == pytest.approx(0.95, abs=0.003)  # four standard errors


def test_a_file_against_itself_is_not_slower() -> None:
    """The same rounds give 1 exactly, with no width, however they scatter."""
    rounds = list(np.random.default_rng(0).lognormal(0, 0.5, 15))
    assert compute_slowdown(rounds, rounds, [5, 5, 5])[:2] == (1.0, (1.0, 1.0))


@pytest.mark.slow
def test_bench_judges_a_file_against_its_copy(bundle: Path, tmp_path: Path) -> None:
    """The command times a file beside an old one, writes both documents, and ends as its verdict says."""
    document = tmp_path / "old.json"
    arguments = ["--seconds", "0.3", "--rounds", "6", "--threads", "1"]
    document.write_text(invoke("bench", bundle / "student-fp32.onnx", *arguments, "--json").stdout)
    done = invoke(
        "bench", bundle / "student-fp32.onnx", "--baseline", document, "--max-slower", "900%", "--junit", tmp_path / "j.xml",
        *arguments, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = LatencyVerdicts.model_validate_json(done.stdout)
    assert [each.compared for each in found.verdicts.values()] == ["same file"]
    assert read_junit(tmp_path / "j.xml").get("failures") == "0"
    assert invoke("bench", bundle / "student-fp32.onnx", "--max-slower", "5%").exit_code == 2
