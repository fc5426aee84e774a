"""What `compress check` says of the numbers of images, before hours are spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.data import Summary
from compress.errors import CompressError
from compress.events import Events
from compress.plan.data import find_batch_problems, find_class_problems, find_data_notes
from compress.plan.pictures import check_pictures
from compress.recipe import Recipe, parse
from compress.statistics.paired_drop import compute_drop_interval

TEXT = """
name: x
data: {source: digits, image_size: 8}
teacher: {model: resnet_cifar.resnet8, train: {batch_size: 16}}
student: {model: resnet_cifar.resnet8}
method: kd
exports: [{format: onnx, precision: fp32}]
"""


def make(*overrides: str) -> Recipe:
    return parse(TEXT.encode(), "x.yaml", overrides)


def summary(train: tuple[int, ...], test: tuple[int, ...], **further: Any) -> Summary:
    names = tuple(f"class {number}" for number in range(len(train)))
    return Summary(names, sum(train), sum(test), train, test, **further)


def notes(found: Summary, *overrides: str) -> str:
    return "\n".join(find_data_notes(make(*overrides), found))


def test_too_few_validation_images_for_the_budget_are_told() -> None:
    """By the gate's own interval: with the number that it names, it ends within the budget, and not with much fewer."""
    text = notes(summary((270, 270), (90, 90)))
    assert "gate: 54 validation images cannot exclude a drop of up to 6.6 points even where no answer changes" in text
    assert "; 390 would" in text
    assert compute_drop_interval(0, 0, 390)[1] <= 1 < compute_drop_interval(0, 0, 370)[1]
    assert "gate:" not in notes(summary((270, 270), (90, 90)), "gate.max_top1_drop_points=7")
    assert "gate:" not in notes(summary((270, 270), (90, 90)), "exports=[]")
    enough = notes(summary((2000, 2000), (90, 90)), "data.validation_fraction=0.05")
    assert "data.validation_fraction: 0.1)" in enough
    assert "gate:" not in notes(summary((2000, 2000), (90, 90)), "data.validation_fraction=0.1")


@pytest.mark.parametrize(("where", "batch", "left"), [("train", 64, 50), ("teacher.train", 200, 106)])
def test_a_batch_that_leaves_out_much_is_told(where: str, batch: int, left: int) -> None:
    """For the student and for a teacher with a section of its own; the proposed size leaves out less."""
    found = summary((170, 170), (50, 50))
    text = notes(found, f"{where}.batch_size={batch}")
    assert f"{where}.batch_size: {batch} leaves {left} of 306 training images out of every epoch" in text
    better = int(text.split("is dropped; ")[1].split()[0])
    assert 306 % better < left
    assert f"{where}.batch_size" not in notes(found, f"{where}.batch_size={better}")


def test_a_batch_larger_than_the_data_is_refused() -> None:
    """Of the teacher's own section too: it would train nothing."""
    found = summary((20, 20), (5, 5))
    problems = find_batch_problems(make("train.batch_size=99", "teacher.train.batch_size=40"), found)
    assert [str(problem).split(":")[0] for problem in problems] == ["train.batch_size", "teacher.train.batch_size"]


def test_an_average_that_never_leaves_its_start_is_told() -> None:
    """Its weights are what is shipped."""
    found = summary((500, 500), (50, 50))
    assert "train.ema_decay: after 420 steps" in notes(found, "train.ema_decay=0.9999", "train.epochs=30")
    assert "ema_decay" not in notes(found, "train.ema_decay=0.99", "train.epochs=30")


def test_divergences_in_few_steps_are_told() -> None:
    """Below some 3,000 steps, where our runs had them below plain training; not correlations, maps, or standardised logits."""
    found = summary((2000, 2000), (90, 90))
    few = notes(found, "train.epochs=10", "train.batch_size=64", "method=kd", "baselines=[kd]")
    assert "method: kd asks for the size of the teacher's logits, and the student has 5" in few
    assert "`baselines: [supervised]` will tell" in few
    assert "the baseline 'supervised' will tell" in notes(found, "train.epochs=10", "method=kd", "baselines=[supervised]")
    assert "asks for the size" in notes(found, "train.epochs=10", "method={name: dih, preset: paper}", "baselines=[]")
    for method in ("dist", "dih", "fitnet", "{name: kd, preset: standardised}", "supervised", "[kd, fitnet]"):
        assert "asks for the size" not in notes(found, "train.epochs=10", f"method={method}", "baselines=[]")
    assert "asks for the size" not in notes(found, "train.epochs=10", "method=kd", "data.student_labels=50")
    assert "asks for the size" not in notes(found, "train.epochs=100", "train.batch_size=64", "method=kd")


def test_fewer_steps_than_were_ever_compared_are_told() -> None:
    """Whatever the method, for which our runs say nothing then."""
    found = summary((500, 500), (90, 90))
    assert "fewer than in any run" in notes(found, "train.epochs=2", "train.batch_size=64", "method=dist", "baselines=[]")
    assert "fewer than in any run" not in notes(found, "train.epochs=2", "method=supervised", "baselines=[]")


def test_classes_without_images_are_told() -> None:
    """In no split: a note, since a teacher may have them. In the test alone: refused. Without a test image: a note."""
    found = summary((30, 0, 30, 30), (9, 0, 9, 0))
    assert "1 of 4 classes have no image in any split: 'class 1'" in notes(found)
    assert "1 of 4 classes have no test image: 'class 3'" in notes(found)
    assert list(find_class_problems(make(), found)) == []
    (problem,) = find_class_problems(make(), summary((30, 0), (9, 4)))
    assert "no training image: 'class 1'" in str(problem)


def test_a_class_too_small_to_hold_out_is_told_by_name() -> None:
    """As the run would find it, an hour later."""
    (problem,) = find_class_problems(make(), summary((300, 1), (9, 4)))
    assert "class 'class 1' has 1 image, too few to hold out 0.1 of each class" in str(problem)


@pytest.mark.parametrize("names", [("cat", "dog", "cat"), ("caf\u00e9", "cafe\u0301"), ("cat", "cat ")])
def test_two_classes_of_one_name_are_refused(names: tuple[str, ...]) -> None:
    """Nobody could tell their rows and scores apart, whichever source they come from."""
    (problem,) = find_class_problems(make(), Summary(names, 100, 10))
    assert "class name" in str(problem)
    assert f"for label 0 and for label {len(names) - 1}" in str(problem)


def test_what_a_source_decided_is_told() -> None:
    """Each of its notes."""
    assert "data: it was split" in notes(summary((500, 500), (50, 50), notes=("it was split",)))


def write_pictures(folder: Path, width: int, height: int) -> Recipe:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(4):
                pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return make(f"data={{source: folder, path: {folder}, image_size: 16, validation_fraction: 0.3}}")


def test_what_resizing_does_is_told(tmp_path: Path) -> None:
    """Pictures that are not square are squeezed, and of much larger ones details are lost; of others nothing is said."""
    told = check_pictures(write_pictures(tmp_path / "oblong", 100, 70), base=tmp_path, events=Events())
    assert "100.0 % of the pictures are not square (100 × 70 at the median); both sides are resized to 16" in told[0]
    assert "what is smaller than 4 pixels is lost" in told[1]
    assert check_pictures(write_pictures(tmp_path / "square", 24, 24), base=tmp_path, events=Events()) == ()


def test_check_names_all_unreadable_pictures(tmp_path: Path) -> None:
    """Before anything is trained; and where they are left out, it says how many."""
    recipe = write_pictures(tmp_path / "broken", 16, 16)
    for number in range(2):
        (tmp_path / f"broken/train/cat/{number}.png").write_bytes(b"")
    with pytest.raises(CompressError, match="2 of 16 pictures cannot be read"):
        check_pictures(recipe, base=tmp_path, events=Events())
    lenient = recipe.model_copy(update={"data": recipe.data.model_copy(update={"skip_unreadable": True})})
    (note,) = check_pictures(lenient, base=tmp_path, events=Events())
    assert "2 pictures cannot be read and are left out" in note
