"""The C++ program of a bundle of maps or boxes: it finds what torch or the bundle's own chooser finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from compress.preprocess import normalise
from compress.records import BundleFile, Gate, Manifest, Preprocess
from compress.tasks import SHOWN_SCORE, choose_detections
from exporters.bundle.cpp import build_cpp
from tests.exporters.bundle.cpp_programs import compile_program, compiled, run_program

pytestmark = pytest.mark.slow

HEIGHT, WIDTH, STRIDE, CLASSES = 24, 36, 3, ("red", "grün", "blue")
CELLS = HEIGHT // STRIDE * (WIDTH // STRIDE)
PREPROCESS = Preprocess(height=HEIGHT, width=WIDTH, channels="rgb", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
Ports = dict[str, Any]


def add_maps(pooled: Any) -> Ports:
    """The mean of each colour in each cell is the logit of its class."""
    return {"logits": pooled}


def add_boxes(pooled: Any) -> Ports:
    """Logits as of the maps, cell by cell, and boxes of nine pixels around the cell's centre, moved by its colours."""
    from openvino import opset13 as ops

    cells = ops.reshape(ops.transpose(pooled, [0, 2, 3, 1]), [0, CELLS, 3], special_zero=True)
    rows, columns = np.meshgrid(np.arange(HEIGHT // STRIDE), np.arange(WIDTH // STRIDE), indexing="ij")
    centres = ((np.stack([columns, rows], axis=2).reshape(1, -1, 2) + 0.5) * STRIDE).astype(np.float32)
    moved = ops.add(ops.slice(cells, [0], [2], [1], [2]), centres)
    sides = np.float32(4.5)
    return {
        "logits": ops.multiply(cells, np.float32(2)),
        "boxes": ops.concat([ops.subtract(moved, sides), ops.add(moved, sides)], 2),
    }


def describe_bundle(task: str, shape: tuple[int, ...]) -> Manifest:
    file = BundleFile(
        path="student.xml", parts={}, format="openvino", runtime="openvino", precision="fp32", size_bytes=1,
        gate=Gate(status="passed", reason="", samples=2),
    )  # fmt: skip
    return Manifest(
        name=task, classes=CLASSES, preprocess=PREPROCESS, task=task, logits_shape=shape, files=(file,), gate={},
        samples="samples.npz", samples_count=2, samples_sha256="0" * 64, provenance={},
    )  # fmt: skip


def write_bundle(folder: Path, task: str, add: Callable[[Any], Ports], shape: tuple[int, ...]) -> Path:
    """Write a file for OpenVINO whose answers are easy to compute, and its program; build that; return the folder."""
    import openvino
    from openvino import opset13 as ops

    bundle = folder / "bundle"
    images = ops.parameter([-1, 3, HEIGHT, WIDTH], openvino.Type.f32, name="images")
    images.output(0).set_names({"images"})
    ports = add(ops.avg_pool(images, [STRIDE] * 2, [0, 0], [0, 0], [STRIDE] * 2, exclude_pad=True))
    for name, port in ports.items():
        port.output(0).set_names({name})
    model = openvino.Model([ops.result(port) for port in ports.values()], [images], task)
    (bundle / "cpp").mkdir(parents=True)
    openvino.save_model(model, bundle / "student.xml", compress_to_fp16=False)
    manifest = describe_bundle(task, shape)
    for path, text in build_cpp(manifest).items():
        (bundle / path).write_text(text, encoding="utf-8")
    compile_program(bundle)
    return bundle


def write_pictures(folder: Path, count: int = 3) -> tuple[list[Path], NDArray[np.float32]]:
    """Write pictures of coarse noise; return them, and the mean of each colour in each cell, [N, 3, rows, columns]."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, HEIGHT // 6, WIDTH // 6, 3), dtype=np.uint8)
    pixels = coarse.repeat(6, axis=1).repeat(6, axis=2) // 2 + np.random.default_rng(1).integers(
        0, 128, (count, HEIGHT, WIDTH, 3), dtype=np.uint8
    )
    paths = [folder / f"{number}.ppm" for number in range(count)]
    for path, picture in zip(paths, pixels, strict=True):
        Image.fromarray(picture).save(path)
    return paths, F.avg_pool2d(torch.from_numpy(normalise(pixels, PREPROCESS)), STRIDE).numpy()


@compiled
def test_program_enlarges_maps_as_torch_does(tmp_path: Path) -> None:
    """The class of each pixel is that of torch's bilinear logits, but where two are equal; shares are those of the map."""
    bundle = write_bundle(tmp_path, "segmentation", add_maps, (3, HEIGHT // STRIDE, WIDTH // STRIDE))
    paths, cells = write_pictures(tmp_path)
    done = run_program(bundle, *paths)
    assert (done.returncode, done.stderr) == (0, "")
    whole = F.interpolate(torch.from_numpy(cells), size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False).numpy()
    for path, line, logits in zip(paths, done.stdout.splitlines(), whole, strict=True):
        with Image.open(f"{path}.classes.pgm") as image:
            found = np.asarray(image)
        chosen = np.take_along_axis(logits, found[None].astype(np.int64), axis=0)[0]
        assert np.abs(logits.max(axis=0) - chosen).max() < 1e-5
        assert len(np.unique(found)) == len(CLASSES)
        first, *told = line.split("\t")
        assert first == str(path)
        shares = {CLASSES[label]: float((found == label).mean()) for label in range(len(CLASSES))}
        assert dict(zip(told[::2], map(float, told[1::2]), strict=True)) == pytest.approx(shares, abs=1e-6)


@compiled
def test_program_chooses_boxes_as_the_bundle_does(tmp_path: Path) -> None:
    """Of every picture the same objects in the same order; a picture without one gives its path alone."""
    bundle = write_bundle(tmp_path, "detection", add_boxes, (CELLS, len(CLASSES) + 4))
    paths, cells = write_pictures(tmp_path)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "black.ppm")
    done = run_program(bundle, *paths, tmp_path / "black.ppm")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert last == str(tmp_path / "black.ppm")
    wanted = []
    for path, logits in zip(paths, cells.reshape(len(paths), 3, -1).transpose(0, 2, 1), strict=True):
        rows, columns = np.divmod(np.arange(CELLS), WIDTH // STRIDE)
        moved = (np.stack([columns, rows], axis=1).astype(np.float32) + 0.5) * STRIDE + logits[:, :2]
        found = choose_detections(np.concatenate([2 * logits, moved - 4.5, moved + 4.5], axis=1), least_score=SHOWN_SCORE)
        assert 5 < len(found.scores) < CELLS * len(CLASSES)
        wanted += [(str(path), CLASSES[label], *box, score) for box, score, label in zip(*found, strict=True)]
    told = [(path, name, *map(float, box), float(score)) for path, name, score, *box in (line.split("\t") for line in lines)]
    assert [each[:2] for each in told] == [each[:2] for each in wanted]
    assert np.array([each[2:] for each in told]) == pytest.approx(np.array([each[2:] for each in wanted]), abs=6e-3)


def test_answers_of_another_kind_have_no_program() -> None:
    """What a task of another package answers is not guessed at."""
    assert build_cpp(describe_bundle("segmentation", (3, 4, 5)))
    assert build_cpp(describe_bundle("segmentation", (3, 4, 5, 6))) == {}
