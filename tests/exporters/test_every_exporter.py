"""What every exporter promises, for every file in the folder: a new one is tested the moment it exists."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress import plugins
from compress.errors import CompressError, Unreachable
from compress.recipe import GateSection
from compress.records import Precision, Preprocess
from exporters import About, Quantization, gate, reuse_graphs
from tests.exporters.tiny import SHAPE, build_network

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


class Made(NamedTuple):
    """A good export of one variant: the file, and what happened around it."""

    exporter: Any
    path: Path
    network: nn.Module
    """After the export, in the state in which a user's module may be."""
    before: nn.Module
    gradients: dict[str, Tensor | None]
    """The tensors that were the gradients before, by the names of their weights."""
    marker: bytes
    """Pixels of the example."""
    printed: str


@contextmanager
def capture_output() -> Iterator[Callable[[], str]]:
    """Gather what Python and native code print; the function gives it afterwards."""
    said = io.StringIO()
    with tempfile.TemporaryFile() as file:
        kept = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            with redirect_stdout(said), redirect_stderr(said):
                yield said.getvalue
        finally:
            for number, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)
            file.seek(0)
            said.write(file.read().decode())


@pytest.fixture(scope="module")
def make_once(tmp_path_factory):
    """Export a variant once for all tests that ask something of a good file."""
    known: dict[tuple[str, str], Made] = {}

    def export(name: str, precision: str) -> Made:
        if (name, precision) in known:
            return known[name, precision]
        exporter, network = make(name, precision), build_network()
        network.to(memory_format=torch.channels_last)
        network.block.eval()
        network.stem.weight.requires_grad_(requires_grad=False)
        network(torch.rand(2, *SHAPE)).sum().backward()
        before, gradients = copy.deepcopy(network), {weight: each.grad for weight, each in network.named_parameters()}
        image = torch.full((1, *SHAPE), 0.123456)
        path = exporter.name_file(tmp_path_factory.mktemp("made"), "student")
        with capture_output() as read:
            produce(exporter, network, image, path)
        marker = image.numpy().tobytes()[:64]
        known[name, precision] = Made(exporter, path, network, before, gradients, marker, read())
        return known[name, precision]

    return export


@each
def test_file_gives_the_logits_of_the_network_at_any_batch_size(name, precision, make_once, images, compute_logits, run):
    """On its own runtime, at batch 1, 3 and 6, the file gives the network's logits: the gate passes on defaults."""
    made = make_once(name, precision)
    assert sorted(made.path.parent.iterdir()) == sorted(made.exporter.list_parts(made.path))
    wanted = compute_logits(made.network, images)
    assert float(np.std(wanted)) > 0.5
    for count in (1, 3, 6):
        found = run(made.exporter.runtime, made.path, images[:count])
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
def test_class_and_score_are_those_of_the_logits(name, precision, make_once, image, images, tmp_path):
    """They come behind the same logits as of the plain file, bit by bit, so quantization has seen nothing of them."""
    made = make_once(name, precision)
    exporter = plugins.load("exporters", name)(precision=precision, postprocess="inside")
    path = exporter.name_file(tmp_path, "student")
    produce(exporter, made.network, image, path)
    assert path.stem.endswith("-scores")
    plain, scored = outputs(made.exporter, made.path, images), outputs(exporter, path, images)
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
def test_module_is_left_as_it_was(name, precision, make_once):
    """Modes, weights, gradients and memory format of the user's module survive the export."""
    made = make_once(name, precision)
    network, before = made.network, made.before
    assert [module.training for module in network.modules()] == [module.training for module in before.modules()]
    for (weight, now), (_, then) in zip(network.named_parameters(), before.named_parameters(), strict=True):
        assert torch.equal(now, then), weight
        assert now.requires_grad == then.requires_grad
        assert now.stride() == then.stride()
        assert now.grad is made.gradients[weight]
    for (buffer, now), (_, then) in zip(network.named_buffers(), before.named_buffers(), strict=True):
        assert torch.equal(now, then), buffer


@each
def test_file_holds_no_trace_of_the_machine(name, precision, make_once):
    """No path, source file or class name is in the bytes; a picture of the user is not either."""
    made = make_once(name, precision)
    here = (
        str(Path.cwd()),
        str(made.path.parent),
        str(Path.home()) + "/",
        "site-packages",
        "conftest",
        "TinyNet",
        "Residual",
        "forward(",
    )
    for data in content(made.exporter, made.path):
        assert made.marker not in data
        for text in here:
            assert text.encode() not in data, text


@each
def test_export_is_silent(name, precision, make_once):
    """A good export prints nothing, and warns of nothing, for a warning would have been an error."""
    assert make_once(name, precision).printed == ""


def test_what_is_printed_would_be_seen():
    """Lines of Python and of native code are gathered."""
    with capture_output() as read:
        sys.stdout.write("from Python\n")
        os.write(2, b"from native code\n")
    assert read() == "from Python\nfrom native code\n"


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from torch import nn
from compress import plugins
from exporters import Quantization, reuse_graphs

def make_network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )

def export(network, folder, name, precision):
    exporter = plugins.load("exporters", name)(precision=precision)
    example, path = torch.rand(1, 3, 8, 8), exporter.name_file(Path(folder), "student")
    if precision == "int8":
        images = np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype(np.float32)
        exporter.prepare_int8(network, example, images).write(path, Quantization())
    else:
        exporter.export(network, example, path)
"""


FULL = """
import json, resource, signal
from compress.errors import Unreachable
network, variants, said = make_network(), json.loads(sys.argv[2]), {}
with reuse_graphs():
    for name, precision in variants:
        export(network, Path(sys.argv[1]) / "good", name, precision)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))  # no file grows beyond that
    for name, precision in variants:
        try:
            export(network, Path(sys.argv[1]) / f"{name}-{precision}", name, precision)
        except Unreachable as error:
            said[f"{name}-{precision}"] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def other_process(tmp_path_factory):
    """What another process left: good files of all kinds, and older exports that it overwrote on a full disk; its messages."""
    folder = tmp_path_factory.mktemp("other")
    for name, precision in PRESENT:
        exporter = plugins.load("exporters", name)(precision=precision)
        path = exporter.name_file(folder / f"{name}-{precision}", "student")
        path.parent.mkdir()
        for part in exporter.list_parts(path):
            part.write_bytes(b"an older export")
    command = [sys.executable, "-c", SCRIPT + FULL, str(folder), json.dumps(PRESENT)]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_same_network_gives_the_same_bytes(other_process, tmp_path):
    """Between two exports of one process, and between two processes with other hash seeds and folders."""
    scope: dict[str, Any] = {}
    exec(SCRIPT, scope)  # noqa: S102 (the text above)
    for folder in ("one", "two"):
        network = scope["make_network"]()
        with reuse_graphs():  # files are the same with and without it: test_reuse
            for variant in PRESENT:
                scope["export"](network, tmp_path / folder, *variant)
    one, two, three = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (tmp_path / "one", tmp_path / "two", other_process[0] / "good")
    )
    assert len(one) >= len(PRESENT)
    assert [file for file in one if one[file] != two[file]] == []
    assert [file for file in one if one[file] != three[file]] == []


@each
def test_failed_export_leaves_nothing_new_and_nothing_changed(name, precision, other_process):
    """On a full disk the folder holds what it held: an older export stays whole, and nothing is added."""
    exporter, (folder, said) = make(name, precision), other_process
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
