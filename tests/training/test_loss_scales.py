"""Scales of losses: what they are by equation, that measuring leaves nothing behind, and which are warned of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compress import plugins
from compress.data import Batch
from compress.methods import Combined, Method, Setting, Signal
from compress.recipe import TrainSection
from compress.tasks import load_task
from compress.training.loss_scales import (
    LARGEST,
    LossScales,
    find_scale_warning,
    invent_answers,
    invent_logits,
    measure_loss_scales,
)
from tests.tiny import batch, setting


def build(name: str, where: Setting | None = None, **options: Any) -> Method:
    method: Method = plugins.load("methods", name)(where or setting(), **options)
    return method


def test_a_certain_teacher_is_a_label() -> None:
    """A divergence at temperature 1 from a teacher that is sure of the labels has the gradient of cross-entropy."""
    data = batch()
    certain = {signal: 100 * logits for signal, logits in invent_logits(data, 4, 1).items()}
    found = measure_loss_scales(build("kd", temperature=1.0, ce_weight=0.5, kd_weight=3.0), data, certain)
    assert found is not None
    assert found.terms == pytest.approx({"ce": 0.5, "kd": 3.0}, rel=1e-3)
    assert found.taught == pytest.approx(3.0, rel=1e-3)


def test_a_combination_has_the_terms_of_its_parts() -> None:
    """Each under its method's name; terms on the labels are no teaching, whatever they stand beside."""
    where = setting()
    parts = {"dih": build("dih", where, ce_weight=0.5), "dist": build("dist", where)}
    alone = measure_loss_scales(parts["dist"], batch())
    whole = measure_loss_scales(Combined(where, parts), batch())
    assert alone is not None
    assert whole is not None
    assert whole.terms["dih.ce"] == pytest.approx(0.45)  # less the share of the cohort, 0.1
    assert whole.terms["dist.ce"] == 1
    assert {"dih.dist.teacher", "dih.dist.head0", "dist.inter", "dist.intra"} < set(whole.terms)
    assert alone.taught > 0


def test_plain_training_is_taught_nothing_and_heads_are_no_student() -> None:
    """The labels alone have scale 1; a stage that trains no student has no scale."""
    plain = measure_loss_scales(build("supervised"), batch())
    assert plain is not None
    assert (plain.terms, plain.taught) == ({"ce": pytest.approx(1.0)}, 0.0)
    assert measure_loss_scales(build("dih").stages()[0], batch()) is None


@pytest.mark.parametrize("name", ["dist", "feed", "atsc", "simkd", "dskd"])
def test_measuring_changes_nothing(name: str) -> None:
    """Weights, statistics and flags end as they were, whatever is trained beside the student."""
    method = build(name)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    found = measure_loss_scales(method, batch())
    assert found is not None
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in method.parameters())


def test_what_is_far_larger_than_labels_is_told() -> None:
    """With SGD that does not clip from twenty times on, with AdamW, whose steps do not grow, only what drowns the labels."""
    sgd, adamw = TrainSection(), TrainSection(optimizer="adamw")
    large = LossScales({"ce": 1.0, "mse.layer2": 30.0}, 30.0)
    said = find_scale_warning("student", large, sgd)
    assert said.startswith("student: at the start, what teaches has 30 times the gradient")
    assert "mse.layer2" in said
    assert find_scale_warning("student", large, adamw) == ""
    assert find_scale_warning("student", large, TrainSection(max_gradient_norm=1.0)) == ""
    assert "labels hardly count" in find_scale_warning("student", LossScales({"ce": 1.0, "kd": 70.0}, 70.0), adamw)
    assert find_scale_warning("student", LossScales({"ce": 1.0, "kd": 4.0}, 4.0), sgd) == ""


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_teacher_that_hardly_teaches_is_told(optimizer: Any) -> None:
    """A weight that makes the teacher silent is told with what to do; plain training has no teacher to hear."""
    found = measure_loss_scales(build("kd", kd_weight=1e-3), batch(), invent_logits(batch(), 4, 1))
    assert found is not None
    said = find_scale_warning("student", found, TrainSection(optimizer=optimizer))
    assert said.endswith("so the student is trained nearly plainly; raise the method's weight, or lower its temperature")
    assert find_scale_warning("student", LossScales({"ce": 1.0}, 0.0), TrainSection(optimizer=optimizer)) == ""


def test_defaults_of_the_logit_methods_are_of_the_size_of_labels() -> None:
    """For a student as it begins; the released code of DIST, whose size depends on its temperature, is not."""
    for options in ({}, {"temperature": 1.0}, {"temperature": 8.0}):
        found = measure_loss_scales(build("dist", **options), batch(), invent_logits(batch(), 4, 1))
        assert found is not None
        assert 0.2 < found.taught < LARGEST["sgd"]
    paper = measure_loss_scales(build("dist", preset="paper", temperature=8.0), batch(), invent_logits(batch(), 4, 1))
    assert paper is not None
    assert paper.taught > LARGEST["sgd"]


@pytest.mark.parametrize(("name", "options"), [("fitnet", {}), ("dskd", {}), ("dskd", {"logit_loss": "dist"})])
def test_methods_on_maps_teach_as_much_from_maps_of_any_size(name: str, options: dict[str, Any]) -> None:
    """The gradient is the same where a teacher's maps are a hundred thousand times as large."""
    where, data, scales = setting(), batch(), []
    method = build(name, where, **options)
    with torch.no_grad():
        features = where.teachers[0].outputs(data.images).features
    for size in (1.0, 1e5):
        torch.manual_seed(0)  # of the student's dropout
        maps = {Signal(0, tap): size * each for tap, each in enumerate(features)}
        found = measure_loss_scales(method, data, invent_logits(data, 4, 1) | maps)
        assert found is not None
        scales.append(found.taught)
    assert scales[0] == pytest.approx(scales[1], rel=0.01)  # what is added to deviations shows a little


def test_a_teacher_of_maps_that_is_invented_is_right_where_something_is_known() -> None:
    """Its largest logit is the mask's class at the size of its maps; of ignored pixels it says anything."""
    masks = torch.arange(4).repeat_interleave(16).reshape(1, 8, 8).repeat(2, 1, 1)
    masks[1, :4] = 255
    data = Batch(torch.zeros(2, 1, 8, 8), masks)
    (maps,) = invent_answers(data, load_task("segmentation"), [(1, 4, 4, 4)]).values()
    wanted, known = masks[:, ::2, ::2], masks[:, ::2, ::2] != 255
    assert torch.equal(maps.argmax(dim=1)[known], wanted[known])
    assert not torch.equal(maps.argmax(dim=1)[~known], torch.zeros_like(wanted[~known]))


def test_a_teacher_of_boxes_that_is_invented_finds_them_and_does_not_drown_labels() -> None:
    """Each box has its own among the answers. With a new detector, `dist` would seem far too large."""
    torch.manual_seed(0)
    task, images = load_task("detection"), torch.randn(16, 3, 64, 64)
    data = Batch(images, torch.from_numpy(task.make_labels(16, 10, (64, 64))))
    student, teacher = (plugins.load("models", f"detector.{name}")(10, 3) for name in ("tiny", "small"))
    invented = invent_answers(data, task, [(1, 64, 14)])
    answers = invented[Signal(0)].numpy()
    assert float(task.measure(task.tally(answers, data.labels.numpy()), 10).percent) > 99
    method = build("dist", Setting(student, (teacher,), images[:1], 10, task=task))
    found, untrained = measure_loss_scales(method, data, invented), measure_loss_scales(method, data)
    assert found is not None
    assert untrained is not None
    assert 0.2 < found.taught < LARGEST["sgd"]
    assert untrained.taught > LARGEST["adamw"]
