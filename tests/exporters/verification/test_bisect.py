"""The bisecting tool finds the layer that was damaged, and no layer where nothing was."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console

from compress.cli import tables
from compress.deployed.locate import locate_divergence
from compress.errors import CompressError
from compress.events import Events
from compress.records import Precision
from exporters.verification.bisect import TOLERANCE, LayerComparison, compare_layers
from exporters.verification.intermediates import open_graph
from tests.exporters import coloured, sabotage

pytestmark = pytest.mark.slow

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
Damaged = Callable[..., coloured.File]
IMAGES = 6


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, coloured.File]:
    """One trained network in both formats and all precisions, in fp16 with the preprocessing inside."""
    folder = tmp_path_factory.mktemp("files")
    return {
        f"{name} {precision}": coloured.export(folder, "rgb", name, precision, takes_pixels=precision == "fp16")
        for name in coloured.EXPORTERS
        for precision in PRECISIONS
    }


def located(file: coloured.File, against: coloured.File) -> LayerComparison:
    mine, reference = ((each.path.name, open_graph(each.path), each.fed[:IMAGES]) for each in (file, against))
    return compare_layers(mine, reference, precision=file.precision)


@pytest.fixture
def damaged(files: dict[str, coloured.File], tmp_path: Path) -> Damaged:
    """Damage an ONNX file in a given way."""

    def damage(edit: sabotage.Edit, name: str = "onnx fp32") -> coloured.File:
        model = onnx.load(files[name].path)
        edit(model)
        onnx.save(model, tmp_path / "damaged.onnx")
        return files[name]._replace(path=tmp_path / "damaged.onnx")

    return damage


@pytest.mark.parametrize("reference", ["onnx fp32", "openvino fp32"])
@pytest.mark.parametrize("name", [f"{name} {precision}" for name in coloured.EXPORTERS for precision in PRECISIONS])
def test_good_files_part_nowhere(name: str, reference: str, files: dict[str, coloured.File]) -> None:
    """Every format and precision is compared layer by layer with either float file, and none is accused."""
    found = located(files[name], files[reference])
    assert found.first_different is None, found.verdict
    assert "no layer differs" in found.verdict
    assert {"stem", "down", "block", "classifier"} <= {layer.layer for layer in found.layers}


@pytest.mark.parametrize(
    ("edit", "layer"),
    [
        (sabotage.weights(0, lambda w: w[:, ::-1]), "stem"),
        (sabotage.weights(1, lambda w: w * np.float32(1.1)), "down"),
        (sabotage.weights(2, np.zeros_like), "block"),
        (sabotage.attribute(1, "strides", [1, 1]), "down"),
        (sabotage.weights(1, sabotage.first_is_nan), "down"),
    ],
    ids=["first layer", "scaled", "zeroed", "stride", "NaN"],
)
@pytest.mark.parametrize("reference", ["onnx fp32", "openvino fp32"])
def test_the_damaged_layer_is_found(
    edit: sabotage.Edit, layer: str, reference: str, files: dict[str, coloured.File], damaged: Damaged
) -> None:
    """The first layer that is named is the one that was damaged, whatever of it can be seen, and it is also the steepest."""
    found = located(damaged(edit), files[reference])
    assert found.first_different is not None
    assert found.layers[found.first_different].layer == layer
    assert found.steepest == found.first_different
    assert f"damaged.onnx: parts from {files[reference].path.name} in {layer}" in found.verdict


def test_a_damaged_int8_layer_is_found(files: dict[str, coloured.File], damaged: Damaged) -> None:
    """In an int8 file the tolerance is wide, and a scale that is wrong still stands out."""

    def wrong_scale(model: Any) -> None:
        (conv,) = [node for node in model.graph.node if node.op_type == "Conv" and "down" in node.input[1]]
        (unpacked,) = [node for node in model.graph.node if conv.input[1] in node.output]
        (scale,) = [tensor for tensor in model.graph.initializer if tensor.name == unpacked.input[1]]
        sabotage.change(scale, lambda values: values * np.float32(3))

    found = located(damaged(wrong_scale, "onnx int8"), files["onnx fp32"])
    assert found.first_different is not None
    assert found.layers[found.first_different].layer == "down"


def test_the_difference_is_that_of_the_equation(files: dict[str, coloured.File], damaged: Damaged) -> None:
    """A classifier that is scaled by 1.25 with its bias gives logits whose relative difference is 0.25."""

    def scale(model: Any) -> None:
        for tensor in (sabotage.weight(model, -1), sabotage.biases(model, -1)):
            sabotage.change(tensor, lambda values: values * np.float32(1.25))

    found = located(damaged(scale), files["onnx fp32"])
    assert [layer.relative_difference for layer in found.layers[-2:]] == [0.0, pytest.approx(0.25, rel=1e-5)]


def test_a_file_with_other_names_is_matched_by_its_layers(files: dict[str, coloured.File], damaged: Damaged) -> None:
    """A file that another tool wrote is compared by its convolutions and linear layers in order."""

    def rename(model: Any) -> None:
        for node in model.graph.node:
            node.output[:] = [name if name == "logits" else f"other/{name}" for name in node.output]
            known = {tensor.name for tensor in model.graph.initializer} | {"images"}
            node.input[:] = [name if name in known else f"other/{name}" for name in node.input]
        sabotage.change(sabotage.weight(model, 1), np.negative)

    found = located(damaged(rename), files["onnx fp32"])
    assert [layer.layer for layer in found.layers] == ["stem", "down", "block", "classifier"]
    assert found.first_different == 1


def test_only_files_that_can_be_looked_into(tmp_path: Path) -> None:
    """A file of a format without visible layers is refused with what is needed."""
    with pytest.raises(CompressError, match=r"student\.pt2: only ONNX and OpenVINO files can be looked into"):
        open_graph(tmp_path / "student.pt2")


def test_a_bundle_is_searched_with_what_it_holds(files: dict[str, coloured.File], damaged: Damaged, tmp_path: Path) -> None:
    """In a bundle the other float file is the reference, if it still gives the network's answers; the table marks the layer."""
    bad = damaged(sabotage.weights(2, np.zeros_like))
    bundle = coloured.write_bundle(tmp_path / "bundle", [bad, files["openvino fp32"], files["onnx int8"]])
    found = locate_divergence(bundle, events=Events(), file=bad.path.name)[bad.path.name]
    assert (found.against, found.first_different) == (files["openvino fp32"].path.name, found.steepest)
    assert found.layers[found.first_different or 0].layer == "block"
    assert list(locate_divergence(bundle, events=Events())) == [bad.path.name, files["onnx int8"].path.name]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*tables.draw_layers({bad.path.name: found}))
    assert "first beyond the tolerance, largest step" in console.export_text()


def test_a_bundle_without_a_reference_says_what_it_needs(
    files: dict[str, coloured.File], damaged: Damaged, tmp_path: Path
) -> None:
    """Where no other float file can be trusted, the run is asked for."""
    bad = damaged(sabotage.weights(2, np.zeros_like))
    bundle = coloured.write_bundle(tmp_path / "bundle", [bad, files["openvino fp32"]])
    with pytest.raises(CompressError, match="no other float file that gives the network's outputs; give --against RUN"):
        locate_divergence(bundle, events=Events(), file=files["openvino fp32"].path.name)


def test_a_reference_in_fp16_accuses_nobody_and_knows_the_layers(
    files: dict[str, coloured.File], damaged: Damaged, tmp_path: Path
) -> None:
    """Where only fp16 is left to compare with, its own rounding is allowed for, and layers keep the names of the module."""
    half = coloured.export(tmp_path, "rgb", "openvino", "fp16")
    bundle = coloured.write_bundle(tmp_path / "good", [files["onnx fp32"], half])
    (name,) = [path.name for path in bundle.glob("*.onnx")]
    found = locate_divergence(bundle, events=Events(), file=name)[name]
    assert (found.against, found.first_different, found.tolerance) == (half.path.name, None, TOLERANCE["fp16"])
    bad = damaged(sabotage.weights(2, np.zeros_like))
    bundle = coloured.write_bundle(tmp_path / "bad", [bad, half])
    found = locate_divergence(bundle, events=Events(), file=bad.path.name)[bad.path.name]
    assert found.layers[found.first_different or 0].layer == "block"
