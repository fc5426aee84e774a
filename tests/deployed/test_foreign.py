"""Timing files of other tools: fixed and open shapes, several inputs and outputs, weights beside the file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.deployed.bench import measure_files
from compress.deployed.files import find_subjects
from compress.deployed.foreign import add_feeds, parse_shapes
from compress.errors import CompressError, Unreachable
from compress.events import Events
from tests.deployed.brightness import invoke

Shape = list[int | str]


def write(path: Path, *, images: Shape, further: bool = False, kind: int = TensorProto.FLOAT, location: str = "") -> Path:
    """Write a detector in miniature: a mean of each channel, and with `further` a second input and a second output."""
    inputs = [helper.make_tensor_value_info("images", kind, images)]
    outputs = [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, None)]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["floats"], ["pooled"]),
        helper.make_node("Mul", ["pooled", "scale"], ["boxes"]),
    ]
    if further:
        inputs.append(helper.make_tensor_value_info("size", TensorProto.INT64, [1, 2]))
        outputs.append(helper.make_tensor_value_info("counts", TensorProto.INT64, [1, 2]))
        nodes.append(helper.make_node("Add", ["size", "size"], ["counts"]))
    scale = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "scale")
    graph = helper.make_graph(nodes, "detector", inputs, outputs, [scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if location:
        (path.parent / "weights.bin").write_bytes(model.graph.initializer[0].raw_data)
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    return path


def time(path: Path, **options: object) -> int:
    (timing,) = measure_files([str(path)], rounds=5, seconds=0.1, events=Events(), **options).values()  # type: ignore[arg-type]
    assert timing.latency_ms.p50 > 0
    return timing.latency_ms.batch_size


@pytest.mark.slow
def test_a_fixed_shape_needs_no_option(tmp_path: Path) -> None:
    """Shape and number of images are taken from the file; another number is refused in one message."""
    path = write(tmp_path / "cls.onnx", images=[2, 3, 16, 16])
    assert time(path) == 2
    done = invoke("bench", path, "--batch-size", "4")
    assert done.exit_code == 2
    assert "cls.onnx: is made for batches of 2, not 4; export it with a dynamic batch" in done.stderr


@pytest.mark.slow
def test_a_detector_is_timed(tmp_path: Path) -> None:
    """Several inputs, of any numbers, and several outputs are no obstacle, on ONNX Runtime and on OpenVINO."""
    import openvino

    path = write(tmp_path / "detector.onnx", images=["batch", 3, "height", "width"], further=True, kind=TensorProto.UINT8)
    assert time(path, shape="images=3,32,24", batch_size=4) == 4
    fixed = write(tmp_path / "fixed.onnx", images=[1, 3, 32, 24], further=True)
    openvino.save_model(openvino.convert_model(fixed), tmp_path / "fixed.xml")
    both = measure_files([fixed, tmp_path / "fixed.xml"], rounds=5, seconds=0.2, events=Events())
    assert both["fixed.xml"].ratio is not None


@pytest.mark.slow
def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    """What lies in the same folder under a plain name belongs to the file."""
    assert time(write(tmp_path / "outside.onnx", images=[1, 3, 8, 8], location="weights.bin")) == 1


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/hostname", "sub/weights.bin", "..", "", "..\\weights.bin", "C:\\weights.bin", "a\0b"]
)
def test_weights_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    """Nothing that a file names leads out of its folder."""
    path = write(tmp_path / "outside.onnx", images=[1, 3, 8, 8], location=location or "x")
    if not location:
        model = onnx.load(path, load_external_data=False)
        del model.graph.initializer[0].external_data[:]
        path.write_bytes(model.SerializeToString())
    with pytest.raises(CompressError, match=r"keeps weights in .*, which may lie elsewhere than beside it"):
        measure_files([path], events=Events())


def test_weights_behind_a_link_or_missing_are_refused(tmp_path: Path) -> None:
    """A link could lead anywhere, and what is not there is named."""
    path = write(tmp_path / "outside.onnx", images=[1, 3, 8, 8], location="link.bin")
    with pytest.raises(Unreachable, match=r"keeps weights in 'link.bin', which is not beside it; put it there"):
        measure_files([path], events=Events())
    (tmp_path / "link.bin").symlink_to("/etc/hostname")
    with pytest.raises(CompressError, match=r"'link.bin', which is no plain file"):
        measure_files([path], events=Events())


@pytest.mark.parametrize(
    ("images", "shapes", "said"),
    [
        (
            ["n", 3, "h", "w"],
            [],
            r"input 'images' is \[any, 3, any, any\], so its size is open; say it with --shape images=3,SIZE,SIZE, for each",
        ),
        (["n", 3, "h", "w"], ["image=3,8,8"], "--shape image=...: .* has no such input; did you mean 'images'"),
        (
            [1, 3, 8, 8],
            ["3,16,16"],
            r"input 'images' is \[1, 3, 8, 8\], so 3,16,16 \(--shape\) does not fit; leave --shape out",
        ),
        ([1, 3, 8, 8], ["images=2,3,8,8"], "does not fit"),
        (["n", 3, "h", "w"], ["images=3,0,8"], "is not channels,height,width"),
        (["n", 3, "h", "w"], ["images=3,99999,99999"], "GiB, more than the 4.00 GiB that are allowed"),
    ],
)
def test_open_and_wrong_shapes_are_said(tmp_path: Path, images: Shape, shapes: list[str], said: str) -> None:
    """The message names the input, what it is, and what to write."""
    path = write(tmp_path / "net.onnx", images=images)
    with pytest.raises(CompressError, match=said):
        measure_files([path], shape=shapes, events=Events())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_called_one(tmp_path: Path) -> None:
    """It is there, so nobody says that it is not; and it may never give anything. As a run, it is a wrong usage."""
    pipe = tmp_path / "net.onnx"
    os.mkfifo(pipe)
    with pytest.raises(CompressError, match="is a pipe, not a file"):
        find_subjects([pipe])
    answer = invoke("verify", str(pipe))
    assert answer.exit_code == 2
    assert "is a device or a pipe; give the folder of a run or bundle" in answer.output


def test_noise_has_the_type_and_shape_of_each_input(tmp_path: Path) -> None:
    """Images of bytes get all bytes, sizes and counts get ones, and no two variants of noise are the same."""
    path = write(tmp_path / "detector.onnx", images=["n", 3, "h", "w"], further=True, kind=TensorProto.UINT8)
    (subject,) = find_subjects([path])
    feeds = dict(add_feeds(subject, parse_shapes(["images=3,8,6"]), 2).feeds)
    assert (feeds["images"].dtype, feeds["images"].shape[1:]) == (np.uint8, (2, 3, 8, 6))
    assert (feeds["size"].dtype, feeds["size"].shape[1:]) == (np.int64, (1, 2))
    assert (feeds["size"] == 1).all()
    assert len(np.unique(feeds["images"].reshape(len(feeds["images"]), -1), axis=0)) == len(feeds["images"]) > 1


def test_files_of_different_images_are_timed_together(tmp_path: Path) -> None:
    """A student that takes smaller images than its teacher is compared with it in the same rounds, each on its own size."""
    paths = [write(tmp_path / f"{side}.onnx", images=[1, 3, side, side]) for side in (8, 16)]
    timed = measure_files(paths, rounds=5, seconds=0.2, launches=1, events=Events())
    assert timed["8.onnx"].ratio is None
    assert timed["16.onnx"].ratio is not None
