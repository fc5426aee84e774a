"""A small training set, the outputs of a method's teachers for it, and events whose text can be read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from compress.data import InMemory, Split
from compress.events import Events
from compress.methods import Method
from compress.recipe import TeacherOutputsSection
from compress.records import Preprocess
from compress.teachers.plan import OutputsRequest
from compress.teachers.provider import TeacherOutputs, provide_outputs
from compress.teachers.signals import find_required_signals
from tests import tiny
from tests.tiny import CPU, PREPROCESS

ROWS, SIZE = 50, 16
"""The last batch of a sweep has two images."""


EXACT = TeacherOutputsSection(store="on", precision="fp32", engine="eager")


def split() -> Split:
    return tiny.split(ROWS)


def data(of: Split | None = None, preprocess: Preprocess = PREPROCESS, **changed: Any) -> InMemory:
    options = {"batch_size": SIZE, "shuffle": True, "seed": 3, "crop_padding": 1, "flip": True, "views": 2, **changed}
    return InMemory(of or split(), preprocess, device=CPU, **options)


def held_out() -> InMemory:
    return InMemory(split(), PREPROCESS, batch_size=32, device=CPU)


def teachers(
    method: Method, folder: Path, section: TeacherOutputsSection = EXACT, *, batches: InMemory | None = None, epochs: int = 4,
    shared: bool = True, autocast: torch.dtype | None = None, events: Events | None = None, decision: Path | None = None,
) -> TeacherOutputs:  # fmt: skip
    batches = batches or data()
    signals = find_required_signals(method, next(batches.epoch(0)))
    request = OutputsRequest(
        method, signals, batches, section=section, folder=folder / "targets", epochs=epochs, shared=shared, autocast=autocast,
        events=events or Events(), decision=decision,
    )  # fmt: skip
    return provide_outputs(request)


class Said(NamedTuple):
    events: Events
    text: io.StringIO


def listening() -> Said:
    text = io.StringIO()
    return Said(Events(console=Console(file=text, width=1000)), text)
