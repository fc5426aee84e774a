"""Quantization-aware distillation: it rescues what rounding ruins, with every method, and goes on after an interruption."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress import fingerprint, plugins, recipe
from compress.data import Batch, InMemory, hold_out
from compress.data.digits import Digits
from compress.errors import CompressError, Interrupted
from compress.events import Events
from compress.methods import Method, Setting
from compress.models import Network
from compress.preprocess import normalise
from compress.quantization import fake_quantize
from compress.quantization.fake_quantize import FakeQuantizer, apply_fake_quantization
from compress.recipe import TrainSection
from compress.records import Preprocess
from compress.records.training import WEIGHTS
from compress.run import cache, qad, stage
from compress.run.build import build_network
from compress.run.context import Run, Trained
from compress.run.data import prepare_data
from compress.run.students import train_student
from compress.training import evaluate, loop, preflight
from tests.tiny import Tiny, data, held_out, setting

RECIPE = """\
name: tiny
seed: 1
data: {source: digits, image_size: 8, validation_fraction: 0.06, train_images: 96}
teacher: {model: resnet_cifar.resnet8}
student: {model: resnet_cifar.resnet8}
method: kd
train: {epochs: 2, lr: 2e-2, batch_size: 32}
int8: {epochs: 2, lr: 5e-3}
"""

METHODS = {
    name: f"{{name: {name}{options}}}"
    for name, options in {
        **dict.fromkeys((name for name in plugins.list_names("methods") if name != "cwd"), ""),  # cwd: dense logits alone
        "atsc": ", drift_weight: 0.1",
        "dih": ", heads_epochs: 1",
        "feed": ", paraphrase: 0.5, paraphrasers_epochs: 1, analysis_epochs: 0",
        "feed_sequential": ", generations: 2",
    }.items()
}
METHODS["kd and dskd"] = "[kd, {name: dskd, ce_weight: 0, kd_weight: 0}]"

START_ANEW = {"dskd", "feed", "feed_sequential", "fitnet", "kd and dskd"}
"""Methods with modules that are trained and not shipped."""


def begin(runs: Path, *overrides: str, events: Events | None = None) -> tuple[Run, list[Trained]]:
    """Return the work of a run, and a teacher with random weights, for this is not about accuracy."""
    parsed = recipe.parse(RECIPE.encode(), "tiny.yaml", overrides)
    prepared = prepare_data(parsed.data, base=runs, seed=1)
    folder = runs / "tiny"
    cpu = torch.device("cpu")
    work = Run(parsed, runs, folder, cache.Cache(runs), events or Events(), cpu, prepared, 1, 1, folder)
    return work, [Trained("teacher", "given", build_network(work, parsed.teacher[0], "teacher").eval(), (), "t", None)]


def some(work: Run) -> NDArray[np.float32]:
    return normalise(work.data.train.images[:32], work.data.preprocess)


def top1(network: nn.Module, batches: InMemory) -> float:
    return evaluate.measure_accuracy(evaluate.compute_logits(network, batches), evaluate.collect_labels(batches)).top1_percent


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_go_on_and_ships_what_it_shipped(name: str, tmp_path: Path) -> None:
    """The result is a float network of the same names, judged by what its weights give as int8, and kept in the cache."""
    work, teachers = begin(tmp_path, f"method={METHODS[name]}")
    trained = train_student(work, "student", work.recipe.method, teachers)
    student, teacher = state(trained.network), state(teachers[0].network)
    adapted = qad.distil_quantized(work, trained, work.recipe.method, teachers, calibration=some(work))
    assert equal(state(trained.network), student)
    assert equal(state(teachers[0].network), teacher)
    assert list(adapted.network.state_dict()) == list(student)
    assert not equal(state(adapted.network), student)
    assert [type(module) for module in adapted.network.modules()] == [type(module) for module in trained.network.modules()]
    assert [result.stage for result in adapted.results] == [
        *(["student-int8-auxiliary"] if name in START_ANEW else []), "student-int8",
    ]  # fmt: skip
    assert adapted.key == adapted.results[-1].key != trained.key
    assert adapted.folder is not None
    validation = adapted.results[-1].validation
    assert validation is not None
    with apply_fake_quantization(adapted.network, some(work)):
        assert top1(adapted.network, work.batch_in_order(work.data.validation)) == validation.top1_percent
    weights = (adapted.folder / WEIGHTS).read_bytes()
    again = qad.distil_quantized(work, trained, work.recipe.method, teachers, calibration=some(work))
    assert again.key == adapted.key
    assert again.results == adapted.results
    assert equal(state(again.network), state(adapted.network))
    assert (adapted.folder / WEIGHTS).read_bytes() == weights
    assert (work.students / "student-int8" / WEIGHTS).read_bytes() == weights


class Small(Tiny):
    """For ten classes, without chance."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.linear, self.dropout = nn.Linear(2 * width, 10), nn.Identity()  # type: ignore[assignment]


def small(width: int) -> Network:
    return Network(Small(width), taps=("first", "second"), classifier="linear")


def kill_channels(network: Network) -> None:
    """Shift two channels of the first stage so far down that their ReLU never gives anything and nothing trains them."""
    norm = network.module.get_submodule("first.1")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight[:2], norm.bias[:2] = 0, -1


def test_what_rounding_ruins_is_rescued() -> None:
    """Huge weights on dead channels, which float32 never notices, take the codes of all others: two epochs win it back."""
    preprocess = Preprocess(height=8, width=8, channels="gray", mean=(0.3,), std=(0.37,))
    train, held = hold_out(Digits().load(preprocess).train, fraction=0.3, seed=0)
    cpu = torch.device("cpu")
    batches = InMemory(train, preprocess, batch_size=32, device=cpu, shuffle=True, seed=3)
    validation = InMemory(held, preprocess, batch_size=256, device=cpu)
    student, image = small(8), torch.zeros(1, 1, 8, 8)
    kill_channels(student)
    supervised: Method = plugins.load("methods", "supervised")(Setting(student, (), image, 10))
    loop.fit(supervised, batches, validation, settings=TrainSection(epochs=5, lr=0.1, batch_size=32))
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        weight = student.module.get_parameter("second.0.weight")
        weight[:, :2] = 100 * weight.abs().amax()
    calibration = torch.from_numpy(normalise(train.images[:64], preprocess))
    plain = top1(student, validation)
    assert plain == top1(teacher, validation) > 80
    with apply_fake_quantization(student, calibration):
        ruined = top1(student, validation)
    kd: Method = plugins.load("methods", "kd")(Setting(student, (teacher,), image, 10))
    method = continued(kd, calibration)
    with active(method):
        loop.fit(method, batches, validation, settings=TrainSection(epochs=2, lr=0.02, batch_size=32))
    with apply_fake_quantization(student, calibration):
        rescued = top1(student, validation)
    assert ruined < plain - 15
    assert rescued > ruined + 10
    assert rescued > plain - 8


def continued(method: Method, calibration: Tensor) -> qad._Continued:
    def compute_logits(images: Tensor) -> list[Tensor]:
        return list(method.predictions(method.step(Batch(images, torch.zeros(len(images), dtype=torch.int64)))).values())

    quantizer = FakeQuantizer(method, compute_logits, calibration)
    return qad._Continued(method, method.phases(), product=method.product(), settings={}, quantizer=quantizer)


def active(method: qad._Continued) -> AbstractContextManager[None]:
    assert method.quantizer is not None
    return method.quantizer.active()


def fresh(name: str) -> qad._Continued:
    torch.manual_seed(0)
    return continued(plugins.load("methods", name)(setting()), torch.randn(20, 1, 8, 8))


@pytest.mark.parametrize("name", ["kd", "simkd", "dskd"])
@pytest.mark.parametrize("stop_after", [2, 4, 5, 7])
def test_what_is_stopped_anywhere_continues_to_the_same_bytes(tmp_path: Path, name: str, stop_after: int) -> None:
    """In the middle of an epoch and at its end; ranges, also of what is frozen, are as they were."""
    settings = TrainSection(epochs=3, batch_size=16)
    whole = fresh(name)
    with active(whole):
        kept = loop.fit(whole, data(), held_out(), settings=settings, seed=7)
    first, counter = fresh(name), itertools.count(1)
    with active(first), pytest.raises(Interrupted):
        loop.fit(
            first, data(), held_out(), settings=settings, seed=7, state=tmp_path / "s",
            stopped=lambda: next(counter) == stop_after,
        )  # fmt: skip
    second = fresh(name)
    preflight.measure_gradient_shares(second, next(data().epoch(0)))  # what a stage does before it is trained
    with active(second):
        continued_fit = loop.fit(second, data(), held_out(), settings=settings, seed=99, state=tmp_path / "s")
    assert equal(state(second), state(whole))
    assert [epoch.losses for epoch in continued_fit.epochs] == [epoch.losses for epoch in kept.epochs]
    assert continued_fit.best_epoch == kept.best_epoch


class Interrupting(Events):
    """Wants to stop after the first epoch of a stage."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.stop = False

    def emit(self, event: str, **fields: object) -> None:
        super().emit(event, **fields)
        self.stop |= event == "epoch" and fields["stage"] == self.stage and fields["epoch"] == 1


@contextmanager
def on_request(events: Events) -> Iterator[Callable[[], bool]]:
    """Stand in for `catch_stop_request` without a signal: one sent to this process would reach whatever runs the tests."""
    yield lambda: isinstance(events, Interrupting) and events.stop


def test_an_interruption_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that is interrupted continues when it is asked for again, to the bytes of one that never was."""
    monkeypatch.setattr(stage, "catch_stop_request", on_request)
    found = []
    for where, events in ((tmp_path / "whole", Events()), (tmp_path / "stopped", Interrupting("student-int8"))):
        work, teachers = begin(where, events=events)
        trained = train_student(work, "student", work.recipe.method, teachers)
        if isinstance(events, Interrupting):
            with pytest.raises(Interrupted, match=r"student-int8: stopped .* repeat to continue"):
                qad.distil_quantized(work, trained, work.recipe.method, teachers, calibration=some(work))
            work = replace(work, events=Events())
        adapted = qad.distil_quantized(work, trained, work.recipe.method, teachers, calibration=some(work))
        assert len(adapted.results[-1].epochs) == 2
        found.append(state(adapted.network))
    assert equal(*found)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], tuple[Run, Trained, list[Trained]]]:
    """A student that was trained with its teacher's outputs kept."""
    work, teachers = begin(tmp_path_factory.mktemp("runs"), "teacher_outputs.store=on")
    trained = train_student(work, "student", work.recipe.method, teachers)
    return lambda: (work, trained, teachers)


Ready = Callable[[], tuple[Run, Trained, list[Trained]]]


def test_the_teachers_outputs_are_found_and_not_asked_for_again(ready: Ready) -> None:
    """The store that the student was trained with serves this stage too."""
    work, trained, teachers = ready()
    adapted = qad.distil_quantized(work, trained, work.recipe.method, teachers, calibration=some(work))
    (teaching,) = adapted.results[-1].teacher_outputs
    assert (teaching.store, teaching.views_computed) == ("kept", 0)
    assert teaching.signals == trained.results[-1].teacher_outputs[0].signals


def test_the_schedule_is_short_and_its_rate_that_of_the_recipe(ready: Ready) -> None:
    """Epochs and learning rate are those of section int8, which falls along a cosine from its first step; nothing compiles."""
    work, trained, teachers = ready()
    update = {"warmup_epochs": 1.0, "schedule": "constant", "ema_decay": 0.999, "engine": "compile"}
    hasty = work.recipe.train.model_copy(update=update)
    work = replace(work, recipe=work.recipe.model_copy(update={"train": hasty}))
    adapted = qad.distil_quantized(work, trained, work.recipe.method, teachers, calibration=some(work))
    first, last = adapted.results[-1].epochs
    assert first.lr < work.recipe.int8.lr
    assert last.lr < 0.2 * first.lr
    assert adapted.results[-1].engine == "eager"


def test_what_decides_the_result_decides_the_key(ready: Ready) -> None:
    """Other images, a spare bit or another rate make another stage; each has a name under which it is shown."""
    work, trained, teachers = ready()

    def key(work: Run, **options: object) -> str:
        given = {"calibration": some(work), **options}
        return qad.distil_quantized(work, trained, work.recipe.method, teachers, **given).key  # type: ignore[arg-type]

    slower = work.recipe.model_copy(update={"int8": work.recipe.int8.model_copy(update={"lr": 0.001})})
    keys = {
        key(work),
        key(work, calibration=some(work)[:16]),
        key(work, saturation_fix=True),
        key(replace(work, recipe=slower)),
    }
    assert len(keys) == 4
    assert (work.students / "student-int8-saturation" / WEIGHTS).is_file()


def test_ordinary_stages_do_not_depend_on_it() -> None:
    """A change of the rounding makes this stage anew, and no other."""
    root = Path(fingerprint.__file__).parents[1]
    matched = {path for pattern in fingerprint.TRAINING for path in root.glob(pattern)}
    assert matched.isdisjoint({Path(fake_quantize.__file__), Path(qad.__file__)})


def test_weights_that_were_given_are_refused(ready: Ready) -> None:
    """What was not trained here has no method to go on with, and the message says so."""
    work, trained, teachers = ready()
    for wrong in (trained._replace(folder=None), trained._replace(results=())):
        with pytest.raises(CompressError, match=r"int8.rung: distillation trains on what was trained here.*pin another rung"):
            qad.distil_quantized(work, wrong, work.recipe.method, teachers, calibration=some(work))


def test_empty_calibration_is_refused_and_leaves_nothing(ready: Ready) -> None:
    """No stage is begun, and the student is as it was."""
    work, trained, teachers = ready()
    before = state(trained.network)
    with pytest.raises(CompressError, match="calibration images are"):
        qad.distil_quantized(work, trained, work.recipe.method, teachers, calibration=some(work)[:0])
    assert equal(state(trained.network), before)
    assert not list(work.cache.folder.glob("*.partial"))
