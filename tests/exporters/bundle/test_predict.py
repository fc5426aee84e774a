"""predict.py of a bundle: alone, with one runtime, and with the answers that `compress predict` gives."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from scipy.special import softmax

from compress.deployed.predict import classify_pictures
from compress.errors import CompressError
from compress.events import Events
from compress.preprocess import decode, normalise
from compress.recipe import GateSection
from compress.records import Preprocess
from compress.system.files import hash_file
from exporters.bundle.bundle import check_bundle, write_bundle, write_checksums
from exporters.bundle.programs import predict
from exporters.onnx import Onnx
from tests import encoded_pictures
from tests.exporters import pets

pytestmark = pytest.mark.slow

PROGRAMS = ("predict.py", "rule.py", "model_file.py")
WITHOUT = "compress exporters benchmarks torch torchvision onnx nncf pydantic"
"""Packages that a device does not have."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pets")
    return pets.write(folder / "bundle", pets.files(folder))


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures that careless code reads wrongly."""
    folder = tmp_path_factory.mktemp("pictures")
    colours = Image.fromarray(np.random.default_rng(1).integers(0, 256, (17, 13, 3), dtype=np.uint8))
    gray = colours.convert("L")
    clear = colours.copy()
    clear.putalpha(gray)
    sixteen = Image.fromarray(np.random.default_rng(2).integers(0, 65536, (9, 11)).astype(np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    palette = colours.quantize(16)
    made = {
        "plain.png": (colours, {}),
        "palette.png": (palette, {}),
        "palette-clear.png": (palette, {"transparency": 3}),
        "palette-alpha.png": (palette, {"transparency": bytes(range(0, 256, 16))}),
        "alpha.png": (clear, {}),
        "gray-alpha.png": (clear.convert("LA"), {}),
        "gray-clear.png": (gray, {"transparency": 7}),
        "one-bit.png": (gray.convert("1"), {}),
        "sixteen.png": (sixteen, {}),
        "sixteen.tiff": (sixteen, {}),
        "turned.jpg": (colours, {"exif": turned}),
        "cmyk.jpg": (colours.convert("CMYK"), {}),
        "clear.webp": (clear, {}),
        "still.gif": (palette, {}),
        "bitmap.bmp": (colours, {}),
        "exact.png": (colours.resize((8, 6)), {}),
        "long.png": (colours.resize((300, 2)), {}),
        "tall.png": (gray.resize((1, 211)), {}),
    }
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    values = np.random.default_rng(3).integers(0, 4096, (6, 8, 4))
    wide = {
        "wide.png": encoded_pictures.encode_png(values[..., :3]),
        "wide-gray.png": encoded_pictures.encode_png(values[..., :1]),
        "wide-gray-alpha.png": encoded_pictures.encode_png(values[..., :2]),
        "wide-alpha.png": encoded_pictures.encode_png(values),
        "wide.tiff": encoded_pictures.encode_tiff(values[..., :3]),
        "wide-deflated.tiff": encoded_pictures.encode_tiff(values[..., :3], order=">", deflated=True),
        "wide.ppm": encoded_pictures.encode_map(values[..., :3], 65535),
        "wide-12.ppm": encoded_pictures.encode_map(values[..., :3], 4095),
        "wide.pgm": encoded_pictures.encode_map(values[..., :1], 65535),
    }
    for name, content in wide.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in (*made, *wide)]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files that are no picture to classify."""
    folder = tmp_path_factory.mktemp("refused")
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.zeros((3, 3), np.float32)).save(folder / "float.tiff")
    Image.fromarray(np.zeros((3, 3), np.int32)).save(folder / "integers.tiff")
    Image.new("1", (10_000, 9_000)).save(folder / "huge.png")
    (folder / "text.png").write_text("no picture")
    (folder / "cut.png").write_bytes((folder / "huge.png").read_bytes()[:60])
    names = ("moving.gif", "float.tiff", "integers.tiff", "huge.png", "text.png", "cut.png", "missing.png")
    return [folder / name for name in names]


def run(bundle: Path, *arguments: object, without: str = WITHOUT) -> subprocess.CompletedProcess[str]:
    """Run a bundle's predict.py in a Python that lacks some packages, away from the repository."""
    script = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({without.split()!r})); sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-I", "-c", script, str(bundle / "predict.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=bundle.parent, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", [0, 2])
def test_it_leaves_nothing_in_the_users_folders(number: int, bundle: Path, tmp_path: Path) -> None:
    """Neither runtime's telemetry is on: no device id, no database of events, not even a cache."""
    entry = json.loads((bundle / "manifest.json").read_text())["files"][number]
    picture = next((bundle / "samples").glob("*.png"))
    command = [sys.executable, "-I", bundle / "predict.py", picture, "--file", entry["path"]]
    inherited = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    folders = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
    for name in folders:
        (tmp_path / name).mkdir()
    environment = inherited | {name: str(tmp_path / name) for name in folders}
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def contract(preprocess: Preprocess) -> predict.Contract:
    mode = {"gray": "L", "rgb": "RGB"}[preprocess.channels]
    resampling = predict.RESAMPLING[preprocess.interpolation]
    return predict.Contract(
        preprocess.height, preprocess.width, mode, resampling, preprocess.mean, preprocess.std, pets.CLASSES,
        preprocess.black_level, preprocess.white_level, preprocess.geometry, preprocess.crop_fraction, preprocess.fill,
    )  # fmt: skip


@pytest.mark.parametrize("channels", ["gray", "rgb"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    "further",
    [
        {},
        {"white_level": 4095, "geometry": "letterbox"},
        {"black_level": 900, "white_level": 3000, "geometry": "letterbox", "fill": 9},
        {"geometry": "center_crop"},
        {"geometry": "center_crop", "crop_fraction": 0.7},
    ],
)
def test_pictures_become_the_same_numbers(
    channels: str, interpolation: str, further: dict[str, Any], pictures: list[Path]
) -> None:
    """Every awkward picture gives bit for bit what training, calibration and `compress predict` see."""
    depth = 1 if channels == "gray" else 3
    preprocess = Preprocess.model_validate(
        {"height": 6, "width": 8, "channels": channels, "interpolation": interpolation, "mean": (0.3, 0.4, 0.7)[:depth],
         "std": (0.21, 0.2, 0.3)[:depth], **further}
    )  # fmt: skip
    for path in pictures:
        ours, theirs = decode(path, preprocess, str(path)), predict.decode(path, contract(preprocess))
        assert np.array_equal(ours, theirs), path.name
        assert np.array_equal(normalise(ours[None], preprocess), predict.normalise(theirs[None], contract(preprocess)))


def test_prepared_pictures_are_those_that_the_network_sees(bundle: Path, pictures: list[Path], tmp_path: Path) -> None:
    """`--prepare` writes, for programs that decode nothing themselves, the very pixels; colliding names are refused."""
    some = [path for path in pictures if path.stem in {"plain", "alpha", "turned", "long", "tall"}]
    done = run(bundle, *some, "--prepare", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    for path in some:
        with Image.open(tmp_path / "out" / f"{path.stem}.ppm") as image:
            assert np.array_equal(np.asarray(image), decode(path, pets.PREPROCESS, str(path))), path.name
    refused = run(bundle, some[0], some[0], "--prepare", tmp_path / "other")
    assert (refused.returncode, (tmp_path / "other").exists()) == (2, False)
    assert "same name" in refused.stderr


def test_the_same_pictures_are_refused(refused: list[Path]) -> None:
    """What `compress predict` refuses, predict.py refuses, and names it."""
    for path in refused:
        with pytest.raises(CompressError):
            decode(path, pets.PREPROCESS, str(path))
        with pytest.raises(predict.Refused, match=re.escape(str(path))):
            predict.decode(path, contract(pets.PREPROCESS))


def test_integers_of_32_bits_are_read_where_white_is_known(tmp_path: Path) -> None:
    """The bundle's contract says which value is white, so both read what they refuse without it."""
    path, preprocess = tmp_path / "integers.tiff", pets.PREPROCESS.model_copy(update={"white_level": 100_000})
    path.write_bytes(encoded_pictures.encode_integers(np.random.default_rng(4).integers(-9, 120_000, (6, 8, 1))))
    ours = decode(path, preprocess, str(path))
    assert np.array_equal(ours, predict.decode(path, contract(preprocess)))
    assert len(np.unique(ours)) > 20


@pytest.mark.parametrize(("number", "without"), [(0, "openvino"), (1, "openvino"), (2, "onnxruntime"), (3, "onnxruntime")])
def test_every_kind_of_file_gives_the_expected_answers(bundle: Path, number: int, without: str) -> None:
    """Alone with one runtime: normalised or not, in any number or two by two, the logits are those of the trained network."""
    name = check_bundle(bundle).files[number].path
    found = run(bundle, *sorted((bundle / "samples").glob("*.png")), "--file", name, "--json", without=f"{WITHOUT} {without}")
    assert (found.returncode, found.stderr) == (0, "")
    expected = json.loads((bundle / "samples" / "expected.json").read_text())["pictures"]
    answered = json.loads(found.stdout)
    assert answered["file"] == name
    assert len(answered["images"]) == len(expected) == 3
    for answer, sample in zip(answered["images"], expected, strict=True):
        assert answer["logits"] == pytest.approx(sample["logits"], abs=1e-4)
        assert answer["classes"][0]["name"] == sample["predicted"]
        assert answer["classes"][0]["score"] == pytest.approx(sample["score"], abs=1e-4)
        assert answer["milliseconds"] > 0


def test_it_says_what_compress_predict_says(bundle: Path, pictures: list[Path], refused: list[Path]) -> None:
    """On awkward pictures class and score are those of `compress predict`; unreadable ones stop no other and end in 2."""
    name = check_bundle(bundle).files[0].path
    found = run(bundle, *pictures, refused[0], "--top", 3, "--json")
    ours = classify_pictures(bundle, [*pictures, refused[0]], file=name, top=3, events=Events())
    assert found.returncode == 2
    assert found.stderr.startswith(f"{refused[0]}: has 2 frames")
    theirs = json.loads(found.stdout)["images"]
    assert [bool(each["error"]) for each in theirs] == [bool(each.error) for each in ours] == [False] * len(pictures) + [True]
    for mine, other in zip(ours[:-1], theirs[:-1], strict=True):
        assert [each.name for each in mine.classes] == [each["name"] for each in other["classes"]], mine.image
        assert [each.score for each in mine.classes] == pytest.approx([each["score"] for each in other["classes"]], abs=1e-5)


def test_scores_are_those_of_the_temperature(copy: Path, pictures: list[Path]) -> None:
    """With a temperature in the manifest, both programs give the softmax of the logits over it."""
    sign(copy, lambda manifest: [file.update(temperature=2.5) for file in manifest["files"]])
    name = check_bundle(copy).files[0].path
    theirs = json.loads(run(copy, *pictures, "--top", 3, "--json").stdout)["images"]
    for mine, other in zip(classify_pictures(copy, pictures, file=name, events=Events()), theirs, strict=True):
        expected = np.sort(softmax(np.array(other["logits"]) / 2.5))[::-1]
        assert [each["score"] for each in other["classes"]] == pytest.approx(expected, abs=1e-6)
        assert [each.score for each in mine.classes] == pytest.approx(expected, abs=1e-5)


def test_people_read_class_score_and_time(bundle: Path, pictures: list[Path]) -> None:
    """Without --json there are as many classes as asked for, best first."""
    found = run(bundle, pictures[0], "--top", 2)
    first, *classes = found.stdout.splitlines()
    assert re.fullmatch(r".*plain\.png  \d+\.\d{3} ms", first)
    scores = [float(line.split(" %  ")[0]) for line in classes]
    assert len(scores) == 2
    assert scores[0] >= scores[1]
    assert {line.split(" %  ")[1] for line in classes} < set(pets.CLASSES)


def test_self_test_tells_a_good_file_from_another(bundle: Path, copy: Path) -> None:
    """--self-test proves a file on the device, and ends in 3 when it does not answer as the network did."""
    for entry in check_bundle(bundle).files:
        good = run(bundle, "--self-test", "--file", entry.path)
        assert (good.returncode, good.stderr) == (0, "")
        assert [line.partition("  ")[0] for line in good.stdout.splitlines()] == ["ok"] * 4
    model = onnx.load(copy / "student-fp32.onnx")
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(1.1) * onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, copy / "student-fp32.onnx")
    sign(copy)
    found = run(copy, "--self-test")
    assert found.returncode == 3
    assert {line.partition("  ")[0] for line in found.stdout.splitlines()} == {"FAILED"}
    assert "a logit differs by" in found.stdout


@pytest.mark.parametrize("name", ["samples/expected.json", "samples/01-dog.png", "samples.npz", "rule.py", "model_file.py"])
@pytest.mark.parametrize("change", [lambda content: content + b" ", lambda content: content[: len(content) // 2]])
def test_self_test_refuses_what_was_changed_around_the_file(name: str, change: Any, copy: Path) -> None:
    """Samples, pictures and the rule itself are compared with their checksums first: exit code 2, one line."""
    (copy / name).write_bytes(change((copy / name).read_bytes()))
    found = run(copy, "--self-test")
    assert (found.returncode, found.stdout) == (2, "")
    assert len(found.stderr.splitlines()) == 1
    assert "checksum" in found.stderr


def sign(bundle: Path, change: Callable[[dict[str, Any]], object] = len) -> None:
    """Change the manifest, and write all checksums anew."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    for file in manifest["files"]:
        file["parts"] = {name: hash_file(bundle / name) for name in file["parts"] if (bundle / name).is_file()}
    path.write_text(json.dumps(manifest))
    write_checksums(bundle)


def flip(bundle: Path) -> None:
    path = bundle / "student-fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def external(bundle: Path) -> None:
    model = onnx.load(bundle / "student-fp32.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (bundle / "student-fp32.onnx").write_bytes(model.SerializeToString())
    sign(bundle)


def link(bundle: Path) -> None:
    (bundle / "student-fp32.onnx").rename(bundle.parent / "elsewhere.onnx")
    (bundle / "student-fp32.onnx").symlink_to(bundle.parent / "elsewhere.onnx")


REFUSALS = {
    "wrong sha256": (flip, r"student-fp32\.onnx: has sha256 .* it was changed or damaged"),
    "external data": (external, "keeps weights in other files"),
    "link": (link, r"student-fp32\.onnx: is not a plain file"),
    "not onnx": (
        lambda bundle: ((bundle / "student-fp32.onnx").write_bytes(b"\xff" * 99), sign(bundle)),
        "the model file is damaged",
    ),
    "changed manifest": (
        lambda bundle: (bundle / "manifest.json").write_text((bundle / "manifest.json").read_text() + " "),
        r"manifest\.json: has not the checksum",
    ),
    "other version": (lambda bundle: sign(bundle, lambda m: m.update(schema_version=1)), "is not a manifest of this version"),
    "path upwards": (
        lambda bundle: sign(bundle, lambda m: m["files"][0].update(path="../x.onnx", parts={"../x.onnx": ""})),
        "has no checksum",
    ),
    "no mean": (lambda bundle: sign(bundle, lambda m: m["preprocess"].update(mean=[])), "is not a manifest of this version"),
    "wrong size": (lambda bundle: sign(bundle, lambda m: m["preprocess"].update(height=10**9)), "is not a manifest of"),
    "huge batch": (lambda bundle: sign(bundle, lambda m: m["files"][0].update(batch_size=10**9)), "takes 1000000000 images"),
    "no temperature": (
        lambda bundle: sign(bundle, lambda m: m["files"][0].update(temperature=0)),
        "the temperature of .* is 0;",
    ),
    "other classes": (lambda bundle: sign(bundle, lambda m: m.update(classes=["a"])), "not a finite logit for each class"),
}


@pytest.mark.parametrize("damage", REFUSALS)
def test_a_damaged_bundle_is_refused(
    damage: str, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message, no traceback, exit code 2, nothing on stdout."""
    change, said = REFUSALS[damage]
    change(copy)
    monkeypatch.setattr(predict, "__file__", str(copy / "predict.py"))
    monkeypatch.setattr(sys, "argv", ["predict.py", str(copy / "samples" / "01-dog.png"), "--file", "student-fp32.onnx"])
    if damage == "path upwards":
        sys.argv[-1] = "../x.onnx"
    assert predict.main() == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(said, shown.err), shown.err


def test_a_runtime_that_is_missing_is_named(bundle: Path) -> None:
    """Without any runtime it says what to install; with one it takes the first file for that one."""
    nothing = run(bundle, "x.png", without=f"{WITHOUT} openvino onnxruntime")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "is needed and not installed: pip install onnxruntime" in nothing.stderr
    other = run(bundle, bundle / "samples" / "01-dog.png", "--json", without=f"{WITHOUT} onnxruntime")
    assert json.loads(other.stdout)["file"] == "student-fp32.xml"


def test_wrong_usage_is_explained(bundle: Path) -> None:
    """No picture, or an unknown file: exit code 2 and what there is."""
    assert run(bundle).returncode == 2
    unknown = run(bundle, "x.png", "--file", "student.onnx")
    assert unknown.returncode == 2
    assert "there are: student-fp32.onnx" in unknown.stderr


def test_it_stands_alone_and_is_old_fashioned(bundle: Path) -> None:
    """It imports the standard library, numpy and Pillow, and an old Python understands it."""
    source = "\n".join((bundle / name).read_text().replace("from __future__ import annotations\n", "") for name in PROGRAMS)
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or "."] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert imported - sys.stdlib_module_names == {"numpy", "PIL"}
    checker = [sys.executable, "-m", "ruff", "check", "--isolated", "--target-version", "py39", "--select", "E9,F"]
    checked = subprocess.run([*checker, *(bundle / name for name in PROGRAMS)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_self_test_takes_a_file_by_the_network_that_it_was_made_of(tmp_path: Path) -> None:
    """A file of a network that was adapted to int8 is held to that network's answers, not to those of the one before."""
    file = pets.export(tmp_path, Onnx())
    before = pets.samples()._replace(logits=pets.samples().logits + np.float32(1))
    write_bundle(
        tmp_path / "bundle", name="pets", classes=pets.CLASSES, preprocess=pets.PREPROCESS, samples=before, gate=GateSection(),
        files=[file._replace(logits=pets.samples().logits)], provenance={},
    )  # fmt: skip
    command = [sys.executable, str(tmp_path / "bundle" / "predict.py"), "--self-test"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("ok  ") == 4


@pytest.mark.parametrize("kind", ["device", "pipe", "giant"])
def test_what_never_ends_is_refused_before_it_is_read(kind: str, copy: Path, tmp_path: Path) -> None:
    """A device does not fill memory, a pipe does not hang, and a sparse giant costs nothing."""
    path = Path("/dev/zero") if kind == "device" else tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "giant":
        with path.open("wb") as file:
            file.truncate(30 << 30)
    command = [sys.executable, copy / "predict.py", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert ("is larger than" if kind == "giant" else "is a device or a pipe, not a file") in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_name_does_not_command_the_terminal(copy: Path, pictures: list[Path], tmp_path: Path) -> None:
    """Escapes, text that runs backwards and bytes that are no UTF-8 are shown in escapes."""
    path = tmp_path / os.fsdecode(b"cat\x1b[31m\xe2\x80\xae\xff.png")
    shutil.copy(pictures[0], path)
    for options in ([], ["--json"]):
        done = subprocess.run([sys.executable, copy / "predict.py", path, *options], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not {0x1B, 0xFF} & set(done.stdout)
        assert b"\\u202e" in done.stdout


def test_the_file_that_is_missing_is_named(copy: Path) -> None:
    """Without its checksums a bundle is refused, and the manifest, which is there, is not blamed."""
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(predict.Refused, match=r"SHA256SUMS: cannot be read \(No such file"):
        predict.read_manifest(copy)


def test_a_bundle_without_files_is_said_to_have_none() -> None:
    """It is no matter of runtimes."""
    with pytest.raises(predict.Refused, match=r"^manifest\.json: lists no files"):
        predict.choose_file([], None)


def test_a_folder_stands_for_the_pictures_in_it(bundle: Path, pictures: list[Path], tmp_path: Path) -> None:
    """The same pictures as `compress predict` finds, whatever console there is and whatever they are called."""
    for place in ("a/1.PNG", "2.png", ".hidden.png", "notes.txt", os.fsdecode(b"caf\xe9.png"), "猫.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        shutil.copy(pictures[0], tmp_path / place)
    ours = classify_pictures(bundle, [tmp_path], events=Events())
    command = [sys.executable, str(bundle / "predict.py"), str(tmp_path)]
    for encoding in ("ascii", "cp1252", "utf-8"):
        asked = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        shown = subprocess.run(command, capture_output=True, env=asked, check=False)
        document = subprocess.run([*command, "--json"], capture_output=True, env=asked, check=False)
        assert (shown.returncode, shown.stderr, document.returncode) == (0, b"", 0)
        found = json.loads(document.stdout.decode("utf-8"))["images"]
        assert [each["classes"][0]["name"] for each in found] == [each.classes[0].name for each in ours]
        assert len(found) == 4
    (tmp_path / "empty").mkdir()
    empty = subprocess.run([*command, str(tmp_path / "empty")], capture_output=True, check=False)
    assert b"empty: holds no pictures" in empty.stderr
