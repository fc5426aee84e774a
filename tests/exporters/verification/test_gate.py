"""Laws of the gate: what passes, what never does, and what it says about the cause."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import CompressError
from compress.preprocess import normalise
from compress.recipe import GateSection
from compress.records import Accuracy, Preprocess
from compress.statistics.paired_drop import compute_drop_interval
from exporters.verification.causes import find_input_causes, find_output_causes
from exporters.verification.gate import gate
from exporters.verification.rule import AGREEMENT, BOUNDS, Limits, find_batch_differences, record_differences

IMAGES, CLASSES = 200, 10
STRICT = GateSection(max_top1_drop_points=0.0, min_agreement=1.0)
PRECISIONS = sorted(BOUNDS)


def trained(seed: int = 0, scale: float = 4.0):
    """Logits of a network that is right on most images: [N, K] of RMS about `scale`, and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, IMAGES)
    logits = random.normal(size=(IMAGES, CLASSES)) + 3.0 * np.eye(CLASSES)[labels]
    logits *= scale / np.sqrt(np.square(logits).mean())
    return logits.astype(np.float32), labels


def judge(candidate, *, precision="fp32", settings=STRICT, seed=0):
    logits, labels = trained(seed)
    return gate(logits, candidate.astype(np.float32), labels, settings=settings, precision=precision)


LOGITS, LABELS = trained()
ORDER = np.array([1, 2, 0, *range(3, CLASSES)])
PROBABILITIES = np.exp(LOGITS - LOGITS.max(axis=1, keepdims=True))
PROBABILITIES /= PROBABILITIES.sum(axis=1, keepdims=True)

DAMAGE = {
    "classes in another order": (LOGITS[:, ORDER], "the classes come in another order (3 moved: 0 is found at 2)"),
    "images in another order": (np.roll(LOGITS, 1, axis=0), "the images come in another order (200 moved: 0 is found at 1)"),
    "constant": (np.broadcast_to(LOGITS[0], LOGITS.shape), "the output does not depend on the image"),
    "zero": (np.zeros_like(LOGITS), "the output does not depend on the image"),
    "scaled": (LOGITS * 1.5, "the logits are scaled by 1.5"),
    "sign swapped": (-LOGITS, "the sign is swapped"),
    "bias lost": (
        LOGITS - np.linspace(-3, 2, CLASSES),
        "each class is shifted by a constant (class 0 by 3), as by a lost bias",
    ),
    "log-softmax": (np.log(PROBABILITIES), "each image's logits are shifted by a constant, as by a log-softmax"),
    "softmax": (PROBABILITIES, "a softmax was exported with the network"),
    "noise": (np.random.default_rng(1).normal(size=LOGITS.shape), "agreement"),
}


@given(seed=st.integers(0, 10_000), precision=st.sampled_from(PRECISIONS))
@settings(max_examples=25)
def test_identical_logits_pass(seed, precision):
    """Whatever the logits, a file that gives them passes the strictest gate with nothing to report."""
    verdict = judge(trained(seed)[0], precision=precision, seed=seed)
    assert (verdict.status, verdict.reason, verdict.samples) == ("passed", "", IMAGES)
    assert (verdict.agreement_percent, verdict.max_abs_diff, verdict.top1_drop_points) == (100.0, 0.0, 0.0)


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 1.0, 100.0]))
@settings(max_examples=25)
def test_rounding_passes(seed, scale):
    """Differences as measured between torch and runtimes (3e-6 of the RMS) pass at any scale of the logits."""
    logits, labels = trained(seed, scale)
    noise = 3e-6 * scale * np.random.default_rng(seed).normal(size=logits.shape)
    assert gate(logits, (logits + noise).astype(np.float32), labels, settings=STRICT, precision="fp32").status == "passed"


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_caught_and_named(kind):
    """What exporters have really done to networks fails the gate at fp32, and the reason shows the cause."""
    candidate, said = DAMAGE[kind]
    verdict = judge(candidate, settings=GateSection())
    assert verdict.status == "failed"
    assert said in verdict.reason


@pytest.mark.parametrize("kind", sorted(set(DAMAGE) - {"scaled", "log-softmax", "softmax"}))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_damage_that_changes_classes_is_caught_at_any_precision(kind, precision):
    """The wide bounds of low precisions do not let a broken network through."""
    assert judge(DAMAGE[kind][0], precision=precision, settings=GateSection()).status == "failed"


@pytest.mark.parametrize("kind", ["classes in another order", "constant", "zero", "sign swapped"])
def test_damage_to_tiny_logits_is_caught(kind):
    """Where all logits are far below the bound of the difference, agreement still tells a broken file from a good one."""
    tiny = np.float32(1e-5)
    candidate = (DAMAGE[kind][0] * tiny).astype(np.float32)
    assert gate(LOGITS * tiny, LOGITS * tiny, LABELS, settings=STRICT, precision="fp32").status == "passed"
    assert "agreement" in gate(LOGITS * tiny, candidate, LABELS, settings=GateSection(), precision="fp32").reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_number_fails(value):
    """A single logit that is not finite fails, counts as a wrong answer, and heads the list of worst images."""
    candidate = LOGITS.copy()
    candidate[7, 3] = value
    verdict = judge(candidate, settings=GateSection(max_top1_drop_points=100, min_agreement=0))
    assert verdict.status == "failed"
    assert "its logits are not finite on 1 of 200 images" in verdict.reason
    assert verdict.max_abs_diff is None
    assert verdict.worst_images[0] == 7
    assert verdict.agreement_percent == pytest.approx(99.5)


@pytest.mark.parametrize(
    "candidate", [LOGITS[:-1], LOGITS[:, :-1], LOGITS[:, :, None], LOGITS.ravel(), LOGITS.astype(np.float64)]
)
def test_other_shape_or_type_fails(candidate):
    """What is not float32 [N, K] is not compared, and both shapes are told."""
    verdict = gate(LOGITS, candidate, LABELS, settings=STRICT, precision="fp32")
    assert verdict.status == "failed"
    assert f"{candidate.dtype} {list(candidate.shape)}, not float32 [200, 10]" in verdict.reason


def test_every_reason_is_given():
    """Agreement, accuracy and difference are told together, each with the limit that it broke."""
    verdict = judge(LOGITS[:, ORDER], settings=GateSection())
    for part in ("is below 98 % (gate.min_agreement)", "(gate.max_top1_drop_points 1)", "(gate.max_abs_diff)"):
        assert part in verdict.reason


def flipped(count: int):
    """Logits that choose another class on some images that the network has right."""
    candidate = LOGITS.copy()
    right = np.flatnonzero(LOGITS.argmax(axis=1) == LABELS)[:count]
    candidate[right, (LABELS[right] + 1) % CLASSES] = LOGITS[right].max(axis=1) + 1
    return candidate


def test_limits_are_inclusive():
    """Exactly at the limit passes, one image further fails: 4 of 200 are 2 %."""
    accepted = GateSection(max_top1_drop_points=2.0, min_agreement=0.98, max_abs_diff=100.0)
    assert judge(flipped(4), settings=accepted).status == "passed"
    verdict = judge(flipped(5), settings=accepted)
    assert verdict.status == "failed"
    assert verdict.agreement_percent == 97.5
    assert verdict.top1_drop_points == 2.5


def test_a_better_file_is_not_punished():
    """An accuracy above the network's own is a negative drop."""
    candidate = LOGITS.copy()
    wrong = np.flatnonzero(LOGITS.argmax(axis=1) != LABELS)
    candidate[wrong, LABELS[wrong]] = LOGITS[wrong].max(axis=1) + 1
    verdict = judge(candidate, settings=GateSection(min_agreement=0.5, max_abs_diff=100.0))
    assert len(wrong) > 0
    assert verdict.status == "passed"
    assert verdict.top1_drop_points == -100 * len(wrong) / IMAGES


def test_bound_of_the_difference():
    """By default it is that of the precision times the RMS of the logits; the recipe's own number replaces it."""
    candidate = LOGITS.copy()
    candidate[3, LABELS[3]] += 0.01
    assert judge(candidate).status == "failed"
    assert judge(candidate, precision="fp16").status == "passed"
    assert judge(candidate, settings=GateSection(max_abs_diff=0.02)).status == "passed"
    assert judge(candidate, precision="fp16", settings=GateSection(max_abs_diff=0.005)).status == "failed"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_image_with_large_logits_may_differ_by_more(precision):
    """Rounding moves logits in proportion: what is too much for one image is not for one with logits twenty times as large."""
    logits = LOGITS.copy()
    logits[7] *= 20
    ordinary = BOUNDS[precision] * max(1.0, np.sqrt(np.square(logits).mean()))
    large = BOUNDS[precision] * np.sqrt(np.square(logits[7]).mean())
    assert large > 3 * ordinary
    for image, share, status in ((7, 0.9, "passed"), (7, 1.1, "failed"), (8, 0.9, "failed")):
        candidate = logits.copy()
        candidate[image, logits[image].argmax()] += share * large
        verdict = gate(logits, candidate, LABELS, settings=GateSection(), precision=precision)
        assert (verdict.status, verdict.agreement_percent) == (status, 100.0), image
        assert status == "passed" or re.match(r"a logit differs by \S+, more than", verdict.reason)


def test_a_tie_may_fall_either_way():
    """Where the network's two best logits are equal, either class agrees, and the accuracy does not move."""
    logits = LOGITS.copy()
    best, second = np.argsort(-logits, axis=1)[:, :2].T
    logits[:20][np.arange(20), second[:20]] = logits[:20][np.arange(20), best[:20]]
    candidate = logits.copy()
    candidate[:20][np.arange(20), logits[:20].argmax(axis=1)] -= 1e-6
    assert (candidate.argmax(axis=1) != logits.argmax(axis=1)).sum() == 20
    verdict = gate(logits, candidate, LABELS, settings=STRICT, precision="fp32")
    assert (verdict.status, verdict.agreement_percent, verdict.top1_drop_points) == ("passed", 100.0, 0.0)


def test_a_tie_excuses_only_the_tied_classes():
    """A third class on a tied image is a disagreement like any other."""
    logits = LOGITS.copy()
    logits[0, :2] = logits[0].max() + 1
    candidate = logits.copy()
    candidate[0, 5] = logits[0].max() + 1
    assert gate(logits, candidate, LABELS, settings=GateSection(), precision="int8").agreement_percent == 99.5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rounded_weights_get_no_wider_tie(precision):
    """A class that changes although the network was decided counts, at any precision."""
    logits = LOGITS.copy()
    logits[0] = np.linspace(0, 1, CLASSES)
    candidate = logits.copy()
    candidate[0, 0] = 1.01
    assert gate(logits, candidate, LABELS, settings=GateSection(), precision=precision).agreement_percent == 99.5


def test_network_without_an_opinion_proves_nothing():
    """If every image is a tie, agreement is empty, and the gate says so instead of passing."""
    constant = np.ones((IMAGES, CLASSES), dtype=np.float32)
    verdict = gate(constant, constant, LABELS, settings=GateSection(), precision="fp32")
    assert verdict.status == "failed"
    assert "ties on every image" in verdict.reason


def test_worst_images_are_the_ten_largest_differences():
    """Worst first, by the largest difference of any logit."""
    candidate = LOGITS.copy()
    for rank, index in enumerate(range(50, 62)):
        candidate[index, 0] += 1 + rank
    assert judge(candidate).worst_images == tuple(range(61, 51, -1))


@pytest.mark.parametrize(
    ("reference", "labels", "said"),
    [
        (LOGITS[:0], LABELS[:0], r"float32 \[0, 10\]; give float32"),
        (LOGITS.astype(np.float64), LABELS, "float64"),
        (np.full_like(LOGITS, np.nan), LABELS, "own logits are not finite"),
        (LOGITS, LABELS[:-1], r"labels \[199\]"),
        (LOGITS, LABELS + 1, r"from 1 to 10; give one label in 0 \.\. 9 for each of 200 images"),
    ],
)
def test_useless_reference_is_an_error_not_a_verdict(reference, labels, said):
    """With nothing to compare with, the file is not to blame."""
    with pytest.raises(CompressError, match=said):
        gate(reference, LOGITS[: len(reference)], labels, settings=STRICT, precision="fp32")


def test_gate_needs_numpy_only():
    """It can judge on a machine that has no torch and no runtime."""
    script = (
        "import sys, numpy; from exporters import gate; from compress.recipe import GateSection;"
        "a = numpy.eye(3, dtype='float32');"
        "verdict = gate(a, a, numpy.arange(3), settings=GateSection(), precision='fp32'); assert verdict.status == 'passed';"
        "assert not {'torch', 'onnxruntime', 'openvino', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# ---- the interval of the drop


def test_the_drop_comes_with_its_interval_and_with_doubt():
    """A file that passes says what drop its images cannot exclude, and how many could."""
    verdict = judge(flipped(1), settings=GateSection(max_abs_diff=100.0))
    assert verdict.status == "passed"
    assert verdict.drop_ci95 == compute_drop_interval(1, 0, IMAGES)
    assert "200 images cannot exclude a drop of up to 2.78 points, beyond the budget of 1; " in verdict.note
    assert "images with as few changed answers would" in verdict.note
    assert judge(flipped(1), settings=GateSection(max_abs_diff=100.0, max_top1_drop_points=5)).note == ""


def test_a_failure_that_may_be_chance_says_so():
    """Beyond the budget it fails in any case; where the budget is inside the interval, that is said."""
    lenient = {"max_abs_diff": 100.0, "min_agreement": 0.0}
    unlucky = judge(flipped(3), settings=GateSection(**lenient))
    assert unlucky.status == "failed"
    low, high = unlucky.drop_ci95
    assert low < 0 < high
    assert f"cannot exclude that the drop is within the budget (95 % interval −{-low:.2f} to {high:.2f})" in unlucky.note
    assert judge(flipped(30), settings=GateSection(**lenient)).note == ""


@pytest.mark.parametrize("changed", [0, 10, 60])
@pytest.mark.parametrize("noise", [0.01, 3.0])
def test_against_two_networks_each_number_is_that_of_its_own_network(changed, noise):
    """Agreement and differences are those of a gate against the network it was made of, the drop that against the original."""
    original, labels = trained()
    reference = original.copy()
    reference[:changed] = np.roll(reference[:changed], 1, axis=1)
    candidate = (reference + np.random.default_rng(2).normal(scale=noise, size=reference.shape)).astype(np.float32)
    accepted = GateSection(max_top1_drop_points=2.0)
    both = gate(reference, candidate, labels, settings=accepted, precision="int8", original=original)
    no_drop = accepted.model_copy(update={"max_top1_drop_points": 100.0})
    own = gate(reference, candidate, labels, settings=no_drop, precision="int8")
    drop = gate(original, candidate, labels, settings=accepted, precision="int8")
    expected = {"top1_drop_points": drop.top1_drop_points, "drop_ci95": drop.drop_ci95, "note": drop.note}
    failures = [own.reason] if own.reason else []
    if drop.top1_drop_points > 2:
        below = f"{drop.top1_drop_points:.2f} points below the student before it was adapted to int8"
        failures.append(f"top-1 is {below} (gate.max_top1_drop_points 2)")
    expected |= {"reason": "; ".join(failures), "status": "failed" if failures else "passed"}
    assert both == own.model_copy(update=expected)


def test_without_an_adaptation_the_original_changes_no_number():
    """A network that is its own original is judged as one without: the same numbers, bounds and verdict."""
    candidate = (LOGITS + 0.02).astype(np.float32)
    alone = gate(LOGITS, candidate, LABELS, settings=STRICT, precision="fp16")
    assert gate(LOGITS, candidate, LABELS, settings=STRICT, precision="fp16", original=LOGITS) == alone


def test_an_original_of_another_shape_is_an_error_not_a_verdict():
    """Logits of other images or classes are refused as the reference's would be."""
    with pytest.raises(
        CompressError, match=r"gate: labels \[200\] from 0 to 9; give one label in 0 \.\. 9 for each of 199 images"
    ):
        gate(LOGITS, LOGITS, LABELS, settings=STRICT, precision="fp32", original=LOGITS[1:])
    with pytest.raises(CompressError, match="the original's logits have another shape"):
        gate(LOGITS, LOGITS, LABELS, settings=STRICT, precision="fp32", original=np.concatenate([LOGITS, LOGITS], axis=1))


def test_accuracy_is_that_of_the_file():
    """It counts the file's right answers, with their Wilson interval."""
    right = int((LOGITS.argmax(axis=1) == LABELS).sum())
    assert judge(flipped(4), settings=GateSection()).accuracy == Accuracy.from_hits(right - 4, IMAGES)


# ---- what depends on the precision


@pytest.mark.parametrize(("precision", "share"), sorted(AGREEMENT.items()))
def test_agreement_depends_on_the_precision(precision, share):
    """By default a lower precision may change more classes; a number in the recipe is for all."""
    accepted, changed = round(IMAGES * (1 - share)), {"max_top1_drop_points": 100.0, "max_abs_diff": 100.0}
    assert judge(flipped(accepted), precision=precision, settings=GateSection(**changed)).status == "passed"
    verdict = judge(flipped(accepted + 1), precision=precision, settings=GateSection(**changed))
    assert f"is below {100 * share:g} % (gate.min_agreement)" in verdict.reason
    assert judge(flipped(1), precision=precision, settings=GateSection(min_agreement=1.0, **changed)).status == "failed"


def test_fp16_overflow_is_named():
    """Numbers that are not finite in fp16 have one likely cause."""
    candidate = LOGITS.copy()
    candidate[3] = np.inf
    assert "65504, the largest number of fp16" in judge(candidate, precision="fp16", settings=GateSection()).reason
    assert "65504" not in judge(candidate, settings=GateSection()).reason


def test_a_class_order_is_named_through_the_noise_of_int8():
    """Quantization noise of a fifth of the logits does not hide that two classes were exchanged."""
    order = np.array([1, 0, *range(2, CLASSES)])
    noisy = LOGITS[:, order] + 0.2 * 4 * np.random.default_rng(2).normal(size=LOGITS.shape)
    assert [*find_output_causes(LOGITS, noisy, precision="int8")] == [
        "the classes come in another order (2 moved: 0 is found at 1)"
    ]


def test_unrelated_logits_are_called_so():
    """Where nothing explains the difference, other weights or another input are suspected; never of a mere rounding."""
    noise = np.random.default_rng(3).normal(size=LOGITS.shape)
    assert "little in common" in next(find_output_causes(LOGITS, noise))
    assert [*find_output_causes(LOGITS, LOGITS + 0.01 * noise)] == []


@pytest.mark.parametrize(("precision", "step", "accused"), [("fp32", 0.05, True), ("int8", 0.05, False), ("int8", 1.0, True)])
def test_rounded_logits_are_a_cause_unless_an_int8_file_rounds_them_finely(precision, step, accused):
    """Some formats round the logits of every int8 file to 256 values, which costs nothing while the steps are small."""
    logits = np.random.default_rng(0).normal(size=(2000, 10))
    causes = [*find_output_causes(logits, np.round(logits / step) * step, precision=precision)]
    assert any("different values, as if they were quantized" in cause for cause in causes) is accused


# ---- one by one and in batches


@pytest.mark.parametrize("precision", PRECISIONS)
def test_batches_must_agree(precision):
    """The same answers alone and together pass at any precision; an answer that depends on its neighbours fails."""
    assert [*find_batch_differences(LOGITS, LOGITS + np.float32(1e-6), limits=Limits(precision, 1.0))] == []
    together = LOGITS.copy()
    together[3] = LOGITS[2]
    (said,) = find_batch_differences(LOGITS, together, limits=Limits(precision, 1.0))
    assert said.startswith("1 of 200 images are answered otherwise alone than in a batch (image 3 by ")
    (said,) = find_batch_differences(LOGITS[:5], LOGITS[:4], limits=Limits(precision, 1.0))
    assert "[5, 10] for images fed one by one and [4, 10]" in said


def test_the_gate_fails_where_batches_disagree():
    """Agreement with the network in batches does not excuse a file that answers otherwise alone."""
    verdict = gate(LOGITS, LOGITS, LABELS, settings=STRICT, precision="fp32", alone=LOGITS[:8][::-1].copy())
    assert verdict.status == "failed"
    assert "8 of 8 images are answered otherwise alone" in verdict.reason
    broken = np.full((4, CLASSES), np.nan, np.float32)
    assert gate(LOGITS, LOGITS, LABELS, settings=STRICT, precision="fp32", alone=broken).status == "failed"


# ---- what the file would have to be fed


PREPROCESS = Preprocess(height=6, width=6, channels="rgb", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
PIXELS = np.random.default_rng(4).integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)
NORMAL = normalise(PIXELS, PREPROCESS)
WEIGHT = np.random.default_rng(5).normal(size=(3 * 6 * 6, CLASSES)).astype(np.float32)
MEAN, STD = (np.array(values, np.float32)[:, None, None] for values in (PREPROCESS.mean, PREPROCESS.std))


def network(images):
    """Logits of a linear network that sees every pixel: [N, C, H, W] to [N, K]."""
    return images.reshape(len(images), -1) @ WEIGHT


WANTS = {
    "channels are fed in BGR order": lambda images: network(images[:, ::-1]),
    "BGR order with mean and std of RGB": lambda images: network(((images * STD + MEAN)[:, ::-1] - MEAN) / STD),
    "values from 0 to 1, so it normalises": lambda images: network((images - MEAN) / STD),
    "values from 0 to 255": lambda images: network((images / 255 - MEAN) / STD),
    "from -1 to 1": lambda images: network(((images + 1) / 2 - MEAN) / STD),
    "the mean is not taken off": lambda images: network(images - MEAN / STD),
    "it is not divided by std": lambda images: network(images / STD),
    "not divided by 255 before": lambda images: network(((images * STD + MEAN) / 255 - MEAN) / STD),
    "normalised twice": lambda images: network(images * STD + MEAN),
    "inverted": lambda images: network((1 - (images * STD + MEAN) - MEAN) / STD),
    "mirrored": lambda images: network(images[..., ::-1]),
    "on their head": lambda images: network(images[:, :, ::-1]),
    "turned by 180 degrees": lambda images: network(images[:, :, ::-1, ::-1]),
    "height and width are swapped": lambda images: network(images.swapaxes(2, 3)),
}


@pytest.mark.parametrize("cause", WANTS)
def test_the_input_that_a_file_wants_is_found(cause):
    """For every mistake of preprocessing the altered input that undoes it is named first, of a network that sees all pixels."""
    causes = find_input_causes(WANTS[cause], network(NORMAL), NORMAL, PREPROCESS, precision="fp32")
    assert causes
    assert cause in causes[0]


def test_pixels_are_altered_where_the_file_preprocesses():
    """A file that takes uint8 images is fed altered uint8 images."""
    seen = []

    def run(pixels):
        seen.append(pixels.dtype)
        return network(normalise(np.ascontiguousarray(pixels[..., ::-1]), PREPROCESS))

    causes = find_input_causes(run, network(NORMAL), PIXELS, PREPROCESS, precision="fp32")
    assert causes == ["it agrees with the network when the channels are fed in BGR order"]
    assert seen == [np.uint8]


def test_no_input_is_accused_where_none_helps():
    """A file with other weights agrees with no altered input."""
    assert (
        find_input_causes(lambda images: -(network(images) ** 3), network(NORMAL), NORMAL, PREPROCESS, precision="int8") == []
    )


# ---- what was recorded bounds a file from then on


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_file_passes_by_its_own_record(precision):
    """What a file gave when it was proved, it may give again at any precision, though it loses an image or two."""
    candidate = proved(precision)
    recorded = record_differences(LOGITS, candidate, LABELS)
    settings = GateSection(max_top1_drop_points=0.0, min_agreement=0.5)
    verdict = gate(LOGITS, candidate, LABELS, settings=settings, precision=precision, recorded=recorded)
    assert (verdict.status, verdict.reason) == ("passed", "")


def test_three_times_what_was_recorded_is_refused_within_the_wide_bounds_of_int8():
    """The bound of int8 alone would let it pass."""
    candidate = proved("int8")
    recorded = record_differences(LOGITS, candidate, LABELS)
    worse = (LOGITS + 3 * (candidate - LOGITS)).astype(np.float32)
    assert "more than" not in gate(LOGITS, worse, LABELS, settings=GateSection(), precision="int8").reason
    verdict = gate(LOGITS, worse, LABELS, settings=GateSection(), precision="int8", recorded=recorded)
    assert "when it was proved; it was changed since" in verdict.reason


def test_a_change_of_all_images_is_seen_where_the_largest_difference_hides_it():
    """One image that always differed widely leaves no room for the others."""
    candidate = LOGITS + np.float32(0.01)
    candidate[3] += 2
    recorded = record_differences(LOGITS, candidate, LABELS)
    moved = candidate + np.float32(0.05)
    verdict = gate(LOGITS, moved, LABELS, settings=GateSection(), precision="int8", recorded=recorded)
    assert verdict.reason.startswith("on half of the images a logit differs by 0.06")


def test_an_image_that_was_not_lost_before_counts():
    """The budget is that of the run, and what was lost when the file was proved is no credit for more."""
    candidate = LOGITS.copy()
    right = np.flatnonzero(LOGITS.argmax(axis=1) == LABELS)[:2]
    none = record_differences(LOGITS, candidate, LABELS)
    candidate[right] = np.roll(candidate[right], 1, axis=1)
    two = record_differences(LOGITS, candidate, LABELS)
    settings = GateSection(max_top1_drop_points=0.5, min_agreement=0.5, max_abs_diff=1e3)
    assert (
        "(gate.max_top1_drop_points 0.5)"
        in gate(LOGITS, candidate, LABELS, settings=settings, precision="int8", recorded=none._replace(max_abs_diff=1e3)).reason
    )
    assert gate(LOGITS, candidate, LABELS, settings=settings, precision="int8", recorded=two).status == "passed"


def proved(precision):
    """Logits of a good file of some precision."""
    noise = 0.02 * BOUNDS[precision] * np.random.default_rng(5).normal(size=LOGITS.shape)
    return (LOGITS + noise).astype(np.float32)
