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
from tests.pages import blocks
from tests.tiny import Repeated

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "write_a_task.md"
"""Tells how to write a task, by the one that is tried here."""


@pytest.fixture
def tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """Install the package, and give its task."""
    written = next(blocks(PAGE.read_text(encoding="utf-8"), "python"))
    (tmp_path / "own_tags.py").write_text(written.text)
    points = tmp_path / "own_tags-0.1.dist-info"
    points.mkdir()
    (points / "METADATA").write_text("Metadata-Version: 2.1\nName: own-tags\nVersion: 0.1\n")
    (points / "entry_points.txt").write_text("[compress.tasks]\ntags = own_tags\n")
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


def test_a_metric_is_a_percentage(tags: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric that falls below 0, as an explained variance does, is refused with the task's name."""
    monkeypatch.setattr(type(tags), "score", lambda _task, _tallies, weights: np.full(len(weights), -3.5))
    with pytest.raises(CompressError, match=r"tasks/tags: score gives -3\.5; a metric is 0 to 100"):
        tags.measure(np.zeros((2, 9), np.int64), 3)


def test_a_task_must_be_one(tags: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that is no task is refused by name, and so is a name that nobody has."""
    monkeypatch.setattr(sys.modules["own_tags"], "Tags", object)
    with pytest.raises(CompressError, match=r"tasks/tags: is no subclass of compress\.tasks\.Task"):
        load_task(tags.name)
    with pytest.raises(CompressError, match="tasks: there is no 'tag'; did you mean 'tags'"):
        load_task("tag")
