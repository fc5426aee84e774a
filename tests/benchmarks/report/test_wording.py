"""What a reader can rely on in the words: the verdict promises only what was proved, differences and numbers are honest."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import wording
from compress.records import Accuracy, Ratio, Report
from tests.benchmarks.reading import changed
from tests.benchmarks.sample_report import sample


@pytest.fixture(scope="module")
def record() -> Report:
    return sample()


def test_verdict_says_what_is_shipped(record: Report) -> None:
    """The first lines name the fastest file that passed, with images, size and pace; a passed run says passed."""
    verdict = wording.judge_report(record)
    assert verdict.state == "failed"
    assert verdict.headline == "Failed: 1 of 3 files must not be shipped"
    assert verdict.shipped == (
        "student as onnx fp32: 98.1 % top-1 (n=360), 6.0× fewer parameters than the teacher, "
        "6.8× faster than the teacher on onnxruntime, 1 thread"
    )
    good = {name: gate for name, gate in record.gates.items() if gate.status == "passed"}
    kept = tuple(each for each in record.variants if each.name != "student-openvino-fp16")
    passed = record.model_copy(update={"gates": good, "variants": kept, "status": "passed"})
    assert wording.judge_report(passed).headline == "Gate passed: 2 of 2 files may be shipped"
    warned = wording.judge_report(passed.model_copy(update={"warnings": ("student: guesses",)}))
    assert warned.headline == "Gate passed: 2 of 2 files may be shipped, but heed the warning"
    assert warned.problems[0] == "student: guesses"


@pytest.mark.parametrize(
    ("speedup", "verdict", "words"),
    [
        (0.5, "slower", "2.0× slower than the teacher on onnxruntime"),
        (1.1, "not distinguishable", "latency not distinguishable from the teacher's on onnxruntime"),
    ],
)
def test_verdict_claims_no_pace_that_was_not_measured(
    record: Report, speedup: float, verdict: Literal["slower", "not distinguishable"], words: str
) -> None:
    """Only a ratio that was called faster is praised as faster."""
    ratio = Ratio(against="teacher-onnx-fp32", speedup=speedup, ci95=(speedup / 1.2, speedup * 1.2), verdict=verdict)
    shipped = wording.judge_report(changed(record, "student-onnx-fp32", ratio=ratio)).shipped
    assert words in shipped
    assert "faster" not in shipped


def test_an_unstable_file_is_not_the_best(record: Report) -> None:
    """Where another file passed with a settled latency, an unstable one is not put forward."""
    latency = next(each.latency_ms for each in record.variants if each.name == "student-onnx-fp32")
    assert latency is not None
    unsettled = changed(record, "student-onnx-fp32", latency_ms=latency.model_copy(update={"stable": False}))
    assert wording.judge_report(unsettled).shipped.startswith("student as openvino fp32")


counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n)))


@given(counts)
def test_differences_are_antisymmetric_and_honest(case: tuple[int, int, int]) -> None:
    """Swapping two networks mirrors their interval, equal networks never differ, the interval holds the difference."""
    samples, first, second = case
    one, two = Accuracy.from_hits(first, samples), Accuracy.from_hits(second, samples)
    forth, back = wording.compute_difference(one, two), wording.compute_difference(two, one)
    assert (forth.points, forth.low, forth.high) == pytest.approx((-back.points, -back.high, -back.low), abs=1e-9)
    assert forth.low <= forth.points + 1e-9
    assert forth.points <= forth.high + 1e-9
    assert (forth.verdict == "not distinguishable") == (forth.low <= 0 <= forth.high)
    assert wording.compute_difference(one, one).verdict == "not distinguishable"


def test_difference_is_newcombes() -> None:
    """The published example of the hybrid score interval (56 of 70 against 48 of 80) is met to its four decimals."""
    difference = wording.compute_difference(Accuracy.from_hits(56, 70), Accuracy.from_hits(48, 80))
    assert (difference.low, difference.high) == pytest.approx((5.24, 33.39), abs=0.005)
    assert difference.verdict == "better"


def test_worth_calls_small_differences_by_their_name(record: Report) -> None:
    """Against plain training, two points on 360 images are not distinguishable; against the teacher, three are worse."""
    verdicts = {
        each.variant.method: each.to_supervised.verdict
        for each in wording.compare_methods(record)
        if each.to_supervised is not None
    }
    assert verdicts == {"kd": "not distinguishable", "dih(dist)": "not distinguishable"}
    supervised = next(each for each in wording.compare_methods(record) if each.variant.network == "supervised")
    assert supervised.to_teacher is not None
    assert supervised.to_teacher.verdict == "worse"


def test_one_of_several_teachers_is_called_by_its_name(record: Report) -> None:
    """What is called the teacher is the only one; of several each has its number."""
    several = tuple(
        each.model_copy(update={"network": "teacher0"}) if each.network == "teacher" else each for each in record.variants
    )
    shipped = wording.judge_report(record.model_copy(update={"variants": several})).shipped
    assert "6.0× fewer parameters than teacher0, 6.8× faster than teacher0 on onnxruntime" in shipped
