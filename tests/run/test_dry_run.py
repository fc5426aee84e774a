"""`compress check` refuses what `compress run` would refuse before training, without data and without writing anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress.errors import CompressError
from compress.models.resnet_cifar import resnet8
from compress.plan.plan import make_plan
from compress.recipe import dump, parse
from compress.run import dry_run
from compress.training import checkpoint, preflight

CLASSES = tuple("0123456789")
RECIPE = b"""
name: checked
data: {source: digits, image_size: 8}
teacher: {model: resnet_cifar.resnet14}
student: {model: resnet_cifar.resnet8}
method: kd
"""


def check(where: Path, *overrides: str) -> None:
    recipe = parse(RECIPE, "recipe.yaml", overrides)
    dry_run.check_with_random_images(recipe, base=where, runs=where / "runs", classes=CLASSES)


@pytest.mark.parametrize("method", ["kd", "[{name: dih, logit_loss: dist}, dskd]", "feed_sequential", "atsc"])
def test_what_can_run_is_accepted_and_nothing_is_written(tmp_path, method):
    """A good recipe passes, whatever its method trains beside the student, and leaves no file behind."""
    check(tmp_path, f"method={method}")
    assert not list(tmp_path.iterdir())


def test_what_a_run_would_tell_of_its_networks_is_told_by_the_check(tmp_path: Path) -> None:
    """Which of several weights are taken, of a teacher as of a student, is no secret until the run."""
    state = resnet8(10, 1).module.state_dict()
    torch.save({"state_dict": state, "state_dict_ema": state}, tmp_path / "both.pt")
    given = "{model: resnet_cifar.resnet8, weights: both.pt}"
    recipe = parse(RECIPE, "recipe.yaml", [f"teacher={given}", f"student={given}"])
    notes: list[str] = []
    dry_run.check_with_random_images(recipe, base=tmp_path, runs=tmp_path / "runs", classes=CLASSES, notes=notes)
    ways = "took the plain weights under 'state_dict'; for the averaged (EMA) ones under 'state_dict_ema', set ema: true"
    assert notes == [f"{name}: {tmp_path / 'both.pt'}: {ways}" for name in ("teacher", "student")]


def test_scales_of_losses_are_told(tmp_path: Path) -> None:
    """The dry run says how large the gradient of each student's teaching is, and warns where it is far larger than labels'."""
    chosen = ["method={name: dist, preset: paper}", "baselines=[dist, supervised]"]
    recipe = parse(RECIPE, "recipe.yaml", chosen)
    plan = make_plan(recipe, base=tmp_path, runs=tmp_path / "runs")
    found = dry_run.check_with_random_images(recipe, base=tmp_path, runs=tmp_path / "runs", classes=CLASSES, plan=plan)
    assert found is not None
    student, plain = found.loss_scales.values()
    assert student == pytest.approx(16 * plain, rel=0.2)  # temperature 4 squared, for the small logits of a new network
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith("student: at the start")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "method=[simkd, kd]",
            "which is what the terms on labels and logits of 'kd' train; terms on maps alone, .*; run 'simkd' alone",
        ),
        ("method=[simkd, {name: feed, ce_weight: 0}]", "with ce_weight: 0, are not combined with it either; run 'simkd' alone"),
        ("method=[atsc, {name: dskd, ce_weight: 0, alpha: 0}]", "with ce_weight: 0, are not combined with it either"),
        ("method=[atsc, dih]", "changes the teacher to which 'dih' fitted its modules; drop one"),
        ("train={engine: cuda_graphs, device: cpu}", "^train.engine: 'cuda_graphs' runs on a CUDA device alone"),
        ("baselines=[[supervised, kd]]", "'supervised' adds nothing to other methods"),
        ("method={name: dih, taps: [layer7]}", "layer7"),
        ("method={name: fitnet, student_tap: layer9}", "layer9"),
    ],
)
def test_what_constructors_refuse_is_refused(tmp_path, override, message):
    """Contradictions that only the networks can show are found before any data is read."""
    with pytest.raises(CompressError, match=message):
        check(tmp_path, override)


def test_what_cannot_be_calibrated_is_refused(tmp_path):
    """A teacher's classifier, which simkd ships, is not changed, and that is said before the teacher is trained."""
    with pytest.raises(CompressError, match=r"train\.calibrate: what this method ships ends in a teacher's classifier"):
        check(tmp_path, "method=simkd", "train.calibrate=true")


def test_an_engine_is_refused_where_the_recipe_names_it(tmp_path):
    """A teacher's own engine is that teacher's mistake, not the student's."""
    other, wrong = "{model: resnet_cifar.resnet14}", "{model: resnet_cifar.resnet14, train: {engine: cuda_graphs}}"
    for teachers, where in ((wrong, "teacher"), (f"[{other}, {wrong}]", "teacher.1")):
        with pytest.raises(CompressError, match=rf"^{where}\.train\.engine: 'cuda_graphs' runs on a CUDA device alone"):
            check(tmp_path, "train.device=cpu", f"teacher={teachers}")


NETWORKS = """
import torch
from torch import nn
from torch.nn import functional as F
from compress import Network


class Made(nn.Module):
    def __init__(self, classes, channels, run):
        super().__init__()
        layers = [nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.inner, self.run = nn.Sequential(*layers, nn.Linear(4, classes)), run

    def forward(self, images):
        return self.run(self.inner, images, self.training)


def soft(classes, channels):
    return Made(classes, channels, lambda n, x, trains: n(x).softmax(1))

def random(classes, channels):
    return Made(classes, channels, lambda n, x, trains: F.dropout(n(x)))

def auxiliary(classes, channels):
    return Made(classes, channels, lambda n, x, trains: (n(x), n(x)) if trains else n(x))

def in_place(classes, channels):
    return Made(classes, channels, lambda n, x, trains: n(x.sub_(1)))

def named_in_place(classes, channels):
    return Network(in_place(classes, channels), taps=())

def copying(classes, channels):
    return Network(in_place(classes, channels), taps=(), copies_input=True)
"""


@pytest.mark.parametrize(
    ("role", "network", "message"),
    [
        ("student", "soft", "^student: its outputs come out of a softmax"),
        ("teacher", "soft", "^teacher: its outputs come out of a softmax"),
        ("student", "random", r"^student: its answers differ .*F\.dropout"),
        ("teacher", "random", r"^teacher: its answers differ .*F\.dropout"),
        ("student", "auxiliary", "^student: gives a tuple of .* while it trains"),
        ("teacher", "auxiliary", ""),
        ("student", "in_place", ""),
        ("teacher", "in_place", ""),
        (
            "student",
            "named_in_place",
            r"^student: its forward pass changes the images it is given in place, .*copies_input=True",
        ),
        ("teacher", "named_in_place", r"^teacher: .* in place, .*copies_input=True"),
        ("student", "copying", ""),
    ],
)
def test_a_network_of_ones_own_is_tried_alone(tmp_path, monkeypatch, role, network, message):
    """What is refused in `compress.distill` is refused in a recipe, and a plain module gets copies of its images in both."""
    (tmp_path / "networks_of_ones_own.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    override = f"{role}={{model: 'networks_of_ones_own:{network}'}}"
    if not message:
        check(tmp_path, override)
        return
    with pytest.raises(CompressError, match=message):
        check(tmp_path, override)


def test_a_run_is_estimated_from_a_timed_step(tmp_path):
    """Every stage that is trained has its time, more epochs take longer, and a stage that is found takes none."""
    recipe = parse(RECIPE, "recipe.yaml", ["baselines=[supervised]", "train.epochs=2", "teacher.train={epochs: 200}"])

    def estimate():
        plan = make_plan(recipe, base=tmp_path, runs=tmp_path / "runs")
        return dry_run.check_with_random_images(recipe, base=tmp_path, runs=tmp_path / "runs", classes=CLASSES, plan=plan)

    found = estimate()
    assert list(found.training) == ["teacher", "student", "supervised"]
    assert found.training["teacher"] > 10 * found.training["supervised"] > 0
    assert found.delivery >= 2 * recipe.measure.seconds
    folder = tmp_path / "runs" / "checked"
    (folder / "teacher").mkdir(parents=True)
    (folder / "teacher" / "metrics.json").write_text("{}")
    (folder / "recipe.yaml").write_text(dump(recipe, tmp_path))
    assert list(estimate().training) == ["student", "supervised"]


def test_a_probe_is_estimated_by_one_look_and_shifts_no_other_stage(tmp_path: Path) -> None:
    """A teacher whose classifier alone is fitted has its time, and each student keeps its own time and scale."""
    checkpoint.save_weights(tmp_path / "other.safetensors", resnet8(37, 1), metadata={})
    teacher = f"teacher={{model: resnet_cifar.resnet8, weights: {tmp_path / 'other.safetensors'}, probe: true}}"
    recipe = parse(RECIPE, "recipe.yaml", [teacher, "method=dist", "baselines=[supervised]"])
    plan = make_plan(recipe, base=tmp_path, runs=tmp_path / "runs")
    found = dry_run.check_with_random_images(recipe, base=tmp_path, runs=tmp_path / "runs", classes=CLASSES, plan=plan)
    assert found is not None
    assert list(found.training) == ["teacher", "student", "supervised"]
    assert 0 < found.training["teacher"] < found.training["supervised"]
    assert list(found.loss_scales) == ["student"]


def test_equal_baselines_are_tried_once(tmp_path, monkeypatch):
    """Two hundred baselines of one method take no longer than one; those that differ are all tried."""
    tried = []
    check_structure = preflight.check_structure
    monkeypatch.setattr(preflight, "check_structure", lambda *given: tried.append(given) or check_structure(*given))
    check(tmp_path, f"baselines=[{', '.join(['kd'] * 100 + ['supervised'] * 100)}]")
    assert len(tried) == 2
