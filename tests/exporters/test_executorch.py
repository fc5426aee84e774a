"""ExecuTorch: what is refused without the package, and, where it is installed, what its files do on their own runtime."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from benchmarks.protocol import Subject, evaluate
from benchmarks.runtimes.executorch import refuse_other_backends
from compress.errors import CompressError, Unreachable
from compress.recipe import GateSection
from exporters import Quantization, gate
from exporters.executorch import LARGEST_BATCH, Executorch

pytestmark = pytest.mark.slow

installed = pytest.mark.skipif(
    find_spec("executorch") is None, reason="executorch is not installed: pip install 'edge-compress[executorch]'"
)
LAYERS = ("stem", "block.conv", "down", "classifier")


@pytest.fixture
def calibration():
    return np.random.default_rng(1).normal(size=(40, 3, 12, 10)).astype(np.float32)


def test_names_say_precision_and_a_fixed_batch(tmp_path):
    """Files of different options do not overwrite each other, and a fixed batch is told to whoever feeds it."""
    assert Executorch().name_file(tmp_path, "s") == tmp_path / "s-fp32.pte"
    assert Executorch(precision="int8", batch=4).name_file(tmp_path, "s") == tmp_path / "s-int8-batch4.pte"
    assert (Executorch().batch_size, Executorch(batch=4).batch_size) == (None, 4)


def test_missing_package_is_one_message(network, image, tmp_path, monkeypatch):
    """Without the extra, asking for a file says what to install, and leaves nothing."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "executorch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(
        Unreachable, match=r"exporters/executorch needs the package 'executorch'.*'edge-compress\[executorch\]'"
    ):
        Executorch().export(network, image, tmp_path / "s.pte")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        (Quantization(statistics="minmx"), "there are no statistics 'minmx'; did you mean 'minmax'"),
        (Quantization(saturation_fix=True), "the saturation fix does not apply"),
        (Quantization(keep=("block.cnv",)), r"keep: the network has no layer 'block\.cnv'; did you mean 'block\.conv'"),
    ],
)
def test_what_is_not_offered_is_refused_at_once(quantization, said, network, image, calibration, tmp_path):
    """A rung that this quantizer has not is a message, before anything is computed."""
    quantizable = Executorch(precision="int8").prepare_int8(network, image, calibration)
    with pytest.raises(CompressError, match=f"exporters/executorch: {said}"):
        quantizable.write(tmp_path / "s.pte", quantization)
    assert list(tmp_path.iterdir()) == []


def test_layers_are_the_users_modules_from_input_to_output(network, image, calibration):
    """Whoever keeps a layer in floating point names it as in the network's own code."""
    assert Executorch(precision="int8").prepare_int8(network, image, calibration).layers == LAYERS


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((0, 3, 12, 10), np.float32), "there are no calibration images"),
        (np.full((2, 3, 12, 10), np.nan, np.float32), "2 of 2 calibration images are not finite"),
        (np.zeros((2, 3, 12, 11), np.float32), r"images are float32 \[2, 3, 12, 11\]"),
    ],
)
def test_images_that_tell_nothing_are_refused(images, said, network, image):
    """Ranges are estimated on real images of the right shape, or not at all."""
    with pytest.raises(CompressError, match=said):
        Executorch(precision="int8").prepare_int8(network, image, images)


def test_work_for_another_backend_is_refused_by_name(tmp_path):
    """Only XNNPACK's blobs are known to be data; what names another backend of this runtime is not opened."""
    path, registered = tmp_path / "s.pte", ["QnnBackend", "XnnpackBackend"]
    path.write_bytes(b"\0XnnpackBackend\0weights")
    refuse_other_backends(path, registered)
    path.write_bytes(b"\0XnnpackBackend\0QnnBackend\0")
    with pytest.raises(ValueError, match="has work for QnnBackend"):
        refuse_other_backends(path, registered)


@installed
def test_files_pass_the_gate_through_the_runner(network, image, images, calibration, compute_logits, tmp_path):
    """fp32 and int8, on the file's own runtime in a process of its own, with the threads that were asked for."""
    whole, quantized = Executorch(), Executorch(precision="int8")
    paths = [exporter.name_file(tmp_path, "s") for exporter in (whole, quantized)]
    whole.export(network, image, paths[0])
    quantized.prepare_int8(network, image, calibration).write(paths[1], Quantization())
    wanted = compute_logits(network, images)
    for exporter, path in zip((whole, quantized), paths, strict=True):
        found = evaluate(Subject("s", path, "executorch"), images, batch_size=4, threads=2)
        labels = wanted.argmax(axis=1)
        verdict = gate(wanted, found.logits, labels, settings=GateSection(), precision=exporter.precision)
        assert verdict.status == "passed", verdict.reason
        assert found.effective["threads"] == "2"
    assert paths[1].stat().st_size < paths[0].stat().st_size


@installed
def test_layers_that_are_kept_are_as_exact_as_float(network, image, images, calibration, compute_logits, run, tmp_path):
    """With every layer kept, only the rounding of what lies between is left; with none, the file is further off."""
    quantizable = Executorch(precision="int8").prepare_int8(network, image, calibration)
    off = {}
    for keep in ((), LAYERS):
        path = tmp_path / f"{len(keep)}.pte"
        quantizable.write(path, Quantization(statistics="minmax", keep=keep))
        off[keep] = float(np.abs(run("executorch", path, images) - compute_logits(network, images)).mean())
    assert off[LAYERS] < off[()]


@installed
def test_what_is_simulated_is_what_the_file_says(network, image, images, calibration, compute_logits, run, tmp_path):
    """One layer in int8 moves the logits alike in torch and in the file, so the order of layers is the same."""
    quantizable = Executorch(precision="int8").prepare_int8(network, image, calibration)
    exact = compute_logits(network, images)
    for layer in ("stem", "classifier"):
        alone = Quantization(keep=tuple(name for name in LAYERS if name != layer))
        quantizable.write(tmp_path / f"{layer}.pte", alone)
        said, simulated = run("executorch", tmp_path / f"{layer}.pte", images), quantizable.simulate(alone, images)
        assert simulated.shape == exact.shape
        assert np.abs(said - simulated).mean() < 0.2 * np.abs(said - exact).mean()


@installed
def test_batches_up_to_the_bound_run_and_larger_ones_are_refused(network, image, compute_logits, tmp_path):
    """Left alone, torch would bound a network of 12 x 10 pixels by 15 images without a word."""
    path = tmp_path / "s.pte"
    Executorch().export(network, image, path)
    images = torch.randn(LARGEST_BATCH + 1, 3, 12, 10).numpy()
    found = evaluate(Subject("s", path, "executorch"), images, batch_size=LARGEST_BATCH)
    assert abs(found.logits - compute_logits(network, images)).max() < 1e-4
    with pytest.raises(CompressError, match=f"s: is made for batches of {LARGEST_BATCH}, not {LARGEST_BATCH + 1}"):
        evaluate(Subject("s", path, "executorch"), images, batch_size=LARGEST_BATCH + 1)
