"""Write a recipe to start from, with a comment at whatever one is likely to change (`compress init`)."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from compress.errors import CompressError, Unreachable
from compress.system.files import write_whole

DIGITS = """\
  source: digits                # scikit-learn's handwritten digits; your own pictures: compress init --data FOLDER
  image_size: 16                # height and width in pixels that the networks see
  validation_fraction: 0.15     # held out of the training split for every choice that is made
"""

PARQUET = "huggingface           # a local folder of parquet files in hub layout"
PICTURES = "folder                # pictures in train/CLASS/ and test/CLASS/"

OWN = """\
  source: {source}
  path: {path}
  image_size: 32                # height and width in pixels that the networks see
  validation_fraction: 0.1      # held out of the training split for every choice that is made
  crop_padding: 4               # augmentation: random crops from a reflected border
  flip: true                    # augmentation: mirror half of the images; not for text or digits
  storage: auto                 # memory where they fit, and otherwise disk: decoded once, read by threads
"""

RECIPE = """\
# {name}: distil a small student from a large teacher, export it, prove that the file works, measure it.
#
#   compress check {file}       what a run would do, and all that is wrong with this file
#   compress run {file}         do it; continues where it was interrupted
#   compress list methods       what else can be named here; `compress list methods kd` tells its options

name: {name}                    # the run's folder: runs/{name}
seed: 0                         # decides everything random

data:
{data}
teacher:
  model: resnet_cifar.resnet32  # others: compress list models
  # weights: teacher.safetensors  instead of training it here, relative to this file; and its checksum:
  # sha256: ...
  train: {{epochs: {teacher_epochs}, lr: 0.1}}

student:
  model: resnet_cifar.resnet8

method:                         # several methods can teach one student together
  - name: kd                    # others: compress list methods
    temperature: 4

baselines:                      # the same student trained otherwise, for comparison in the same report
  - {{name: supervised}}

train:                          # how the student is trained; what is not said has its default
  epochs: {student_epochs}
  batch_size: 64
  lr: 0.1
  schedule: cosine

exports:
  - {{format: onnx, precision: fp32}}
  - {{format: onnx, precision: int8}}    # by whatever it takes to meet the gate; the report tells what it took
  - {{format: openvino, precision: fp16}}

gate:                           # what an exported file must hold on its own runtime, or the run fails
  max_top1_drop_points: 1.0     # percentage points of top-1 that it may lose

measure:
  threads: 1                    # two threads are faster and vary much more
  against: teacher              # whose latency the speed-ups are taken against
"""


def write(path: Path, *, data: Path | None = None) -> None:
    """Write a recipe.

    Args:
        path: File to make.
        data: Folder of pictures, one folder per class, or of parquet files in hub layout; default the embedded digits.

    Raises:
        CompressError: The file is there already, or has a name that no recipe can have.
        Unreachable: The data folder is not there, or the file cannot be written.
    """
    if path.exists():
        raise CompressError(f"{path}: is there already and is not overwritten; give another name")
    if data is not None and not data.is_dir():
        raise Unreachable(f"--data {data}: there is no such folder")
    text = render_recipe(path, data=data)
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render_recipe(path: Path, *, data: Path | None = None) -> str:
    """Return the text of a starter recipe that shall lie at `path`."""
    if data is None:
        section, teacher_epochs, student_epochs = DIGITS, 10, 10
    else:
        is_parquet = any(next(data.glob(pattern), None) for pattern in ("*.parquet", "*/*.parquet"))
        place = {"source": PARQUET if is_parquet else PICTURES, "path": _quote(str(data.absolute()))}
        section, teacher_epochs, student_epochs = OWN.format(**place), 60, 60
    name = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in path.stem).strip("-") or "recipe"
    file = shlex.quote(str(path))
    return RECIPE.format(name=name, file=file, data=section, teacher_epochs=teacher_epochs, student_epochs=student_epochs)


def _quote(text: str) -> str:
    """Return a text in double quotes for YAML: letters of any script as they are, what cannot be printed escaped."""
    return json.dumps(text, ensure_ascii=not text.isprintable())
