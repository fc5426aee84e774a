"""ATSC: its two updates, the drift of the teachers' copies, what is chosen and shipped, and what it says of adaptation."""

from __future__ import annotations

import copy
import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import compress
from compress import freezing, losses
from compress.data import Batch
from compress.errors import CompressError, Interrupted
from compress.methods._analyses.adaptation import Adaptation, describe_adaptations
from compress.methods.atsc import Atsc
from compress.methods.simkd import Simkd
from compress.models import Network, count_parameters
from compress.recipe import TrainSection
from compress.recipe.checks import find_drift_problem
from compress.records import Accuracy
from compress.training import checkpoint, evaluate, loop
from tests.methods.networks import between, small
from tests.methods.reference import doubles
from tests.tiny import Repeated, Tiny, batch, data, held_out, setting, tiny

PLAIN = TrainSection(epochs=1, lr=0.05, schedule="constant", weight_decay=0.0, select="last")


def fresh(teachers: int = 1, **options: Any) -> Atsc:
    torch.manual_seed(0)
    return Atsc(setting(teachers), **options)


def train(method: Atsc, steps: int, examples: Batch) -> None:
    loop.fit(method, Repeated(examples, steps), Repeated(examples, 1), settings=PLAIN)


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def after_phases(method: Atsc, *wanted: str) -> dict[str, set[str]]:
    """Return what some phases of one step change of student, projectors, copies and given teachers."""
    phases = method.phases()
    freezing.freeze_all_but(method, itertools.chain(*phases.values()))
    parts = {"student": method.student, "paths": method.adapted.shipped.branches, "copies": method.teachers}
    parts["given"] = method.originals
    before = {name: values(part) for name, part in parts.items()}
    examples = batch()
    for phase in wanted:
        optimizer = torch.optim.SGD(phases[phase], lr=0.1)
        with freezing.train_only(phases, phase):
            terms = method(method.step(examples, phase=phase))
            torch.stack(list(terms.values())).sum().backward()
            optimizer.step()
    return {name: changed(part, before[name]) for name, part in parts.items()}


def test_terms_are_those_of_a_second_implementation() -> None:
    """Difference and drift of two teachers are the weighted means of what NumPy float64 gives from maps and weights."""
    method = Atsc(between(small(3), small(6, 2), small(8)), beta=0.5, drift_weight=3.0)
    with torch.no_grad():
        for parameter in method.teachers.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    freezing.freeze_all_but(method, ())
    step = method.step(batch(5), phase="projection")
    terms = method(step)
    squares, drifts = [], []
    for index, (network, original) in enumerate(zip(method.teachers, method.originals, strict=True)):
        branch = method.adapted.shipped.branches[index]
        ours = doubles(branch.projector(branch.pool(step.student.features[-1])))
        squares.append(np.square(ours - doubles(step.teacher(index).features[-1])).mean())
        moved = doubles(network.module.conv.weight) - doubles(original.module.conv.weight)
        drifts.append(np.square(moved).sum())  # batch norm has vectors, and the classifier is free
    assert set(terms) == {"mse", "drift"}
    assert float(terms["mse"]) == pytest.approx(0.5 * np.mean(squares), rel=1e-5)
    assert float(terms["drift"]) == pytest.approx(3.0 * np.mean(drifts), rel=1e-5)
    wanted = [F.cross_entropy(network(step.batch.images), step.batch.labels) for network in method.teachers]
    second = method(method.step(step.batch, phase="classifier"))
    assert set(second) == {"ce"}
    torch.testing.assert_close(second["ce"], torch.stack(wanted).mean())


def test_the_classifiers_weight_is_penalised_only_where_the_labels_do_not_train_it() -> None:
    """With `bias` the weight of the classifier drifts like every other; with `full` its drift is free."""
    for update, free in (("full", True), ("bias", False)):
        method = fresh(classifier_update=update)
        with torch.no_grad():
            method.teachers[0].classifier.weight.add_(1.0)
            method.teachers[0].classifier.bias.add_(1.0)
        expected = 0.0 if free else float(method.teachers[0].classifier.weight.numel())
        assert float(method.adapting[0].compute_drift().detach()) == pytest.approx(expected, rel=1e-5)


def test_the_difference_pulls_the_teacher_too() -> None:
    """No gradient is stopped at the teacher's map: its first convolution feels the difference, as released."""
    method = fresh(drift_weight=0.0)
    freezing.freeze_all_but(method, itertools.chain(*method.phases().values()))
    terms = method(method.step(batch(), phase="projection"))
    assert set(terms) == {"mse"}
    terms["mse"].backward()
    assert float(method.teachers[0].module.first[0].weight.grad.abs().max()) > 0
    assert method.originals[0].module.first[0].weight.grad is None


def test_steps_are_those_of_two_plain_optimisers() -> None:
    """Three steps equal projection update, fresh forward pass, classifier update, written out by hand with torch alone."""
    method = fresh(beta=2.0, drift_weight=0.5)
    for network in (method.student, method.teachers[0]):
        network.module.dropout.p = 0.0
    student, teacher = copy.deepcopy(method.student).train(), copy.deepcopy(method.teachers[0]).train()
    projector, start = copy.deepcopy(method.adapted.shipped.branches[0].projector), copy.deepcopy(teacher)
    examples, head = batch(), list(teacher.classifier.parameters())
    train(method, 3, examples)

    moved = {name: weight for name, weight in teacher.named_parameters() if "linear" not in name}
    backbone = [weight for name, weight in student.named_parameters() if "linear" not in name]
    first = torch.optim.SGD([*backbone, *projector.parameters(), *moved.values()], lr=0.05, momentum=0.9)
    second = torch.optim.SGD(head, lr=0.05, momentum=0.9)
    for _ in range(3):
        ours, theirs = (network.outputs(examples.images).features[-1] for network in (student, teacher))
        pairs = [(weight, start.get_parameter(name)) for name, weight in moved.items() if weight.dim() > 1]
        drift = torch.stack([(here - there.detach()).square().sum() for here, there in pairs]).sum()
        first.zero_grad()
        (2.0 * (projector(ours) - theirs).square().mean() + 0.5 * drift).backward()
        first.step()
        second.zero_grad()
        F.cross_entropy(teacher(examples.images), examples.labels).backward()
        second.step()
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(method.teachers[0].state_dict()[name], value, msg=lambda said, name=name: f"{name}: {said}")
    for name, value in projector.state_dict().items():
        torch.testing.assert_close(method.adapted.shipped.branches[0].projector.state_dict()[name], value)


@pytest.mark.parametrize("update", ["full", "bias"])
def test_each_phase_changes_what_it_trains_and_nothing_else(update: str) -> None:
    """The first phase moves student, projector and copy; the second the classifier alone; the given teacher never moves."""
    linear = {"0.module.linear.weight", "0.module.linear.bias"}
    by_labels = linear if update == "full" else {"0.module.linear.bias"}
    weights = {name for name, _ in nn.ModuleList([tiny(8)]).named_parameters()}

    first = after_phases(fresh(classifier_update=update), "projection")
    trained = {name for name, _ in nn.ModuleList([tiny(8)]).named_parameters()} - linear
    assert first["copies"] & weights == trained  # at the start the drift, which alone holds the classifier, has no gradient
    assert not first["student"] & {"module.linear.weight", "module.linear.bias"}
    assert first["student"]
    assert {name.split(".")[1] for name in first["paths"]} == {"projector"}
    assert not first["given"]

    second = after_phases(fresh(classifier_update=update, teacher_bn="frozen"), "classifier")
    assert second["copies"] == by_labels
    assert second["paths"] == {name.replace("0.module.linear", "0.classifier") for name in by_labels}
    assert not second["student"] | second["given"]


def test_the_classifiers_weight_is_held_in_the_first_phase_where_the_labels_do_not_train_it() -> None:
    """With `bias` the drift pulls the classifier's weight back in the first phase; with `full` that phase leaves it alone."""
    for update, moves in (("bias", True), ("full", False)):
        method = fresh(classifier_update=update)
        with torch.no_grad():
            method.teachers[0].classifier.weight.add_(1.0)
        assert ("0.module.linear.weight" in after_phases(method, "projection")["copies"]) is moves


@pytest.mark.parametrize("mode", ["train", "frozen"])
def test_batch_norm_of_the_copy_adapts_or_stays_as_it_is(mode: str) -> None:
    """`train` moves statistics, scale and shift; `frozen` leaves all of batch norm bit-equal while other weights move."""
    method = fresh(teacher_bn=mode)
    before = values(method.teachers[0])
    train(method, 2, batch())
    norms = {name for name in before if ".1." in name}
    moved = changed(method.teachers[0], before)
    assert "module.first.0.weight" in moved
    assert moved & norms == (norms if mode == "train" else set())


def test_a_frozen_batch_norm_normalises_by_its_own_statistics_in_training() -> None:
    """With `frozen` the copy's map of a batch in training is that of evaluation; with `train` it is not."""
    for mode, same in (("frozen", True), ("train", False)):
        method = Atsc(between(small(3), small(6)), teacher_bn=mode)  # type: ignore[arg-type]
        examples = batch()
        evaluated = copy.deepcopy(method.teachers[0]).eval().outputs(examples.images).features[-1]
        freezing.freeze_all_but(method, itertools.chain(*method.phases().values()))
        found = method.step(examples, phase="projection").teacher().features[-1]
        assert torch.allclose(found, evaluated) is same


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({}, {}),
        ({"classifier_update": "bias", "teacher_bn": "frozen"}, {"optimizer": "adamw", "precision": "bf16"}),
        ({"keep": "best"}, {"ema_decay": 0.9}),
    ],
    ids=["code", "frozen-bf16", "best-ema"],
)
@pytest.mark.parametrize("stop_after", [3, 4])
def test_training_that_is_stopped_continues_to_the_same_bytes(
    tmp_path: Path, options: dict[str, Any], extra: dict[str, Any], stop_after: int
) -> None:
    """Stopped in the middle of an epoch or at its end, and continued by new objects: every tensor is bit-equal."""
    settings = TrainSection(epochs=2, batch_size=16, **extra)
    whole = fresh(2, **options)
    kept = loop.fit(whole, data(), held_out(), settings=settings, seed=7)
    counter = itertools.count(1)
    with pytest.raises(Interrupted):
        loop.fit(
            fresh(2, **options), data(), held_out(), settings=settings, seed=7, state=tmp_path / "s",
            stopped=lambda: next(counter) == stop_after,
        )  # fmt: skip
    torch.rand(3)  # whatever happened in between must not matter
    second = fresh(2, **options)
    with torch.no_grad():
        for parameter in itertools.chain(*second.phases().values()):
            parameter.zero_()
    continued = loop.fit(second, data(), held_out(), settings=settings, seed=99, state=tmp_path / "s")
    assert not changed(second, values(whole))
    assert [epoch.losses for epoch in kept.epochs] == [epoch.losses for epoch in continued.epochs]
    assert kept.validation == continued.validation


@pytest.mark.parametrize(
    ("momentum", "nesterov", "teachers"), [(0.0, False, 1), (0.9, False, 1), (0.9, False, 3), (0.9, True, 1), (0.5, True, 3)]
)
def test_the_bound_on_the_drift_is_where_gradient_descent_turns(momentum: float, nesterov: bool, teachers: int) -> None:
    """Just below the refused weight torch's SGD brings drifted weights home; just above it they fly away."""
    settings = TrainSection(lr=0.05, momentum=momentum, nesterov=nesterov)

    def is_refused(weight: float) -> bool:
        return find_drift_problem("method", weight, teachers=teachers, train=settings) is not None

    low, high = 0.0, 1e4
    for _ in range(60):
        low, high = ((low + high) / 2, high) if not is_refused((low + high) / 2) else (low, (low + high) / 2)
    for weight, homecoming in ((0.95 * low, True), (1.05 * high, False)):
        here, there = nn.Parameter(torch.ones(3, 2, dtype=torch.float64)), torch.zeros(3, 2, dtype=torch.float64)
        optimizer = torch.optim.SGD([here], lr=0.05, momentum=momentum, nesterov=nesterov)
        for _ in range(500):
            optimizer.zero_grad()
            (weight * losses.drift([here], [there]) / teachers).backward()
            optimizer.step()
            if float(here.detach().abs().max()) > 1e6:
                break
        assert (float(here.detach().abs().max()) < 1e-3) is homecoming


def test_a_rate_at_which_the_drift_diverges_is_refused_before_training() -> None:
    """The library refuses as the recipe does, with the numbers; several teachers share the weight, and AdamW has no bound."""
    settings = TrainSection(lr=0.05, momentum=0.9)
    assert fresh(drift_weight=37.9).schedule(settings) is settings
    with pytest.raises(
        CompressError, match=r"method.atsc.drift_weight: 38 .*= 3.8, and SGD with momentum 0.9 diverges from 3.8"
    ):
        fresh(drift_weight=38.0).schedule(settings)
    assert fresh(2, drift_weight=38.0).schedule(settings) is settings
    with pytest.raises(CompressError, match="Nesterov"):
        fresh(drift_weight=14.0).schedule(settings.model_copy(update={"nesterov": True}))
    assert fresh(drift_weight=1e3).schedule(TrainSection(optimizer="adamw"))


def accuracy(top1: float) -> Accuracy:
    return Accuracy.from_hits(round(top1), 100)


def test_the_best_path_is_chosen_by_validation_and_shipped_alone(tmp_path: Path) -> None:
    """`keep: best` ships one projector and classifier; the choice is validation's and comes back with the weights."""
    method = fresh(2, keep="best")
    assert method.choose({"path0": accuracy(40), "path1": accuracy(60)}) == {"student": accuracy(60)}
    images = torch.randn(4, 1, 8, 8)
    freezing.freeze_all_but(method, ())
    method.deployable().eval()
    wanted = method.adapted.shipped.each(images)[1]
    assert torch.equal(method.deployable()(images), wanted)
    branch = method.adapted.shipped.branches[1]
    backbone = count_parameters(method.adapted.shipped.backbone)
    assert count_parameters(method.deployable()) == backbone + count_parameters(branch)
    checkpoint.save_weights(tmp_path / "w.safetensors", method.product(), metadata={})
    again = fresh(2, keep="best")
    checkpoint.load_weights(again.product(), tmp_path / "w.safetensors")
    assert torch.equal(again.deployable().eval()(images), wanted)


def test_the_selected_epoch_keeps_its_own_choice() -> None:
    """After training, the chosen path is the one whose validation accuracy is reported for the selected epoch."""
    method = fresh(2, keep="best")
    fit = loop.fit(method, data(), held_out(), settings=TrainSection(epochs=3, batch_size=16, ema_decay=0.5))
    logits = evaluate.compute_logits(method.deployable(), held_out())
    assert set(fit.validation) == {"student"}
    assert evaluate.measure_accuracy(logits, evaluate.collect_labels(held_out())) == fit.validation["student"]
    assert fit.validation["student"].top1_percent == max(epoch.validation_percent or 0 for epoch in fit.epochs)


def test_all_paths_together_give_the_mean_of_their_logits() -> None:
    """`keep: all` validates and ships the mean over the teachers' classifiers."""
    method = fresh(2).eval()
    step = method.step(batch())
    each = torch.stack(method.adapted.shipped.each(step.batch.images))
    torch.testing.assert_close(method.predictions(step)["student"], each.mean(dim=0))
    torch.testing.assert_close(method.deployable()(step.batch.images), each.mean(dim=0))


def test_one_teacher_leaves_nothing_to_choose() -> None:
    """With a single teacher `best` and `all` are the same."""
    method = fresh(keep="best")
    assert set(method.predictions(method.step(batch()))) == {"student"}
    assert method.deployable() is method.adapted.shipped


def test_the_report_tells_what_adaptation_did() -> None:
    """Before, after and drift of every teacher, and the accuracy through every classifier, at the selected weights."""
    method = fresh(2)
    (table,) = method.analyse(data(), held_out())
    assert [row[4] for row in table.rows] == ["0", "0", ""]
    assert [row[3] for row in table.rows] == ["+0.00", "+0.00", ""]
    loop.fit(method, data(), held_out(), settings=TrainSection(epochs=2, batch_size=16))
    (table,) = method.analyse(data(), held_out())
    labels = evaluate.collect_labels(held_out())

    def top1(network: nn.Module) -> float:
        return evaluate.measure_accuracy(evaluate.compute_logits(network, held_out()), labels).top1_percent

    for index, row in enumerate(table.rows[:2]):
        before, after = top1(method.originals[index]), top1(method.teachers[index])
        assert row[:4] == (f"teacher{index}", f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}".replace("-", "−"))
        assert float(row[4]) > 0
    assert table.rows[2] == ("shipped (mean of all)", "", "", "", "", f"{top1(method.deployable()):.2f}")


def test_a_teacher_that_collapses_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """AdamW with a batch norm that nothing holds warns before training, a teacher that lost its knowledge after it."""
    caplog.set_level(logging.WARNING)
    fresh().schedule(TrainSection(optimizer="adamw"))
    assert "teacher_bn: frozen, or train.optimizer: sgd" in caplog.text
    caplog.clear()
    fresh(teacher_bn="frozen").schedule(TrainSection(optimizer="adamw"))
    fresh().schedule(TrainSection())
    method = fresh()
    method.analyse(data(), held_out())
    assert not caplog.text
    table = describe_adaptations([Adaptation("teacher", before=90.0, after=60.0, drift=0.0, student=50.0)])
    assert table.rows[0][3] == "−30.00"
    assert "teacher fell from 90.0 to 60.0 % while it adapted" in caplog.text


def test_the_adapted_teacher_is_that_of_the_selected_epoch() -> None:
    """Copy, classifier and student come from one epoch, so that the report's accuracies belong together."""

    class FirstIsBest(Atsc):
        validations = 0

        def choose(self, *_: object) -> dict[str, Accuracy]:
            self.validations += 1
            return {"student": accuracy(90 if self.validations == 1 else 10)}

    found = []
    for epochs in (1, 3):
        torch.manual_seed(0)
        method = FirstIsBest(setting())
        fit = loop.fit(method, data(), held_out(), settings=TrainSection(epochs=epochs, batch_size=16, schedule="constant"))
        assert fit.best_epoch == 1
        found.append(method)
    assert not changed(found[1].student.module.first, values(found[0].student.module.first))
    assert not changed(found[1].teachers, values(found[0].teachers))


def test_the_library_leaves_the_teacher_alone_and_returns_what_is_shipped() -> None:
    """`compress.distill` adapts a copy: the user's teacher keeps weights, modes and flags, and the path comes back."""
    teacher, student = tiny(8), tiny(2)
    settings = TrainSection(epochs=5)
    batches = [(each.images, each.labels) for each in data().epoch(0)]
    compress.distill([], teacher, train=batches, validation=batches, method="supervised", settings=settings)
    before, modes = values(teacher), [module.training for module in teacher.modules()]
    done = compress.distill(teacher, student, train=batches, validation=batches, method="atsc", settings=settings)
    assert not changed(teacher, before)
    assert [module.training for module in teacher.modules()] == modes
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert {name.partition(".")[0] for name, _ in done.network.named_parameters()} == {"backbone", "branches"}
    assert set(done.epochs[-1].losses) == {"projection.mse", "projection.drift", "classifier.ce", "total"}
    with pytest.raises(CompressError, match=r"method.atsc.drift_weight: 50 with train.lr 0.05"):
        compress.distill(teacher, student, train=batches, validation=batches, method={"atsc": {"drift_weight": 50.0}})


def test_what_cannot_be_updated_is_refused() -> None:
    """A classifier without bias, batch norm that cannot be frozen, and other classes are refused with what to do."""
    where = setting()
    bare = Tiny(8)
    bare.linear = nn.Linear(16, 4, bias=False)
    network = Network(bare, taps=("first", "second"), classifier="linear")
    with pytest.raises(CompressError, match="classifier_update: 'bias', and the classifier of teacher 0 has none; use 'full'"):
        Atsc(where._replace(teachers=(network,)), classifier_update="bias")
    assert [tuple(weight.shape) for weight in Atsc(where._replace(teachers=(network,))).phases()["classifier"]] == [(4, 16)]
    plain = Tiny(8)
    plain.first[1] = nn.BatchNorm2d(8, affine=False)
    network = Network(plain, taps=("first", "second"), classifier="linear")
    with pytest.raises(CompressError, match=r"teacher_bn: 'frozen', and 'module.first.1' of teacher 0 has no scale and shift"):
        Atsc(where._replace(teachers=(network,)), teacher_bn="frozen")
    with pytest.raises(CompressError, match=r"method.atsc: teacher 0 gives 4 classes and the data has 5"):
        Atsc(where._replace(classes=5))


def test_what_is_shipped_has_the_modules_of_simkd() -> None:
    """Adapted or not, what is shipped has the same modules: backbone, pool, projector, classifier (exported in test_simkd)."""
    where = setting()
    adapted, frozen = (
        [(name, type(module)) for name, module in method(where).deployable().named_modules()] for method in (Atsc, Simkd)
    )
    assert adapted == frozen
