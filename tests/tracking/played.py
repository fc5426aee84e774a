"""A recipe that names trackers, and the events of a run that never trained anything."""

from __future__ import annotations

from pathlib import Path

from compress import recipe
from compress.events import Events
from compress.recipe import Recipe
from compress.records import Epoch
from compress.tracking import follow_run, require_trackers

RECIPE = """\
name: tiny
data: {source: digits, image_size: 8}
teacher: resnet_cifar.resnet8
student: resnet_cifar.resnet8
method: kd
track: """


def parse(track: str) -> Recipe:
    return recipe.parse((RECIPE + track).encode(), "recipe.yaml")


def make_epoch(number: int, stage: str = "teacher") -> Epoch:
    return Epoch(stage=stage, epoch=number, lr=0.1, losses={"ce": 1 / number}, validation_percent=40.0 + number, seconds=1)


def play(loaded: Recipe, folder: Path, *, epochs: int = 3) -> Events:
    """Let the trackers of a recipe follow the events of a run in a folder, with a result at the end."""
    events = Events()
    with follow_run(require_trackers(loaded), loaded, folder=folder, events=events) as followers:
        for number in range(1, epochs + 1):
            events.emit("epoch", **make_epoch(number).model_dump())
        events.emit("stage", stage="teacher", found=False)
        followers.results = {"student-onnx-fp32/percent": 97.5}
    return events
