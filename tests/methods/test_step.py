"""A step: which outputs of teachers it lists, takes from targets, and computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from compress.errors import CompressError
from compress.methods import Signal, Step
from compress.models import Network
from tests.tiny import batch, tiny


def frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)


def teacher(width: int = 8) -> Network:
    network = tiny(width)
    frozen(network)
    return network


def head() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(8 * 64, 4))


@contextmanager
def quantify(*modules: nn.Module) -> Iterator[list[int]]:
    """Count how often each module runs."""
    calls = [0] * len(modules)

    def count(place: int) -> None:
        calls[place] += 1

    handles = [module.register_forward_hook(lambda *_, place=place: count(place)) for place, module in enumerate(modules)]
    yield calls
    for handle in handles:
        handle.remove()


def test_only_what_is_asked_is_listed_in_order_and_once() -> None:
    """A head's logits are listed and not the map under them; what is asked twice is listed once."""
    one, other, probe = teacher(), teacher(4), frozen(head())
    step = Step(batch(), tiny(2), [one, other], phase="student")
    step.apply_to_teacher(probe, 0, 0)
    step.teacher(1).logits  # noqa: B018  (asked for its effect)
    step.apply_to_teacher(probe, 0, 0)
    assert list(step.signals_read) == [Signal(0, 0, probe), Signal(1)]
    step.teacher(0).features[0]  # now somebody asks for the map itself
    assert list(step.signals_read) == [Signal(0, 0, probe), Signal(1), Signal(0, 0)]


def test_a_module_that_is_trained_gets_the_map_and_the_map_is_listed() -> None:
    """The output of a head that still moves is never kept; what it reads is."""
    probe = head()
    step = Step(batch(), tiny(2), [teacher()], phase="heads")
    output = step.apply_to_teacher(probe, 0, -2)
    assert list(step.signals_read) == [Signal(0, 0)]
    assert output.requires_grad


def test_all_outputs_come_from_one_pass_of_each_network() -> None:
    """Logits, maps and heads of one teacher cost one forward pass, and a teacher that is not asked none."""
    asked, silent, probe = teacher(), teacher(), frozen(head())
    step = Step(batch(), tiny(2), [asked, silent], phase="student")
    with quantify(asked, silent, probe) as calls:
        (
            step.teacher(0).logits,
            step.teacher(0).features[1],
            step.apply_to_teacher(probe, 0, 0),
            step.apply_to_teacher(probe, 0, 0),
        )
    assert calls == [1, 0, 1]


def test_the_teacher_does_not_run_when_its_outputs_are_known() -> None:
    """Given targets, neither the teacher nor its frozen head runs, and the step gives exactly the targets."""
    network, probe, data = teacher(), frozen(head()), batch()
    targets = {Signal(0): torch.randn(16, 4), Signal(0, 1): torch.randn(16, 16, 4, 4), Signal(0, 0, probe): torch.randn(16, 4)}
    step = Step(data, tiny(2), [network], phase="student", signals=targets)
    with quantify(network, probe) as calls:
        outputs = step.teacher().logits, step.teacher().features[-1], step.apply_to_teacher(probe, 0, -2)
    assert calls == [0, 0]
    assert all(torch.equal(output, target) for output, target in zip(outputs, targets.values(), strict=True))


def test_what_is_missing_from_the_targets_is_computed() -> None:
    """A head over a known map runs alone; an unknown map runs the teacher, and is the map that it gives."""
    network, probe, data = teacher(), frozen(head()), batch()
    known = torch.randn(16, 8, 8, 8)
    step = Step(data, tiny(2), [network], phase="student", signals={Signal(0, 0): known})
    with quantify(network) as calls, torch.no_grad():
        assert torch.equal(step.apply_to_teacher(probe, 0, 0), probe(known))
        assert calls == [0]
        assert torch.equal(step.teacher().features[1], network.outputs(data.images).features[1])


def test_a_moving_teacher_is_never_taken_from_targets_nor_listed() -> None:
    """Whoever trains the teacher sees the teacher of now, with gradient, whatever a store says."""
    network, probe, data = teacher(), frozen(head()), batch()
    network.classifier.requires_grad_(True)
    stale = {Signal(0): torch.zeros(16, 4), Signal(0, 0, probe): torch.zeros(16, 4), Signal(0, 1): torch.zeros(16, 16, 4, 4)}
    step = Step(data, tiny(2), [network], phase="student", signals=stale)
    with quantify(network) as calls:
        outputs = step.teacher()
        logits, deep, through = outputs.logits, outputs.features[1], step.apply_to_teacher(probe, 0, 0)
    assert calls == [1]
    fresh = network.outputs(data.images)
    assert torch.equal(logits, fresh.logits)
    assert logits.requires_grad
    assert torch.equal(deep, fresh.features[1])
    assert torch.equal(through, probe(fresh.features[0]))
    assert not step.signals_read


def test_a_module_over_a_moving_teacher_gives_gradient_to_the_teacher() -> None:
    """A pool without weights, or a frozen head, stands in no gradient's way."""
    network, probe = tiny(8), frozen(head())
    step = Step(batch(), tiny(2), [network], phase="projection")
    (step.apply_to_teacher(probe, 0, 0).sum() + step.apply_to_teacher(nn.AvgPool2d(2), 0, 1).sum()).backward()
    assert all(parameter.grad is not None for parameter in network.module.first.parameters())
    assert all(parameter.grad is None for parameter in probe.parameters())


def test_frozen_teachers_give_outputs_without_gradient() -> None:
    """No loss can reach a frozen teacher or a frozen head on it."""
    network, probe = teacher(), frozen(head())
    step = Step(batch(), tiny(2), [network], phase="student")
    assert not any(
        t.requires_grad for t in (step.teacher().logits, *step.teacher().features, step.apply_to_teacher(probe, 0, 0))
    )


def test_indices_count_from_either_end_and_mean_one_output() -> None:
    """`features[-1]`, the last tap and a slice are the same outputs, listed once; so are teachers from the end."""
    step = Step(batch(), tiny(2), [teacher(), teacher(4)], phase="student")
    features = step.teacher(-1).features
    assert len(features) == 2
    assert features[-1] is features[1]
    assert [tensor is features[place] for place, tensor in enumerate(features[:])] == [True, True]
    assert [tensor.shape[1] for tensor in features] == [4, 8]
    probe = frozen(nn.Flatten())
    assert step.apply_to_teacher(probe, -1, -1) is step.apply_to_teacher(probe, 1, 1)
    assert list(step.signals_read) == [Signal(1, 1), Signal(1, 0), Signal(1, 1, probe)]


@pytest.mark.parametrize("tap", [2, -3])
def test_a_tap_or_teacher_that_is_not_there_is_an_index_error(tap: int) -> None:
    """What does not exist is refused with how many there are, by every way of asking."""
    step = Step(batch(), tiny(2), [teacher()], phase="student")
    with pytest.raises(IndexError, match=f"tap {tap} of 2"):
        step.teacher().features[tap]
    with pytest.raises(IndexError, match=f"tap {tap} of 2"):
        step.apply_to_teacher(frozen(nn.Flatten()), 0, tap)
    with pytest.raises(IndexError, match=f"teacher {tap} of 1"):
        step.teacher(tap)
    with pytest.raises(IndexError, match=f"teacher {tap} of 1"):
        step.apply_to_teacher(frozen(nn.Flatten()), tap, 0)


def test_what_is_observed_carries_no_gradient() -> None:
    """A logged number holds on to no graph."""
    step = Step(batch(), tiny(2), [], phase="student")
    step.observe("weight", torch.ones((), requires_grad=True) * 2)
    assert not step.observed["weight"].requires_grad


def test_the_reduced_precision_of_the_step_holds_for_everything_in_it() -> None:
    """Student, teacher, frozen heads and trained modules all run in the step's precision."""
    probe, trained = frozen(head()), nn.Conv2d(8, 3, 1)
    step = Step(batch(), tiny(2), [teacher()], phase="student", autocast=torch.bfloat16)
    outputs = (
        step.student.logits, step.teacher().logits, step.apply_to_teacher(probe, 0, 0), step.apply_to_teacher(trained, 0, 0),
        step.apply(trained, torch.randn(2, 8, 4, 4)),
    )  # fmt: skip
    assert {output.dtype for output in outputs} == {torch.bfloat16}


class Spoiling(nn.Module):
    """Gives what it is given, twice as large, and leaves nothing of it."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        doubled = 2 * maps
        maps.zero_()
        return doubled


@pytest.mark.parametrize("who", ["student", "teacher 0", "Spoiling"])
def test_what_changes_its_input_in_place_is_named(who: str) -> None:
    """Images belong to all networks of a step, and maps to all modules that read them."""
    spoiling = Network(nn.Sequential(Spoiling(), tiny(2)), taps=())
    given = {"student": (spoiling, teacher()), "teacher 0": (tiny(2), frozen(spoiling)), "Spoiling": (tiny(2), teacher())}[who]
    step = Step(batch(), given[0], [given[1]], phase="student")  # type: ignore[list-item]
    with pytest.raises(CompressError, match=rf"^{who}: its forward pass changes its input \[16, .*\] in place"):
        step.apply(Spoiling(), step.teacher().features[0]) if who == "Spoiling" else (step.student, step.teacher().logits)


def test_a_network_that_copies_its_input_changes_nothing() -> None:
    """With `copies_input`, the others see the images as they were."""
    images = batch()
    before = images.images.clone()
    spoiling = Network(nn.Sequential(Spoiling(), tiny(2)), taps=(), copies_input=True)
    step = Step(images, spoiling, [teacher()], phase="student")
    assert step.student.logits.shape == step.teacher().logits.shape
    assert torch.equal(images.images, before)


def test_maps_that_torch_does_not_count_changes_of_are_taken() -> None:
    """Outputs from an engine in inference mode have no count of changes."""
    with torch.inference_mode():
        maps = torch.randn(2, 3)
    assert Step(batch(), tiny(2), [], phase="student").apply(frozen(nn.Linear(3, 2)), maps).shape == (2, 2)
