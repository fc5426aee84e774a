"""A bundle is whole when it is written, and is not believed when it comes back."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress import files
from compress.errors import CompressError, Unreachable
from compress.recipe import GateSection
from compress.records import Gate, Preprocess
from exporters import _bundle
from exporters._bundle import Deployable, Samples
from exporters.onnx import Onnx
from exporters.openvino import Openvino
from exporters.torch import Torch

PASSED = Gate(status="passed", reason="", samples=4, agreement_percent=100.0, max_abs_diff=1e-6, top1_drop_points=0.0)
FAILED = Gate(status="failed", reason="agreement 7 % is below 98 %", samples=4)
PREPROCESS = Preprocess(height=6, width=8, channels="rgb", mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
RANDOM = np.random.default_rng(0)
SAMPLES = Samples(
    RANDOM.integers(0, 256, (4, 6, 8, 3), dtype=np.uint8),
    np.array([0, 1, 1, 0]),
    RANDOM.normal(size=(4, 2)).astype(np.float32),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Real files of every format, exported once: name of the format to what `write` takes."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    made = {}
    for name, exporter in {"onnx": Onnx(), "openvino": Openvino(precision="fp16"), "torch": Torch()}.items():
        path = exporter.path(folder, "student")
        exporter.export(network, torch.rand(1, 3, 6, 8), path)
        made[name] = Deployable(path, name, exporter, PASSED)
    return made


def write(folder, files, *, samples=SAMPLES, classes=("cat", "dog"), preprocess=PREPROCESS):
    return _bundle.write(
        folder,
        name="pets",
        classes=classes,
        preprocess=preprocess,
        files=files,
        samples=samples,
        gate=GateSection(),
        provenance={"recipe": "pets.yaml"},
    )


@pytest.fixture
def bundle(exported, tmp_path):
    write(tmp_path / "bundle", [exported["onnx"], exported["openvino"]])
    return tmp_path / "bundle"


def edit(folder, change):
    """Change the manifest as somebody with a text editor would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def resign(folder):
    """Make every checksum and size of the manifest right again: an attacker can."""

    def change(manifest):
        for file in manifest["files"]:
            file["parts"] = {name: files.sha256_of(folder / name) for name in file["parts"]}
            file["size_bytes"] = sum((folder / name).stat().st_size for name in file["parts"])
        manifest["samples_sha256"] = files.sha256_of(folder / manifest["samples"])

    edit(folder, change)


def test_bundle_holds_all_that_a_device_needs(bundle):
    """Model files, manifest, samples and README; what was written is what is read back."""
    assert sorted(path.name for path in bundle.iterdir()) == [
        "README.md",
        "manifest.json",
        "samples.npz",
        "student-fp16.bin",
        "student-fp16.xml",
        "student-fp32.onnx",
    ]
    manifest = _bundle.check(bundle)
    assert [(file.path, file.runtime, file.precision) for file in manifest.files] == [
        ("student-fp32.onnx", "onnxruntime", "fp32"),
        ("student-fp16.xml", "openvino", "fp16"),
    ]
    assert (manifest.classes, manifest.preprocess) == (("cat", "dog"), PREPROCESS)
    for mine, theirs in zip(SAMPLES, _bundle.read_samples(bundle, manifest), strict=True):
        assert np.array_equal(mine, theirs)


def test_same_content_gives_the_same_bytes(bundle, exported, tmp_path):
    """A bundle written again replaces the old one and differs in nothing."""
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    (bundle / "left over").write_text("")
    write(bundle, [exported["onnx"], exported["openvino"]])
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_readme_tells_how_to_preprocess_by_hand(bundle):
    """Its lines of Python, executed, give the input that the manifest describes."""
    import PIL.Image

    text = (bundle / "README.md").read_text()
    code = "\n".join(line[4:] for line in text.partition("becomes an input by")[2].splitlines() if line.startswith("    "))
    file = io.BytesIO()
    PIL.Image.fromarray(SAMPLES.images[0]).save(file, "png")
    scope = {"PIL": PIL, "numpy": np, "path": file}
    exec(code, scope)  # noqa: S102 (our own README)
    wanted = (SAMPLES.images[:1] / 255 - np.array(PREPROCESS.mean)) / np.array(PREPROCESS.std)
    assert scope["images"].dtype == np.float32
    assert scope["images"] == pytest.approx(wanted.transpose(0, 3, 1, 2), abs=1e-5)
    assert "| `student-fp16.xml` | openvino | fp16 |" in text
    assert "compress verify" in text
    assert "compress predict" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: [made["onnx"]._replace(gate=FAILED)], "its gate failed .*a bundle holds only what passed"),
        (lambda made: [made["torch"]], "loading a file of format 'torch' can run code"),
        (lambda made: [made["onnx"], made["onnx"]], "another file of the bundle has this name"),
        (lambda _: [], "no file passed its gate"),
    ],
)
def test_file_that_must_not_be_deployed_stops_the_bundle(change, said, exported, tmp_path):
    """A failed gate, a format that can run code, two files of one name, or none: nothing is written."""
    with pytest.raises(CompressError, match=said):
        write(tmp_path / "bundle", change(exported))
    assert list(tmp_path.iterdir()) == []


def test_missing_file_stops_the_bundle(exported, tmp_path):
    """A file that has gone is named, and nothing is written."""
    gone = exported["onnx"]._replace(path=tmp_path / "gone.onnx")
    with pytest.raises(Unreachable, match=r"gone\.onnx: is not there"):
        write(tmp_path / "bundle", [gone])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples": SAMPLES._replace(labels=np.array([0, 1, 2, 0]))}, "labels in 0 .. 1"),
        ({"samples": SAMPLES._replace(labels=SAMPLES.labels[:3])}, r"images are uint8 \[4, 6, 8, 3\], the manifest asks for"),
        ({"samples": SAMPLES._replace(logits=SAMPLES.logits.astype(np.float64))}, "logits are float64"),
        ({"samples": SAMPLES._replace(logits=np.full((4, 2), np.nan, np.float32))}, "finite logits"),
        ({"classes": ("cat", "dog", "cow")}, "logits are"),
        ({"classes": ("cat", "cat")}, "repeats a name"),
        ({"preprocess": PREPROCESS.model_copy(update={"std": (0.2, 0.0, 0.3)})}, "std above 0"),
        ({"preprocess": PREPROCESS.model_copy(update={"channels": "gray"})}, "mean and std need 1 values"),
    ],
)
def test_parts_that_do_not_fit_stop_the_bundle(options, said, exported, tmp_path):
    """Samples, classes and preprocessing must describe the same network."""
    with pytest.raises(CompressError, match=said):
        write(tmp_path / "bundle", [exported["onnx"]], **options)
    assert list(tmp_path.iterdir()) == []


def flip_a_byte(bundle):
    data = bytearray((bundle / "student-fp16.bin").read_bytes())
    data[-1] ^= 1
    (bundle / "student-fp16.bin").write_bytes(data)


def link_outside(bundle):
    (bundle / "student-fp16.bin").rename(bundle.parent / "weights.bin")
    (bundle / "student-fp16.bin").symlink_to(bundle.parent / "weights.bin")


def set_path(name):
    def change(manifest):
        manifest["files"][0].update(path=name, parts={name: "0" * 64})

    return lambda bundle: edit(bundle, change)


def manifest_as_model(bundle):
    set_path("manifest.json")(bundle)
    (bundle / "student-fp32.onnx").unlink()


def external_data(bundle):
    """An ONNX file that would make the runtime read somebody's secrets as weights."""
    path = bundle / "student-fp32.onnx"
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    path.write_bytes(model.SerializeToString())
    resign(bundle)


def external_data_in_a_subgraph(bundle):
    path = bundle / "student-fp32.onnx"
    model = onnx.load(path)
    hidden = onnx.TensorProto(name="hidden", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    branch = onnx.helper.make_graph([], "branch", [], [], [hidden])
    model.graph.node.append(onnx.helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))
    path.write_bytes(model.SerializeToString())
    resign(bundle)


def executable_in_disguise(bundle):
    """A torch program that carries the name of an ONNX file, so that torch would unpickle it."""
    edit(bundle, lambda manifest: manifest["files"][0].update(runtime="torch"))


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/the-bundle-ran-code"),))  # noqa: S108 (must never exist)


def replace_samples(**arrays):
    def change(bundle):
        np.savez(bundle / "samples.npz", **{**SAMPLES._asdict(), **arrays})
        resign(bundle)

    return change


def compress_samples(bundle):
    np.savez_compressed(bundle / "samples.npz", **SAMPLES._asdict())
    resign(bundle)


def lie_about_a_shape(bundle):
    """An array that claims to be a hundred terabytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**14,)})
    with zipfile.ZipFile(bundle / "samples.npz", "w") as archive:
        for field in Samples._fields:
            archive.writestr(f"{field}.npy", header.getvalue())
    resign(bundle)


ATTACKS = {
    "changed weights": (flip_a_byte, r"student-fp16\.bin: has sha256 .*it was changed or damaged"),
    "changed samples": (lambda bundle: (bundle / "samples.npz").write_bytes(b""), r"samples\.npz: has sha256"),
    "link": (link_outside, r"student-fp16\.bin: is not a plain file"),
    "link to a folder": (lambda bundle: (bundle / "more").symlink_to("/etc"), "more: is not a plain file"),
    "pipe": (lambda bundle: os.mkfifo(bundle / "pipe"), "pipe: is not a plain file"),
    "folder": (lambda bundle: (bundle / "folder").mkdir(), "folder: is not a plain file"),
    "surplus model": (
        lambda bundle: shutil.copy(bundle / "student-fp32.onnx", bundle / "b.onnx"),
        r"b\.onnx: is not in the manifest",
    ),
    "missing part": (lambda bundle: (bundle / "student-fp16.bin").unlink(), r"student-fp16\.bin: the manifest lists it"),
    "missing manifest": (lambda bundle: (bundle / "manifest.json").unlink(), r"has no manifest\.json"),
    "not a manifest": (lambda bundle: (bundle / "manifest.json").write_text("{}"), "is not a Manifest"),
    "huge manifest": (lambda bundle: os.truncate(bundle / "manifest.json", 20 << 20), "is larger than 16 MiB"),
    "path upwards": (set_path("../student.onnx"), "'../student.onnx' is not a plain file name"),
    "absolute path": (set_path("/etc/passwd"), "'/etc/passwd' is not a plain file name"),
    "path of Windows": (set_path("..\\student.onnx"), "is not a plain file name"),
    "hidden file": (set_path(".bashrc"), "is not a plain file name"),
    "samples elsewhere": (
        lambda bundle: edit(bundle, lambda manifest: manifest.update(samples="../x.npz")),
        "is not a plain file name",
    ),
    "manifest as model": (manifest_as_model, "not once as a file of its own"),
    "failed gate": (lambda bundle: edit(bundle, lambda m: m["files"][0]["gate"].update(status="failed")), "its gate failed"),
    "no files": (lambda bundle: edit(bundle, lambda manifest: manifest.update(files=[])), "files: is empty"),
    "other input": (lambda bundle: edit(bundle, lambda manifest: manifest.update(input="x")), "input and output"),
    "wrong size": (lambda bundle: edit(bundle, lambda m: m["files"][0].update(size_bytes=1)), "another size than the 1 bytes"),
    "unknown format": (lambda bundle: edit(bundle, lambda m: m["files"][0].update(format="exe")), "there is no 'exe'"),
    "code in disguise": (executable_in_disguise, "the manifest says otherwise"),
    "code openly": (
        lambda bundle: edit(bundle, lambda m: m["files"][0].update(format="torch", runtime="torch")),
        "can run code",
    ),
    "external data": (external_data, "lies in another file"),
    "external data in a subgraph": (external_data_in_a_subgraph, "tensor 'hidden' lies in another file"),
    "not onnx": (
        lambda bundle: ((bundle / "student-fp32.onnx").write_bytes(b"\xff" * 99), resign(bundle)),
        "is not an ONNX file",
    ),
    "pickle in samples": (
        replace_samples(labels=np.array([Payload()] * 4, dtype=object)),
        "is not an npz with images, labels, logits",
    ),
    "samples not a zip": (
        lambda bundle: ((bundle / "samples.npz").write_bytes(pickle.dumps(Payload())), resign(bundle)),
        "is not an npz",
    ),
    "samples compressed": (compress_samples, r"samples\.npz: is compressed"),
    "samples of a hundred terabytes": (lie_about_a_shape, "is not an npz"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_bundle_that_is_not_what_it_says_is_refused(attack, bundle):
    """Each is one message that names the file, before any runtime has opened it, and no code has run."""
    change, said = ATTACKS[attack]
    change(bundle)
    with pytest.raises(CompressError, match=said):
        _bundle.check(bundle)
    assert not Path("/tmp/the-bundle-ran-code").exists()  # noqa: S108 (see Payload)


def test_resigning_alone_changes_nothing(bundle):
    """The attacks above are refused for what they do, not for how the test rewrites the manifest."""
    before = _bundle.check(bundle)
    resign(bundle)
    assert _bundle.check(bundle) == before
