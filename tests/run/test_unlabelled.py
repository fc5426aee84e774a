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
    def opened(*changes: str, events: Events | None = None) -> Iterator[Run]:
        parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", list(changes))
        make_plan(parsed, base=tmp_path, runs=tmp_path)
        with open_run(parsed, base=tmp_path, runs=tmp_path, events=events or Events()) as run:
            yield run

    return opened


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
    (pictures / "99.png").write_bytes(b"no picture")
    with pytest.raises(CompressError, match=r"99.png: cannot be decoded"), open_with("data.unlabelled=more"):
        pass
