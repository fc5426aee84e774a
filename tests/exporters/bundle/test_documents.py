"""What people read in a bundle: only what is known, nothing invented, and no name that breaks it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from compress.recipe import schema
from compress.records import (
    Accuracy,
    Answer,
    Calibration,
    Environment,
    Headline,
    Ladder,
    Latency,
    Manifest,
    Ratio,
    Rung,
    Variant,
)
from exporters.bundle.bundle import Background, Deployable, check_bundle
from exporters.bundle.programs.predict import LOADERS
from exporters.bundle.readme import PREDICTED, render_readme
from exporters.onnx import Onnx
from tests.exporters import pets

ENVIRONMENT = Environment(
    packages={"torch": "9.9"}, python="3.11", platform="a platform", cpu="a chip", cores_physical=2, cores_logical=4,
    memory_bytes=1 << 30,
)  # fmt: skip
LATENCY = Latency(
    p50=1.25, p90=1.5, p99=2.0, mean=1.3, stdev=0.1, ci95=(1.2, 1.3), samples=100, rounds=(1.2, 1.3), first_call=5.0, load=50.0,
    threads=1, batch_size=1, stable=True,
)  # fmt: skip
LADDER = Ladder(
    rungs=(
        Rung(rung="default", detail="", status="failed", seconds=1.0),
        Rung(rung="statistics", detail="fast bias", status="passed", seconds=2.0),
    ),
    chosen=1,
    calibration_images=30,
)
STUDENT = Variant(
    name="student-onnx-fp32", network="student", method="dih", format="onnx", runtime="onnxruntime", precision="int8",
    device="local", parameters=123, accuracy=Accuracy.from_hits(180, 200), agreement_percent=99.5, latency_ms=LATENCY,
    status="passed",
    ratio=Ratio(against="teacher-onnx-fp32", speedup=3.5, ci95=(3.4, 3.6), verdict="faster"), ladder=LADDER,
)  # fmt: skip
TEACHER = Variant(
    name="teacher-torch", network="teacher", method="supervised", format="torch", runtime="torch", precision="fp32",
    device="local", parameters=45_678, accuracy=Accuracy.from_hits(195, 200), status="passed",
)  # fmt: skip


def background(**other: object) -> Background:
    """Of 20 test images, three dogs are taken for cats, one cat for a dog; there are no images of the third class."""
    recipe = schema().model_validate(
        {"name": "pets", "data": {"source": "digits", "image_size": 8}, "teacher": [{"model": "resnet_cifar.resnet20"}],
         "student": {"model": "resnet_cifar.resnet8"}, "method": [{"name": "kd", "temperature": 3.5}]}
    )  # fmt: skip
    labels, answers = np.array([0] * 10 + [1] * 10), np.array([0] * 9 + [1] + [0] * 3 + [1] * 7)
    known = Background(
        recipe, "kd", (TEACHER,), {"train": 70, "validation": 10, "test": 20}, labels, answers, "", 12.0, ENVIRONMENT
    )
    return known._replace(**other)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Deployable:
    return pets.export(tmp_path_factory.mktemp("file"), Onnx())


@pytest.fixture
def bundle(file: Deployable, tmp_path: Path) -> Path:
    return pets.write(tmp_path / "bundle", [file._replace(measured=STUDENT)], background=background())


def row(text: str, first: str) -> list[str]:
    """Return the cells of the table row that begins so."""
    (line,) = {line for line in text.splitlines() if line.startswith(f"| {first} |")}
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_readme_and_card_say_what_scores_are_worth(bundle: Path, file: Deployable, tmp_path: Path) -> None:
    """With a calibration they state its error and how to use the temperature; without, that nothing was measured."""
    scores = Calibration(
        samples=200, nll=0.5, ece_percent=9.25, bins=15, temperature=1.75, scaled_nll=0.4, scaled_ece_percent=2.5
    )
    row_of_file = STUDENT.model_copy(update={"calibration": scores})
    known = pets.write(tmp_path / "known", [file._replace(measured=row_of_file)], background=background())
    for name in ("README.md", "MODEL_CARD.md"):
        assert row((known / name).read_text(), "`student-fp32.onnx`")[7:9] == ["9.25, scaled 2.50", "1.750"]
        assert row((bundle / name).read_text(), "`student-fp32.onnx`")[7:9] == ["not measured", "not measured"]
    assert "`logits / temperature`" in (known / "README.md").read_text()
    assert "at most 2.5 points on average" in (known / "MODEL_CARD.md").read_text()
    assert "was not measured" in (bundle / "MODEL_CARD.md").read_text()


def test_readme_and_card_have_the_measured_table(bundle: Path) -> None:
    """Accuracy with n and interval, agreement, latency with its interval, ratio with its opponent, and the rung of int8."""
    for name in ("README.md", "MODEL_CARD.md"):
        cells = row((bundle / name).read_text(), "`student-fp32.onnx`")
        assert cells[1:4] == ["onnxruntime", "fp32", "statistics: fast bias"]
        assert cells[5:11] == [
            "90.00 (85.06–93.43, n=200)", "99.50", "not measured", "not measured", "1.250 (1.200–1.300; 1 thread, batch 1)",
            "3.50× (3.40–3.60), faster; against teacher-onnx-fp32",
        ]  # fmt: skip
        assert cells[-1] == "passed on 6 images"


def test_a_file_better_than_its_network_has_a_minus_sign(file: Deployable, tmp_path: Path) -> None:
    """A negative drop reads as in the report of the run, a small difference keeps its exponent."""
    gate = file.gate.model_copy(update={"top1_drop_points": -0.65, "max_abs_diff": 3.1e-6})
    pets.write(tmp_path / "bundle", [file._replace(gate=gate)], background=background())
    assert row((tmp_path / "bundle" / "README.md").read_text(), "`student-fp32.onnx`")[11:13] == ["−0.65", "3.1e-06"]


def test_manifest_carries_what_was_measured(bundle: Path) -> None:
    """Programs find the same row of the report, whole."""
    assert check_bundle(bundle).files[0].measured == STUDENT


def test_card_begins_with_the_headline(file: Deployable, tmp_path: Path) -> None:
    """The first lines under the title are the run's answers, word for word; without a run there are none."""
    answer = Answer(text="loses 2.0 points against the teacher (1.0 to 3.0)", detail="on 20 test images", verdict="bad")
    headline = Headline(
        line="4 points worse than plain training · do not ship", decision="do not ship", why="Plain training is better",
        file=STUDENT.name, instead="compress export RUN --student supervised", speed=answer, loss=answer, plain=answer,
    )  # fmt: skip
    written = pets.write(tmp_path / "told", [file._replace(measured=STUDENT)], background=background(headline=headline))
    lines = (written / "MODEL_CARD.md").read_text(encoding="utf-8").splitlines()
    assert lines[2] == f"**{headline.line}**"
    assert lines[4] == "Plain training is better. To ship the better one: `compress export RUN --student supervised`."
    assert f"- Accuracy against the teacher: {answer.text}; {answer.detail}" in lines
    assert next(line for line in lines[6:] if line and not line.startswith("- ")).startswith("An image classifier")
    bare = pets.write(tmp_path / "bare", [file], background=None)
    assert (bare / "MODEL_CARD.md").read_text(encoding="utf-8").splitlines()[2].startswith("An image classifier")


def test_card_tells_how_the_network_came_about(bundle: Path) -> None:
    """Data, teacher, method, settings and environment are the run's."""
    text = (bundle / "MODEL_CARD.md").read_text()
    assert "Source `digits`: 70 train, 10 validation, 20 test images." in text
    assert row(text, "teacher")[1:4] == ["`resnet_cifar.resnet20`", "trained in this run", "45678"]
    assert '"temperature":3.5' in text
    assert row(text, "`lr`")[1] == "0.05"
    assert "- torch 9.9" in text
    assert "- a chip" in text


def test_card_counts_each_class_and_confusion(bundle: Path) -> None:
    """Hits, images and interval of each class, as counted by hand; a pair confused once is not worth mentioning."""
    text = (bundle / "MODEL_CARD.md").read_text()
    assert row(text, "dog")[1:] == ["7", "10", "70.00 (39.68–89.22, n=10)"]
    assert row(text, r"Käfer \& \<b\>")[1:] == ["0", "0", "no test images"]
    assert [line for line in text.splitlines() if "are taken for" in line] == [
        r'- 3 of 10 images of dog are taken for "cat"\|\`1\`'
    ]


def test_no_confusion_is_said_too(file: Deployable, tmp_path: Path) -> None:
    """Where every test image is right, the card says so with their number."""
    known = background()
    pets.write(tmp_path / "bundle", [file], background=known._replace(predicted=known.labels))
    text = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert "No pair of classes was confused more than once among 20 test images." in text


def test_what_is_not_known_is_said_to_be_unknown(file: Deployable, tmp_path: Path) -> None:
    """Without a run nothing is made up: no accuracy, no latency, no method, no licence."""
    pets.write(tmp_path / "bundle", [file], provenance={})
    readme, card, notice = ((tmp_path / "bundle" / name).read_text() for name in ("README.md", "MODEL_CARD.md", "NOTICE.txt"))
    assert row(readme, "`student-fp32.onnx`")[5:9] == ["not measured"] * 4
    assert "Not known: this bundle was written from files alone" in card
    assert "source not recorded, licence unknown: ask whoever wrote the bundle" in notice
    assert "where they come from is not recorded" in notice


@pytest.mark.parametrize(
    ("licence", "said"),
    [("", "source digits: licence unknown: ask whoever gave the data"), ("CC BY 4.0\nby us", "source digits: CC BY 4.0 by us")],
)
def test_licence_of_the_data_is_what_its_source_says(licence: str, said: str, file: Deployable, tmp_path: Path) -> None:
    """The data source's own words, or that they are unknown and whom to ask."""
    pets.write(tmp_path / "bundle", [file], background=background(data_licence=licence))
    assert said in (tmp_path / "bundle" / "NOTICE.txt").read_text()


def test_notice_names_packages_and_given_weights(file: Deployable, tmp_path: Path) -> None:
    """Packages come with the licence of their own metadata; weights from a file have whatever licence their giver says."""
    recipe = background().recipe
    teacher = recipe.teacher[0].model_copy(update={"weights": "/home/somebody/teacher.pt"})
    known = background(recipe=recipe.model_copy(update={"teacher": (teacher,)}))
    pets.write(tmp_path / "bundle", [file], background=known)
    text = (tmp_path / "bundle" / "NOTICE.txt").read_text()
    assert "  pillow " in text
    assert "onnxruntime 1" in text
    assert "openvino" not in text
    assert "teacher resnet_cifar.resnet20: started from the file teacher.pt, licence unknown: ask whoever gave it" in text
    assert "/home/somebody" not in text + (tmp_path / "bundle" / "MODEL_CARD.md").read_text()


def test_names_from_data_mean_only_themselves(bundle: Path) -> None:
    """A class name with bars, backticks and tags leaves every table with the same number of cells and no HTML."""
    for name in ("README.md", "MODEL_CARD.md"):
        lines = (bundle / name).read_text().splitlines()
        for before, line in pairwise(lines):
            if before.startswith("|") and line.startswith("|"):
                assert line.replace(r"\|", "").count("|") == before.replace(r"\|", "").count("|"), line
        assert not any("<b>" in line for line in lines)


def test_older_manifests_are_still_read(bundle: Path) -> None:
    """Fields that came later have defaults, so a manifest without them is one."""
    manifest = check_bundle(bundle)
    document = manifest.model_dump(mode="json")
    for entry in document["files"]:
        del entry["measured"], entry["takes_pixels"], entry["gives_class"]
    assert Manifest.model_validate(document).files[0].measured is None


def test_readme_tells_which_files_predict_py_does_not_run(bundle: Path) -> None:
    """A file for a runtime that predict.py does not know is named as such, and the runtimes are those that it does know."""
    manifest = check_bundle(bundle)
    other = manifest.files[0].model_copy(update={"path": "student.tflite", "runtime": "litert"})
    text = render_readme(manifest.model_copy(update={"files": (*manifest.files, other)}))
    assert "(`onnxruntime`; `predict.py` does not run `student.tflite`)" in text
    assert set(PREDICTED) == set(LOADERS)


def test_readme_tells_what_to_hand_to_tensorrt_and_core_ml(bundle: Path) -> None:
    """The floating-point ONNX file with the sizes that it takes; a bundle without one says what to export."""
    manifest = Manifest.model_validate_json((bundle / "manifest.json").read_text())
    (file,) = manifest.files
    command = "trtexec --onnx=student-fp32.onnx --saveEngine=student.engine"
    shapes = "--minShapes=images:1x3x6x8 --optShapes=images:1x3x6x8 --maxShapes=images:32x3x6x8"
    assert f"    {command} {shapes}\n" in (bundle / "README.md").read_text()

    def told(**changes: object) -> str:
        return render_readme(manifest.model_copy(update={"files": (file.model_copy(update=changes),)}))

    assert f"    {command}\n" in told(batch_size=4)
    assert "--maxShapes=images:32x6x8x3" in told(takes_pixels=True)
    assert all("(export `onnx`, too)" in told(**other) for other in ({"precision": "int8"}, {"runtime": "openvino"}))
