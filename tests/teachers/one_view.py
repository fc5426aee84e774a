"""One of several processes that want the same view at the same moment: python -m tests.teachers.one_view FOLDER NAME."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.methods import Method, Setting, Signal
from tests.teachers.example import data, teachers
from tests.tiny import fresh, tiny


class Slow(nn.Module):
    """Takes its time, so that two processes meet."""

    def forward(self, maps: Tensor) -> Tensor:
        time.sleep(0.1)
        return maps


def slow_method() -> Method:
    torch.manual_seed(5)
    network = tiny(8)
    network.module.second.append(Slow())
    return fresh("kd", Setting(tiny(2), (network,), torch.zeros(1, 1, 8, 8), 4))


def have_one_view(place: str, name: str) -> None:
    """Wait for the others, have one view, and tell what came of it."""
    folder = Path(place)
    torch.set_num_threads(1)
    kept = teachers(slow_method(), folder)
    (folder / f"{name}.ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.002)
    kept.prepare_epoch(0)
    found = [kept.get_signals(batch)[Signal(0)] for batch in data().read_view(0)]
    report = {"made": kept.summarize().views_computed, "outputs": torch.cat(found).tolist()}
    (folder / f"{name}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    have_one_view(sys.argv[1], sys.argv[2])
