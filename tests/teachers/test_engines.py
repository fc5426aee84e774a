"""Engines: each gives the outputs of eager float32, changes nothing, and the fastest that is close enough is chosen."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from compress.errors import CompressError
from compress.events import Events
from compress.methods import Signal
from compress.models import Network
from compress.records.training import NOT_FINITE
from compress.teachers import engines
from compress.teachers.engines import Engine, JointTeachers
from tests.tiny import tiny

IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TOLERANCES = {
    "eager": 0.0, "channels_last": 1e-5, "compile": 1e-5, "openvino": 1e-4, "bf16": 0.03, "openvino_bf16": 0.03,
    "openvino_int8": 0.15,
}  # fmt: skip
"""Float32 in another order of sums, a runtime's own fused kernels, eight bits of mantissa, and eight bits in all."""


def joint_teachers() -> JointTeachers:
    """Return two teachers with logits, a map, and a head; in training mode, so that whoever forgets the mode is found out."""
    teachers, head = [tiny(8), tiny(4)], nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(8 * 64, 4))
    signals = [Signal(0), Signal(1, 1), Signal(0, 0, head), Signal(1)]
    for teacher in teachers:  # statistics that are not those of any batch
        teacher.module.first[1].running_mean += 0.3
        teacher.module.second[1].running_var *= 2
    return JointTeachers(teachers, signals).train()


def exact(module: JointTeachers, images: Tensor) -> list[Tensor]:
    """Return the outputs one by one, without `JointTeachers`."""
    outputs = []
    module.eval()
    with torch.no_grad():
        for signal, part in zip(module.signals, module.modules_of, strict=True):
            given = network(module, module.places.index(signal.teacher)).outputs(images)
            outputs.append(part(given.logits if signal.tap is None else given.features[signal.tap]))
    module.train()
    return outputs


def network(module: JointTeachers, place: int) -> Network:
    found = module.teachers[place]
    assert isinstance(found, Network)
    return found


def here() -> list[str]:
    return list(engines.list_engines(joint_teachers(), IMAGES, None))


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).square().mean().sqrt() / theirs.double().square().mean().sqrt())


@pytest.mark.slow
@pytest.mark.parametrize("name", here())
def test_every_engine_of_this_machine_gives_the_outputs_of_eager_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, maps and heads of several teachers, for full and smaller batches; the teachers end as they were."""
    if name == "compile":  # traced as ever, but not translated to C++, which takes a minute
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    module = joint_teachers()
    before = {key: (value.clone(), value.stride()) for key, value in module.state_dict().items()}
    engine = engines.build_engine(name, module, IMAGES, None)
    for images in (IMAGES, IMAGES[:5], IMAGES[3:4], IMAGES.contiguous(memory_format=torch.channels_last)):
        for ours, theirs in zip(engine(images), exact(module, images), strict=True):
            assert ours.shape == theirs.shape
            assert not ours.requires_grad
            assert not ours.is_inference()  # a loss may keep it for its gradient
            assert distance(ours, theirs) <= TOLERANCES[name]
    first = engine(IMAGES)
    kept = [output.clone() for output in first]
    engine(-IMAGES)
    assert all(torch.equal(one, other) for one, other in zip(first, kept, strict=True))  # an output is the caller's own
    assert all(part.training for part in module.modules())
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key][0]), key
        assert value.stride() == before[key][1], key


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_eager_is_what_a_step_computes(autocast: torch.dtype | None) -> None:
    """Eager outputs are those of the training itself, to the last bit, in its own precision."""
    module = joint_teachers()
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        theirs = exact(module, IMAGES)
    ours = engines.build_eager(module, autocast)(IMAGES)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype == (autocast or torch.float32)
        assert torch.equal(one, other)


def test_an_engine_in_int8_rounds_and_is_never_tried_unasked() -> None:
    """Its outputs differ from those of float32 as eight bits do, and a trial, which it would prolong, leaves it out."""
    module = joint_teachers()
    engine = engines.build_engine("openvino_int8", module, IMAGES, None)
    assert all(distance(ours, theirs) > 1e-3 for ours, theirs in zip(engine(IMAGES), exact(module, IMAGES), strict=True))
    assert "openvino_int8" not in {trial.engine for trial in engines.try_engines(module, [IMAGES], None, tolerance=1.0)}


def test_only_teachers_that_are_asked_run_each_once() -> None:
    """One pass gives all signals of a teacher; a teacher of which nothing is needed is not run."""
    teachers, calls = [tiny(4), tiny(4), tiny(4)], [0, 0, 0]
    for place, teacher in enumerate(teachers):
        teacher.register_forward_hook(lambda *_, place=place: calls.__setitem__(place, calls[place] + 1))
    outputs = engines.build_eager(JointTeachers(teachers, [Signal(2), Signal(0), Signal(2, 0), Signal(2, 1)]))(IMAGES)
    assert calls == [1, 0, 1]
    assert [output.shape[1:] for output in outputs] == [(4,), (4,), (4, 8, 8), (8, 4, 4)]


def test_a_module_that_counts_as_empty_is_applied() -> None:
    """A module is applied for what it is, even one whose length is 0."""

    class Doubling(nn.Sequential):
        def forward(self, tensor: Tensor) -> Tensor:
            return 2 * tensor

    teacher = tiny(4)
    plain, doubled = engines.build_eager(JointTeachers([teacher], [Signal(0, 0), Signal(0, 0, Doubling())]))(IMAGES)
    assert torch.equal(doubled, 2 * plain)


def test_an_engine_that_is_not_here_is_refused_with_those_that_are() -> None:
    """The message names what this machine has."""
    with pytest.raises(
        CompressError, match=r"teacher_outputs.engine: 'fp16' does not run on this machine; it has: eager, channels_last"
    ):
        engines.build_engine("fp16", joint_teachers(), IMAGES, None)


Candidates = Mapping[str, Callable[[], Engine]]


@dataclass
class Clock:
    """What time it is; nothing takes any but what says so."""

    now: float = 0.0

    def taking(self, seconds: float, run: Engine) -> Engine:
        """Return an engine that takes so long."""

        def slow(images: Tensor) -> tuple[Tensor, ...]:
            self.now += seconds
            return run(images)

        return slow


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(engines.time, "perf_counter", lambda: found.now)
    return found


def offer(monkeypatch: pytest.MonkeyPatch, clock: Clock, module: JointTeachers, **engine: Engine) -> None:
    """Let this machine have eager, which takes 20 ms, and these engines."""
    slow = clock.taking(0.02, engines.build_eager(module))
    known: Candidates = {"eager": lambda: slow, **{name: lambda run=run: run for name, run in engine.items()}}  # type: ignore[misc]
    monkeypatch.setattr(engines, "list_engines", lambda *_: known)


def test_the_fastest_that_is_close_enough_comes_first_and_the_inexact_last(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """A very fast engine whose outputs are off is behind the slowest that is right, and the trial says by how much."""
    module = joint_teachers()
    eager = engines.build_eager(module)
    offer(
        monkeypatch,
        clock,
        module,
        wrong=lambda images: tuple(1.1 * output for output in eager(images)),
        right=lambda images: tuple(1.001 * output for output in eager(images)),
        slower=clock.taking(0.05, eager),
    )
    trials = engines.try_engines(module, [IMAGES, -IMAGES], None, tolerance=0.03)
    assert [trial.engine for trial in trials] == ["right", "eager", "slower", "wrong"]
    by_name = {trial.engine: trial for trial in trials}
    assert by_name["wrong"].relative_difference == pytest.approx(0.1, rel=1e-4)
    assert by_name["right"].relative_difference == pytest.approx(0.001, rel=1e-2)
    assert by_name["eager"].relative_difference == 0
    assert by_name["right"].agreement_percent == 100
    assert by_name["eager"].ms_per_batch == pytest.approx(20)


def test_one_wrong_signal_among_good_ones_is_enough(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Every signal must be close enough: a good logit does not excuse a bad map."""
    module = joint_teachers()
    eager = engines.build_eager(module)
    offer(monkeypatch, clock, module, wrong=lambda images: (*eager(images)[:-1], eager(images)[-1] * 1.2))
    assert [trial.engine for trial in engines.try_engines(module, [IMAGES], None, tolerance=0.03)] == ["eager", "wrong"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_engine_that_gives_no_numbers_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, value: float
) -> None:
    """NaN is no small difference: such an engine is never chosen, and people hear why."""
    module, said = joint_teachers(), io.StringIO()
    eager = engines.build_eager(module)

    def broken(images: Tensor) -> tuple[Tensor, ...]:
        outputs = eager(images)
        outputs[1][0, 0, 0, 0] = value
        return outputs

    offer(monkeypatch, clock, module, broken=broken)
    trials = engines.try_engines(module, [IMAGES], None, tolerance=0.03, events=Events(console=Console(file=said)))
    assert [trial.engine for trial in trials] == ["eager"]
    assert said.getvalue() == "teacher: engine broken gives numbers that are not finite and is left out\n"
    assert engines.compare_outputs(module, "broken", [broken(IMAGES)], [eager(IMAGES)], 1.0).relative_difference == NOT_FINITE


def test_a_teacher_that_gives_no_numbers_is_refused(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """If eager float32 itself is not finite there is nothing to compare with."""
    module = joint_teachers()
    network(module, 0).classifier.weight.data[0, 0] = math.nan
    offer(monkeypatch, clock, module)
    with pytest.raises(CompressError, match="not finite on the training images; check its weights"):
        engines.try_engines(module, [IMAGES], None, tolerance=0.03)


class Branching(nn.Module):
    """Decides by the values of the images, which no tracer can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1))
        return logits if images.mean() > 0 else -logits


def test_a_teacher_that_an_engine_cannot_take_is_run_by_the_others() -> None:
    """OpenVINO needs a traceable forward pass; without one it is left out of the choice, and refused where it is asked for."""
    module, said = JointTeachers([Network(Branching(), taps=())], [Signal(0)]), io.StringIO()
    events = Events(console=Console(file=said, width=500))
    trials = engines.try_engines(module, [IMAGES], None, tolerance=0.03, events=events)
    assert {trial.engine for trial in trials} >= {"eager", "channels_last"}
    assert "openvino" not in {trial.engine for trial in trials}
    assert "OpenVINO cannot take the teacher (" in said.getvalue()
    with pytest.raises(
        CompressError, match=r"teacher_outputs.engine: OpenVINO cannot take the teacher \(.*\); choose another engine"
    ):
        engines.build_engine("openvino", module, IMAGES, None)
