"""Sabotage: whatever happens to an exported file or its manifest is noticed by whom it should be; no good file is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import exporters
from benchmarks import protocol
from compress.errors import CompressError
from compress.preprocess import normalise
from compress.recipe import GateSection
from compress.records import Gate
from compress.system import quiet
from compress.system.files import hash_file
from exporters.bundle.bundle import check_bundle, read_samples, write_checksums
from exporters.bundle.programs import predict
from exporters.verification.interface import ExpectedInterface, find_violations, read_interface
from exporters.verification.judge import judge
from exporters.verification.rule import Recorded
from tests.exporters import coloured
from tests.exporters.coloured import File, here
from tests.exporters.sabotage import DAMAGES, SCORED, Damage, after, appended, arithmetic, before, change, reversed_along

pytestmark = pytest.mark.slow

Change = Callable[[dict[str, Any]], None]
PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module", autouse=True)
def graphs() -> Iterator[None]:
    """Translate a network once for all its files; that this changes no byte is proved in test_reuse."""
    with exporters.reuse_graphs():
        yield


@pytest.fixture
def honest(folder: Path) -> File:
    """The undamaged ONNX file of a trained network."""
    return coloured.export(folder, "rgb", "onnx")


def judge_file(file: File, run: Callable[[Any, Any], Any] | None = None) -> Gate:
    known, run = coloured.data(file.task), run or here(file.path)
    return judge(
        file.path,
        ExpectedInterface(known.preprocess, known.classes, takes_pixels=file.takes_pixels, gives_class=file.gives_class),
        run(file.fed, None),
        run,
        file.fed,
        reference=coloured.logits(coloured.trained(file.task, file.seed), known.images),
        labels=known.held_labels,
        settings=GateSection(),
        precision=file.precision,
    )


def find_refusal(file: File) -> tuple[str, str]:
    """Return who refuses a file (`runtime`, `gate`, `promise`) and what is said; nothing where nobody does."""
    try:
        verdict = judge_file(file)
    except CompressError as error:
        return "runtime", str(error)
    if verdict.status == "passed":
        return "", ""
    known, face = coloured.data(file.task), read_interface(file.path)
    promised = ExpectedInterface(known.preprocess, known.classes, takes_pixels=file.takes_pixels, gives_class=file.gives_class)
    promises = [*find_violations(face, promised, file.precision)] if face else []
    return "promise" if verdict.reason == "; ".join(promises) else "gate", verdict.reason


def damage(file: File, kind: str, folder: Path, kinds: dict[str, Damage] = DAMAGES) -> File:
    model = onnx.load(file.path)
    kinds[kind].edit(model)
    onnx.save(model, folder / "damaged.onnx")
    return file._replace(path=folder / "damaged.onnx")


GOOD = [
    *[("rgb", name, precision, 0, False, False) for name in coloured.EXPORTERS for precision in ("fp32", "int8")],
    *[("rgb", name, "fp16", 0, True, False) for name in coloured.EXPORTERS],
    *[("rgb", name, precision, 0, precision == "fp16", True) for name in coloured.EXPORTERS for precision in PRECISIONS],
    ("gray", "onnx", "fp32", 0, False, False),
    ("gray", "openvino", "int8", 1, True, True),
]


@pytest.mark.parametrize(("task", "name", "precision", "seed", "takes_pixels", "gives_class"), GOOD)
def test_no_good_file_is_refused(
    task: Any, name: str, precision: Any, seed: int, takes_pixels: bool, gives_class: bool, folder: Path
) -> None:
    """Files of every format and precision, of several networks, plain or with pre- and postprocessing inside, pass."""
    assert find_refusal(
        coloured.export(folder, task, name, precision, seed=seed, takes_pixels=takes_pixels, gives_class=gives_class)
    ) == ("", "")


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_refused(kind: str, honest: File, tmp_path: Path) -> None:
    """Every damage to a float32 file is noticed by who should, with words that say what is wrong."""
    stage, said = find_refusal(damage(honest, kind, tmp_path))
    assert stage == DAMAGES[kind].stage, said
    assert DAMAGES[kind].said in said


@pytest.mark.parametrize("kind", SCORED)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_damaged_class_or_score_is_refused(kind: str, precision: Any, folder: Path, tmp_path: Path) -> None:
    """Good logits do not excuse a class that is not theirs, nor a score that is no probability, in int8 files neither."""
    file = coloured.export(folder, "rgb", "onnx", precision, gives_class=True)
    stage, said = find_refusal(damage(file, kind, tmp_path, SCORED))
    assert stage == SCORED[kind].stage, said
    assert SCORED[kind].said in said


@pytest.mark.parametrize("kind", ["class shifted by one", "score is a logit", "class in int32", "class renamed"])
def test_a_damaged_class_or_score_is_refused_on_openvino(kind: str, folder: Path, tmp_path: Path) -> None:
    """What is wrong is noticed on the other runtime as well."""
    file = coloured.export(folder, "rgb", "onnx", gives_class=True)
    openvino, path = quiet.import_openvino(), tmp_path / "damaged.xml"
    openvino.save_model(openvino.convert_model(damage(file, kind, tmp_path, SCORED).path), path, compress_to_fp16=False)
    stage, said = find_refusal(file._replace(path=path))
    assert stage == SCORED[kind].stage, said
    assert SCORED[kind].said in said


@pytest.mark.parametrize("gives_class", [True, False])
def test_outputs_are_those_that_are_promised(gives_class: bool, folder: Path) -> None:
    """A file without class and score does not pass for one that has them, nor the other way round."""
    file = coloured.export(folder, "rgb", "onnx", gives_class=not gives_class)
    said = find_refusal(file._replace(gives_class=gives_class))[1]
    if gives_class:
        assert "it gives no output 'class', which postprocess: inside requires" in said
    else:
        assert "has 3 outputs (logits, class, score); one is expected" in said


@pytest.mark.parametrize("kind", [
    "BGR inside", "mirrored inside", "another mean", "not divided by 255", "two classes exchanged", "sign of the logits",
    "a weight is NaN", "batch-norm in training mode", "only the first image", "logits saturated", "output renamed",
    "a class less", "softmax",
])  # fmt: skip
def test_a_damaged_int8_file_is_refused(kind: str, folder: Path, tmp_path: Path) -> None:
    """The wide bounds of int8 do not let through what breaks an application."""
    file = coloured.export(folder, "rgb", "onnx", "int8")
    if kind == "a weight is NaN":
        model = onnx.load(file.path)
        scale = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("_scale") and len(tensor.dims) == 0)
        scale.CopyFrom(onnx.numpy_helper.from_array(np.array(np.nan, np.float32), scale.name))
        onnx.save(model, tmp_path / "damaged.onnx")
        assert find_refusal(file._replace(path=tmp_path / "damaged.onnx"))[0] == "gate"
        return
    assert find_refusal(damage(file, kind, tmp_path))[0]


@pytest.mark.parametrize("name", coloured.EXPORTERS)
def test_activations_beyond_fp16_are_refused(name: str, tmp_path: Path) -> None:
    """Weights fit and the answers here are right, for this processor computes in float32; the device's would be infinite."""
    layers = [torch.nn.Conv2d(3, 3, 1, bias=False) for _ in range(4)]
    for layer, factor in zip(layers, (256.0, 256.0, 1 / 256, 1 / 256), strict=True):
        layer.weight.data = factor * torch.eye(3)[:, :, None, None]
    network = torch.nn.Sequential(*layers, coloured.trained("rgb", 0))
    exporter = coloured.EXPORTERS[name](precision="fp16")
    path = exporter.name_file(tmp_path, "loud")
    exporter.export(network, torch.zeros(1, 3, coloured.HEIGHT, coloured.WIDTH), path)
    verdict = judge_file(File(path, "rgb", 0, "fp16", False))
    assert verdict.agreement_percent == 100
    assert verdict.status == "failed"
    assert verdict.reason.startswith("fp16 overflow: the output of 0 (Conv")


@pytest.mark.parametrize("kind", [
    "first layer in BGR order", "another mean", "bias of the classifier lost", "a layer of zeros", "a ReLU lost", "softmax",
    "padding lost", "batch-norm in training mode", "overflow in fp16", "output renamed", "output in float64", "a class less",
])  # fmt: skip
def test_a_damaged_openvino_file_is_refused(kind: str, honest: File, tmp_path: Path) -> None:
    """What is wrong is noticed on the other runtime as well."""
    openvino, path = quiet.import_openvino(), tmp_path / "damaged.xml"
    openvino.save_model(openvino.convert_model(damage(honest, kind, tmp_path).path), path, compress_to_fp16=False)
    assert find_refusal(honest._replace(path=path))[0]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (reversed_along(1), "when the channels are fed in BGR order"),
        (reversed_along(3), "when the images are mirrored"),
        (reversed_along(2), "when the images stand on their head"),
        (arithmetic("Div", 255.0), ""),
        (appended("Neg"), "the sign is swapped"),
    ],
    ids=["BGR", "mirrored", "upside down", "scaled", "sign"],
)
def test_the_cause_is_named(edit: Any, said: str, honest: File, tmp_path: Path) -> None:
    """Where another input makes the file agree, that is said; where none does, no input is accused."""
    model = onnx.load(honest.path)
    edit(model)
    onnx.save(model, tmp_path / "damaged.onnx")
    reason = judge_file(honest._replace(path=tmp_path / "damaged.onnx")).reason
    assert said in reason
    assert said.startswith("when") == ("agrees with the network when" in reason)


def normalising(model: Any) -> None:
    """Normalise a second time inside the file, so that it wants values from 0 to 1."""
    pre = coloured.data("rgb").preprocess
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (pre.mean, pre.std))
    before(
        helper.make_node("Sub", ["images", "middle"], ["centred"]), helper.make_node("Div", ["centred", "spread"], ["altered"]),
        middle=mean, spread=std,
    )(model)  # fmt: skip


def test_preprocessing_done_twice_is_named(honest: File, tmp_path: Path) -> None:
    """A file that normalises by itself, fed normalised images, is told from one with other weights."""
    model = onnx.load(honest.path)
    normalising(model)
    onnx.save(model, tmp_path / "damaged.onnx")
    reason = judge_file(honest._replace(path=tmp_path / "damaged.onnx")).reason
    assert "it is fed values from 0 to 1, so it normalises by itself" in reason


def other_network(folder: Path, *, trained: bool) -> Path:
    """Return a file of a network of another seed, or of one that was never trained."""
    torch.manual_seed(7)
    network = coloured.trained("rgb", 1) if trained else coloured.Small(3)
    image = torch.zeros(1, 3, coloured.HEIGHT, coloured.WIDTH)
    return exporters.export(network, image, folder / "other.onnx", format="onnx")


@pytest.mark.parametrize("trained", [True, False], ids=["of another seed", "untrained"])
def test_another_network_is_refused(trained: bool, honest: File, tmp_path: Path) -> None:
    """The file of another network fails, even one that is as good at the task."""
    assert "a logit differs by" in find_refusal(honest._replace(path=other_network(tmp_path, trained=trained)))[1]


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".bin"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(suffix: str, share: float, folder: Path, tmp_path: Path) -> None:
    """Half a download is no model."""
    file = coloured.export(folder, "rgb", "onnx" if suffix == ".onnx" else "openvino")
    for part in {file.path, file.path.with_suffix(".bin")} if suffix != ".onnx" else {file.path}:
        shutil.copy(part, tmp_path)
    cut = (tmp_path / file.path.name).with_suffix(suffix)
    cut.write_bytes(cut.read_bytes()[: int(share * cut.stat().st_size)])
    assert find_refusal(file._replace(path=tmp_path / file.path.name))[0] == "runtime"


def test_external_data_is_refused(honest: File, tmp_path: Path) -> None:
    """A file whose weights lie elsewhere is not opened."""
    onnx.save(onnx.load(honest.path), tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    assert "external files" in find_refusal(honest._replace(path=tmp_path / "model.onnx"))[1]


@pytest.mark.parametrize("kind", [
    "BGR inside", "a weight is NaN", "only the first image", "output in float64", "class shifted by one", "score is a logit",
])  # fmt: skip
def test_the_runner_sees_the_same(kind: str, folder: Path, tmp_path: Path) -> None:
    """In the process in which files are really gated, nothing is lost on the way."""
    kinds = SCORED if kind in SCORED else DAMAGES
    bad = damage(coloured.export(folder, "rgb", "onnx", gives_class=kinds is SCORED), kind, tmp_path, kinds)

    subject = protocol.Subject("student", bad.path, "onnxruntime", gives_class=bad.gives_class)
    assert kinds[kind].said in judge_file(bad, protocol.make_runner(subject)).reason


# ---- bundles


@pytest.fixture(scope="module")
def good_bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = [coloured.export(folder, "rgb", *kind) for kind in (("onnx",), ("openvino",), ("onnx", "int8"))]
    files.append(coloured.export(folder, "rgb", "onnx", gives_class=True))
    return coloured.write_bundle(tmp_path_factory.mktemp("bundle") / "bundle", files)


@pytest.fixture
def bundle(good_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good_bundle, tmp_path / "bundle"))


def accept_bundle(folder: Path) -> None:
    """Check a bundle and judge its files, as `compress verify` does, here.

    Raises:
        CompressError: With the name of the file.
    """
    manifest = check_bundle(folder)
    samples = read_samples(folder, manifest)
    for entry in manifest.files:
        path = folder / entry.path
        promise = ExpectedInterface(
            manifest.preprocess, manifest.classes, entry.batch_size, entry.takes_pixels, entry.gives_class
        )
        fed = samples.images if entry.takes_pixels else normalise(samples.images, manifest.preprocess)
        verdict = judge(
            path, promise, here(path)(fed, None), here(path), fed, reference=samples.logits, labels=samples.labels,
            settings=GateSection.model_validate(manifest.gate), precision=entry.precision,
            recorded=Recorded(**entry.on_samples.model_dump()),
        )  # fmt: skip
        if verdict.status != "passed":
            raise CompressError(f"{path}: {verdict.reason}")


def edit(folder: Path, change: Change, *, reseal: bool) -> None:
    """Change the manifest as somebody with a text editor would, who may also know `sha256sum`."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if reseal:
        write_checksums(folder)


def put(path: str, value: Any) -> Change:
    """Replace a field of the manifest."""

    def change(manifest: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = manifest
        for name in parents:
            place = place[int(name) if name.isdecimal() else name]
        place[last] = value(place[last]) if callable(value) else value

    return change


PREPARED = "says of itself that images are prepared by"
MANIFEST: dict[str, tuple[Change, str]] = {
    "mean": (put("preprocess.mean", [0.5, 0.5, 0.5]), PREPARED),
    "mean in BGR order": (put("preprocess.mean", lambda mean: mean[::-1]), PREPARED),
    "std": (put("preprocess.std", [1.0, 1.0, 1.0]), PREPARED),
    "channels": (put("preprocess.channels", "gray"), "manifest.json"),
    "interpolation": (put("preprocess.interpolation", "nearest"), PREPARED),
    "height and width exchanged": (lambda m: m["preprocess"].update(height=8, width=10), "samples.npz"),
    "smaller images": (put("preprocess.height", 9), "samples.npz"),
    "classes shifted": (put("classes", lambda names: names[1:] + names[:1]), "expected.json"),
    "two classes exchanged": (put("classes", lambda names: [names[1], names[0], *names[2:]]), "expected.json"),
    "a class less": (put("classes", lambda names: names[:-1]), "logits_shape"),
    "a class more": (put("classes", lambda names: [*names, "purple 0"]), "logits_shape"),
    "a class twice": (put("classes", lambda names: [names[0], *names[:-1]]), "repeats a name"),
    "another format": (put("files.0.format", "openvino"), ".onnx"),
    "another runtime": (put("files.0.runtime", "openvino"), ".onnx"),
    "a format that runs code": (put("files.0.format", "torch"), "can run code"),
    "sha256": (put("files.0.parts", lambda parts: dict.fromkeys(parts, "0" * 64)), "has sha256"),
    "size": (put("files.0.size_bytes", 1), "has another size"),
    "fixed batch": (put("files.0.batch_size", 4), "its input has shape"),
    "preprocessing claimed inside": (put("files.0.takes_pixels", True), ".onnx"),
    "class and score claimed": (put("files.0.gives_class", True), "it gives no output 'class'"),
    "input renamed": (put("input", "image"), "input and output"),
    "gate that failed": (put("files.0.gate.status", "failed"), "its gate failed"),
    "a file left out": (lambda m: m["files"].pop(), "is not in the manifest"),
    "a file named twice": (lambda m: m["files"].append(m["files"][0]), "not once"),
    "a path that leads out": (put("files.0.path", "../student.onnx"), "could lead out"),
    "samples of another bundle": (put("samples_sha256", "0" * 64), "samples.npz: has sha256"),
}


def test_a_good_bundle_is_accepted(bundle: Path) -> None:
    """Nothing is found where nothing is wrong."""
    accept_bundle(bundle)


@pytest.mark.parametrize("kind", MANIFEST)
def test_an_edited_manifest_is_noticed(kind: str, bundle: Path) -> None:
    """A manifest that was changed by accident is found by its checksum before anything else is believed."""
    edit(bundle, MANIFEST[kind][0], reseal=False)
    with pytest.raises(CompressError, match=r"manifest\.json: has sha256"):
        accept_bundle(bundle)


@pytest.mark.parametrize("kind", MANIFEST)
def test_a_manifest_that_was_edited_and_sealed_is_noticed(kind: str, bundle: Path) -> None:
    """Where the checksum was made right as well, the manifest contradicts the files, the samples or itself."""
    change, said = MANIFEST[kind]
    edit(bundle, change, reseal=True)
    with pytest.raises(CompressError) as caught:
        accept_bundle(bundle)
    assert said in str(caught.value)
    assert str(bundle) in str(caught.value)


def test_a_loosened_gate_is_noticed_only_by_its_checksum(bundle: Path) -> None:
    """Limits are what their writer says, so one who also seals the bundle can loosen them; an accident is noticed."""
    edit(bundle, put("gate.min_agreement", 0.0), reseal=False)
    with pytest.raises(CompressError, match=r"manifest\.json: has sha256"):
        accept_bundle(bundle)


def repack(folder: Path, **arrays: Any) -> None:
    """Replace arrays of the samples and make every checksum right again."""
    with np.load(folder / "samples.npz") as file:
        known = dict(file)
    np.savez(folder / "samples.npz", **(known | arrays))
    edit(folder, put("samples_sha256", hash_file(folder / "samples.npz")), reseal=True)


@pytest.mark.parametrize("kind", ["labels", "logits", "images"])
def test_shuffled_samples_are_noticed(kind: str, bundle: Path) -> None:
    """Samples that do not belong together are found, even where every checksum was made right."""
    with np.load(bundle / "samples.npz") as file:
        shuffled = np.roll(file[kind], 1, axis=0)
    repack(bundle, **{kind: shuffled})
    with pytest.raises(CompressError, match=str(bundle)):
        accept_bundle(bundle)


def seal(folder: Path, change: Change = lambda _: None) -> None:
    """Change the manifest, and make every checksum and size right again."""

    def whole(manifest: dict[str, Any]) -> None:
        change(manifest)
        for file in manifest["files"]:
            file["parts"] = {name: hash_file(folder / name) for name in file["parts"]}
            file["size_bytes"] = sum((folder / name).stat().st_size for name in file["parts"])
        manifest["samples_sha256"] = hash_file(folder / "samples.npz")

    edit(folder, whole, reseal=True)


def run_self_test(folder: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> int:
    """Run the self-test of a bundle and return its exit code."""
    monkeypatch.setattr(predict, "__file__", str(folder / "predict.py"))
    monkeypatch.setattr("sys.argv", ["predict.py", "--self-test", "--file", file])
    return predict.main()


@pytest.mark.parametrize("file", ["rgb0-fp32.onnx", "rgb0-fp32.xml", "rgb0-int8.onnx", "rgb0-fp32-scores.onnx"])
def test_a_good_file_passes_its_self_test(file: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule that refuses what follows has nothing against what was handed over."""
    assert run_self_test(bundle, monkeypatch, file) == 0


ALL = [("rgb0-fp32.onnx", kind) for kind in DAMAGES] + [("rgb0-fp32-scores.onnx", kind) for kind in SCORED]


@pytest.mark.parametrize(("file", "kind"), ALL)
def test_a_file_that_was_exchanged_and_sealed_is_noticed_and_refused_by_its_self_test(
    file: str, kind: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged file under the old name, with every checksum made right, is refused by verify and by predict.py alike."""
    model = onnx.load(bundle / file)
    (SCORED if "scores" in file else DAMAGES)[kind].edit(model)
    onnx.save(model, bundle / file)
    seal(bundle)
    with pytest.raises(CompressError, match=file):
        accept_bundle(bundle)
    assert run_self_test(bundle, monkeypatch, file) in {2, 3}


def wreck_scales(model: Any) -> None:
    """Spread the scales of an int8 file's weights."""
    random = np.random.default_rng(1)
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in known and len(known[node.input[0]].dims) > 1:
            change(
                known[node.input[1]], lambda scale: (scale * np.exp(0.35 * random.normal(size=scale.shape))).astype(np.float32)
            )


def move_zero_point(steps: int) -> Callable[[Any], None]:
    """Round the input of an int8 file by a zero point that is so many of its 255 steps off."""

    def damage(model: Any) -> None:
        node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[2])
        zero = onnx.numpy_helper.to_array(tensor)
        limits = np.iinfo(zero.dtype)
        moved = np.clip(zero.astype(int) + steps, limits.min, limits.max).astype(zero.dtype)
        model.graph.initializer.append(onnx.numpy_helper.from_array(moved, "moved"))
        node.input[2] = "moved"

    return damage


def nothing(_: Any) -> None:
    """Leave it as it is."""


def wrong_in_calls(low: int, high: int) -> Callable[[Any], None]:
    """Answer for the first image of a call, where it has more than `low` and fewer than `high`."""
    make = helper.make_node
    nodes = (
        make("Shape", ["images"], ["sizes"]), make("Gather", ["sizes", "zero"], ["count"], axis=0),
        make("Less", ["count", "high"], ["below"]), make("Greater", ["count", "low"], ["above"]),
        make("And", ["below", "above"], ["wrong"]), make("Gather", ["honest", "first"], ["one"], axis=0),
        make("Where", ["wrong", "one", "honest"], ["logits"]),
    )  # fmt: skip
    return after(*nodes, zero=np.array(0), low=np.array(low), high=np.array(high), first=np.array([0]))


def strip_metadata(model: Any) -> None:
    del model.metadata_props[:]


def cut_samples(folder: Path, count: int) -> None:
    with np.load(folder / "samples.npz") as file:
        known = {name: values[:count] for name, values in file.items()}
    np.savez(folder / "samples.npz", **known)
    shutil.rmtree(folder / "samples")


def exchange_classes(folder: Path) -> None:
    """Exchange the names of two classes wherever a bundle says them, but not within its files."""
    manifest = json.loads((folder / "manifest.json").read_text())
    one, two = manifest["classes"][:2]
    path = folder / "samples" / "expected.json"
    document = json.loads(path.read_text())
    names = {one: two, two: one}
    for picture in document["pictures"]:
        picture["label"], picture["predicted"] = (names.get(picture[key], picture[key]) for key in ("label", "predicted"))
    for picture in document["pictures"][:2]:
        new = re.sub(r"(?<=\d\d-).*(?=\.png)", re.sub(r"[^A-Za-z0-9]+", "-", picture["label"]), picture["file"])
        (folder / "samples" / picture["file"]).rename(folder / "samples" / new)
        picture["file"] = new
    path.write_text(json.dumps(document))


def swap_first_two(names: list[str]) -> list[str]:
    return [names[1], names[0], *names[2:]]


class Sealed(NamedTuple):
    """A way to damage a bundle whose every checksum is made right afterwards."""

    file: str
    edit: Callable[[Any], None] = nothing
    change: Change = nothing
    further: Callable[[Path], None] = nothing
    said: str = ""
    """Part of what verify says."""


FP32, INT8, BOTH = "rgb0-fp32.onnx", "rgb0-int8.onnx", "metadata were stripped"
CHANGED = "it was changed since"
SEALED = {
    "zero point off by 20": Sealed(INT8, move_zero_point(20), said=CHANGED),
    "zero point off by 5": Sealed(INT8, move_zero_point(5), said=CHANGED),
    "scales of int8 wrecked": Sealed(INT8, wreck_scales, said=CHANGED),
    "fp32 called int8": Sealed(
        FP32, DAMAGES["weights scaled"].edit, put("files.0.precision", "int8"), said="its weights are fp32, and the manifest"
    ),
    "fp32 called fp16": Sealed(FP32, change=put("files.0.precision", "fp16"), said="its weights are fp32, and the manifest"),
    "int8 called fp32": Sealed(INT8, change=put("files.2.precision", "fp32"), said="its weights are int8, and the manifest"),
    "metadata stripped": Sealed(FP32, strip_metadata, said=BOTH),
    "metadata stripped, another interpolation": Sealed(
        FP32, strip_metadata, put("preprocess.interpolation", "nearest"), said=BOTH
    ),
    "metadata stripped, classes exchanged": Sealed(
        FP32, strip_metadata, put("classes", swap_first_two), exchange_classes, said=BOTH
    ),
    "classes exchanged": Sealed(FP32, change=put("classes", swap_first_two), further=exchange_classes, said="its classes are"),
    "three samples": Sealed(INT8, wreck_scales, further=lambda folder: cut_samples(folder, 3), said="images are uint8 [3,"),
    "three samples, and three sealed": Sealed(
        INT8, wreck_scales, put("samples_count", 3), lambda folder: cut_samples(folder, 3), "are fewer than the 64"
    ),
    "wrong in calls of 2 to 31": Sealed(FP32, wrong_in_calls(1, 32), said="otherwise alone than in a batch"),
    "wrong in calls of 17": Sealed(FP32, wrong_in_calls(16, 18), said="otherwise alone than in a batch"),
    "wrong in calls above 32": Sealed(FP32, wrong_in_calls(32, 10**6), said="otherwise alone than in a batch"),
    "wrong in calls above 64": Sealed(FP32, wrong_in_calls(64, 10**6), said="otherwise alone than in a batch"),
    "int8 wrong in calls of 7": Sealed(INT8, wrong_in_calls(6, 8), said="otherwise alone than in a batch"),
    "what was recorded left out": Sealed(FP32, change=put("files.0.on_samples", None), said="on_samples must say"),
    "what was recorded is no number": Sealed(
        INT8, change=put("files.2.on_samples.max_abs_diff", float("nan")), said="manifest"
    ),
    "recorded by the gate left out": Sealed(INT8, change=put("files.2.gate.max_abs_diff", None), said="gate and on_samples"),
}


@pytest.mark.parametrize("kind", SEALED)
def test_a_bundle_that_was_damaged_and_sealed_is_noticed_and_refused_by_its_self_test(
    kind: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only the record, the file itself or other calls can show is seen by verify and by predict.py alike."""
    file, damage_model, change_manifest, further, said = SEALED[kind]
    model = onnx.load(bundle / file)
    damage_model(model)
    onnx.save(model, bundle / file)
    further(bundle)
    seal(bundle, change_manifest)
    with pytest.raises(CompressError) as caught:
        accept_bundle(bundle)
    assert said in str(caught.value)
    if kind != "recorded by the gate left out":  # the samples' own record bounds it there
        assert run_self_test(bundle, monkeypatch, file) in {2, 3}


def test_a_manifest_of_another_bundle_is_noticed(bundle: Path, folder: Path, tmp_path: Path) -> None:
    """Files of one network under the manifest of another are found."""
    other = coloured.write_bundle(tmp_path / "other", [coloured.export(folder, "gray", "onnx")])
    shutil.copy(other / "manifest.json", bundle)
    write_checksums(bundle)
    with pytest.raises(CompressError, match=str(bundle)):
        accept_bundle(bundle)


def test_how_many_ways_there_are() -> None:
    """At least forty kinds of damage to files and twenty to manifests are tried, and all three stages have some to notice."""
    assert len(DAMAGES) >= 40
    assert len(MANIFEST) >= 20
    assert {each.stage for each in DAMAGES.values()} == {"promise", "runtime", "gate"}
