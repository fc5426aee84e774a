"""Pictures without labels beside labelled ones: who sees them, what they are a target for, and folders that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from compress import plugins, recipe
from compress.data import Augmented, Batch, InMemory, Split, Targets
from compress.errors import CompressError
from compress.events import Events
from compress.methods import Combined
from compress.plan.plan import make_plan
from compress.recipe.augmentation import AugmentSection
from compress.run.context import Run, open_run
from compress.run.dry_run import check_networks
from compress.run.seeds import train_students
from compress.run.teachers import obtain_teacher
from compress.tasks import CLASSIFICATION
from tests.encoded_pictures import encode_random
from tests.tiny import CPU, PREPROCESS, batch, fresh, setting, split

METHODS = [name for name in plugins.list_names("methods") if name != "cwd"]
NEED = {"dkd", "supervised"}

Open = Callable[..., AbstractContextManager[Run]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 30 pictures."""
    folder = tmp_path / "more"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02}.png").write_bytes(encode_random(number))
    return folder


@pytest.fixture
def open_with(tmp_path: Path, tiny_recipe: str) -> Open:
    """Return `open_with(changes...)`, which plans and opens a run on digits."""

    @contextmanager
    def open_changed(*changes: str, events: Events | None = None) -> Iterator[Run]:
        parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", list(changes))
        make_plan(parsed, base=tmp_path, runs=tmp_path)
        with open_run(parsed, base=tmp_path, runs=tmp_path, events=events or Events()) as run:
            yield run

    return open_changed


def test_only_students_that_can_are_trained_on_them(open_with: Open, pictures: Path) -> None:
    """A distilled student sees them; teacher, plain baseline, validation, test and statistics are what they are without."""
    with open_with() as run:
        plain = run.data
        key = obtain_teacher(run, 0, run.recipe.teacher[0]).key
    with open_with("data.unlabelled=more", "method=kd") as run:
        data = run.data
        teacher = obtain_teacher(run, 0, run.recipe.teacher[0])
        check_networks(run, next(run.batch_shuffled(data.train, run.recipe.train, seed=0).epoch(0)))
        assert teacher.key == key
        assert data.key == plain.key
        assert data.preprocess == plain.preprocess
        assert data.whole is not None
        assert len(data.whole.labels) == len(plain.train.labels) + 30
        assert (data.whole.images[: len(plain.train.labels)] == plain.train.images).all()
        assert set(data.whole.labels[-30:]) == {-1}
        student, baseline = train_students(run, [teacher])
    outputs = student.results[0].teacher_outputs[0]
    assert student.results[0].epochs[0].losses["ce"] > 0
    assert outputs.images == "training"
    with open_with("method=kd") as run:
        again = train_students(run, [obtain_teacher(run, 0, run.recipe.teacher[0])])
    assert baseline.key == again[1].key  # plain training does not see them
    assert student.key != again[0].key


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_can_do_without_labels_reads_none(name: str) -> None:
    """Of images without labels the cross-entropy is 0, and all other terms are finite and do not depend on labels."""
    method = fresh(name, setting(2) if name != "simkd" else setting())
    for stage in method.stages():
        if stage.needs_labels:
            assert name in NEED or stage.stage == "heads"
            continue
        assert name not in NEED
        known = batch()
        unknown = known._replace(labels=torch.zeros(len(known.labels), 4))
        for phase in stage.phases():
            torch.manual_seed(0)
            terms = stage(stage.step(unknown, phase=phase))
            torch.manual_seed(0)
            others = stage(stage.step(known, phase=phase))
            for term, value in terms.items():
                assert torch.isfinite(value), (stage.stage, term)
                if "ce" in term.split("."):
                    assert float(value.detach()) == 0
                elif not term.endswith("bias"):
                    torch.testing.assert_close(value, others[term])


def test_the_loss_is_that_of_the_labelled_images_alone() -> None:
    """Mean cross-entropy over those that have a label, whatever stands beside them; without any, 0 and no gradient."""
    logits = torch.randn(6, 4, requires_grad=True)
    shares = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 3, 0, 0]), 4).float()
    shares[4:] = 0
    for smoothing in (0.0, 0.2):
        found = CLASSIFICATION.compute_loss(logits, shares, size=(8, 8), smoothing=smoothing)
        expected = torch.nn.functional.cross_entropy(logits[:4], torch.tensor([0, 1, 2, 3]), label_smoothing=smoothing)
        torch.testing.assert_close(found, expected)
    nothing = CLASSIFICATION.compute_loss(logits, torch.zeros(6, 4), size=(8, 8))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert float(nothing.detach()) == 0
    assert not gradient.any()


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_the_loader_gives_them_no_share_of_any_class(mixup: float) -> None:
    """Shares are 0 exactly for them, and for what is mixed with one of them; class weights count the labelled alone."""
    known = split(40)
    whole = Split(known.images, np.where(np.arange(40) % 4 == 3, -1, np.arange(40) % 4))
    targets = Targets(3, smoothing=0.1, weighs_classes=True, has_unlabelled=True)
    inner = InMemory(whole, PREPROCESS.model_copy(update={"mean": (0.0,), "std": (1 / 255,)}), batch_size=20, device=CPU)
    loader = Augmented(
        inner, PREPROCESS, section=AugmentSection(mixup=mixup), targets=targets, labels=whole.labels, device=CPU, batch_size=20,
        seed=0, views=1, augmentation_seed=0,
    )  # fmt: skip
    batches: list[Batch] = list(loader.read_view(0))
    sums = torch.cat([each.labels.sum(dim=1) for each in batches])
    unknown = torch.from_numpy(whole.labels == -1)
    assert not sums[unknown].any()
    if not mixup:
        torch.testing.assert_close(sums[~unknown], torch.ones(30))
    else:
        assert 0 < int((sums > 0).sum()) < 30


def test_students_can_have_fewer_labels_than_their_teacher(open_with: Open, pictures: Path) -> None:
    """`student_labels` changes nothing for teacher and statistics; plain training sees these pictures alone, as many steps."""
    with open_with() as run:
        everything, key = run.data, obtain_teacher(run, 0, run.recipe.teacher[0]).key
    with open_with("data.student_labels=300") as run:
        few = run.data
        teacher = obtain_teacher(run, 0, run.recipe.teacher[0])
        student, plain = train_students(run, [teacher])
    assert (few.key, teacher.key, few.preprocess) == (everything.key, key, everything.preprocess)
    assert few.whole is not None
    assert few.labelled is not None
    known, count = few.whole.labels[:300], len(everything.train.labels)
    assert np.bincount(known, minlength=10).min() >= 27  # stratified
    assert (few.whole.labels[300:] == -1).all()
    assert sorted(map(bytes, few.whole.images[:])) == sorted(map(bytes, everything.train.images[:]))  # none lost or doubled
    assert (few.labelled.images == few.whole.images[np.arange(count) % 300]).all()
    assert (few.labelled.labels == known[np.arange(count) % 300]).all()
    assert student.results[0].teacher_outputs
    assert not plain.results[0].teacher_outputs
    with open_with("data.student_labels=300", "data.unlabelled=more") as run:
        assert run.data.whole is not None
        assert run.data.labelled is not None
        assert len(run.data.whole.labels) == len(run.data.labelled.labels) == count + 30
        notes = [note.text for note in run.data.notes]
    assert "data: 30 training images without labels (data.unlabelled)" in notes
    assert f"data: students have the labels of 300 of {count} training images (data.student_labels)" in notes


def test_a_plan_says_how_many_have_no_label(tmp_path: Path, tiny_recipe: str) -> None:
    """And that every stage goes through as many images."""
    changes = ["data.student_labels=300", "data.train_images=900", "teacher.train.batch_size=256"]
    plan = make_plan(recipe.parse(tiny_recipe.encode(), "tiny.yaml", changes), base=tmp_path, runs=tmp_path)
    assert any("students have 300 labels, and a teacher that is trained here all 900" in note for note in plan.notes)
    assert "data: 600 pictures without labels are trained on as well, against the teacher's answers alone" in plan.notes
    assert len({stage.work.images_per_epoch for stage in plan.stages if stage.work is not None}) == 1


def test_a_combination_needs_what_one_of_its_methods_needs() -> None:
    """A method that needs labels keeps the others from images without."""
    where = setting()
    parts = {name: plugins.load("methods", name)(where) for name in ("kd", "dkd")}
    assert "splits its loss" in Combined(where, parts).needs_labels
    assert not Combined(where, {"kd": parts["kd"]}).needs_labels


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        ("class", (), r"data.unlabelled: .*more: holds the folders 'cat', like classes"),
        ("link", (), r"is a link that leads out of"),
        ("", ("train.sampling=balanced",), r"train.sampling: balanced shows all classes equally often"),
        ("", ("data.unlabelled=none", "data.student_labels=300", "train.sampling=balanced"), r"labels \(data.student_labels\)"),
        ("", ("data.student_labels=9",), r"data.student_labels: 9 of 1077 training images; at least one of each of the 10 cl"),
        ("", ("data.train_images=300", "data.student_labels=291"), r"data.student_labels: 291 of 300 .*must have a label"),
        ("", ("data.unlabelled=none",), r"data.unlabelled: .*none: there is no such folder"),
        ("empty", (), r"holds no pictures"),
        ("", ("data={source: digit_scenes, image_size: 48, unlabelled: more}", "student=segmenter.resnet18"), "one class each"),
    ],
)
def test_what_cannot_be_is_refused_by_the_plan(
    open_with: Open, pictures: Path, make: str, changes: tuple[str, ...], message: str
) -> None:
    """Before anything is loaded."""
    if make == "class":
        (pictures / "cat").mkdir()
    elif make == "link":
        (pictures / "x.png").symlink_to(pictures.parent / "elsewhere.png")
    elif make == "empty":
        for path in pictures.iterdir():
            path.unlink()
    with pytest.raises(CompressError, match=message), open_with("data.unlabelled=more", *changes):
        pass


def test_a_method_that_needs_labels_is_refused(open_with: Open, pictures: Path) -> None:
    """The student's own method is refused with the reason; a picture that cannot be read is refused like any other."""
    with open_with("data.unlabelled=more", "method=dkd") as run:
        first = next(run.batch_shuffled(run.data.train, run.recipe.train, seed=0).epoch(0))
        with pytest.raises(CompressError, match=r"data.unlabelled: method 'dkd' needs a label .*splits its loss"):
            check_networks(run, first)
    message = r"data.student_labels: method 'dkd' needs a label .*splits its loss"
    with open_with("data.student_labels=300", "method=dkd") as run, pytest.raises(CompressError, match=message):
        check_networks(run, first)
    (pictures / "99.png").write_bytes(b"no picture")
    with pytest.raises(CompressError, match=r"99.png: cannot be decoded"), open_with("data.unlabelled=more"):
        pass
