"""What a user can rely on where labels are boxes: assignment, loss, average precision, agreement, and what is refused."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from compress.errors import CompressError
from compress.statistics.average_precision import compute_precision
from compress.statistics.tallies import compute_paired_interval
from compress.tasks import choose_detections, draw_boxes, find_levels, load_task
from compress.tasks._assignment import UNTRAINED, assign, list_centres
from compress.tasks._detections import compute_scores, suppress
from compress.tasks.detection import unpack_matches

TASK = load_task("detection")
CLASSES, SIZE = 3, (64, 48)
CELLS = 8 * 6 + 4 * 3


def draw(images: int = 12) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return answers that find some of the objects about where they are, and the labels."""
    random = np.random.default_rng(1)
    labels = np.zeros((images, 3, 5), np.float32)
    labels[..., 4] = -1
    answers = np.full((images, CELLS, CLASSES + 4), -6, np.float32)
    answers[..., -4:] = (0, 0, 5, 5)
    for row in range(images):
        for box in range(int(random.integers(1, 4))):
            left, top = random.uniform(0, 24), random.uniform(0, 34)
            sides = left, top, left + random.uniform(10, 24), top + random.uniform(10, 30)
            kind = int(random.integers(CLASSES))
            labels[row, box] = (*sides, kind if random.random() > 0.1 else -2 - kind)
            for cell in random.integers(0, CELLS, 3):
                answers[row, cell, random.integers(CLASSES) if random.random() < 0.2 else kind] = random.normal(0, 2)
                answers[row, cell, -4:] = np.array(sides) + random.normal(0, 3, 4)
                answers[row, cell, -2:] = answers[row, cell, -2:].clip(answers[row, cell, -4:-2] + 1)
    return answers, labels


def test_a_box_belongs_to_the_cells_around_its_centre() -> None:
    """As counted by hand, cell by cell: in the box, near its centre, on the map of its size; the smaller of two boxes wins."""
    levels = find_levels(CELLS, SIZE)
    random = np.random.default_rng(0)
    labels = draw(20)[1]
    labels[0, 0] = (3, 3, 4, 4, 1)  # between the centres of cells
    labels[0, 1:, 4] = -1
    found = assign(levels, torch.from_numpy(labels))
    centres, strides = (each.numpy() for each in list_centres(levels, torch.zeros(1)))
    assert found.classes[0].ge(0).sum() == 1
    assert centres[found.classes[0].argmax()].tolist() == [4, 4]
    for row in range(1, 20):
        for cell in random.integers(0, CELLS, 30):
            fitting = []
            for left, top, right, bottom, kind in labels[row]:
                x, y = centres[cell]
                small = max(right - left, bottom - top) <= 64
                near = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2)) <= 1.5 * strides[cell]
                if kind >= 0 and left < x < right and top < y < bottom and near and small == (strides[cell] == 8):
                    fitting.append(((right - left) * (bottom - top), kind))
            if fitting:
                assert found.classes[row, cell] == min(fitting)[1]
    assert (found.classes == UNTRAINED).any()  # in ignored boxes


def test_the_loss_is_that_of_torchvision() -> None:
    """Focal loss over cells that are not ignored plus generalized IoU over those that answer, both over how many answer."""
    answers, labels = (torch.from_numpy(each) for each in draw())
    targets = TASK.assign(answers, labels, SIZE)
    known, positive = targets.classes != UNTRAINED, targets.positive
    wanted = torch.zeros(*known.shape, CLASSES)
    wanted[positive, targets.classes[positive]] = 1
    focal = sigmoid_focal_loss(answers[..., :CLASSES][known], wanted[known], reduction="sum")
    overlap = generalized_box_iou_loss(answers[positive][:, -4:], targets.boxes[positive], reduction="sum")
    assert TASK.compute_loss(answers, labels, size=SIZE) == pytest.approx(float((focal + overlap) / positive.sum()), rel=1e-5)
    with pytest.raises(CompressError, match="label smoothing"):
        TASK.compute_loss(answers, labels, size=SIZE, smoothing=0.1)


def test_an_image_without_boxes_trains_the_background() -> None:
    """The loss is finite, and gradients push all scores down."""
    answers = torch.zeros(1, CELLS, CLASSES + 4, requires_grad=True)
    labels = torch.tensor([[[0.0, 0, 0, 0, -1]]])
    TASK.compute_loss(answers, labels, size=SIZE).backward()
    assert answers.grad is not None
    assert (answers.grad[..., :CLASSES] > 0).all()
    assert (answers.grad[..., CLASSES:] == 0).all()


def test_of_boxes_that_overlap_the_surest_stays() -> None:
    """One by one from the surest on: it stays unless it overlaps, by torchvision's IoU, one of its class that does."""
    random = np.random.default_rng(2)
    corners = random.uniform(0, 40, (200, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 30, (200, 2))], axis=1)
    scores, classes = random.random(200), random.integers(0, CLASSES, 200)
    overlaps, kept = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy(), []
    for box in np.argsort(-scores):
        if not any(overlaps[box, other] > 0.6 and classes[box] == classes[other] for other in kept):
            kept.append(box)
    assert suppress(boxes, scores, classes).tolist() == kept
    assert 50 < len(kept) < 200
    assert compute_scores(np.array([-800.0, 0, 800])).tolist() == [0, 0.5, 1]


def test_the_average_precision_is_that_of_pycocotools() -> None:
    """From answers and labels, with boxes that count neither way, overall, at an overlap of 0.5 and of each class."""
    coco, evaluation = (pytest.importorskip(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    answers, labels = draw(40)
    found = TASK.measure(TASK.tally(answers, labels), CLASSES)
    truth, results = [], []
    for image, (each, boxes) in enumerate(zip(answers, labels, strict=True)):
        for left, top, right, bottom, kind in boxes[boxes[:, 4] != -1].tolist():
            crowd, label = kind < -1, int(-2 - kind if kind < -1 else kind)
            box = [left, top, right - left, bottom - top]
            truth.append({"id": len(truth) + 1, "image_id": image, "category_id": label, "iscrowd": int(crowd), "bbox": box,
                          "area": box[2] * box[3]})  # fmt: skip
        chosen = choose_detections(each)
        for (left, top, right, bottom), score, label in zip(*(part.tolist() for part in chosen), strict=True):
            results.append({"image_id": image, "category_id": label, "bbox": [left, top, right - left, bottom - top],
                            "score": float(np.float32(score))})  # fmt: skip
    known = coco.COCO()
    categories = [{"id": label, "name": str(label)} for label in range(CLASSES)]
    known.dataset = {
        "images": [{"id": image} for image in range(40)],
        "annotations": truth,
        "categories": categories,
        "info": {},
    }
    known.createIndex()
    judge = evaluation.COCOeval(known, known.loadRes(results), "bbox")
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]] * 4, ["all", "small", "medium", "large"]
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert 5 < found.percent < 90
    assert found.percent == pytest.approx(100 * judge.stats[0], abs=1e-6)
    assert found.percent_at_half == pytest.approx(100 * judge.stats[1], abs=1e-6)
    each = [100 * judge.eval["precision"][:, :, label, 0, 2].mean() for label in range(CLASSES)]
    assert found.class_percent == pytest.approx(each, abs=1e-6)
    assert found.ci95[0] < found.percent < found.ci95[1]


def test_a_row_of_numbers_holds_all_that_the_metric_needs() -> None:
    """Rows are whole numbers that fit into a record, and weighted sets of images are those with images repeated."""
    answers, labels = draw(10)
    rows = TASK.tally(answers, labels)
    assert rows.max() < 1 << 31
    assert rows.min() >= -1
    weights = np.random.default_rng(0).integers(0, 3, (4, 10))
    for weight, value in zip(weights, TASK.score(rows, weights), strict=True):
        repeated = np.repeat(np.arange(10), weight)
        assert value == pytest.approx(float(compute_precision(unpack_matches(rows[repeated]))[0]))
    worse = TASK.tally(answers * np.float32(0.5) - 3, labels)
    low, high = compute_paired_interval(partial(TASK.score, rows), partial(TASK.score, worse), 10, draws=TASK.metric.draws)
    assert low <= float((TASK.score(rows, weights[:1] * 0 + 1) - TASK.score(worse, weights[:1] * 0 + 1))[0]) <= high


def test_agreement_is_about_what_is_found() -> None:
    """Equal answers agree; other classes, boxes elsewhere, and nothing at all do not."""
    answers, _ = draw()
    answers[..., :CLASSES] += 2
    moved, others, nothing = answers.copy(), answers.copy(), answers.copy()
    moved[..., -4:] += 12
    others[..., :CLASSES] = np.roll(others[..., :CLASSES], 1, axis=2)
    nothing[..., :CLASSES] = -9
    assert TASK.measure_agreement(answers, answers) == pytest.approx(1)
    assert TASK.measure_agreement(answers, answers + np.float32(1e-4)) > 0.99
    assert max(TASK.measure_agreement(answers, each) for each in (moved, others, nothing)) < 0.3
    assert TASK.measure_agreement(nothing, nothing) == 1


def test_a_network_that_finds_nothing_is_named() -> None:
    """Of one that finds something nothing is said."""
    answers, labels = draw()
    answers[..., :CLASSES] += 2
    assert TASK.find_guessing(TASK.tally(answers, labels), CLASSES) == ""
    answers[..., :CLASSES] = -9
    assert "finds nothing" in TASK.find_guessing(TASK.tally(answers, labels), CLASSES)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((4, 4, 9, 9, 3), r"row 1: box 0 \(4, 4, 9, 9, 3\) has a class that is not in 0 \.\. 2"),
        ((4, 4, 9, 9, -7), "has a class that is not in"),
        ((4, 9, 9, 9, 0), "has no area"),
        ((-1, 4, 9, 9, 0), "reaches beyond its image of 48 × 64 pixels"),
        ((4, 4, 49, 9, 0), "reaches beyond its image"),
        ((4, np.nan, 9, 9, 0), "row 1: a box is not finite"),
    ],
)
def test_labels_that_are_no_boxes_are_refused(box: tuple[float, ...], reason: str) -> None:
    """The message names the row and the box."""
    labels = TASK.make_labels(3, CLASSES, SIZE)
    TASK.check_labels("split 'train'", labels, CLASSES, SIZE)
    labels[1, 0] = box
    with pytest.raises(CompressError, match=reason):
        TASK.check_labels("split 'train'", labels, CLASSES, SIZE)


def test_cells_are_those_of_some_maps() -> None:
    """Each number of cells is read as what it is, and any other is refused."""
    assert [level.stride for level in find_levels(CELLS, SIZE)] == [8, 16]
    assert [level.stride for level in find_levels(144, (96, 96))] == [8]
    assert [(level.height, level.width) for level in find_levels(35 + 12 + 4, (33, 50))] == [(5, 7), (3, 4), (2, 2)]
    with pytest.raises(CompressError, match="gives answers for 145 cells of images of 96 × 96 pixels"):
        find_levels(145, (96, 96))


def test_images_are_told_apart_by_their_rarest_class() -> None:
    """Those without a box are of a kind of their own; padding and ignored boxes show nothing."""
    labels = np.full((4, 2, 5), -1, np.float32)
    labels[0, :, 4], labels[1, 0, 4], labels[2, 0, 4] = (0, 2), 0, -2
    assert TASK.compute_strata(labels, CLASSES).tolist() == [2, 0, 3, 3]
    assert TASK.count_images(labels, CLASSES).tolist() == [2, 0, 1]
    assert TASK.pack_labels(labels).shape == (4, *TASK.get_label_shape(SIZE))


def test_boxes_are_drawn_where_they_are() -> None:
    """A frame on the box, nothing beside and within it, and the name on its corner."""
    drawn = np.asarray(draw_boxes(Image.new("RGB", (60, 40)), [{"name": "a", "score": 0.5, "box": (10, 20, 40, 38)}]))
    assert drawn[30, 39].any()
    assert drawn[37, 25].any()
    assert not drawn[:, 41:].any()
    assert not drawn[:20].any()
    assert not drawn[34:36, 15:35].any()
