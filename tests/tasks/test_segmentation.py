"""What a user can rely on where labels are masks: loss, mIoU, agreement, and what is refused."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from compress.data import Batch
from compress.errors import CompressError
from compress.statistics.tallies import compute_paired_interval, compute_swap_p_value
from compress.tasks import load_task, name_metric
from compress.tasks.segmentation import IGNORED, resize_logits
from compress.training import evaluate
from tests.tiny import Repeated

TASK = load_task("segmentation")
CLASSES = 4


@pytest.mark.parametrize(
    ("name", "title"),
    [("miou", "mIoU"), ("top1", "top-1"), ("balanced_accuracy", "balanced accuracy"), ("unknown", "unknown")],
)
def test_metrics_of_records_have_titles(name: str, title: str) -> None:
    """People read what the task calls its metric; one of a package that is not here keeps its name."""
    assert name_metric(name) == title


def draw(images: int = 6, size: int = 12) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return logits at half the size of masks, some of whose pixels are ignored."""
    random = np.random.default_rng(1)
    labels = random.integers(0, CLASSES - 1, (images, size, size)).astype(np.uint8)  # the last class is in no mask
    labels[random.random(labels.shape) < 0.1] = IGNORED
    return random.normal(size=(images, CLASSES, size // 2, size // 2)).astype(np.float32), labels


def test_the_miou_is_that_of_a_confusion_matrix() -> None:
    """It is the mean over the classes that are somewhere, of all pixels that are not ignored, as scikit-learn counts them."""
    from sklearn.metrics import jaccard_score

    logits, labels = draw()
    large = F.interpolate(torch.from_numpy(logits), size=labels.shape[1:], mode="bilinear", align_corners=False)
    answers, known = large.argmax(1).numpy(), labels != IGNORED
    each = jaccard_score(labels[known], answers[known], average=None, labels=range(CLASSES))
    found = TASK.measure(TASK.tally(logits, labels), CLASSES)
    assert found.percent == pytest.approx(100 * each.mean())
    assert found.class_percent == pytest.approx(tuple(100 * each))
    assert found.metric == "miou"
    assert found.ci95[0] <= found.percent <= found.ci95[1]


def test_a_class_that_is_nowhere_is_left_out_of_the_mean() -> None:
    """It has no IoU, and does not pull the mean down."""
    labels = np.zeros((2, 4, 4), np.uint8)
    labels[:, 2:] = 1
    logits = np.eye(CLASSES, dtype=np.float32)[labels].transpose(0, 3, 1, 2)
    found = TASK.measure(TASK.tally(logits, labels), CLASSES)
    assert found.percent == 100
    assert found.class_percent == (100, 100, None, None)


def test_maps_are_resized_as_torch_does_it() -> None:
    """Bilinear, corners not aligned, to larger and to smaller sizes alike but for rounding."""
    maps = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    wanted = F.interpolate(torch.from_numpy(maps)[None], size=(12, 28), mode="bilinear", align_corners=False)[0]
    assert resize_logits(maps, (12, 28)) == pytest.approx(wanted.numpy(), abs=1e-5)


def test_the_loss_leaves_ignored_pixels_out() -> None:
    """It is torch's cross-entropy at the size of the masks, and 0 where all of them are ignored."""
    logits, labels = map(torch.from_numpy, draw())
    large = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    assert torch.allclose(
        TASK.compute_loss(logits, labels, size=(12, 12)), F.cross_entropy(large, labels.long(), ignore_index=IGNORED)
    )
    assert float(TASK.compute_loss(logits, torch.full_like(labels, IGNORED), size=(12, 12))) == 0


def test_agreement_is_no_share_of_pixels() -> None:
    """A file that says background everywhere agrees on nine pixels of ten, and by the mean IoU hardly at all."""
    labels = np.zeros((4, 10, 10), np.uint8)
    for row in range(4):
        labels[row, 0] = row % 3 + 1
    network = 5 * np.eye(CLASSES, dtype=np.float32)[labels].transpose(0, 3, 1, 2)
    background = np.zeros_like(network)
    background[:, 0] = 1
    assert TASK.measure_agreement(network, network) == 1
    assert TASK.measure_agreement(network, background) == pytest.approx(0.9 / CLASSES)


def test_the_paired_interval_and_the_swap_test_know_a_difference() -> None:
    """Of a network with itself both say that there is none; of a far better one they say so, with the difference inside."""
    logits, labels = draw(40)
    good = 9 * np.eye(CLASSES, dtype=np.float32)[np.where(labels == IGNORED, 0, labels)].transpose(0, 3, 1, 2)
    better, worse = TASK.tally(good, labels), TASK.tally(logits, labels)
    once = np.ones((1, 40), np.int64)
    difference = float((TASK.score(better, once) - TASK.score(worse, once))[0])
    low, high = compute_paired_interval(partial(TASK.score, better), partial(TASK.score, worse), 40)
    assert 0 < low <= difference <= high
    assert compute_swap_p_value(partial(TASK.score, np.concatenate([better, worse])), 40) < 0.01
    assert compute_swap_p_value(partial(TASK.score, np.concatenate([worse, worse])), 40) == 1
    assert compute_paired_interval(partial(TASK.score, worse), partial(TASK.score, worse), 40) == (0, 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda masks: masks.astype(np.int64), "labels are int64"),
        (lambda masks: masks[:, 1:], r"\[6, 11, 12\]; masks of the images' size, uint8 \[6, 12, 12\]"),
        (lambda masks: np.where(masks == 1, 7, masks), "row 0: the mask has the value 7"),
        (lambda masks: np.full_like(masks, IGNORED), "every pixel of every mask is 255"),
    ],
)
def test_labels_that_are_no_masks_are_refused(change, reason: str) -> None:
    """Another type, another size than the pictures, a value beyond the classes, and nothing but ignored pixels."""
    _, labels = draw()
    with pytest.raises(CompressError, match=reason):
        TASK.check_labels("train", change(labels), CLASSES, (12, 12))


def test_logits_that_would_fill_the_memory_are_kept_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same numbers, and the file has no name that could be left behind."""
    shown = Repeated(Batch(torch.randn(5, 1, 6, 6), torch.zeros(5, 6, 6, dtype=torch.uint8)), 2)
    network = torch.nn.Conv2d(1, CLASSES, 3)
    held = evaluate.compute_logits(network, shown)
    monkeypatch.setattr(evaluate, "SPILLED_BYTES", 1)
    kept = evaluate.compute_logits(network, shown, images=10)
    assert isinstance(kept, np.memmap)
    assert kept.filename is None
    assert np.array_equal(kept, held)


def test_one_class_everywhere_is_no_knowledge() -> None:
    """A network that answers the commonest class everywhere is told; one that knows another class is not."""
    labels = np.zeros((4, 10, 10), np.uint8)
    labels[:, 0] = 1
    logits = np.zeros((4, CLASSES, 10, 10), np.float32)
    logits[:, 0] = 1
    assert "no more than" in TASK.find_guessing(TASK.tally(logits, labels), CLASSES)
    knowing = np.eye(CLASSES, dtype=np.float32)[labels].transpose(0, 3, 1, 2)
    assert not TASK.find_guessing(TASK.tally(knowing, labels), CLASSES)
