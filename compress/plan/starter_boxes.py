"""Write a recipe for detection to start from: for the embedded scenes."""

from __future__ import annotations

import shlex
from pathlib import Path

RECIPE = """\
# {name}: distil a small detector from a large one, export it, prove that the file works, measure it.
#
#   compress check {file}       what a run would do, and all that is wrong with this file
#   compress run {file}         do it; continues where it was interrupted
#   compress list models        networks: detector.*; compress list data coco, yolo: your own pictures

name: {name}                    # the run's folder: runs/{name}
seed: 0                         # decides everything random

data:
  source: digit_scenes          # needs no download; your own: source: coco or yolo, with path: FOLDER
  task: detection               # only digit_scenes must be told
  image_size: 64                # height and width that the networks see
  validation_fraction: 0.15     # held out of the training split for every choice that is made
  crop_padding: 6               # augmentation: random crops from a reflected border; boxes move along
  views: 3                      # different crops of each picture; what the teacher says of each is kept

teacher:
  model: detector.small         # for pictures of your own: detector.resnet18
  # weights: teacher.safetensors  instead of training it here, relative to this file
  train: {{epochs: 24, batch_size: 16, optimizer: adamw, lr: 3e-3, weight_decay: 1e-2}}

student:
  model: detector.tiny          # for pictures of your own: detector.mobilenet_v2

method: {{name: dist}}            # others for boxes: kd, pkd, fitnet, attention_transfer, feed; compress list methods

baselines:                      # the same student trained otherwise, for comparison in the same report
  - {{name: supervised}}

train:                          # how the student is trained; what is not said has its default
  epochs: 24
  batch_size: 16
  optimizer: adamw
  lr: 3e-3
  weight_decay: 1e-2

exports:                        # files of detectors give logits and boxes; formats: onnx and openvino
  - {{format: onnx, precision: fp32}}
  - {{format: onnx, precision: int8}}    # by whatever it takes to meet the gate; the report tells what it took
  - {{format: openvino, precision: fp16}}

gate:                           # what an exported file must hold on its own runtime, or the run fails
  max_drop_points: 1.0          # percentage points of AP that it may lose

measure:
  threads: 1                    # two threads are faster and vary much more
  against: teacher              # whose latency the speed-ups are taken against
"""


def render_recipe(path: Path, name: str) -> str:
    """Return the text of a recipe for detection that shall lie at `path`, for a run of a name."""
    return RECIPE.format(name=name, file=shlex.quote(str(path)))
