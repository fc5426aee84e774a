"""What is asked of a file that gives class and score: that they are those of its own logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compress.records import Precision
from exporters.verification.rule import SCORE_BOUNDS as BOUNDS
from exporters.verification.rule import Limits, find_batch_faults, find_score_errors

IMAGES, CLASSES = 20, 7


class Said(NamedTuple):
    logits: NDArray[np.float32]
    further: dict[str, NDArray[Any]]


def answer(seed: int = 0, scale: float = 3.0) -> Said:
    """Return what a good file says."""
    logits = (scale * np.random.default_rng(seed).normal(size=(IMAGES, CLASSES))).astype(np.float32)
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return Said(logits, {"class": logits.argmax(axis=1), "score": shares.max(axis=1).astype(np.float32)})


def complaints(said: Said, precision: Precision = "fp32") -> list[str]:
    return [*find_score_errors(said, precision=precision)]


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 1.0, 100.0]), precision=st.sampled_from(sorted(BOUNDS)))
@settings(max_examples=20)
def test_a_good_answer_is_accepted(seed: int, scale: float, precision: Precision) -> None:
    """Whatever the logits, their own class and score are right, in int64 and in int32."""
    said = answer(seed, scale)
    assert complaints(said, precision) == []
    assert complaints(said._replace(further=said.further | {"class": said.further["class"].astype(np.int32)})) == []


@given(image=st.integers(0, IMAGES - 1), label=st.integers(-CLASSES - 1, CLASSES + 1))
@settings(max_examples=20)
def test_one_wrong_class_is_found(image: int, label: int) -> None:
    """On a single image, and also where the number is no class at all."""
    said = answer()
    classes = said.further["class"].copy()
    right, classes[image] = classes[image], label
    told = complaints(said._replace(further=said.further | {"class": classes}))
    wanted = f"is not that of the largest logit on 1 of 20 images (image {image}: {label}, not {right})"
    assert told == ([] if label == right else [f"its output 'class' {wanted}"])


def test_any_of_the_largest_logits_is_right() -> None:
    """Where logits tie, as in integers they do, runtimes may choose."""
    said = answer()
    tied = said.logits.copy()
    best, second = np.argsort(-tied, axis=1)[:, 0], np.argsort(-tied, axis=1)[:, 1]
    rows = np.arange(IMAGES)
    tied[rows, second] = tied[rows, best]
    score = 1 / np.exp(tied.astype(np.float64) - tied.max(axis=1, keepdims=True)).sum(axis=1)
    for chosen in (best, second):
        assert complaints(Said(tied, {"class": chosen, "score": score.astype(np.float32)})) == []


@pytest.mark.parametrize("precision", sorted(BOUNDS))
def test_a_score_may_be_off_by_the_bound_and_no_more(precision: Precision) -> None:
    """The bound is that of the precision; a score that is not finite is beyond any."""
    said, bound = answer(scale=0.5), BOUNDS[precision]
    for change, good in ((0.9 * bound, True), (-0.9 * bound, True), (1.1 * bound, False), (np.nan, False)):
        scores = said.further["score"].copy()
        scores[3] += change
        told = complaints(said._replace(further=said.further | {"score": scores}), precision)
        assert (told == []) is good
        assert good or "is not the softmax of the largest logit on 1 of 20 images (image 3: " in told[0]


@pytest.mark.parametrize(
    ("further", "said"),
    [
        ({}, "it gives no output 'class', which postprocess: inside requires"),
        ({"class": np.zeros(IMAGES, np.float32)}, "its output 'class' is float32 [20], not int64 [20]"),
        ({"class": np.zeros((IMAGES, 1), np.int64)}, "its output 'class' is int64 [20, 1], not int64 [20]"),
        ({"score": np.zeros(IMAGES, np.float64)}, "its output 'score' is float64 [20], not float32 [20]"),
        ({"score": np.zeros(1, np.float32)}, "its output 'score' is float32 [1], not float32 [20]"),
    ],
)
def test_what_is_missing_or_of_another_form_is_said(further: dict[str, Any], said: str) -> None:
    """Type and shape are told as they are and as they were promised."""
    good = answer()
    assert said in complaints(good._replace(further=good.further | further if further else {}))


def test_an_answer_that_is_wrong_only_alone_is_found() -> None:
    """What is right in batches and wrong for one image at a time is said to be so."""
    good, other = answer(), answer(1)
    alone = Said(good.logits, good.further | {"class": other.further["class"]})
    called = Said(np.concatenate([alone.logits, good.logits]), {
        name: np.concatenate([alone.further[name], good.further[name]]) for name in good.further
    })  # fmt: skip
    (told,) = find_batch_faults(good, called, [IMAGES], Limits("fp32", 1.0), shown=IMAGES, gives_class=True)
    assert told.startswith("fed one by one, its output 'class' is not that of the largest logit")


def test_logits_that_are_not_finite_are_left_to_the_gate() -> None:
    """There is no largest among them, and the gate fails the file anyway."""
    good = answer()
    broken = good.logits.copy()
    broken[0, 0] = np.nan
    assert complaints(good._replace(logits=broken)) == []
