"""A task of a user's own package: found by its entry point, and trained, validated and gated like ours."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress import plugins
from compress.data import Batch, Dataset, Split, check_dataset, hold_out
from compress.errors import CompressError
from compress.methods import Setting
from compress.methods.supervised import Supervised
from compress.models import Network
from compress.recipe import GateSection, TrainSection
from compress.tasks import Task, load_task
from compress.training import evaluate, loop
from exporters import gate
from tests.tiny import Repeated

TAGS = '''
"""Tags: any number of K properties of an image, judged by the mean F1 of the tags."""
import numpy as np

from compress.records import Accuracy
from compress.statistics.tallies import compute_interval
from compress.tasks import Metric, Task


class Tags(Task):
    """Labels uint8 [N, K], 1 where an image has a tag."""

    name = "tags"
    metric = Metric("f1", "mean F1")
    label_dtype = np.dtype(np.uint8)

    def check_labels(self, where, labels, classes, size):
        if labels.shape[1:] != (classes,) or labels.max() > 1:
            from compress.errors import CompressError
            raise CompressError(f"{where}: tags are {labels.dtype} {list(labels.shape)}; give 0 or 1 for each of {classes}")

    def compute_strata(self, labels, classes):
        return labels.sum(axis=1).astype(np.int64)

    def count_images(self, labels, classes):
        return labels.sum(axis=0).astype(np.int64)

    def make_labels(self, images, classes, size):
        return (np.arange(images * classes) % 2).astype(np.uint8).reshape(images, classes)

    def compute_loss(self, logits, labels, *, size, smoothing=0.0):
        from torch.nn import functional
        return functional.binary_cross_entropy_with_logits(logits.float(), labels.float())

    def tally(self, logits, labels):
        found = logits > 0
        return np.concatenate([found & (labels == 1), found, labels == 1], axis=1).astype(np.int64)

    def score(self, tallies, weights):
        right, found, true = np.split(weights @ tallies, 3, axis=1)
        return 100 * np.mean(2 * right / np.maximum(found + true, 1), axis=1)

    def measure(self, tallies, classes):
        percent = float(self.score(tallies, np.ones((1, len(tallies)), int))[0])
        low, high = compute_interval(lambda weights: self.score(tallies, weights), len(tallies))
        return Accuracy(metric="f1", percent=percent, samples=len(tallies), ci95=(min(low, percent), max(high, percent)))

    def measure_agreement(self, reference, candidate):
        return float(((reference > 0) == (candidate > 0)).mean())
'''


@pytest.fixture
def tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """Install the package, and give its task."""
    (tmp_path / "own_tags.py").write_text(TAGS)
    points = tmp_path / "own_tags-0.1.dist-info"
    points.mkdir()
    (points / "METADATA").write_text("Metadata-Version: 2.1\nName: own-tags\nVersion: 0.1\n")
    (points / "entry_points.txt").write_text("[compress.tasks]\ntags = own_tags:Tags\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    plugins._collect_plugins.cache_clear()
    yield load_task("tags")
    monkeypatch.undo()
    sys.modules.pop("own_tags", None)
    plugins._collect_plugins.cache_clear()


def test_a_task_of_ones_own_is_trained_judged_and_gated(tags: Task) -> None:
    """Its labels are checked and split, its loss is minimised, its metric selects, and the gate holds a file to its drop."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (80, 4, 4, 1), np.uint8)
    labels = (images[:, 0, :3, 0] > 127).astype(np.uint8)  # three tags, each of one pixel
    train, held = hold_out(check_dataset(Dataset(Split(images, labels), Split(images, labels)), 3, tags).train,
                           fraction=0.25, seed=0, task=tags)  # fmt: skip
    layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    network = Network(layers, taps=[], classifier="1")
    method = Supervised(Setting(network, (), torch.zeros(1, 1, 4, 4), 3, task=tags))
    shown, validation = (
        Batch(torch.from_numpy(each.images.transpose(0, 3, 1, 2) / 127.5 - 1).float(), torch.from_numpy(each.labels))
        for each in (train, held)
    )
    fit = loop.fit(
        method, Repeated(shown, 20), Repeated(validation, 1), settings=TrainSection(epochs=3, lr=0.5, schedule="constant")
    )
    assert fit.validation["student"].metric == "f1"
    assert fit.validation["student"].percent > 80  # of chance some 50
    logits = evaluate.compute_logits(network, Repeated(validation, 1))
    good = gate(logits, logits + np.float32(1e-6), held.labels, settings=GateSection(), precision="fp32", task=tags)
    bad = gate(logits, -logits, held.labels, settings=GateSection(), precision="fp32", task=tags)
    assert (good.status, good.metric, good.agreement_percent) == ("passed", "f1", 100)
    assert bad.status == "failed"
    assert "mean F1" in bad.reason


def test_a_task_must_be_one(tags: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that is no task is refused by name, and so is a name that nobody has."""
    monkeypatch.setattr(sys.modules["own_tags"], "Tags", object)
    with pytest.raises(CompressError, match=r"tasks/tags: is no subclass of compress\.tasks\.Task"):
        load_task(tags.name)
    with pytest.raises(CompressError, match="tasks: there is no 'tag'; did you mean 'tags'"):
        load_task("tag")
