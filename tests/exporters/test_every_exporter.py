"""What every exporter promises, for every file in the folder: a new one is tested the moment it exists."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from compress import plugins
from compress.errors import CompressError, Unreachable
from compress.recipe import GateSection
from compress.records import Precision, Preprocess
from exporters import About, Quantization, gate

pytestmark = pytest.mark.slow


def offered(name: str) -> list[str]:
    annotation = plugins.describe("exporters", name).options["precision"].annotation
    return [precision for precision in get_args(Precision) if f"'{precision}'" in annotation]


VARIANTS = [(name, precision) for name in plugins.list_names("exporters") for precision in offered(name)]
each = pytest.mark.parametrize(("name", "precision"), VARIANTS)
each_format = pytest.mark.parametrize(
    ("name", "precision"), [(name, offered(name)[0]) for name in plugins.list_names("exporters")]
)


NEEDS = {"executorch": "executorch", "litert": "litert_torch"}
"""The package of each format that is an extra."""
PRESENT = [(name, precision) for name, precision in VARIANTS if name not in NEEDS or find_spec(NEEDS[name])]


def make(name, precision):
    if (name, precision) not in PRESENT:
        pytest.skip(f"{NEEDS[name]} is not installed: pip install 'edge-compress[{name}]'")
    return plugins.load("exporters", name)(precision=precision)


def produce(exporter, network, image, path):
    """Write a file of any precision; int8 from images like those that are asked about, and for any processor."""
    if exporter.precision == "int8":
        calibration = np.random.default_rng(1).normal(size=(32, *image.shape[1:])).astype(np.float32)
        fix = exporter.runtime not in NEEDS  # XNNPACK does not saturate, and those formats say so
        statistics = exporter.statistics[
            1 if exporter.runtime == "openvino" else 0
        ]  # NNCF's own bias correction flips near ties
        exporter.prepare_int8(network, image, calibration).write(path, Quantization(statistics, saturation_fix=fix))
    else:
        exporter.export(network, image, path)


def content(exporter, path):
    return [part.read_bytes() for part in exporter.list_parts(path)]


@each
def test_options_have_defaults_and_files_have_names_of_their_own(name, precision, tmp_path):
    """A format can be asked for without options; its files lie in the folder, and precisions do not overwrite each other."""
    plugins.load("exporters", name)()
    paths = {make(name, other).name_file(tmp_path, "student") for other in offered(name)}
    assert len(paths) == len(offered(name))
    exporter = make(name, precision)
    path = exporter.name_file(tmp_path, "student")
    assert path.parent == tmp_path
    assert path.name.startswith("student")
    assert path in exporter.list_parts(path)
    assert exporter.precision == precision


@each
def test_file_gives_the_logits_of_the_network_at_any_batch_size(
    name, precision, network, image, images, compute_logits, run, tmp_path
):
    """On its own runtime, at batch 1, 3 and 6, the file gives the network's logits: the gate passes on defaults."""
    exporter = make(name, precision)
    path = exporter.name_file(tmp_path, "student")
    produce(exporter, network, image, path)
    assert sorted(tmp_path.iterdir()) == sorted(exporter.list_parts(path))
    wanted = compute_logits(network, images)
    assert float(np.std(wanted)) > 0.5
    for count in (1, 3, 6):
        found = run(exporter.runtime, path, images[:count])
        verdict = gate(wanted[:count], found, wanted[:count].argmax(axis=1), settings=GateSection(), precision=precision)
        assert verdict.status == "passed", verdict.reason


SCORING = [pair for pair in VARIANTS if "postprocess" in plugins.describe("exporters", pair[0]).options]
CONTRACT = Preprocess(height=12, width=10, channels="rgb", mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))


def outputs(exporter, path, images):
    """Return what a file gives, on its own runtime."""
    size = exporter.batch_size or len(images)
    loaded = plugins.load("runtimes", exporter.runtime)(str(path), threads=1, batch_size=size)
    parts = [loaded.outputs(images[start : start + size]) for start in range(0, len(images), size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_every_format_for_devices_offers_both_ends():
    """Each format that enters a bundle can carry pre- and postprocessing, asked for in the same words."""
    for name in plugins.list_names("exporters"):
        if plugins.load("exporters", name).inert:
            options = plugins.describe("exporters", name).options
            assert options["preprocess"].annotation == options["postprocess"].annotation == "Literal['outside', 'inside']"
            for option in ("preprocess", "postprocess"):
                with pytest.raises(CompressError, match=f"{option} 'insid' is not offered"):
                    plugins.load("exporters", name)(**{option: "insid"})


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("batch", [0, -1, 2.5, True, "any"])
def test_a_batch_that_is_no_number_of_images_is_refused(name, batch):
    """No file promises a batch that nobody can feed; a recipe is refused earlier, with its line."""
    with pytest.raises(CompressError, match=f"exporters/{name}: batch {batch!r} is not offered; use 'dynamic' or a number"):
        plugins.load("exporters", name)(batch=batch)


@pytest.mark.parametrize(("name", "precision"), SCORING)
def test_class_and_score_are_those_of_the_logits(name, precision, network, image, images, tmp_path):
    """They come behind the same logits as of the plain file, bit by bit, so quantization has seen nothing of them."""
    make(name, precision)
    found = {}
    for place in ("outside", "inside"):
        exporter = plugins.load("exporters", name)(precision=precision, postprocess=place)
        path = exporter.name_file(tmp_path, "student")
        produce(exporter, network, image, path)
        found[place] = outputs(exporter, path, images)
    assert path.stem.endswith("-scores")
    plain, scored = found["outside"], found["inside"]
    assert list(plain) == ["logits"]
    assert sorted(scored) == ["class", "logits", "score"]
    np.testing.assert_array_equal(scored["logits"], plain["logits"])
    logits = scored["logits"].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(scored["class"], logits.argmax(axis=1))
    np.testing.assert_allclose(scored["score"], shares.max(axis=1), atol=1e-6)  # a few roundings of float32
    assert (scored["class"].dtype.kind, scored["score"].dtype) == ("i", np.float32)
    assert len(set(scored["class"])) > 1


@pytest.mark.parametrize(("name", "precision"), [pair for pair in SCORING if pair[1] == "fp32"])
def test_pixels_in_and_class_out(name, precision, network, image, compute_logits, tmp_path):
    """With both ends inside, a file takes decoded pictures and gives what the network gives for normalised ones."""
    make(name, precision)
    exporter = plugins.load("exporters", name)(precision=precision, preprocess="inside", postprocess="inside")
    path = exporter.name_file(tmp_path, "student")
    exporter.export(network, image, path, about=About("s", tuple("abcde"), CONTRACT, {}))
    assert path.stem == "student-fp32-pixels-scores"
    assert (exporter.takes_pixels, exporter.gives_class) == (True, True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 10, 3), dtype=np.uint8)
    found = outputs(exporter, path, pixels)
    normal = ((pixels / 255 - np.array(CONTRACT.mean)) / np.array(CONTRACT.std)).transpose(0, 3, 1, 2)
    wanted = compute_logits(network, np.ascontiguousarray(normal, np.float32))
    assert np.abs(found["logits"] - wanted).max() < 1e-4 * np.abs(wanted).max()
    np.testing.assert_array_equal(found["class"], wanted.argmax(axis=1))
    with pytest.raises(CompressError, match="preprocess: inside needs"):
        exporter.export(network, image, path, about=None)


@each
def test_module_is_left_as_it_was(name, precision, network, image, tmp_path):
    """Modes, weights, gradients and memory format of the user's module survive the export."""
    network.to(memory_format=torch.channels_last)
    network.block.eval()
    network.stem.weight.requires_grad_(requires_grad=False)
    network(image.repeat(2, 1, 1, 1)).sum().backward()
    before = copy.deepcopy(network)
    gradients = {weight: parameter.grad for weight, parameter in network.named_parameters()}
    exporter = make(name, precision)
    produce(exporter, network, image, exporter.name_file(tmp_path, "student"))
    assert [module.training for module in network.modules()] == [module.training for module in before.modules()]
    for (weight, now), (_, then) in zip(network.named_parameters(), before.named_parameters(), strict=True):
        assert torch.equal(now, then), weight
        assert now.requires_grad == then.requires_grad
        assert now.stride() == then.stride()
        assert now.grad is gradients[weight]
    for (buffer, now), (_, then) in zip(network.named_buffers(), before.named_buffers(), strict=True):
        assert torch.equal(now, then), buffer


@each
def test_file_holds_no_trace_of_the_machine(name, precision, network, image, tmp_path):
    """No path, source file or class name is in the bytes; a picture of the user is not either."""
    marker = image.mul_(0).add_(0.123456).numpy().tobytes()[:64]
    exporter = make(name, precision)
    path = exporter.name_file(tmp_path, "student")
    produce(exporter, network, image, path)
    here = (
        str(Path.cwd()),
        str(tmp_path),
        str(Path.home()) + "/",
        "site-packages",
        "conftest",
        "TinyNet",
        "Residual",
        "forward(",
    )
    for data in content(exporter, path):
        assert marker not in data
        for text in here:
            assert text.encode() not in data, text


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from torch import nn
from compress import plugins
from exporters import Quantization

def export_all(folder, variants):
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    for name, precision in variants:
        exporter = plugins.load("exporters", name)(precision=precision)
        example, path = torch.rand(1, 3, 8, 8), exporter.name_file(Path(folder), "student")
        if precision == "int8":
            images = np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype(np.float32)
            exporter.prepare_int8(network, example, images).write(path, Quantization())
        else:
            exporter.export(network, example, path)
"""


def test_same_network_gives_the_same_bytes(tmp_path):
    """Between two exports of one process, and between two processes with other hash seeds and folders."""
    call = f"\nexport_all({str(tmp_path / 'three')!r}, {PRESENT!r})"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    with subprocess.Popen([sys.executable, "-c", SCRIPT + call], env=environment) as other:
        scope: dict[str, object] = {}
        exec(SCRIPT, scope)  # noqa: S102 (the text above)
        for folder in ("one", "two"):
            scope["export_all"](tmp_path / folder, PRESENT)  # type: ignore[operator]
    assert other.returncode == 0
    one, two, three = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in ("one", "two", "three")
    )
    assert len(one) >= len(PRESENT)
    assert [file for file in one if one[file] != two[file]] == []
    assert [file for file in one if one[file] != three[file]] == []


FULL = """
import json, resource, signal
from compress.errors import Unreachable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))  # no file grows beyond that
said = {}
for name, precision in json.loads(sys.argv[2]):
    try:
        export_all(Path(sys.argv[1]) / f"{name}-{precision}", [(name, precision)])
    except Unreachable as error:
        said[f"{name}-{precision}"] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Older exports of all kinds, and what was said when a process overwrote them on a full disk: folder, messages."""
    folder = tmp_path_factory.mktemp("full")
    for name, precision in PRESENT:
        exporter = plugins.load("exporters", name)(precision=precision)
        path = exporter.name_file(folder / f"{name}-{precision}", "student")
        path.parent.mkdir()
        for part in exporter.list_parts(path):
            part.write_bytes(b"an older export")
    command = [sys.executable, "-c", SCRIPT + FULL, str(folder), json.dumps(PRESENT)]
    return folder, json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])


@each
def test_failed_export_leaves_nothing_new_and_nothing_changed(name, precision, refused):
    """On a full disk the folder holds what it held: an older export stays whole, and nothing is added."""
    exporter, (folder, said) = make(name, precision), refused
    path = exporter.name_file(folder / f"{name}-{precision}", "student")
    assert re.search(rf"{path.name}: cannot be written .*free space", said[f"{name}-{precision}"])
    assert sorted(path.parent.iterdir()) == sorted(exporter.list_parts(path))
    assert set(content(exporter, path)) == {b"an older export"}


@each_format
def test_folder_that_cannot_be_made_is_said(name, precision, network, image, tmp_path):
    """A file in the place of the folder gives one message and no debris."""
    (tmp_path / "file").write_text("")
    exporter = make(name, precision)
    with pytest.raises(Unreachable, match="cannot be written"):
        exporter.export(network, image, exporter.name_file(tmp_path / "file", "student"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@each_format
def test_weights_that_are_not_finite_are_refused_by_name(name, precision, network, image, tmp_path):
    """A diverged network is not exported; the message names the weight."""
    with torch.no_grad():
        network.block.conv.weight[0, 0, 0, 0] = torch.nan
    exporter = make(name, precision)
    with pytest.raises(CompressError, match=r"1 of 576 values of 'block\.conv\.weight' are not finite"):
        exporter.export(network, image, exporter.name_file(tmp_path, "student"))
    assert list(tmp_path.iterdir()) == []


class Branching(nn.Module):
    def forward(self, images):
        logits = images.mean((2, 3))
        return logits if logits.sum() > 0 else -logits


class FixedBatch(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)).reshape(2, 3)


class Dictionary(nn.Module):
    def forward(self, images):
        return {"logits": images.mean((2, 3))}


class Tokens(nn.Module):
    def forward(self, images):
        return images.flatten(2)


class Narrow(nn.Module):
    def forward(self, images):
        return images.flatten(1) @ torch.ones(7, 2)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Branching(), "export of Branching: .*a branch depends on the values of the image"),
        (FixedBatch(), "export of FixedBatch: .*fixes the batch size"),
        (Dictionary(), "export of Dictionary: forward returns a dict; wrap it"),
        (
            Tokens(),
            r"export of Tokens: images \[2, 3, 12, 10\] give logits \[2, 3, 120\], not \[2, classes\] or \[2, classes, h",
        ),
        (Narrow(), r"export of Narrow: the network fails on images \[2, 3, 12, 10\]: .*check the image size"),
    ],
)
@each_format
def test_network_that_cannot_be_exported_is_explained(name, precision, module, said, image, tmp_path, capfd):
    """One message names the network and the reason; torch's own pages of output stay away."""
    exporter = make(name, precision)
    if exporter.batch_size is not None:
        pytest.skip("its files take a fixed number of images, so the messages name another batch")
    with pytest.raises(CompressError, match=said):
        exporter.export(module, image, exporter.name_file(tmp_path, "student"))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@each
def test_export_is_silent(name, precision, network, image, tmp_path, capfd):
    """A good export prints nothing and warns of nothing."""
    exporter = make(name, precision)
    produce(exporter, network, image, exporter.name_file(tmp_path, "student"))
    assert capfd.readouterr() == ("", "")


@each_format
def test_batch_of_images_is_not_an_example(name, precision, network, image, tmp_path):
    """The example is one image; anything else is a misunderstanding."""
    exporter = make(name, precision)
    with pytest.raises(CompressError, match=r"shape \[2, 3, 12, 10\]; give one image"):
        exporter.export(network, image.repeat(2, 1, 1, 1), exporter.name_file(tmp_path, "student"))


@pytest.mark.parametrize("name", [name for name, precision in VARIANTS if precision == "int8"])
def test_int8_without_images_is_refused(name, network, image, tmp_path):
    """An int8 file is never made from nothing: the message says what is missing."""
    exporter = make(name, "int8")
    with pytest.raises(CompressError, match="int8 needs images"):
        exporter.export(network, image, exporter.name_file(tmp_path, "student"))
    assert list(tmp_path.iterdir()) == []
