"""Exceptions in the code of others that a recipe names: one message, the documented exit code, and that code's own lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from compress.cli.commands import program
from compress.cli.terminal import report_bug

Install = Callable[..., None]

NETWORKS = '''\
"""Networks that fail in the middle of a training."""
import errno
import sys

import torch
from torch import nn


class OwnError(Exception):
    """What only this package knows."""


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("no text")


def break_down(how):
    if how == "key":
        return {}["temperature"]
    if how == "own":
        raise OwnError("my own\\nin two lines")
    if how == "from":
        try:
            int("x")
        except ValueError as error:
            raise OwnError("cannot") from error
    if how == "unspeakable":
        raise Unspeakable
    if how == "long":
        raise OwnError("x" * 100_000)
    if how == "value":
        raise ValueError("another shape was expected")
    if how == "exit":
        sys.exit(0)
    if how == "pipe":
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    if how == "permission":
        raise PermissionError(errno.EACCES, "Permission denied", "/srv/pictures")
    if how == "module":
        import surely_not_installed.part
    if how == "interrupt":
        raise KeyboardInterrupt


class Net(nn.Module):
    def __init__(self, classes, channels, how):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head, self.how, self.passes = nn.Linear(4, classes), how, 0

    def forward(self, images):
        self.passes += self.training
        if self.passes > 6:
            break_down(self.how)
        return self.head(self.body(images))


def late(classes, channels, *, how: str = "key"):
    return Net(classes, channels, how)
'''

SOURCE = '''\
"""Pictures of a server that is away."""
import numpy as np
from compress.data import Dataset, Split, Summary, check_dataset
from compress.recipe import Text


class Away:
    """Pictures.

    Args:
        how: What goes wrong.
    """

    channels = "gray"

    def __init__(self, *, how: Text = "server"):
        self.how = how

    def summary(self):
        if self.how == "summary":
            raise LookupError("no such album")
        if self.how == "no summary":
            return None
        return Summary("ab" if self.how == "letters" else ("a", "b"), 640, 64)

    def load(self, preprocess):
        if self.how == "server":
            raise TimeoutError("the album does not answer")
        if self.how == "wrong":
            check_dataset(Dataset(*(Split(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int64)) for _ in "ab")), "2")
        split = Split(np.zeros((640, 8, 8, 1), np.uint8), np.arange(640) % 2)
        wrong = {
            "nothing": None, "pair": (split, split), "list": Dataset(split._replace(labels=[0] * 640), split),
            "fewer": Dataset(split, split),
        }
        return wrong[self.how]
'''

TRAINING = {
    "key": (2, "KeyError: 'temperature' ("),
    "own": (2, "OwnError: my own ("),
    "from": (2, "OwnError: cannot ("),
    "unspeakable": (2, "Unspeakable: <exception str() failed> ("),
    "long": (2, "x" * 100),
    "value": (2, "training stopped at epoch 1, step "),
    "exit": (2, "it ends the program with sys.exit(0) ("),
    "pipe": (5, "BrokenPipeError: [Errno 32] Broken pipe ("),
    "permission": (5, "PermissionError: [Errno 13] Permission denied: '/srv/pictures' ("),
    "module": (5, "needs the package 'surely_not_installed', which is not installed"),
    "interrupt": (130, "interrupted"),
}
"""What the network does while it trains, the exit code, and a part of the message."""


@pytest.fixture
def importable(install: Install, tmp_path: Path) -> Install:
    """Install a user's own package that can be imported."""

    def add(kind: str, name: str, source: str) -> None:
        install(kind, name, source)
        (tmp_path / "site-packages" / "acme" / "__init__.py").write_text("")

    return add


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(program, [str(argument) for argument in arguments], prog_name="compress")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs lie, so that their teacher is trained once."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.slow
@pytest.mark.parametrize("how", TRAINING)
def test_a_network_of_others_that_fails_while_it_trains(
    how: str, importable: Install, tiny_recipe: str, tmp_path: Path, runs: Path
) -> None:
    """One message in its own words, the exit code of its kind, and its own traceback without a line of ours."""
    importable("models", "odd", NETWORKS)
    recipe = tmp_path / "odd.yaml"
    named = tiny_recipe.replace("student: {model: resnet_cifar.resnet8}", f"student: {{model: odd.late, how: {how}}}")
    recipe.write_text(named.replace("batch_size: 256", "batch_size: 64"), encoding="utf-8")
    overrides = [part for each in ("exports=[]", "method=supervised", "baselines=[]") for part in ("--set", each)]
    done = invoke("run", recipe, "--runs", runs, "--json", *overrides)
    exit_code, part = TRAINING[how]
    told = json.loads(done.stdout)
    assert (done.exit_code, told["exit_code"]) == (exit_code, exit_code), done.output
    assert part in told["error"]
    assert len(told["error"]) < 1000
    assert "bug in compress" not in done.stderr
    assert ("break_down(self.how)" in done.stderr) == (how != "interrupt")
    assert not [line for line in done.stderr.splitlines() if "/compress/" in line and line.startswith("  File")]
    assert max(map(len, done.stderr.splitlines())) < 2500
    if how == "key":
        assert "training was at epoch 1, step " in done.stderr
    if how == "from":
        assert "ValueError: invalid literal" in done.stderr


@pytest.mark.parametrize(
    ("how", "exit_code", "part"),
    [
        ("summary", 2, "acme.away_data: LookupError: no such album ("),
        ("server", 5, "TimeoutError: the album does not answer ("),
    ],
)
def test_a_data_source_of_others_that_fails(
    how: str, exit_code: int, part: str, importable: Install, tiny_recipe: str, tmp_path: Path
) -> None:
    """What it raises is its own failure, wherever it is asked."""
    importable("data", "away", SOURCE)
    recipe = tmp_path / "away.yaml"
    recipe.write_text(tiny_recipe.replace("source: digits", f"source: away, how: {how}"), encoding="utf-8")
    done = invoke("run", recipe, "--runs", tmp_path / "runs", "--set", "exports=[]")
    assert done.exit_code == exit_code, done.output
    assert part in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].endswith("; the recipe names this code, which is not ours: mend it there")
    assert "away_data.py" in done.stderr


def test_our_code_that_others_call_may_be_called_wrongly(
    importable: Install, tiny_recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected error of ours keeps its traceback, and names the code that called us."""
    importable("data", "away", SOURCE)
    recipe = tmp_path / "away.yaml"
    recipe.write_text(tiny_recipe.replace("source: digits", "source: away, how: wrong"), encoding="utf-8")
    done = invoke("run", recipe, "--runs", tmp_path / "runs", "--set", "exports=[]")
    assert done.exc_info is not None
    report_bug(*done.exc_info)
    assert "this is a bug in compress, or in how acme.away_data calls it (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no summary", "data: summary() returned a NoneType; return Summary(classes, train_images, test_images)"),
        ("letters", "data: summary() gives 'ab' as classes; give a tuple of names in label order"),
        ("nothing", "data: load() returned a NoneType; return Dataset(Split(images, labels), Split(...))"),
        ("pair", "data: load() returned a tuple; return Dataset"),
        ("list", "split 'train': labels are a list; give a NumPy array"),
        ("fewer", "split 'test': load() returned 640 images, and summary() says 64; let them agree"),
    ],
)
def test_what_a_data_source_of_others_returns_is_looked_at(
    how: str, said: str, importable: Install, tiny_recipe: str, tmp_path: Path
) -> None:
    """What does not fit the contract is one message, and not an error of ours."""
    importable("data", "away", SOURCE)
    recipe = tmp_path / "away.yaml"
    recipe.write_text(tiny_recipe.replace("source: digits", f"source: away, how: {how}"), encoding="utf-8")
    done = invoke("run", recipe, "--runs", tmp_path / "runs", "--set", "exports=[]")
    assert done.exit_code == 2, done.output
    assert done.stderr.splitlines()[-1].startswith(said)
