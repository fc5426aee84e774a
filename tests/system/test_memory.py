"""Images on disk through the whole chain: the run that they give is the run of the same images in memory."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from compress import plugins, recipe
from compress.data import DiskImages, FromDisk, ImageFile, InMemory, Split
from compress.errors import CompressError, Interrupted
from compress.events import Events
from compress.methods import Method
from compress.plan.plan import make_plan
from compress.recipe import TrainSection
from compress.records import Preprocess
from compress.run import pipeline, verify
from compress.run.data import prepare_data
from compress.training import loop
from tests.tiny import setting

CPU = torch.device("cpu")

RECIPE = """\
name: own
seed: 1
data: {source: folder, path: pictures, channels: gray, image_size: 8, validation_fraction: 0.2, crop_padding: 1, views: 2}
teacher: {model: resnet_cifar.resnet8, train: {epochs: 1}}
student: {model: resnet_cifar.resnet8}
method: {name: kd, temperature: 2}
train: {epochs: 2, lr: 5e-2, batch_size: 256}
exports: [{format: onnx, precision: fp32, preprocess: inside}]
measure: {rounds: 5, launches: 1, seconds: 0.1, against: student}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the digits as files, one folder for each class."""
    from sklearn.datasets import load_digits

    base, digits = tmp_path_factory.mktemp("own"), load_digits()
    for row, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = base / "pictures" / ("train" if row % 4 else "test") / f"digit {label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((values * 255 / 16).astype(np.uint8)).save(place / f"{row:04}.png")
    return base


def parsed(*overrides: str) -> recipe.Recipe:
    return recipe.parse(RECIPE.encode(), "own.yaml", overrides)


@pytest.mark.slow
def test_a_run_from_disk_is_the_run_from_memory(base: Path, monkeypatch: pytest.MonkeyPatch, time_once: None) -> None:
    """A run from disk leaves a proved bundle, and one from memory then finds every stage that it has trained and exported."""
    monkeypatch.setattr(verify, "SLICE_BYTES", 256 * 64)  # so that several processes share the images
    said = io.StringIO()
    events = Events(console=Console(file=said, width=200))
    report = pipeline.run(parsed("data.storage=disk"), base=base, runs=base / "runs", events=events)
    assert report.status == "passed"
    assert report.images == {"train": 1077, "validation": 270, "test": 450}
    assert "data: 112 KiB decoded once to disk, read row by row" in said.getvalue()
    assert all(row.accuracy is None or row.accuracy.samples == 450 for row in report.variants)
    assert (base / "runs" / "own" / "bundle" / "manifest.json").is_file()
    again = pipeline.run(parsed("data.storage=memory"), base=base, runs=base / "runs", events=Events())
    assert [stage.key for stage in again.stages] == [stage.key for stage in report.stages]
    assert again.gates == report.gates
    told = [json.loads(line) for line in (base / "runs" / "own" / "events.jsonl").read_text().splitlines()]
    assert [each["place"] for each in told if each["event"] == "images"] == ["disk", "memory"]
    assert [each["found"] for each in told if each["event"] == "stage"] == [False, False, True, True]


def test_the_data_of_a_run_does_not_depend_on_its_storage(base: Path) -> None:
    """Splits, statistics and keys are the same, and images on disk are not in memory."""
    disk, memory = (
        prepare_data(parsed(f"data.storage={storage}").data, base=base, seed=1, cache=base / "cache")
        for storage in ("disk", "memory")
    )
    assert (disk.key, disk.test_key, disk.preprocess) == (memory.key, memory.test_key, memory.preprocess)
    for name in ("train", "validation", "test"):
        assert isinstance(getattr(disk, name).images, DiskImages)
        assert isinstance(getattr(memory, name).images, np.ndarray)
        assert np.array_equal(getattr(disk, name).images[:], getattr(memory, name).images)
        assert np.array_equal(getattr(disk, name).labels, getattr(memory, name).labels)


def test_the_plan_tells_where_images_will_be(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`compress check` shows what `auto` means here and now, and by which figures."""

    def about(*overrides: str) -> str:
        return make_plan(parsed(*overrides), base=base, runs=base / "runs").stages[0].about

    assert about().endswith("112 KiB in memory")
    assert "112 KiB decoded once to disk, read row by row (" in about("data.storage=disk")
    monkeypatch.setattr("compress.system.memory.measure_available_bytes", lambda: 1 << 18)
    assert "112 KiB decoded once to disk, read row by row (256 KiB of memory is free)" in about()


def test_a_source_that_cannot_stream_is_told_by_check(base: Path) -> None:
    """The embedded digits come all at once."""
    digits = ("data={source: digits, image_size: 8, storage: disk}",)
    with pytest.raises(CompressError, match=r"data\.storage: disk, but this source gives its images only all at once"):
        make_plan(parsed(*digits), base=base, runs=base / "runs")


def fresh() -> Method:
    torch.manual_seed(0)
    method: Method = plugins.load("methods", "kd")(setting())
    return method


@pytest.mark.parametrize("stop_after", [1, 5])
def test_training_from_disk_continues_to_the_bytes_of_memory(tmp_path: Path, stop_after: int) -> None:
    """Stopped in the middle of an epoch and continued by other threads, it ends with the weights of a run from memory."""
    images = np.random.default_rng(0).integers(0, 256, size=(70, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(70, dtype=np.int64) % 4
    np.save(tmp_path / "images.npy", images)
    preprocess = Preprocess(height=8, width=8, channels="gray", mean=(0.5,), std=(0.25,))
    settings = TrainSection(epochs=3, batch_size=16)

    def trained(split: Split, kind: type[InMemory], calls: itertools.count[int], state: Path | None) -> dict[str, Tensor]:
        method = fresh()
        data = kind(split, preprocess, batch_size=16, device=CPU, shuffle=True, seed=3, crop_padding=1, flip=True)
        held = kind(split, preprocess, batch_size=32, device=CPU)
        loop.fit(method, data, held, settings=settings, state=state, stopped=lambda: next(calls) == stop_after)
        return {name: value.clone() for name, value in method.state_dict().items()}

    disk = Split(DiskImages(ImageFile(tmp_path / "images.npy")), labels)
    with pytest.raises(Interrupted):
        trained(disk, FromDisk, itertools.count(1), tmp_path / "state")
    continued = trained(disk, FromDisk, itertools.count(1000), tmp_path / "state")
    for name, value in trained(Split(images, labels), InMemory, itertools.count(1000), None).items():
        assert torch.equal(value, continued[name]), name
