"""Write a recipe for segmentation to start from: for the embedded scenes, or for a folder of pictures with masks."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from PIL import Image

from compress.data import Summary
from compress.data.masks import Masks
from compress.text import quantify

SMALLEST, LARGEST = 64, 320
"""Sides in pixels that are proposed; networks for segmentation keep large maps, and a CPU feels every pixel."""
STEP = 32
"""The deepest maps of the proposed networks have a cell for so many pixels."""

SCENES = """\
  source: digit_scenes          # needs no download; your own pictures: compress init --task segmentation --data FOLDER
  image_size: 64                # height and width that the networks see
  validation_fraction: 0.15     # held out of the training split for every choice that is made
  crop_padding: 6               # augmentation: random crops from a reflected border; masks move along
  views: 3                      # different crops of each picture; what the teacher says of each is kept
"""

RECIPE = """\
# {name}: distil a small segmentation network from a large one, export it, prove that the file works, measure it.
#
#   compress check {file}       what a run would do, and all that is wrong with this file
#   compress run {file}         do it; continues where it was interrupted
#   compress list models        networks: segmenter.* and torchvision_segmentation.*

name: {name}                    # the run's folder: runs/{name}
seed: 0                         # decides everything random

data:
{data}
teacher:
  model: {teacher}
  # weights: teacher.safetensors  instead of training it here, relative to this file
  train: {{epochs: {teacher_epochs}, batch_size: 16, optimizer: adamw, lr: {lr}, weight_decay: 1e-2}}

student:
  model: {student}

method: {{name: dist}}            # others for masks: kd, cwd, pkd, fitnet; compress list methods

baselines:                      # the same student trained otherwise, for comparison in the same report
  - {{name: supervised}}

train:                          # how the student is trained; what is not said has its default
  epochs: {student_epochs}
  batch_size: 16
  optimizer: adamw
  lr: {lr}
  weight_decay: 1e-2

exports:
  - {{format: onnx, precision: fp32}}
  - {{format: onnx, precision: int8}}    # by whatever it takes to meet the gate; the report tells what it took
  - {{format: openvino, precision: fp16}}

gate:                           # what an exported file must hold on its own runtime, or the run fails
  max_drop_points: 1.0          # percentage points of mIoU that it may lose

measure:
  threads: 1                    # two threads are faster and vary much more
  against: teacher              # whose latency the speed-ups are taken against
"""


class Seen(NamedTuple):
    """What was seen of a folder of pictures with masks."""

    summary: Summary
    widths: tuple[int, ...]
    heights: tuple[int, ...]

    @property
    def image_size(self) -> int:
        """A multiple of `STEP` near the median of the shorter sides, and no more than a CPU bears."""
        side = median(map(min, zip(self.widths, self.heights, strict=True)))
        return min(max(STEP * round(side / STEP), SMALLEST), LARGEST)

    def describe(self) -> Iterator[str]:
        """Yield what was seen, a sentence each."""
        total = self.summary.train_images + self.summary.test_images
        yield (
            f"{total:,} pictures with masks of {quantify(len(self.summary.classes), 'class', 'classes')}; "
            f"{self.summary.test_images:,} of them are the test split."
        )
        yield f"They have {median(self.widths):g} × {median(self.heights):g} pixels at the median."


def survey_masks(folder: Path) -> Seen:
    """Look at the names and headers of a folder of pictures with masks.

    Raises:
        CompressError: It is no such folder, or what is in it does not fit together.
        Unreachable: It is not there.
    """
    source = Masks(path=str(folder))
    summary = source.summary()
    sizes = [_read_size(path) for path in source.list_masks()]
    widths, heights = zip(*sizes, strict=True)
    return Seen(summary, widths, heights)


def _read_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def render_recipe(path: Path, name: str, *, data: Path | None, seen: Seen | None) -> str:
    """Return the text of a recipe for segmentation that shall lie at `path`.

    Args:
        path: Of the recipe.
        name: Of the run.
        data: Folder of pictures with masks; default: the embedded scenes.
        seen: What was seen of it.
    """
    fields: dict[str, object] = {
        "data": SCENES, "teacher": "segmenter.small", "student": "segmenter.tiny", "teacher_epochs": 30, "student_epochs": 30,
        "lr": "3e-3",
    }  # fmt: skip
    if data is not None and seen is not None:
        fields |= {
            "data": _render_data(data, seen), "teacher": "segmenter.resnet18", "student": "segmenter.mobilenet_v2",
            "teacher_epochs": 60, "student_epochs": 60, "lr": "1e-3",
        }  # fmt: skip
    return RECIPE.format(name=name, file=shlex.quote(str(path)), **fields)


def _render_data(data: Path, seen: Seen) -> str:
    lines = [f"  # seen by compress init: {sentence}" for sentence in seen.describe()]
    where = json.dumps(str(data.absolute()), ensure_ascii=not str(data).isprintable())
    lines += [
        "  source: masks                 # train/images with train/masks, and test/ likewise; classes in classes.txt",
        f"  path: {where}",
        f"  image_size: {seen.image_size}".ljust(32) + "# height and width that the networks see; results are measured there",
        "  validation_fraction: 0.15     # held out of the training split for every choice that is made",
        f"  crop_padding: {seen.image_size // 8}".ljust(32) + "# augmentation: random crops from a reflected border",
        "  flip: true                    # augmentation: mirror half of the images; not where left and right matter",
    ]
    return "\n".join(lines) + "\n"
