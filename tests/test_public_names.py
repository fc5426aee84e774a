"""What authors of plug-ins import: the public names of the contracts, tried from an installed wheel."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CONTRACTS = {
    "compress.methods": {"Method", "Setting", "Signal", "Step"},
    "compress.models": {"Network", "Outputs"},
    "compress.data": {"Batch", "Dataset", "Source", "Split"},
    "exporters": {"About", "Exporter", "Quantizable", "Quantization", "Quantizer", "Simulated", "export", "gate", "load"},
}

PLUGINS = {
    "methods": '''
"""Gentle: the squared difference of the softmaxes beside the labels.

Trained: the student.
Frozen: the teachers.
Shipped: the student.
Stages: student
Source: none; a test.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compress.methods import Method, Setting, Signal, Step
from compress.recipe import Positive


class Mine(Method):
    """Cross-entropy plus a squared difference.

    Args:
        setting: Student, teachers, an image, the number of classes.
        weight: Of the squared difference.
    """

    def __init__(self, setting: Setting, *, weight: Positive = 10.0) -> None:
        super().__init__(setting)
        self.weight = weight

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the two terms."""
        student, teacher = step.student.logits, step.teacher(0).logits
        assert Signal(0) in step.signals_read
        difference = F.mse_loss(student.softmax(dim=1), teacher.softmax(dim=1))
        return {"ce": F.cross_entropy(student, step.batch.labels), "difference": self.weight * difference}
''',
    "models": '''
"""Small networks."""

from __future__ import annotations

from torch import nn

from compress.models import Network, Outputs
from compress.recipe import Count


def small(classes: int, channels: int, *, width: Count = 8) -> Network:
    """Two convolutions.

    Args:
        classes: Number of classes.
        channels: Of the images.
        width: Channels of the first layer.
    """
    layers = nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes),
    )
    assert Outputs._fields == ("logits", "features")
    return Network(layers, taps=("1", "3"), classifier="6")
''',
    "data": '''
"""Stripes: images that are lying or standing stripes."""

from __future__ import annotations

import numpy as np

from compress.data import Batch, Dataset, Source, Split, Summary
from compress.recipe import Count
from compress.records import Preprocess


class Mine:
    """Stripes with noise.

    Args:
        images: In each split.
    """

    channels = "gray"

    def __init__(self, *, images: Count = 96) -> None:
        self.images = images

    def summary(self) -> Summary:
        """Return classes and sizes."""
        return Summary(("lying", "standing"), self.images, self.images)

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return both splits."""
        return Dataset(self._split(preprocess, 0), self._split(preprocess, 1))

    def _split(self, preprocess: Preprocess, seed: int) -> Split:
        random, labels = np.random.default_rng(seed), np.arange(self.images) % 2
        images = random.integers(0, 80, (self.images, preprocess.height, preprocess.width, 1), dtype=np.uint8)
        images[labels == 0, ::2] += 150
        images[labels == 1, :, ::2] += 150
        return Split(images, labels)


SOURCE: Source = Mine()
assert Batch._fields[:2] == ("images", "labels")
''',
    "exporters": '''
"""ONNX again, under another name."""

from __future__ import annotations

from pathlib import Path

from exporters import About, Exporter
from exporters.onnx import Onnx


class Mine(Onnx):
    """Writes what `onnx` writes."""

    def __init__(self) -> None:
        super().__init__()

    def name_file(self, folder: Path, stem: str) -> Path:
        """Return `folder/STEM-mine.onnx`."""
        return folder / f"{stem}-mine.onnx"

    def export(self, module: object, example: object, path: Path, *, about: About | None = None) -> None:
        """Write the file."""
        super().export(module, example, path, about=about)


FORMAT: type[Exporter] = Mine
''',
}

RECIPE = """\
name: mine
data: {source: mine, image_size: 8, validation_fraction: 0.25}
teacher: {model: mine.small, width: 16, train: {epochs: 8}}
student: {model: mine.small}
method: {name: mine, weight: 5}
train: {epochs: 2, lr: 5e-2, batch_size: 24}
exports: [{format: mine}]
gate: {max_top1_drop_points: 10, min_agreement: 0.9}
measure: {devices: [local], rounds: 5, launches: 1, seconds: 0.1}
"""


def run(*arguments: str | Path, cwd: Path, path: str, ended: tuple[int, ...] = (0,)) -> str:
    """Run Python away from the repository, with nothing of ours but what was installed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode in ended, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """A folder into which somebody's package of plug-ins is installed."""
    site = tmp_path / "site"
    (site / "acme").mkdir(parents=True)
    (site / "acme" / "__init__.py").write_text("")
    (site / "acme-0.1.dist-info").mkdir()
    (site / "acme-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 0.1\n")
    points = "".join(f"[compress.{kind}]\nmine = acme.{kind}\n" for kind in PLUGINS)
    (site / "acme-0.1.dist-info" / "entry_points.txt").write_text(points)
    for kind, source in PLUGINS.items():
        (site / "acme" / f"{kind}.py").write_text(source.lstrip(), encoding="utf-8")
    return site


@pytest.mark.slow
def test_a_package_of_plug_ins_runs_with_the_installed_wheel(installed: Path, acme: Path, tmp_path: Path) -> None:
    """A user's method, model, data and format, written with public names alone, go through a whole run."""
    path = os.pathsep.join(map(str, (installed, acme)))
    assert Path(run("-c", "import compress; print(compress.__file__)", cwd=tmp_path, path=path)).is_relative_to(installed)
    (tmp_path / "mine.yaml").write_text(RECIPE, encoding="utf-8")
    run(
        "-m", "compress", "run", "mine.yaml", "--runs", tmp_path / "runs", cwd=tmp_path, path=path, ended=(0, 4)
    )  # 4: shaky times
    report = json.loads((tmp_path / "runs" / "mine" / "report.json").read_text(encoding="utf-8"))
    metrics = json.loads((tmp_path / "runs" / "mine" / "student" / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["epochs"][0]["losses"]) >= {"ce", "difference"}
    passed = {
        variant["network"] for variant in report["variants"] if (variant["format"], variant["status"]) == ("mine", "passed")
    }
    assert passed == {"teacher", "student"}


@pytest.mark.parametrize("package", CONTRACTS)
def test_the_names_of_a_contract_are_public(package: str) -> None:
    """The package lists the names that its plug-ins are written with, and each can be imported from it."""
    program = f"import {package} as p; print(*[name for name in p.__all__ if hasattr(p, name)], len(p.__all__))"
    *names, count = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert CONTRACTS[package] <= set(names)
    assert len(names) == int(count)


@pytest.mark.parametrize("package", CONTRACTS)
def test_what_is_private_to_a_folder_of_plug_ins_stays_there(package: str, root: Path) -> None:
    """Nobody outside of a folder of plug-ins imports one of its underscore modules."""
    home = root / package.replace(".", "/")
    outside = [path for top in ("compress", "exporters", "benchmarks") for path in (root / top).rglob("*.py")]
    for path in outside:
        if home not in path.parents:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            assert not [module for module in modules if module.startswith(f"{package}._")], path
