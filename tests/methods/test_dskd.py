"""DSKD: its terms in NumPy, its weights, what is trained, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.methods import Signal, Step
from compress.methods.dskd import Dskd
from compress.models import Network
from compress.recipe import TrainSection
from compress.training import loop, preflight
from tests.methods.networks import Stages, batch, coarse, network, setting, training, wide
from tests.methods.reference import (
    Array,
    average_pool,
    close,
    cross_entropy,
    divergence,
    doubles,
    log_softmax,
    standardise_channels,
    through,
)
from tests.tiny import Repeated

Weighting = Literal["softmax", "uniform", "softmax_neg"]


def correlation(of_student: Array, of_teacher: Array) -> float:
    """Return the mean correlation of rows, with what the authors of DIST add below."""
    u, v = (rows - rows.mean(axis=1, keepdims=True) for rows in (of_student, of_teacher))
    return float(((u * v).sum(axis=1) / (np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1) + 1e-8)).mean())


def correlations(of_student: Array, of_teacher: Array, temperature: float, *, tau2: bool) -> float:
    """Return DIST: one minus the mean correlation over classes plus the same over samples, with or without temperature²."""
    ours, theirs = (np.exp(log_softmax(logits / temperature)) for logits in (of_student, of_teacher))
    return (temperature**2 if tau2 else 1) * (2 - correlation(ours, theirs) - correlation(ours.T, theirs.T))


def teach(method: Dskd, of_student: Array, of_teacher: Array) -> float:
    if method.logit_loss == "kd":
        return divergence(of_student, of_teacher, method.temperature)
    return correlations(of_student, of_teacher, method.temperature, tau2=method.numbers.tau2)


def softmax(values: list[float]) -> Array:
    powers = np.exp(np.array(values) - max(values))
    return cast("Array", powers / powers.sum())


def layer_losses(method: Dskd, step: Step, tap: str) -> tuple[float, float]:
    """Return the logit loss and the feature loss of one tap, each the mean over the teachers."""
    of_logits, of_maps = [], []
    for number, place in enumerate(method.places):
        if place.tap != tap:
            continue
        read, target = doubles(step.student.features[place.student_tap]), doubles(step.teacher(place.teacher).features[-1])
        size = cast("tuple[int, int]", min(read.shape[2:], target.shape[2:]))
        adapted = through(method.adapters[number], average_pool(read, size))
        linear = cast("Any", method.classifiers[number])[-1]
        logits = adapted.mean(axis=(2, 3)) @ doubles(linear.weight).T + doubles(linear.bias)
        of_logits.append(teach(method, logits, doubles(step.teacher(place.teacher).logits)))
        target = average_pool(target, size)
        if method.numbers.standardise:
            adapted, target = (standardise_channels(maps) / 2**0.5 for maps in (adapted, target))
        of_maps.append(((adapted - target) ** 2).mean())
    return float(np.mean(of_logits)), float(np.mean(of_maps))


def spread_predictions(method: Dskd) -> None:
    """Make predictions differ between images, because the correlation of nearly equal ones is rounding in float32."""
    layers = [cast("Network", each).classifier for each in (method.student, *method.teachers)]
    with torch.no_grad():
        for layer in (*layers, *(part[-1] for part in cast("Any", method.classifiers))):
            layer.weight.mul_(10)


@pytest.mark.parametrize(("logit_loss", "preset"), [("kd", "ours"), ("dist", "ours"), ("kd", "simkd"), ("dist", "simkd")])
@pytest.mark.parametrize("weighting", ["softmax", "uniform", "softmax_neg"])
@pytest.mark.parametrize("teachers", [(wide,), (wide, coarse)], ids=["one teacher", "two of other width and size"])
def test_every_term_is_what_its_equation_says(
    logit_loss: Literal["kd", "dist"], preset: Literal["ours", "simkd"], weighting: Weighting, teachers: tuple[Any, ...]
) -> None:
    """CE + KD + alpha × Σ a·kd + beta × Σ b·mse, with a and b the softmax of each group's own losses."""
    where = setting(*(teacher() for teacher in teachers))
    options: dict[str, Any] = {"temperature": 2, "ce_weight": 0.5, "kd_weight": 3, "alpha": 2, "beta": 10}
    method = Dskd(where, preset=preset, logit_loss=logit_loss, weighting=weighting, weight_temperature=3, **options)
    spread_predictions(method)
    step = training(method, batch())
    terms = method(step)
    taps = ["stage1", "stage2"]
    final = [teach(method, doubles(step.student.logits), doubles(step.teacher(i).logits)) for i in range(len(teachers))]
    expected = {"ce": 0.5 * cross_entropy(step), logit_loss: 3 * float(np.mean(final))}
    groups = zip(*(layer_losses(method, step, tap) for tap in taps), strict=True)
    sign = {"softmax": 1, "uniform": 0, "softmax_neg": -1}[weighting]
    for name, factor, group in zip((logit_loss, "mse"), (2, 10), groups, strict=True):
        weights = softmax([sign * value / 3 for value in group])
        expected |= {f"{name}.{tap}": factor * weights[i] * group[i] for i, tap in enumerate(taps)}
    assert list(terms) == list(expected)
    for term, value in expected.items():
        close(terms[term], value, term, rtol=1e-4)  # the weights' softmax multiplies the rounding of a loss by its size


def shallow_total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([value for name, value in terms.items() if "." in name]).sum()


@pytest.mark.parametrize("weighting", ["softmax", "softmax_neg"])
def test_weights_are_an_allocation_and_not_a_target(weighting: Weighting) -> None:
    """The gradient is that of the same losses with the weights held constant."""
    where, data = setting(), batch()
    method = Dskd(where, weighting=weighting, alpha=1, beta=1)
    even = Dskd(where, weighting="uniform", alpha=1, beta=1)
    even.load_state_dict(method.state_dict())
    step, plain = training(method, data), training(even, data)
    total, raw = shallow_total(method(step)), even(plain)
    held = torch.stack([
        2 * float(step.observed[f"{group}_weight.{tap}"]) * raw[f"{loss}.{tap}"]  # even weights of two taps are 1/2
        for group, loss in (("class", "kd"), ("feature", "mse"))
        for tap in ("stage1", "stage2")
    ]).sum()  # fmt: skip
    torch.testing.assert_close(total, held)
    shared = list(where.student.parameters())[:4]  # of both shallow stages
    got = torch.autograd.grad(total, [*shared, *method.adapters.parameters(), *method.classifiers.parameters()])
    wanted = torch.autograd.grad(held, [*shared, *even.adapters.parameters(), *even.classifiers.parameters()])
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_the_layer_that_lags_gets_the_larger_weight() -> None:
    """By default a larger loss weighs more, `softmax_neg` turns that round, and a high temperature evens it out."""
    where, data = setting(), batch()
    weights = {}
    options: dict[str, dict[str, Any]] = {
        "default": {}, "neg": {"weighting": "softmax_neg"},
        "hot": {"weight_temperature": 1e6}, "uniform": {"weighting": "uniform"},
    }  # fmt: skip
    first = Dskd(where, preset="simkd")
    with torch.no_grad():
        cast("Any", first.adapters[1])[-1].weight.mul_(50)  # the second layer is far off
    for name, option in options.items():
        method = Dskd(where, preset="simkd", **option)
        method.load_state_dict(first.state_dict())
        step = training(method, data)
        method(step)
        weights[name] = {key: float(value) for key, value in step.observed.items()}
    for group in ("class_weight", "feature_weight"):
        assert weights["default"][f"{group}.stage2"] > 0.5 > weights["default"][f"{group}.stage1"]
        assert weights["neg"][f"{group}.stage2"] < 0.5 < weights["neg"][f"{group}.stage1"]
        for name in ("hot", "uniform"):
            assert weights[name][f"{group}.stage1"] == pytest.approx(0.5, abs=1e-3)


def test_the_weights_of_an_epoch_are_logged() -> None:
    """Each group's weights stand beside the losses, and sum to one in every epoch."""
    method, data = Dskd(setting()), Repeated(batch(), 2)
    fit = loop.fit(method, data, data, settings=TrainSection(epochs=2, lr=0.01))
    for epoch in fit.epochs:
        assert set(epoch.observed) == {f"{group}_weight.stage{i}" for group in ("class", "feature") for i in (1, 2)}
        for group in ("class", "feature"):
            assert sum(v for k, v in epoch.observed.items() if k.startswith(group)) == pytest.approx(1)


def test_adapters_and_classifiers_are_trained_and_stay_behind() -> None:
    """They move with the student; teachers do not, and what is shipped holds none of them."""
    where = setting(wide(), coarse())
    names, teachers = list(where.student.state_dict()), copy.deepcopy(where.teachers)
    method = Dskd(where)
    before = {name: value.clone() for name, value in method.named_parameters() if not name.startswith(("student", "teachers"))}
    assert len(before) == 2 * 2 * (3 + 4 + 2)  # taps × teachers × (convolutions, batch-norms, linear)
    data = Repeated(batch(), 2)
    loop.fit(method, data, data, settings=TrainSection(epochs=1, lr=0.01))
    for name, value in before.items():
        assert not torch.equal(method.get_parameter(name), value), name
    for teacher, other in zip(where.teachers, teachers, strict=True):
        for name, value in teacher.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    assert method.deployable() is where.student
    assert list(where.student.state_dict()) == names
    assert not any(module._forward_hooks for module in where.student.modules())


def test_an_adapter_is_a_bottleneck_without_a_last_activation() -> None:
    """1×1, 3×3, 1×1 with batch-norm and ReLU between, twice the teacher's channels inside unless told otherwise."""
    for option, inside in ((None, 12), (3, 3)):
        adapter = cast("Any", Dskd(setting(), adapter_channels=option).adapters[0])
        kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d]
        assert [type(layer) for layer in adapter] == kinds
        shapes = [(layer.in_channels, layer.out_channels, layer.kernel_size[0]) for layer in adapter[::3]]
        assert shapes == [(2, inside, 1), (inside, inside, 3), (inside, 6, 1)]


def test_a_part_with_weight_zero_is_left_out() -> None:
    """Without class losses there are no classifiers; without feature losses no map of the teacher is asked for."""
    features = Dskd(setting(), alpha=0)
    assert set(features(training(features, batch()))) == {"ce", "kd", "mse.stage1", "mse.stage2"}
    assert len(features.classifiers) == 0
    predictions = Dskd(setting(), beta=0, kd_weight=0)
    step = training(predictions, batch())
    assert set(predictions(step)) == {"ce", "kd.stage1", "kd.stage2"}
    assert list(step.signals_read) == [Signal(0)]
    for method in (features, predictions):
        preflight.check_structure(method, batch())


def test_shallow_taps_can_be_named_the_last_included() -> None:
    """`taps` chooses among the student's taps; by default the last is left to the ordinary terms."""
    method = Dskd(setting(), taps=("stage1", "stage3"))
    terms = method(training(method, batch()))
    assert list(terms) == ["ce", "kd", "kd.stage1", "kd.stage3", "mse.stage1", "mse.stage3"]


def test_what_cannot_be_supervised_is_refused() -> None:
    """Taps that are not there, networks without a shallow layer or a map, and nothing to supervise with are errors."""
    with pytest.raises(CompressError, match=r"no tap 'stage9', 'x'; it has: stage1, stage2, stage3"):
        Dskd(setting(), taps=("stage1", "stage9", "x"))
    with pytest.raises(CompressError, match="stage1, stage1 names a tap twice"):
        Dskd(setting(), taps=("stage1", "stage1"))
    with pytest.raises(CompressError, match=r"no shallow layer is left \(the student's taps: stage1\)"):
        Dskd(setting(learner=network((3,), (2,))))
    with pytest.raises(CompressError, match="alpha and beta are 0"):
        Dskd(setting(), alpha=0, beta=0)
    with pytest.raises(CompressError, match="teacher 1 has no tap, and its last map is needed"):
        Dskd(setting(wide(), Network(Stages((2,), (1,)), taps=())))
    with pytest.raises(CompressError, match=r"teacher 0: the teacher's tap gives \[1, 4\]; tap a layer with maps"):
        Dskd(setting(Network(Stages((2,), (1,)), taps=("stage1", "classifier"))))
