"""LiteRT: what is refused without the package, and, where it is installed, what its files do on their own runtime."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks.protocol import Subject, evaluate
from benchmarks.runtimes.litert import round_to_type, scale_to_floats
from compress.errors import CompressError, Unreachable
from compress.recipe import GateSection
from exporters import Quantization, gate
from exporters.litert import Litert

pytestmark = pytest.mark.slow

installed = pytest.mark.skipif(
    find_spec("litert_torch") is None, reason="litert_torch is not installed: pip install 'edge-compress[litert]'"
)


@pytest.fixture
def calibration():
    return np.random.default_rng(1).normal(size=(40, 3, 12, 10)).astype(np.float32)


def test_names_say_precision_and_another_batch_than_one(tmp_path):
    """Files of different options do not overwrite each other, and the batch is told to whoever feeds it."""
    assert Litert().name_file(tmp_path, "s") == tmp_path / "s-fp32.tflite"
    assert Litert(precision="int8", batch=4).name_file(tmp_path, "s") == tmp_path / "s-int8-batch4.tflite"
    assert (Litert().batch_size, Litert(batch=4).batch_size) == (1, 4)


def test_missing_package_is_one_message(network, image, tmp_path, monkeypatch):
    """Without the extra, asking for a file says what to install, and leaves nothing."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "litert_torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(Unreachable, match=r"exporters/litert needs the package 'litert_torch'.*'edge-compress\[litert\]'"):
        Litert().export(network, image, tmp_path / "s.tflite")
    assert list(tmp_path.iterdir()) == []


def test_saturation_does_not_apply(network, image, calibration, tmp_path):
    """XNNPACK runs these files, so the ladder skips the rung against saturation, and who asks for it is told why."""
    assert "nothing saturates" in Litert.no_spare_bit
    quantizable = Litert(precision="int8").prepare_int8(network, image, calibration)
    with pytest.raises(CompressError, match="exporters/litert: the saturation fix does not apply"):
        quantizable.write(tmp_path / "s.tflite", Quantization(saturation_fix=True))


def test_integers_come_back_within_half_a_step():
    """Rounding images for a file that takes int8, and scaling back, moves no value by more than half a step."""
    facts = {"dtype": np.int8, "quantization": (0.05, -7)}
    images = np.random.default_rng(0).uniform(-6.0, 6.6, size=(2, 3, 4, 4)).astype(np.float32)
    integers = round_to_type(images, facts)
    assert integers.dtype == np.int8
    assert abs(scale_to_floats(integers, facts) - images).max() <= 0.05 / 2 + 1e-6


def test_what_integers_cannot_hold_is_clipped():
    """A value beyond the range becomes its border and does not wrap round."""
    facts = {"dtype": np.uint8, "quantization": (1.0, 0)}
    assert round_to_type(np.array([-3.0, 300.0], np.float32), facts).tolist() == [0, 255]


def test_a_file_that_takes_something_else_is_refused():
    """Integers without a scale are no rounded images."""
    with pytest.raises(ValueError, match="takes int32, not float32"):
        round_to_type(np.zeros(1, np.float32), {"dtype": np.int32, "quantization": (0.0, 0)})


@installed
def test_files_pass_the_gate_through_the_runner(network, image, images, calibration, compute_logits, tmp_path):
    """fp32 and int8, on the file's own runtime in a process of its own, with the threads that were asked for."""
    whole, quantized = Litert(), Litert(precision="int8")
    paths = [exporter.name_file(tmp_path, "s") for exporter in (whole, quantized)]
    whole.export(network, image, paths[0])
    quantized.prepare_int8(network, image, calibration).write(paths[1], Quantization())
    wanted = compute_logits(network, images)
    for exporter, path in zip((whole, quantized), paths, strict=True):
        found = evaluate(Subject("s", path, "litert", batch_size=1), images, threads=2)
        labels = wanted.argmax(axis=1)
        verdict = gate(wanted, found.logits, labels, settings=GateSection(), precision=exporter.precision)
        assert verdict.status == "passed", verdict.reason
        assert found.effective["threads"] == "2"
    assert paths[1].stat().st_size < paths[0].stat().st_size


@installed
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", np.float32), ("int8", np.int8)])
def test_interface_has_names_and_says_how_to_round(precision, dtype, network, image, calibration, tmp_path):
    """`images` [1, 3, 12, 10] and `logits` [1, 5] in the signature; an int8 file takes and gives int8, each with its scale."""
    from ai_edge_litert.interpreter import Interpreter

    exporter = Litert(precision=precision)
    path = exporter.name_file(tmp_path, "s")
    if precision == "int8":
        exporter.prepare_int8(network, image, calibration).write(path, Quantization())
    else:
        exporter.export(network, image, path)
    interpreter = Interpreter(model_path=str(path))
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["images"], "outputs": ["logits"]}}
    for facts, shape in ((interpreter.get_input_details(), [1, 3, 12, 10]), (interpreter.get_output_details(), [1, 5])):
        assert [(item["dtype"], item["shape"].tolist()) for item in facts] == [(dtype, shape)]
        assert [item["quantization"][0] > 0 for item in facts] == [precision == "int8"]


@installed
def test_int8_file_computes_what_was_observed(network, image, images, calibration, run, tmp_path):
    """The file's own int8 arithmetic agrees with torchao's graph of rounded floats; dropout in between loses no bias."""
    quantizable = Litert(precision="int8").prepare_int8(network, image, calibration)
    quantizable.write(tmp_path / "s.tflite", Quantization())
    wanted = quantizable.simulate(Quantization(), images)
    steps = np.unique(np.abs(np.diff(np.sort(wanted, axis=None))).round(6))
    # the logits are multiples of one step; halves that are rounded up or to even move them by a step or two, and a bias that
    # is lost behind dropout by dozens
    assert abs(run("litert", tmp_path / "s.tflite", images) - wanted).max() / steps[steps > 0].min() < 5


@installed
def test_other_batch_is_refused_by_name(network, image, images, tmp_path):
    """A file for one image is not fed four."""
    Litert().export(network, image, tmp_path / "s.tflite")
    with pytest.raises(CompressError, match="s: is made for batches of 1, not 4"):
        evaluate(Subject("s", tmp_path / "s.tflite", "litert"), images, batch_size=4)
