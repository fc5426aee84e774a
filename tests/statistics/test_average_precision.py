"""Average precision against pycocotools, the evaluation that everybody reports, and against values by hand."""

import contextlib
import io

import numpy as np
import pytest

from compress.statistics.average_precision import Matches, compute_overlaps, compute_precision, match_image

CLASSES = 4


def draw_image(random, *, crowds):
    """Return detections and truths of an image: most detections lie near an object, scores repeat, some objects are crowds."""
    count = int(random.integers(0, 7))
    corners = random.uniform(0, 60, (count, 2))
    truths = np.hstack([corners, corners + random.uniform(4, 40, (count, 2)), random.integers(0, CLASSES, (count, 1))])
    near = truths[random.integers(0, count, 3 * count)] if count else np.zeros((0, 5))
    near = near + np.hstack([random.normal(0, 3, (len(near), 4)), np.zeros((len(near), 1))])
    wild = np.hstack([random.uniform(0, 50, (3, 2)), random.uniform(50, 99, (3, 2)), random.integers(0, CLASSES, (3, 1))])
    found = np.vstack([near, wild])
    found[:, 2:4] = np.maximum(found[:, 2:4], found[:, :2] + 1)
    scores = random.integers(1, 30, len(found)) / 30
    return found[:, :4], scores, found[:, 4].astype(np.int64), truths, random.random(count) < crowds


def match(images):
    return [match_image(*image[:4], ignored=image[4], count=CLASSES) for image in images]


def ask_pycocotools(images):
    """Return AP and AP50 in percent of the reference implementation."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    from pycocotools.cocoeval import COCOeval

    annotations, results = [], []
    for number, (boxes, scores, classes, truths, ignored) in enumerate(images):
        for (left, top, right, bottom, label), crowd in zip(truths.tolist(), ignored.tolist(), strict=True):
            box = [left, top, right - left, bottom - top]
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": int(label), "bbox": box})
            annotations[-1] |= {"area": box[2] * box[3], "iscrowd": int(crowd)}
        for (left, top, right, bottom), score, label in zip(boxes.tolist(), scores.tolist(), classes.tolist(), strict=True):
            results.append(
                {"image_id": number, "category_id": label, "bbox": [left, top, right - left, bottom - top], "score": score}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": number} for number in range(len(images))], "annotations": annotations,
            "categories": [{"id": label} for label in range(CLASSES)],
        }  # fmt: skip
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[:2]


@pytest.mark.parametrize("crowds", [0.0, 0.3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_what_pycocotools_says(seed, crowds):
    """AP and AP50 of 60 random images agree to rounding, with equal scores, crowds and images without objects."""
    random = np.random.default_rng(seed)
    images = [draw_image(random, crowds=crowds) for _ in range(60)]
    matches = match(images)
    ours = compute_precision(matches)[0], compute_precision(matches, overlaps=slice(0, 1))[0]
    np.testing.assert_allclose(ours, ask_pycocotools(images), rtol=1e-10)


def test_more_than_a_hundred_detections_of_a_class_are_cut():
    """As the reference does, the surest hundred of an image and class count."""
    random = np.random.default_rng(3)
    boxes, _, classes, truths, ignored = draw_image(random, crowds=0)
    while not len(truths):
        boxes, _, classes, truths, ignored = draw_image(random, crowds=0)
    boxes, classes = np.tile(boxes, (60, 1)), np.tile(classes, 60)
    images = [(boxes, random.random(len(boxes)), classes, truths, ignored)]
    np.testing.assert_allclose(compute_precision(match(images))[0], ask_pycocotools(images)[0], rtol=1e-10)


def test_weights_are_repeated_images():
    """An image with weight 2 is as good as the image twice, one of weight 0 as none; all scores differ here."""
    random = np.random.default_rng(4)
    images = [draw_image(random, crowds=0.1) for _ in range(12)]
    images = [(boxes, random.random(len(boxes)), *rest) for boxes, _, *rest in images]
    matches = match(images)
    weights = random.integers(0, 2, (5, 12))
    found = compute_precision(matches, weights)
    for draw, value in zip(weights, found, strict=True):
        chosen = [each for each, weight in zip(matches, draw, strict=True) if weight]
        np.testing.assert_allclose(value, compute_precision(chosen)[0], rtol=1e-12)
    np.testing.assert_allclose(compute_precision(matches, 2 * weights), found, rtol=1e-12)


def test_perfect_and_useless_detections():
    """What is found exactly gives 100, what is missed 0, and without objects there is no number."""
    truths = np.array([[0, 0, 10, 10, 1], [20, 20, 30, 40, 2]], float)
    exact = match_image(truths[:, :4], np.array([0.9, 0.8]), np.array([1, 2]), truths, ignored=np.zeros(2, bool), count=CLASSES)
    wrong = match_image(truths[:, :4], np.array([0.9, 0.8]), np.array([2, 1]), truths, ignored=np.zeros(2, bool), count=CLASSES)
    nothing = Matches(*(each[:0] for each in exact[:4]), np.zeros(CLASSES, np.int64))
    assert compute_precision([exact])[0] == pytest.approx(100)
    assert compute_precision([wrong]).tolist() == [0]
    assert np.isnan(compute_precision([nothing])).all()


def test_half_of_a_box_overlaps_by_half():
    """Intersection over union, and for a crowd over the box alone; boxes that only touch do not overlap."""
    box = np.array([[0, 0, 2, 2]], float)
    others = np.array([[1, 0, 3, 2], [2, 0, 4, 2], [0, 0, 2, 2]], float)
    np.testing.assert_allclose(compute_overlaps(box, others), [[1 / 3, 0, 1]])
    np.testing.assert_allclose(compute_overlaps(box, others, np.array([True, True, False])), [[1 / 2, 0, 1]])
