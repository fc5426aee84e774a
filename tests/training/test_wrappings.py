"""Weights are found in whatever a training script wraps them in, and nothing of the script is run."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress.errors import CompressError
from compress.training.checkpoint import load_weights
from tests.tiny import Tiny

State = dict[str, torch.Tensor]


def build(seed: int) -> Tiny:
    torch.manual_seed(seed)
    return Tiny(4)


def prefixed(prefix: str, seed: int = 0) -> State:
    return {prefix + name: value for name, value in build(seed).state_dict().items()}


def holds(module: nn.Module, seed: int) -> bool:
    return all(torch.equal(value, build(seed).state_dict()[name]) for name, value in module.state_dict().items())


DAY = datetime.date(2026, 1, 1)
NAMESPACE = argparse.Namespace(lr=0.1, path=pathlib.PosixPath("x"), best=np.float64(3), when=DAY)
WRAPPED = {
    "compiled": prefixed("_orig_mod."),
    "compiled and parallel": {"model": prefixed("module._orig_mod.")},
    "parallel and compiled": prefixed("_orig_mod.module."),
    "compiled within": {name.replace("first.", "first._orig_mod."): value for name, value in prefixed("").items()},
    "lightning": {"epoch": 3, "state_dict": prefixed("model."), "pytorch-lightning_version": "2.4.0", "loops": {"lr": 1}},
    "lightning with a loss": {"state_dict": {**prefixed("net.backbone."), "criterion.weight": torch.ones(3)}},
    "averaged model": {"n_averaged": torch.tensor(10), **prefixed("module.")},
    "net": {"net": prefixed("module."), "acc": 93.1, "epoch": 12},
    "weights": {"weights": prefixed("encoder.")},
    "two levels": {"checkpoint": {"network": prefixed("")}, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
    "reference training": {"model": prefixed(""), "optimizer": {"param_groups": [{"lr": 0.1}]}, "args": NAMESPACE},
    "numbers of NumPy": {"state_dict": prefixed(""), "best": np.float32(93.1), "all": np.arange(3)},
    "objects": {"state_dict": prefixed(""), "x": types.SimpleNamespace(a=1), "y": collections.defaultdict(list, {"a": [1]})},
    "twice": {"model": prefixed(""), "state_dict": prefixed("")},
}  # fmt: skip
PARALLEL_AVERAGE = {"n_averaged": torch.tensor(1), **prefixed("module.", 2)}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("legacy", [False, True])
def test_wrapped_weights_are_found(tmp_path: Path, name: str, legacy: bool) -> None:
    """Any prefix and any key, beside arguments and an optimizer, in both formats of torch."""
    torch.save(WRAPPED[name], tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    module = build(1)
    load_weights(module, tmp_path / "x.pt")
    assert holds(module, 0)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"state_dict": prefixed(""), "state_dict_ema": prefixed("", 2)}, id="timm"),
        pytest.param({"model": prefixed("module."), "model_ema": PARALLEL_AVERAGE}, id="torchvision"),
        pytest.param({"state_dict": {**prefixed("model."), **prefixed("ema_model.module.", 2)}}, id="lightning"),
        pytest.param({"net": prefixed(""), "ema": {"shadow": prefixed("", 2)}}, id="nested"),
    ],
)  # fmt: skip
def test_averaged_weights_are_taken_where_they_are_wanted(tmp_path: Path, content: dict[str, object]) -> None:
    """Of plain and averaged weights the plain ones are taken, which is said, and the others by `ema`."""
    torch.save(content, tmp_path / "x.pt")
    module = build(1)
    note = load_weights(module, tmp_path / "x.pt").note
    assert holds(module, 0)
    assert "took the plain weights" in note
    assert "set ema: true" in note
    note = load_weights(module, tmp_path / "x.pt", ema=True).note
    assert holds(module, 2)
    assert "took the averaged (EMA) weights" in note
    assert "remove ema" in note


def test_averaged_weights_alone_are_taken_and_said(tmp_path: Path) -> None:
    """Where a file holds only averaged weights there is no choice; where it holds none, `ema` is refused."""
    torch.save({"model_ema": prefixed("", 2)}, tmp_path / "x.pt")
    module = build(1)
    assert "the only ones that fit" in load_weights(module, tmp_path / "x.pt").note
    assert holds(module, 2)
    torch.save(prefixed(""), tmp_path / "y.pt")
    with pytest.raises(CompressError, match="holds no averaged weights"):
        load_weights(module, tmp_path / "y.pt", ema=True)


def test_two_networks_that_fit_are_refused(tmp_path: Path) -> None:
    """Which of two networks is meant is not guessed."""
    torch.save({"state_dict": {**prefixed("student."), **prefixed("teacher.", 2)}}, tmp_path / "x.pt")
    module = build(1)
    with pytest.raises(CompressError, match=r"several networks that fit, under 'state_dict.student' and 'state_dict.teacher'"):
        load_weights(module, tmp_path / "x.pt")
    assert holds(module, 1)


def test_what_does_not_fit_is_told_by_the_networks_names(tmp_path: Path) -> None:
    """Under a prefix, too, only what is really missing is listed."""
    state = {name: value for name, value in prefixed("_orig_mod.").items() if not name.endswith("first.0.weight")}
    torch.save({"net": state}, tmp_path / "x.pt")
    with pytest.raises(CompressError, match=r"under 'net', does not fit Tiny: 1 missing: first.0.weight;"):
        load_weights(build(1), tmp_path / "x.pt")


class Config:
    """An object that no list knows."""


def test_unknown_objects_are_refused_by_name(tmp_path: Path) -> None:
    """What is on no list is refused as before, whatever lies beside it."""
    torch.save({"state_dict": prefixed(""), "config": Config(), "args": NAMESPACE}, tmp_path / "x.pt")
    with pytest.raises(CompressError, match=r"could run code \(tests.training.test_wrappings.Config\)"):
        load_weights(build(1), tmp_path / "x.pt")
