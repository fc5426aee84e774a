"""FitNets and attention transfer: their terms in NumPy, what a teacher is asked, and what they refuse."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from compress import losses
from compress.errors import CompressError
from compress.methods import Signal
from compress.methods.attention_transfer import AttentionTransfer
from compress.methods.fitnet import Fitnet
from compress.models import Network
from compress.recipe import TrainSection
from compress.teachers.identity import hash_module
from compress.training import loop
from tests.methods.networks import Stages, batch, coarse, network, setting, training, wide
from tests.methods.reference import (
    Array,
    average_pool,
    close,
    cross_entropy,
    divergence,
    doubles,
    standardise_channels,
    through,
)
from tests.tiny import Repeated


def attention(maps: Array) -> Array:
    energy = (maps**2).mean(axis=1).reshape(len(maps), -1)
    return cast("Array", energy / np.sqrt((energy**2).sum(axis=1, keepdims=True)))


@pytest.mark.parametrize(
    ("strides", "kind", "kernel"),
    [((1, 2, 2), nn.Conv2d, 1), ((2, 2, 1), nn.Conv2d, 3), ((1, 1, 2), nn.ConvTranspose2d, 4), ((4, 2, 1), nn.Conv2d, 1)],
    ids=["equal", "student twice", "teacher twice", "student four times"],
)
def test_the_hint_is_what_its_equation_says(strides: tuple[int, ...], kind: type[nn.Module], kernel: int) -> None:
    """Cross-entropy plus 20 × half the squared difference from the teacher's standardised middle map; paper: 100 × squares."""
    where, data = setting(network((4, 5, 6), strides)), batch()
    method, paper = Fitnet(where), Fitnet(where, preset="paper")
    paper.load_state_dict(method.state_dict())
    step = training(method, data)
    terms = method(step)
    (regressor,) = method.regressors
    assert isinstance(regressor, nn.Sequential)
    assert isinstance(regressor[0], kind)
    assert cast("Any", regressor[0]).kernel_size == (kernel, kernel)
    target = doubles(step.teacher().features[1])
    read = doubles(step.student.features[1])
    read = average_pool(read, target.shape[2:]) if strides == (4, 2, 1) else read  # type: ignore[arg-type]
    hint = ((through(regressor, read) - target) ** 2).mean()
    assert terms.keys() == {"ce", "hint"}
    close(terms["ce"], cross_entropy(step))
    close(terms["hint"], 10 * ((standardise_channels(through(regressor, read)) - standardise_channels(target)) ** 2).mean())
    close(paper(training(paper, data))["hint"], 100 * hint)


def test_several_teachers_give_the_mean_of_their_hints_and_divergences() -> None:
    """Teachers of other widths and sizes each have a regressor; weights multiply the mean."""
    method = Fitnet(setting(wide(), coarse()), student_tap="stage3", teacher_tap="stage3", weight=7, kd_weight=3, temperature=2,
                    preset="paper")  # fmt: skip
    step = training(method, batch())
    terms = method(step)
    read, student_logits = doubles(step.student.features[2]), doubles(step.student.logits)
    hints = [((through(method.regressors[i], read) - doubles(step.teacher(i).features[2])) ** 2).mean() for i in range(2)]
    divergences = [divergence(student_logits, doubles(step.teacher(i).logits), 2) for i in range(2)]
    close(terms["hint"], 7 * np.mean(hints))
    close(terms["kd"], 3 * np.mean(divergences))


def test_a_teacher_that_is_larger_is_pooled_to_the_student() -> None:
    """Where neither map is the other's double, the larger is averaged to the smaller before a 1×1 regressor."""
    method = Fitnet(setting(network((3, 4), (1, 1))), teacher_tap="stage2", student_tap="stage3", preset="paper")
    step = training(method, batch())
    target = average_pool(doubles(step.teacher().features[1]), (2, 2))
    hint = ((through(method.regressors[0], doubles(step.student.features[2])) - target) ** 2).mean()
    close(method(step)["hint"], 100 * hint)


def test_a_regressor_can_be_negative_where_the_teacher_is() -> None:
    """By default the last ReLU is there only if the teacher's map is never negative; it can be set."""
    teacher = wide()
    assert isinstance(teacher.module, Stages)
    teacher.module.stage2 = nn.Conv2d(4, 5, 3, 2, padding=1)
    linear = setting(teacher)

    def last(method: Fitnet) -> nn.Module:
        return cast("nn.Sequential", method.regressors[0])[-1]

    assert isinstance(last(Fitnet(setting())), nn.ReLU)
    assert isinstance(last(Fitnet(linear)), nn.BatchNorm2d)
    assert isinstance(last(Fitnet(linear, final_relu="on")), nn.ReLU)
    assert isinstance(last(Fitnet(setting(), final_relu="off")), nn.BatchNorm2d)


def test_only_the_tapped_map_of_the_teacher_is_asked_for() -> None:
    """Without a divergence a teacher's logits are not read, so that nothing needs to keep them."""
    method = Fitnet(setting())
    step = training(method, batch())
    method(step)
    assert list(step.signals_read) == [Signal(0, 1)]


def test_regressors_are_trained_and_stay_behind() -> None:
    """The regressor moves with the student and neither the teacher nor what is shipped holds any of it."""
    where = setting()
    plain, teacher = copy.deepcopy(where.student), copy.deepcopy(where.teachers[0])
    method = Fitnet(where)
    before = copy.deepcopy(method.regressors)
    data = Repeated(batch(), 2)
    loop.fit(method, data, data, settings=TrainSection(epochs=1, lr=0.01, warmup_epochs=0))
    for name, value in method.regressors.named_parameters():
        assert not torch.equal(value, before.get_parameter(name)), name
    for name, value in where.teachers[0].state_dict().items():
        assert torch.equal(value, teacher.state_dict()[name]), name
    assert method.deployable() is where.student
    assert where.student.state_dict().keys() == plain.state_dict().keys()


def test_fitnet_refuses_taps_that_are_not_there() -> None:
    """Unknown taps are refused with those that exist, and networks without any are told so."""
    with pytest.raises(CompressError, match=r"student_tap: the student has no tap 'stage9'; it has: stage1, stage2, stage3"):
        Fitnet(setting(), student_tap="stage9")
    with pytest.raises(CompressError, match=r"teacher_tap: teacher 1 has no tap 'stage3'; it has: stage1, stage2"):
        Fitnet(setting(wide(), network((2, 2), (1, 1))), teacher_tap="stage3")
    with pytest.raises(CompressError, match="teacher 0 has no taps; name its layers"):
        Fitnet(setting(Network(Stages((2,), (1,)), taps=())))
    with pytest.raises(CompressError, match=r"the teacher's tap gives \[1, 4\]; tap a layer with maps"):
        Fitnet(setting(Network(Stages((2,), (1,)), taps=("classifier",))))


def test_attention_is_compared_as_its_equation_says() -> None:
    """Cross-entropy plus 1000 times the sum over taps of mean squared differences of normalised attention."""
    method, data = AttentionTransfer(setting(), preset="paper", scale_beta=False), batch()
    step = training(method, data)
    terms = method(step)
    assert list(terms) == ["ce", "attention.stage1", "attention.stage2", "attention.stage3"]
    close(terms["ce"], cross_entropy(step))
    for tap in range(3):
        ours, theirs = (attention(doubles(maps)) for maps in (step.student.features[tap], step.teacher().features[tap]))
        expected = 1000 * ((ours - theirs) ** 2).mean()
        close(terms[f"attention.stage{tap + 1}"], expected)


def test_the_larger_map_is_pooled_before_it_is_squared() -> None:
    """Taps are paired as named, for every teacher; terms are the mean over teachers, and the divergence can be added."""
    where = setting(coarse(), network((2, 3), (1, 4)))
    method = AttentionTransfer(
        where, student_taps=("stage1", "stage3"), teacher_taps=("stage2", "stage1"), beta=10, scale_beta=False, kd_weight=2,
        temperature=3,
    )  # fmt: skip
    step = training(method, batch())
    terms = method(step)
    expected: dict[str, list[float]] = {"stage1": [], "stage3": []}
    for teacher in range(2):
        for name, own, other in (("stage1", 0, 1), ("stage3", 2, 0)):
            maps = doubles(step.student.features[own]), doubles(step.teacher(teacher).features[other])
            size = cast("tuple[int, int]", min(maps[0].shape[2:], maps[1].shape[2:]))
            ours, theirs = (attention(average_pool(each, size)) for each in maps)
            expected[name].append(((ours - theirs) ** 2).mean())
    for name, each in expected.items():
        close(terms[f"attention.{name}"], 10 * np.mean(each))
    divergences = [divergence(doubles(step.student.logits), doubles(step.teacher(i).logits), 3) for i in range(2)]
    close(terms["kd"], 2 * np.mean(divergences))


def test_the_terms_are_the_public_loss_and_ignore_the_scale_of_a_map() -> None:
    """A term is `losses.attention_transfer` of the two maps; it is zero for a copy of the teacher, whatever the scale."""
    where = setting()
    method = AttentionTransfer(where, preset="paper", scale_beta=False)
    step = training(method, batch())
    expected = 1000 * losses.attention_transfer(step.student.features[1], step.teacher().features[1])
    torch.testing.assert_close(method(step)["attention.stage2"], expected)
    teacher = where.teachers[0]
    louder = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in cast("Any", louder.module).stage1.parameters():
            parameter.mul_(3)
    same = AttentionTransfer(setting(louder, learner=teacher), student_taps=("stage1",), teacher_taps=("stage1",))
    assert same(training(same, batch()))["attention.stage1"].item() < 1e-9  # 1000 × the square of float32's rounding


@pytest.mark.parametrize(("side", "beta"), [(32, 1000.0), (16, 250.0), (8, 62.5), (64, 4000.0)])
def test_attention_weighs_the_same_for_maps_of_every_size(side: int, beta: float) -> None:
    """Beta is the published one for maps of 32, 16 and 8 pixels; a term grows as pixels become fewer, and beta falls."""
    where = setting()._replace(image=torch.randn(1, 1, side, side))
    assert AttentionTransfer(where, preset="paper").beta == pytest.approx(beta)
    assert AttentionTransfer(where).beta == pytest.approx(beta / 10)
    assert AttentionTransfer(where, beta=7.0, scale_beta=False).beta == 7


def test_a_teacher_is_asked_for_its_attention_alone() -> None:
    """What could be stored is one number per pixel, neither maps nor logits, and its key tells sizes apart."""
    method = AttentionTransfer(setting(), student_taps=("stage1", "stage2"), teacher_taps=("stage2", "stage3"))
    step = training(method, batch(5))
    method(step)
    assert [(signal.teacher, signal.tap) for signal in step.signals_read] == [(0, 1), (0, 2)]
    assert all(signal.module in list(method.attentions.values()) for signal in step.signals_read)
    assert [step.compute(signal).shape for signal in step.signals_read] == [(5, 16), (5, 4)]
    small, large = (AttentionTransfer(setting(), student_taps=(tap,), teacher_taps=(tap,)) for tap in ("stage1", "stage2"))
    keys = [hash_module(next(iter(each.attentions.values()))) for each in (small, large)]
    assert keys[0] != keys[1]


def test_attention_trains_the_student_alone() -> None:
    """The method has no parameters of its own, and what is shipped is the plain student."""
    where = setting()
    method = AttentionTransfer(where)
    own = {id(parameter) for parameter in where.student.parameters()}
    assert {id(parameter) for parameter in method.phases()["student"]} == own
    assert method.deployable() is where.student
    assert not list(method.attentions.parameters())


def test_a_beta_that_did_harm_with_adamw_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """The preset of the source, in the training in which it was tried and failed; the default is quiet."""
    adamw, sgd = TrainSection(optimizer="adamw"), TrainSection()
    AttentionTransfer(setting()).schedule(adamw)
    AttentionTransfer(setting(), preset="paper").schedule(sgd)
    assert not caplog.text
    AttentionTransfer(setting(), preset="paper").schedule(adamw)
    assert "with adamw, beta 1000 cost 12 points" in caplog.text


def test_attention_refuses_what_does_not_pair_up() -> None:
    """Other numbers of taps, unknown taps and single pixels are refused with what to choose."""
    with pytest.raises(CompressError, match=r"3 taps of the student .* against 2 of teacher 0 .*name equally many"):
        AttentionTransfer(setting(network((2, 2), (1, 1))))
    with pytest.raises(CompressError, match=r"student_taps: the student has no tap 'last'; it has: stage1, stage2, stage3"):
        AttentionTransfer(setting(), student_taps=("stage1", "last"))
    with pytest.raises(CompressError, match="teacher_taps: teacher 0 has no tap to choose from; it has: stage1"):
        AttentionTransfer(setting(), teacher_taps=())
    with pytest.raises(CompressError, match="names a tap twice"):
        AttentionTransfer(setting(), student_taps=("stage1", "stage1"), teacher_taps=("stage1", "stage2"))
    with pytest.raises(CompressError, match="'stage3' with 'stage3' of teacher 0 meet at a single pixel"):
        AttentionTransfer(setting(coarse()))
