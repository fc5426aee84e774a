"""Reuse of graphs: several files of one network cost one translation, and are the bytes that they would be alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import exporters
from compress.errors import CompressError
from exporters.onnx import Onnx


class Small(nn.Module):
    """Counts how often it is run, which tracing does."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(4, 3)
        self.passes: list[int] = []

    def __deepcopy__(self, memo: dict[int, object]) -> Small:
        other = Small()
        other.load_state_dict(self.state_dict())
        other.passes = self.passes
        return other

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes.append(1)
        logits: torch.Tensor = self.classifier(self.body(images))
        return logits


EXAMPLE = torch.zeros(1, 1, 8, 8)
WANTED = [
    ("torch", "fp32", "before.pt2"), ("onnx", "fp32", "a.onnx"), ("onnx", "fp16", "b.onnx"), ("openvino", "fp32", "c.xml"),
    ("openvino", "fp16", "d.xml"), ("torch", "fp32", "after.pt2"),
]  # fmt: skip


def write(network: nn.Module, folder: Path) -> dict[str, bytes]:
    """Write the network in every way and return the content of every file."""
    folder.mkdir()
    for name, precision, file in WANTED:
        exporters.export(network, EXAMPLE, folder / file, format=name, options={"precision": precision})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_files_are_the_same_and_translated_once(tmp_path: Path) -> None:
    """Within the context six files take one translation; the bytes are those of six exports without it."""
    network = Small().eval()
    alone = write(network, tmp_path / "alone")
    passes = len(network.passes)
    with exporters.reuse_graphs():
        shared = write(network, tmp_path / "shared")
    assert shared == alone
    assert (len(network.passes) - passes) * len(WANTED) == passes


def test_other_weights_are_translated_anew() -> None:
    """A network that was trained on between two exports gives two graphs."""
    network, options = Small().eval(), Onnx()
    with exporters.reuse_graphs():
        first = options.convert(network, EXAMPLE)
        with torch.no_grad():
            network.classifier.bias.add_(1)
        second = options.convert(network, EXAMPLE)
        third = options.convert(network, EXAMPLE)
    assert first != second
    assert second == third


def test_a_graph_belongs_to_its_caller() -> None:
    """Whoever changes the graph that it got changes no later one."""
    network, options = Small().eval(), Onnx()
    with exporters.reuse_graphs():
        first = options.convert(network, EXAMPLE)
        kept = first.SerializeToString(deterministic=True)
        second = options.convert(network, EXAMPLE)
        second.graph.node.pop()
        assert options.convert(network, EXAMPLE).SerializeToString(deterministic=True) == kept


@pytest.mark.slow
def test_nothing_is_kept_outside() -> None:
    """Without the context each export translates, and two networks never share a graph within it."""
    one, two = Small().eval(), Small().eval()
    Onnx().convert(one, EXAMPLE)
    before = len(one.passes)
    Onnx().convert(one, EXAMPLE)
    assert len(one.passes) == 2 * before
    with exporters.reuse_graphs():
        assert Onnx().convert(one, EXAMPLE) != Onnx().convert(two, EXAMPLE)


@pytest.mark.slow
def test_shared_tables_change_no_byte_and_are_nobody_elses(tmp_path: Path) -> None:
    """An export with tables of its own is the same file, and torch is as it was after each export, a failed one too."""
    from torch.onnx._internal.exporter import _registration

    from exporters._onnx import tables

    network, builder = Small().eval(), _registration.ONNXRegistry.from_torchlib
    tables._known.clear()  # of other opsets too, which another test asked for
    alone = exporters.export(network, EXAMPLE, tmp_path / "alone.onnx", format="onnx")
    assert tables._known, "torch has moved its tables: reuse_tables() finds them no longer"
    known = {key: {name: list(found) for name, found in table.functions.items()} for key, table in tables._known.items()}
    again = exporters.export(network, EXAMPLE, tmp_path / "again.onnx", format="onnx")
    tables._known.clear()
    anew = exporters.export(network, EXAMPLE, tmp_path / "anew.onnx", format="onnx")
    assert alone.read_bytes() == again.read_bytes() == anew.read_bytes()
    with tables.reuse_tables():
        _registration.ONNXRegistry.from_torchlib(opset_version=20).functions.clear()
    with pytest.raises(CompressError):
        exporters.export(nn.Linear(1, 1), EXAMPLE, tmp_path / "bad.onnx", format="onnx")
    assert _registration.ONNXRegistry.from_torchlib == builder
    assert {key: table.functions for key, table in tables._known.items()} == known
