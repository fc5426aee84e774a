"""The four answers are right for every outcome, and every account of a run begins with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from benchmarks import report as reports
from benchmarks.report import paired
from benchmarks.report.headline import compute_headline
from compress.records import Accuracy, Ratio, Report, Variant, read
from tests.benchmarks.reading import changed
from tests.benchmarks.sample_report import sample, with_seeds

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
COMMITTED = [path for path in sorted(RESULTS.glob("**/report.json")) if "training_speed" not in path.parent.name]
"""Reports of runs; those of training speed are of another kind."""


@pytest.fixture(scope="module")
def record() -> Report:
    """A run of one seed, in which each file keeps on which images it is right."""
    return _keep_bits(with_seeds(sample(), seeds=1))


def _keep_bits(report: Report) -> Report:
    """Return a report whose files are right on the images of their network, less some of the last where they are worse."""
    bits = {scores.network: paired.unpack(scores.seeds[0]) for scores in report.scores}
    variants = []
    for each in report.variants:
        right = bits[each.network].copy()
        if each.name == "student-openvino-fp16":
            right[np.flatnonzero(right)[-40:]] = False
        accuracy = Accuracy.from_hits(int(right.sum()), len(right))
        variants.append(each.model_copy(update={"accuracy": accuracy, "correct": paired.pack(right)}))
    return report.model_copy(update={"variants": tuple(variants)})


def _pass_all(report: Report, **recipe: Any) -> Report:
    """Return the report without the file that failed its gate."""
    return report.model_copy(
        update={
            "gates": {name: gate for name, gate in report.gates.items() if gate.status == "passed"},
            "variants": tuple(each for each in report.variants if each.name != "student-openvino-fp16"),
            "status": "passed", "recipe": {**report.recipe, **recipe},
        }
    )  # fmt: skip


def _shift(report: Report, network: str, images: int) -> Report:
    """Return a report in which a network is right on so many images, the easy ones, with all that follows from it."""
    right = np.arange(360) < images
    accuracy, bits = Accuracy.from_hits(images, 360), paired.pack(right)
    scores = tuple(
        each.model_copy(
            update={"seeds": tuple(s.model_copy(update={"accuracy": accuracy, "correct": bits}) for s in each.seeds)}
        )
        if each.network == network
        else each
        for each in report.scores
    )
    variants = tuple(
        each.model_copy(update={"accuracy": accuracy, "correct": bits}) if each.network == network else each
        for each in report.variants
    )
    return report.model_copy(update={"scores": scores, "paired": paired.compare_all(scores), "variants": variants})


def test_the_file_that_passed_and_is_fastest_is_put_forward(record: Report) -> None:
    """The answers are about one file, by name, with its runtime and the interval of its speed-up."""
    found = compute_headline(record)
    assert found.file == "student-onnx-fp32"
    assert found.speed.text == "6.80× faster than the teacher on onnxruntime (6.60–7.00)"
    assert re.search("; against teacher-onnx-(fp32|int8)$", found.speed.detail)  # which of its files
    assert found.speed.verdict == "good"
    assert found.speed.detail.startswith("student-onnx-fp32: 0.13")
    assert "1 of 3 files failed the gate" in found.why
    assert found.line.startswith(found.speed.text)


def test_the_loss_is_that_of_the_file_against_the_teacher_on_the_same_images(record: Report) -> None:
    """It is paired image by image, and its numbers are those of the paired comparison."""
    found = compute_headline(record).loss
    file = next(each for each in record.variants if each.name == "student-onnx-fp32")
    teacher = next(each for each in record.scores if each.network == "teacher").seeds[0]
    own = next(each for each in record.scores if each.network == "student")
    expected = paired.pair(
        own.model_copy(
            update={"seeds": (own.seeds[0].model_copy(update={"correct": file.correct, "accuracy": file.accuracy}),)}
        ),
        next(each for each in record.scores if each.network == "teacher"),
    )
    assert found.value == -expected.points
    assert found.ci95 == (-expected.ci95[1], -expected.ci95[0])
    assert "paired image by image" in found.detail
    assert f"{teacher.accuracy.samples} test images" in found.detail


def test_a_real_loss_without_a_budget_is_left_to_the_reader(record: Report) -> None:
    """Where the student is clearly below its teacher and no budget says how far it may be, the reader has to decide."""
    below = _shift(_shift(_pass_all(record), "student", 330), "supervised", 320)
    found = compute_headline(below)
    assert found.decision == "ship if"
    assert found.loss.verdict == "bad"
    assert "gate.max_drop_from_teacher_points" in found.why
    assert "ship student-onnx-fp32 only if that loss is acceptable" in found.line
    held = compute_headline(below.model_copy(update={"recipe": {"gate": {"max_drop_from_teacher_points": 10.0}}}))
    assert held.decision == "ship"
    assert "within the budget of 10 points against the teacher" in held.why


@pytest.mark.parametrize("verdict", ["slower", "not distinguishable"])
def test_a_loss_for_nothing_is_not_shipped(record: Report, verdict: str) -> None:
    """A student below its teacher that is neither faster nor smaller is of no use to anybody, whatever the budget."""
    below = _shift(_shift(_pass_all(record), "student", 330), "supervised", 320)
    best = compute_headline(below).file
    against = next(each.ratio.against for each in below.variants if each.name == best and each.ratio)
    size_bytes = next(each.size_bytes for each in below.variants if each.name == against)
    assert size_bytes is not None

    def replace(row: Variant, size: int) -> Variant:
        if row.name != best or row.ratio is None:
            return row
        ratio = row.ratio.model_copy(update={"verdict": verdict})
        return row.model_copy(update={"ratio": ratio, "size_bytes": size})

    as_large = [replace(row, size_bytes) for row in below.variants]
    found = compute_headline(below.model_copy(update={"variants": tuple(as_large)}))
    assert found.decision == "do not ship"
    assert "neither faster nor smaller" in found.why
    smaller = [replace(row, size_bytes // 2) for row in below.variants]
    assert compute_headline(below.model_copy(update={"variants": tuple(smaller)})).decision == "ship if"


def test_a_student_like_its_teacher_is_shipped(record: Report) -> None:
    """Where nothing speaks against a file, the answer is yes, and says what for."""
    found = compute_headline(_shift(_pass_all(record), "student", 356))
    assert (found.decision, found.why) == ("ship", "All 2 files passed the gate")
    assert found.line.endswith("ship student-onnx-fp32")
    assert "not distinguishable" in found.loss.text


def test_a_verdict_that_its_interval_does_not_show_says_why(record: Report) -> None:
    """Where the interval leaves out 0 and the exact test does not tell the networks apart, the same line says so."""
    reasons = 0
    for right in range(335, 356):
        plain = compute_headline(_shift(_shift(_pass_all(record), "student", 345), "supervised", right)).plain
        assert plain.ci95 is not None
        excluded = not plain.ci95[0] <= 0 <= plain.ci95[1]
        same = plain.text.startswith("not distinguishable")
        assert ("but McNemar's exact test does not tell them apart: p 0." in plain.text) is (excluded and same)
        reasons += excluded and same
    assert reasons


def test_plain_training_that_is_better_comes_first(record: Report) -> None:
    """A student that is worse than plain training is not shipped; the first words say so, and how to ship the other."""
    found = compute_headline(_shift(_shift(_pass_all(record), "student", 320), "supervised", 350))
    assert found.decision == "do not ship"
    assert found.line.startswith("8.3 points worse than plain training (")
    assert found.instead == "compress export RUN --student supervised"
    assert found.plain.verdict == "bad"
    assert "one seed" in found.plain.detail


def test_better_than_plain_training_is_said_with_its_seeds() -> None:
    """With several seeds the verdict is about the method, and says over how many."""
    record = _keep_bits(with_seeds(sample(), seeds=3, gain=7))
    found = compute_headline(record).plain
    assert found.text.endswith(")")
    assert "over 3 seeds" in found.detail


def test_nothing_is_claimed_that_was_not_compared(record: Report) -> None:
    """Without a plain baseline, or without files, the answers say what is missing."""
    alone = record.model_copy(
        update={"variants": tuple(each for each in record.variants if each.network in ("teacher", "student"))}
    )
    assert compute_headline(alone).plain.text == "not compared with plain training"
    bare = compute_headline(record.model_copy(update={"gates": {}, "status": "passed"}))
    assert (bare.decision, bare.file) == ("nothing to ship", "")
    assert bare.line.endswith("nothing to ship")


def test_refused_files_and_warnings_are_not_shipped(record: Report) -> None:
    """Files that failed, a run that failed, or a warning that the files are of no use: do not ship, with the reason."""
    failed = {name: gate.model_copy(update={"status": "failed", "reason": "it differs"}) for name, gate in record.gates.items()}
    found = compute_headline(record.model_copy(update={"gates": failed}))
    assert found.decision == "do not ship"
    assert "3 of 3 files failed the gate" in found.why
    assert "it differs" in found.why
    warned = compute_headline(_pass_all(record).model_copy(update={"warnings": ("student: guesses",)}))
    assert (warned.decision, warned.why) == ("do not ship", "Student: guesses")


@pytest.mark.parametrize(
    ("speedup", "verdict", "words"),
    [
        (0.5, "slower", "2.00× slower than the teacher on onnxruntime"),
        (1.1, "not distinguishable", "speed not distinguishable from that of the teacher on onnxruntime"),
        (3.0, "unstable", "roughly 3.0× the speed of the teacher on onnxruntime"),
    ],
)
def test_no_pace_is_claimed_that_was_not_measured(
    record: Report, speedup: float, verdict: Literal["slower", "not distinguishable", "unstable"], words: str
) -> None:
    """Only a ratio that was called faster is praised as faster."""
    ratio = Ratio(against="teacher-onnx-fp32", speedup=speedup, ci95=(speedup / 1.2, speedup * 1.2), verdict=verdict)
    other = changed(record, "student-openvino-fp32", latency_ms=None, ratio=None)
    found = compute_headline(changed(other, "student-onnx-fp32", ratio=ratio)).speed
    assert words in found.text
    assert "faster" not in found.text
    assert found.verdict != "good"


def test_a_run_of_unstable_latencies_says_so_first(record: Report) -> None:
    """Where every latency is unstable, the answer about speed begins with it and names the cause."""
    shaken = record
    for each in record.variants:
        if each.latency_ms:
            latency = each.latency_ms.model_copy(update={"stable": False, "instability": "it drifts by more than 10 %"})
            shaken = changed(shaken, each.name, latency_ms=latency)
    found = compute_headline(shaken)
    assert found.speed.text.startswith("every latency is unstable: roughly 6.8×")
    assert "it drifts by more than 10 %" in found.speed.detail
    assert found.speed.verdict == "open"


def test_an_unstable_file_is_not_the_best(record: Report) -> None:
    """Where another file passed with a settled latency, an unstable one is not put forward."""
    latency = next(each.latency_ms for each in record.variants if each.name == "student-onnx-fp32")
    assert latency is not None
    unsettled = changed(record, "student-onnx-fp32", latency_ms=latency.model_copy(update={"stable": False}))
    assert compute_headline(unsettled).file == "student-openvino-fp32"


def test_of_several_teachers_the_best_is_named(record: Report) -> None:
    """The loss is against the teacher that is best on validation, called by its name."""
    several = tuple(
        each.model_copy(update={"network": "teacher1"}) if each.network == "teacher" else each for each in record.variants
    )
    scores = tuple(
        each.model_copy(update={"network": "teacher1"}) if each.network == "teacher" else each for each in record.scores
    )
    found = compute_headline(record.model_copy(update={"variants": several, "scores": scores}))
    assert "against teacher1" in found.loss.text
    assert "than teacher1 on onnxruntime" in found.speed.text


def test_every_account_begins_with_the_headline(record: Report, tmp_path: Path) -> None:
    """Terminal, Markdown and page show the same line or answers first, and report.json holds them."""
    reports.write(record, tmp_path)
    headline = read(tmp_path / "report.json", Report).headline
    assert headline == compute_headline(record)
    assert headline is not None
    assert reports.make_headline(record).plain.splitlines()[0] == headline.line
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    assert markdown[2] == f"**{headline.line}**"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index(headline.speed.text) < page.index("<h2>")
    assert page.index(headline.loss.text) < page.index("<h2>")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_reports_have_a_headline(path: Path) -> None:
    """Reports that were written before there was a headline are read, and get one."""
    found = compute_headline(read(path, Report))
    assert found.line
    assert found.loss.value is not None
