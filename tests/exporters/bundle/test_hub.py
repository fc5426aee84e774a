"""The layout of the Hugging Face hub: a folder that the hub understands and that is still a bundle."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from compress.errors import CompressError
from compress.records import Accuracy, Variant
from exporters.bundle.bundle import check_bundle, write_checksums
from exporters.bundle.hub import RESAMPLING, _build_geometry, write_hub_folder
from exporters.onnx import Onnx
from tests.exporters import pets

MEASURED = Variant(
    name="student-onnx-fp32", network="student", method="kd", format="onnx", runtime="onnxruntime", precision="fp32",
    device="local", parameters=123, accuracy=Accuracy.from_hits(180, 200), status="passed",
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    return pets.write(folder / "bundle", [pets.export(folder, Onnx())._replace(measured=MEASURED)])


def test_hub_reads_metadata_and_results(bundle: Path, tmp_path: Path) -> None:
    """The hub's own library finds the licence, the task, and the test accuracy with its data and number of images."""
    hub = pytest.importorskip("huggingface_hub", reason="the extra 'hf' is not installed")
    write_hub_folder(bundle, tmp_path / "hub", licence="apache-2.0")
    card = hub.ModelCard.load(tmp_path / "hub" / "README.md")
    (result,) = card.data.eval_results
    assert (card.data.license, card.data.pipeline_tag, card.data.model_name) == ("apache-2.0", "image-classification", "pets")
    assert (result.metric_type, result.metric_value, result.dataset_name, result.dataset_split) == (
        "accuracy",
        0.9,
        "pets",
        "test",
    )
    assert "student-fp32.onnx, n=200" in result.metric_name
    assert (bundle / "MODEL_CARD.md").read_text() in card.text


def test_configurations_say_what_the_manifest_says(bundle: Path, tmp_path: Path) -> None:
    """Class names in label order, and the contract of preprocessing with Pillow's own number for the interpolation."""
    write_hub_folder(bundle, tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["id2label"] == {"0": pets.CLASSES[0], "1": "dog", "2": pets.CLASSES[2]}
    assert config["label2id"]["dog"] == 1
    pre = json.loads((tmp_path / "hub" / "preprocessor_config.json").read_text())
    assert pre["size"] == {"height": 6, "width": 8}
    assert pre["resample"] == Image.Resampling.BICUBIC
    assert (pre["image_mean"], pre["image_std"]) == ([0.4, 0.5, 0.6], [0.2, 0.2, 0.3])
    assert pre["rescale_factor"] == pytest.approx(1 / 255)


def test_the_hub_s_words_hold_a_geometry_or_it_is_refused(bundle: Path, tmp_path: Path) -> None:
    """The middle of a square is `shortest_edge` and `crop_size`; of what the hub has no words for nothing is written."""
    square = pets.PREPROCESS.model_copy(update={"geometry": "center_crop", "height": 8})
    assert _build_geometry(square)["size"] == {"shortest_edge": 9}
    assert _build_geometry(square)["crop_size"] == {"height": 8, "width": 8}
    with pytest.raises(CompressError, match="shortest_edge"):
        _build_geometry(square.model_copy(update={"width": 9}))
    filled = pets.write(
        tmp_path / "filled",
        pets.files(tmp_path)[:1],
        preprocess=square.model_copy(update={"geometry": "letterbox", "height": 6}),
    )
    with pytest.raises(CompressError, match="letterbox"):
        write_hub_folder(filled, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_every_interpolation_has_pillow_s_number() -> None:
    """The numbers are Pillow's."""
    assert {name: Image.Resampling[name.upper()] for name in RESAMPLING} == RESAMPLING


def test_it_is_still_a_bundle(bundle: Path, tmp_path: Path) -> None:
    """It is checked like any bundle, with the same manifest and files; without a statement the licence is unknown."""
    write_hub_folder(bundle, tmp_path / "hub")
    assert check_bundle(tmp_path / "hub") == check_bundle(bundle)
    ours = {path.relative_to(bundle) for path in bundle.rglob("*")}
    theirs = {path.relative_to(tmp_path / "hub") for path in (tmp_path / "hub").rglob("*")}
    assert theirs - ours == {Path("config.json"), Path("preprocessor_config.json")}
    assert not ours - theirs
    assert (tmp_path / "hub" / "README.md").read_text().startswith("---\nlicense: unknown\n")


def test_programs_of_strangers_are_not_passed_on(bundle: Path, tmp_path: Path) -> None:
    """A changed predict.py in a bundle does not get into the folder that is uploaded."""
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / "predict.py").write_text("raise SystemExit\n")
    write_checksums(copy)
    write_hub_folder(copy, tmp_path / "hub")
    assert (tmp_path / "hub" / "predict.py").read_bytes() == (bundle / "predict.py").read_bytes()


def test_nothing_is_replaced_and_nothing_damaged_is_taken(bundle: Path, tmp_path: Path) -> None:
    """A folder that is there stays as it is, and a damaged bundle leaves none."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(CompressError, match="is there already"):
        write_hub_folder(bundle, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / "NOTICE.txt").write_text("mine")
    with pytest.raises(CompressError, match=r"NOTICE\.txt: has sha256"):
        write_hub_folder(copy, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_hub_library_is_not_needed(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is written without the hub's package and without any network."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    write_hub_folder(bundle, tmp_path / "hub")
    assert (tmp_path / "hub" / "config.json").is_file()
