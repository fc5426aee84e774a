"""A bundle is whole when it is written, and is not believed when it comes back."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import PIL.Image
import pytest
import torch
from torch import nn

from compress.errors import CompressError, Unreachable
from compress.preprocess import decode, normalise
from compress.recipe import GateSection
from compress.records import Gate, Preprocess
from compress.system import files
from exporters.bundle.bundle import (
    Deployable,
    Samples,
    check_bundle,
    find_unfamiliar_programs,
    read_samples,
    write_bundle,
    write_checksums,
)
from exporters.bundle.card import render_card
from exporters.bundle.readme import render_readme
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
        path = exporter.name_file(folder, "student")
        exporter.export(network, torch.rand(1, 3, 6, 8), path)
        made[name] = Deployable(path, name, exporter, PASSED, SAMPLES.logits)
    return made


def write(folder, files, *, samples=SAMPLES, classes=("cat", "dog"), preprocess=PREPROCESS):
    return write_bundle(
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
    """Change the manifest as somebody with a text editor and `sha256sum` would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    write_checksums(folder)


def contents(bundle):
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def resign(folder):
    """Make every checksum and size of the manifest right again: an attacker can."""

    def change(manifest):
        for file in manifest["files"]:
            file["parts"] = {name: files.hash_file(folder / name) for name in file["parts"]}
            file["size_bytes"] = sum((folder / name).stat().st_size for name in file["parts"])
        manifest["samples_sha256"] = files.hash_file(folder / manifest["samples"])

    edit(folder, change)


def test_bundle_holds_all_that_a_device_needs(bundle):
    """Model files, manifest, samples, programs and what people read; what was written is what is read back."""
    assert sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()) == [
        "MODEL_CARD.md",
        "NOTICE.txt",
        "README.md",
        "SHA256SUMS",
        "bench.py",
        "cpp/CMakeLists.txt",
        "cpp/example.cpp",
        "manifest.json",
        "manifest.schema.json",
        "model_file.py",
        "predict.py",
        "rule.py",
        "samples.npz",
        "samples/00-cat.png",
        "samples/01-dog.png",
        "samples/expected.json",
        "student-fp16.bin",
        "student-fp16.xml",
        "student-fp32.onnx",
    ]
    manifest = check_bundle(bundle)
    assert [(file.path, file.runtime, file.precision) for file in manifest.files] == [
        ("student-fp32.onnx", "onnxruntime", "fp32"),
        ("student-fp16.xml", "openvino", "fp16"),
    ]
    assert (manifest.classes, manifest.preprocess) == (("cat", "dog"), PREPROCESS)
    for mine, theirs in zip(SAMPLES, read_samples(bundle, manifest), strict=True):
        assert np.array_equal(mine, theirs)


def test_same_content_gives_the_same_bytes(bundle, exported, tmp_path):
    """A bundle written again replaces the old one and differs in nothing."""
    before = contents(bundle)
    (bundle / "left over").write_text("")
    write(bundle, [exported["onnx"], exported["openvino"]])
    assert contents(bundle) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_readme_says_how_telemetry_is_kept_off(bundle):
    """For each runtime of the bundle that has telemetry, and for no other."""
    text = (bundle / "README.md").read_text()
    assert "`predict.py` sets `ORT_DISABLE_TELEMETRY=1` before it imports the package" in text
    assert "`predict.py` hides that package" in text
    manifest = check_bundle(bundle)
    alone = [file.model_copy(update={"runtime": "executorch"}) for file in manifest.files[:1]]
    assert "ORT_DISABLE" not in render_readme(manifest.model_copy(update={"files": tuple(alone)}))


def test_readme_tells_how_to_preprocess_by_hand(bundle):
    """Its lines of Python, executed, give the input that the manifest describes."""
    text = (bundle / "README.md").read_text()
    lines = text.partition("becomes an input by")[2].partition("and the class is")[0].splitlines()
    code = "\n".join(line[4:] for line in lines if line.startswith("    "))
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


@pytest.mark.parametrize("geometry", ["squeeze", "center_crop", "letterbox"])
@pytest.mark.parametrize("size", [(30, 21), (9, 50), (12, 12), (3, 2)])
def test_readme_places_pictures_as_training_does(bundle, geometry, size, tmp_path):
    """For each geometry its lines, executed on a picture of another shape, give the pixels of `decode`."""
    preprocess = PREPROCESS.model_copy(update={"geometry": geometry, "crop_fraction": 0.8, "interpolation": "bicubic"})
    manifest = check_bundle(bundle).model_copy(update={"preprocess": preprocess})
    lines = render_readme(manifest).partition("becomes an input by")[2].partition("and the class is")[0].splitlines()
    path = tmp_path / "picture.png"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    scope = {"PIL": PIL, "numpy": np, "path": path}
    exec("\n".join(line[4:] for line in lines if line.startswith("    ")), scope)  # noqa: S102 (our own README)
    wanted = normalise(decode(path, preprocess, "picture")[None], preprocess)
    assert scope["images"] == pytest.approx(wanted, abs=1e-5)
    assert {"squeeze": "squeezed", "center_crop": "middle", "letterbox": "filled with 114"}[geometry] in render_card(
        manifest, None
    )


def test_readme_says_which_files_take_and_give_int8(bundle):
    """A whole-integer LiteRT file has another interface than the rest, and the README names it."""
    manifest = check_bundle(bundle)
    assert "take and give int8" not in render_readme(manifest)
    first, *others = manifest.files
    whole = first.model_copy(update={"path": "whole.tflite", "runtime": "litert", "precision": "int8"})
    told = render_readme(manifest.model_copy(update={"files": (whole, *others)}))
    assert "`whole.tflite` take and give int8" in told
    for changes, said in (({"gives_class": True}, "take int8"), ({"takes_pixels": True}, "give int8")):
        told = render_readme(manifest.model_copy(update={"files": (whole.model_copy(update=changes), *others)}))
        assert f"`whole.tflite` {said}" in told
    floating = whole.model_copy(update={"takes_pixels": True, "gives_class": True})
    assert " int8: the scales" not in render_readme(manifest.model_copy(update={"files": (floating, *others)}))


def test_readme_speaks_of_one_file_in_the_singular(bundle):
    """One file that normalises takes pixels by itself; two take them by themselves."""
    first, second, *others = check_bundle(bundle).files
    inside = [each.model_copy(update={"takes_pixels": True, "gives_class": True}) for each in (first, second)]
    manifest = check_bundle(bundle)
    one = render_readme(manifest.model_copy(update={"files": (inside[0], second, *others)}))
    assert f"Except for `{first.path}`: it normalises by itself, and takes" in one
    two = render_readme(manifest.model_copy(update={"files": (*inside, *others)}))
    assert f"Except for `{first.path}`, `{second.path}`: they normalise by themselves, and take" in two
    assert f"`{second.path}` also give `class`" in two


def test_readme_says_which_files_give_class_and_score(bundle):
    """Whoever wants no more than the class is told which file says it."""
    manifest = check_bundle(bundle)
    assert "also give" not in render_readme(manifest)
    first, *others = manifest.files
    scored = first.model_copy(update={"gives_class": True})
    told = render_readme(manifest.model_copy(update={"files": (scored, *others)}))
    assert f"`{first.path}` also gives `class` [batch]" in told


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
    write_checksums(bundle)


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


def add_a_picture(bundle):
    shutil.copy(bundle / "samples/00-cat.png", bundle / "samples/x.png")
    write_checksums(bundle)


def swap_pictures(bundle):
    shutil.copy(bundle / "samples/01-dog.png", bundle / "samples/00-cat.png")
    write_checksums(bundle)


def expect(**other):
    """Change what is expected of the first picture."""

    def change(bundle):
        path = bundle / "samples" / "expected.json"
        document = json.loads(path.read_text())
        document["pictures"][0].update(other)
        path.write_text(json.dumps(document))
        write_checksums(bundle)

    return change


ATTACKS = {
    "changed weights": (flip_a_byte, r"student-fp16\.bin: has sha256 .*it was changed or damaged"),
    "changed samples": (lambda bundle: (bundle / "samples.npz").write_bytes(b""), r"samples\.npz: has sha256"),
    "changed samples, sealed anew": (
        lambda bundle: ((bundle / "samples.npz").write_bytes(b""), write_checksums(bundle)),
        r"samples\.npz: has sha256 .*the manifest says",
    ),
    "no checksums": (lambda bundle: (bundle / "SHA256SUMS").unlink(), "SHA256SUMS: is not there"),
    "no line of checksums": (lambda bundle: (bundle / "SHA256SUMS").write_text("hello\n"), "SHA256SUMS:1: is not a checksum"),
    "checksum of a file elsewhere": (
        lambda bundle: (bundle / "SHA256SUMS").write_text(f"{'0' * 64}  ../../etc/passwd\n"),
        "SHA256SUMS:1: is not a checksum",
    ),
    "huge checksums": (lambda bundle: os.truncate(bundle / "SHA256SUMS", 2 << 20), "SHA256SUMS: is larger than 1 MiB"),
    "thousands of files": (
        lambda bundle: [(bundle / "samples" / f"{number}.png").touch() for number in range(1001)],
        "more than 1000 files",
    ),
    "link among the samples": (
        lambda bundle: (bundle / "samples" / "x.png").symlink_to("/etc/passwd"),
        r"x\.png: is not a plain file",
    ),
    "folder among the samples": (lambda bundle: (bundle / "samples" / "more").mkdir(), "more: is a folder"),
    "surplus picture": (add_a_picture, r"samples/x\.png: is not in the manifest"),
    "another picture": (swap_pictures, r"00-cat\.png: is not the image"),
    "picture that is none": (
        lambda bundle: ((bundle / "samples/00-cat.png").write_text("no"), write_checksums(bundle)),
        r"00-cat\.png: cannot be decoded",
    ),
    "huge picture": (
        lambda bundle: (os.truncate(bundle / "samples/00-cat.png", 1 << 20), write_checksums(bundle)),
        r"00-cat\.png: is not there, or too large",
    ),
    "missing picture": (
        lambda bundle: ((bundle / "samples/00-cat.png").unlink(), write_checksums(bundle)),
        r"00-cat\.png: is not there",
    ),
    "picture elsewhere": (expect(file="../../x.png"), "is not what samples.npz says"),
    "picture of no row": (expect(row=99), "is not what samples.npz says"),
    "other answer": (expect(predicted="dog" if SAMPLES.logits[0].argmax() == 0 else "cat"), "is not what samples.npz says"),
    "other score": (expect(score=0.5), "is not what samples.npz says"),
    "no expectation": (expect(label=None), "is not a Expected"),
    "surplus program": (
        lambda bundle: ((bundle / "setup.py").write_text("print()"), write_checksums(bundle)),
        r"setup\.py: is not in the manifest",
    ),
    "link": (link_outside, r"student-fp16\.bin: is not a plain file"),
    "link to a folder": (lambda bundle: (bundle / "more").symlink_to("/etc"), "more: is not a plain file"),
    "pipe": (lambda bundle: os.mkfifo(bundle / "pipe"), "pipe: is not a plain file"),
    "folder": (lambda bundle: (bundle / "folder").mkdir(), "folder: is a folder; a bundle has only cpp and samples"),
    "surplus model": (
        lambda bundle: (shutil.copy(bundle / "student-fp32.onnx", bundle / "b.onnx"), write_checksums(bundle)),
        r"b\.onnx: is not in the manifest",
    ),
    "missing part": (
        lambda bundle: ((bundle / "student-fp16.bin").unlink(), write_checksums(bundle)),
        r"student-fp16\.bin: the manifest lists it",
    ),
    "missing manifest": (lambda bundle: (bundle / "manifest.json").unlink(), r"has no manifest\.json"),
    "not a manifest": (
        lambda bundle: ((bundle / "manifest.json").write_text("{}"), write_checksums(bundle)),
        "is not a Manifest",
    ),
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
        check_bundle(bundle)
    assert not Path("/tmp/the-bundle-ran-code").exists()  # noqa: S108 (see Payload)


def test_resigning_alone_changes_nothing(bundle):
    """The attacks above are refused for what they do, not for how the test rewrites the manifest."""
    before = check_bundle(bundle)
    resign(bundle)
    assert check_bundle(bundle) == before


def test_one_changed_byte_in_any_file_is_noticed(bundle):
    """Whatever the file and wherever the byte, the refusal names it; put right, the bundle is good again."""
    for name, content in contents(bundle).items():
        for place in sorted({0, len(content) // 2, len(content) - 1}):
            damaged = bytearray(content)
            damaged[place] ^= 1
            (bundle / name).write_bytes(damaged)
            with pytest.raises(CompressError, match=re.escape(name)):
                check_bundle(bundle)
        (bundle / name).write_bytes(content)
    check_bundle(bundle)


def test_checksums_are_those_of_sha256sum(bundle):
    """The program that every Linux has proves the bundle: every file but the list itself, in the form that it reads."""
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=bundle, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(line.partition(": ")[0] for line in done.stdout.splitlines()) == sorted(
        contents(bundle).keys() - {"SHA256SUMS"}
    )


def test_manifest_meets_the_schema_that_travels_with_it(bundle):
    """`manifest.schema.json` is a JSON Schema that takes this manifest, and none with a field more or of another type."""
    schema, manifest = (json.loads((bundle / name).read_text()) for name in ("manifest.schema.json", "manifest.json"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(manifest)
    assert not validator.is_valid(manifest | {"surplus": 1})
    assert not validator.is_valid(manifest | {"classes": [1, 2]})
    assert not validator.is_valid({name: value for name, value in manifest.items() if name != "preprocess"})


def test_sample_pictures_are_the_images_with_the_expected_answers(bundle):
    """Each picture, decoded by anything, is the image of its row; class, score and logits are the torch network's."""
    for picture in json.loads((bundle / "samples/expected.json").read_text())["pictures"]:
        with PIL.Image.open(bundle / "samples" / picture["file"]) as image:
            assert np.array_equal(np.asarray(image), SAMPLES.images[picture["row"]])
        logits = SAMPLES.logits[picture["row"]].astype(np.float64)
        assert picture["logits"] == logits.tolist()
        assert picture["score"] == pytest.approx(1 / np.exp(logits - logits.max()).sum())
        assert (picture["label"], picture["predicted"]) == tuple(("cat", "dog")[index] for index in
                                                                 (SAMPLES.labels[picture["row"]], logits.argmax()))  # fmt: skip


@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
@pytest.mark.parametrize(
    "further", [{"geometry": "center_crop", "crop_fraction": 0.875}, {"geometry": "center_crop", "crop_fraction": 0.3},
                {"geometry": "center_crop", "crop_fraction": 1.0}, {"geometry": "letterbox"}],
)  # fmt: skip
def test_sample_pictures_pass_through_every_geometry(
    exported: dict[str, Deployable], tmp_path: Path, further: dict[str, Any], interpolation: str
) -> None:
    """Whoever decodes one as pictures of this bundle are decoded comes to its image, also where a border is cut off."""
    preprocess = PREPROCESS.model_copy(update={**further, "interpolation": interpolation})
    write(tmp_path / "bundle", [exported["onnx"]], preprocess=preprocess)
    for picture in json.loads((tmp_path / "bundle/samples/expected.json").read_text())["pictures"]:
        path = tmp_path / "bundle" / "samples" / picture["file"]
        assert np.array_equal(decode(path, preprocess, path.name), SAMPLES.images[picture["row"]])
    prepare = [sys.executable, "predict.py", f"samples/{picture['file']}", "--prepare", str(tmp_path / "out")]
    subprocess.run(prepare, cwd=tmp_path / "bundle", capture_output=True, check=True)
    with PIL.Image.open(next((tmp_path / "out").iterdir())) as image:
        assert np.array_equal(np.asarray(image), SAMPLES.images[picture["row"]])


def test_gray_samples_and_many_classes(exported, tmp_path):
    """Gray pictures are one-channel PNG; of many classes sixteen are shown, under names that every system takes."""
    classes = tuple(f"Klasse {number}/ä:" for number in range(20))
    samples = Samples(
        RANDOM.integers(0, 256, (20, 6, 8, 1), dtype=np.uint8),
        np.arange(20),
        RANDOM.normal(size=(20, 20)).astype(np.float32),
    )
    gray = Preprocess(height=6, width=8, channels="gray", mean=(0.4,), std=(0.2,))
    files = [exported["onnx"]._replace(outputs=samples.logits)]
    write(tmp_path / "bundle", files, samples=samples, classes=classes, preprocess=gray)
    names = sorted(path.name for path in (tmp_path / "bundle" / "samples").glob("*.png"))
    assert len(names) == 16
    assert names[3] == "03-Klasse-3.png"
    with PIL.Image.open(tmp_path / "bundle" / "samples" / names[3]) as image:
        assert image.mode == "L"
    assert not (tmp_path / "bundle" / "cpp").exists()
    assert "no C++ example" in (tmp_path / "bundle" / "README.md").read_text()


def test_programs_that_somebody_changed_are_told(bundle):
    """What this version writes is familiar; another predict.py or C++ program is named and still is only data to us."""
    assert find_unfamiliar_programs(bundle, check_bundle(bundle)) == ()
    for name in ("predict.py", "cpp/example.cpp"):
        (bundle / name).write_text("raise SystemExit('never run')\n")
    write_checksums(bundle)
    assert find_unfamiliar_programs(bundle, check_bundle(bundle)) == ("predict.py", "cpp/example.cpp")


def test_a_file_of_an_adapted_network_carries_its_own_reference(exported, tmp_path):
    """A file made from a network that int8 changed is verified against that network, the others against the student."""
    own = SAMPLES.logits + np.float32(1)
    manifest = write(tmp_path / "bundle", [exported["onnx"]._replace(logits=own), exported["openvino"]])
    found = read_samples(tmp_path / "bundle", manifest)
    assert [file.logits for file in manifest.files] == ["logits_0", "logits"]
    np.testing.assert_array_equal(found.get_logits(manifest.files[0]), own)
    np.testing.assert_array_equal(found.get_logits(manifest.files[1]), SAMPLES.logits)


@pytest.mark.parametrize(("name", "said"), [("labels", "must be a name such as logits"), ("logits_7", "is not an npz with")])
def test_a_reference_that_is_none_is_refused(bundle, name, said):
    """A manifest cannot point a file at the images or at an array that is not there."""
    edit(bundle, lambda manifest: manifest["files"][0].update(logits=name))
    with pytest.raises(CompressError, match=said):
        check_bundle(bundle)
