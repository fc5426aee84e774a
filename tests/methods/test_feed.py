"""FEED: what it compares and weighs, what its stages train and leave alone, and the line of generations."""

from __future__ import annotations

import copy
import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from compress import freezing, plugins, recipe
from compress.errors import CompressError
from compress.events import Events
from compress.methods import Combined, Method, Setting, Signal
from compress.methods._maps.translators import build_translator
from compress.methods.feed import Feed
from compress.methods.feed_sequential import FeedSequential
from compress.models import Network
from compress.plan.method_stages import list_stages
from compress.recipe import TrainSection
from compress.records import StageResult, read
from compress.run import pipeline
from compress.run.context import open_run
from compress.run.students import train_student
from compress.run.teachers import obtain_teacher
from compress.training import loop, preflight
from tests.methods.laws import check_each_network_runs_once
from tests.tiny import Repeated, batch, setting

Array = NDArray[np.float64]
SHORT = TrainSection(epochs=1, batch_size=16)


# A second implementation, in NumPy float64, from the equations of METHODS.


def convolved(maps: Array, weight: Array, bias: Array) -> Array:
    """[B, c, h, w] by a 3 × 3 kernel [C, c, 3, 3] with a border of zeros."""
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # [B, c, h, w, 3, 3]
    return np.einsum("bchwij,ocij->bohw", windows, weight) + bias[None, :, None, None]


def translated(maps: Array, network: nn.Module) -> Array:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            maps = convolved(maps, array(layer.weight), array(layer.bias))
            maps = np.where(maps > 0, maps, 0.1 * maps)
    return maps


def halved(maps: Array, size: int) -> Array:
    side = maps.shape[2] // size
    return maps.reshape(*maps.shape[:2], size, side, size, side).mean(axis=(3, 5))


def distance(left: Array, right: Array) -> float:
    def unit(maps: Array) -> Array:
        flat = maps.reshape(len(maps), -1)
        return flat / np.sqrt((flat**2).sum(axis=1, keepdims=True))

    return float(np.abs(unit(left) - unit(right)).mean())


def array(tensor: Any) -> Array:
    return tensor.detach().double().numpy()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(
    ("student_taps", "teacher_taps", "side"),
    [
        (None, None, 4),
        (("second",), ("first",), 4),
        (("first",), ("second",), 4),
        (("first", "second"), ("first", "second"), 0),
    ],
    ids=["last", "teacher is larger", "student is larger", "two pairs"],
)
def test_the_loss_is_that_of_the_equations(
    reduction: str, scaled: bool, student_taps: Any, teacher_taps: Any, side: int
) -> None:
    """Every term is beta × share × √(c·h·w / 4096) × the L1 distance of unit vectors, whatever the teachers' widths."""
    options: dict[str, Any] = {"teacher_reduction": reduction, "student_taps": student_taps, "teacher_taps": teacher_taps}
    method = Feed(setting(teachers=2), beta=30.0, scale_beta=scaled, ce_weight=0.5, **options).eval()
    data = batch()
    step = method.step(data)
    terms = method(step)

    logits = array(step.student.logits)
    log_sums = np.log(np.exp(logits).sum(axis=1))
    expected = {"ce": 0.5 * (log_sums - logits[np.arange(16), data.labels.numpy()]).mean()}
    taps = [("first", "second").index(name) for name in student_taps or ("second",)]
    others = [("first", "second").index(name) for name in teacher_taps or ("second",)]
    networks = iter(method.translators)
    for teacher, (mine, theirs) in itertools.product(range(2), zip(taps, others, strict=True)):
        own, target = array(step.student.features[mine]), array(step.teacher(teacher).features[theirs])
        size = side or own.shape[2]
        target = halved(target, size)
        scale = math.sqrt(target[0].size / 4096) if scaled else 1.0
        share = 1 / len(taps) / (2 if reduction == "mean" else 1)
        name = f"l1.teacher{teacher}" + (f"_tap{mine}" if len(taps) > 1 else "")
        expected[name] = 30.0 * share * scale * distance(translated(halved(own, size), next(networks)), target)
    assert list(terms) == list(expected)
    for name, value in expected.items():
        assert float(terms[name].detach()) == pytest.approx(value, rel=2e-5), name  # float32 convolutions against float64


def test_a_translator_is_three_convolutions_with_bias_and_leaky_relu_each() -> None:
    """Factor Transfer's translator: c_s to c_s to c_t to c_t, no batch norm, the activation after the last one too."""
    layers = list(build_translator(3, 5))
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.LeakyReLU] * 3
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == [(3, 3), (3, 5), (5, 5)]
    assert all(layer.bias is not None and layer.kernel_size == (3, 3) and layer.padding == (1, 1) for layer in convolutions)
    assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.1}


def test_translators_are_trained_and_never_shipped() -> None:
    """The optimiser holds student and translators, one for each teacher; what is shipped is the student alone."""
    method = Feed(setting(teachers=2))
    assert len(method.translators) == 2
    trained = {id(parameter) for parameter in method.phases()["student"]}
    translators = {id(parameter) for parameter in method.translators.parameters()}
    assert trained == translators | {id(parameter) for parameter in method.student.parameters()}
    assert method.deployable() is method.student
    assert not translators & {id(parameter) for parameter in method.product().parameters()}
    before = copy.deepcopy(method.translators.state_dict())
    loop.fit(method, Repeated(batch(), 2), Repeated(batch(), 1), settings=SHORT)
    assert all(not torch.equal(value, before[name]) for name, value in method.translators.state_dict().items())


@pytest.mark.parametrize("dead", ["student", "teacher"])
def test_a_dead_map_gives_finite_gradients(dead: str) -> None:
    """A map that is zero everywhere, and a translation that is, stop nothing: loss and gradients are finite."""
    method = Feed(setting())
    with torch.no_grad():
        network = method.student if dead == "student" else method.teachers[0]
        network.module.second[1].weight.zero_()
        network.module.second[1].bias.fill_(-1.0)  # below zero, so that ReLU gives zero
        for name, parameter in method.translators.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    freezing.freeze_all_but(method, method.phases()["student"])
    step = method.step(batch())
    sum(method(step).values()).backward()
    features = step.student.features[-1] if dead == "student" else step.teacher().features[-1]
    assert not features.any()
    for parameter in method.phases()["student"]:
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "no such tap of the student": (
        {"student_taps": ("third",)},
        r"student_taps: the student has no tap \['third'\]; it has: fir",
    ),
    "no such tap of a teacher": ({"teacher_taps": ("third",)}, "teacher_taps: teacher 0 has no tap .*; it has: first, second"),
    "no tap at all": ({"student_taps": ()}, "student_taps: the student has no tap"),
    "taps that do not pair up": ({"student_taps": ("first", "second")}, "teacher_taps: there are 1 for 2 of student_taps"),
    "a tap twice": (
        {"student_taps": ("first", "first"), "teacher_taps": ("first", "second")},
        "student_taps: names a tap twice",
    ),
}


@pytest.mark.parametrize("method", ["feed", "feed_sequential"])
@pytest.mark.parametrize("case", MISFITS)
def test_taps_that_do_not_fit_are_refused_before_training(method: str, case: str) -> None:
    """The constructor says whose tap is wrong and what there is, in the words of the recipe."""
    options, said = MISFITS[case]
    with pytest.raises(CompressError, match=f"method.{method}.{said}"):
        plugins.load("methods", method)(setting(), **options)


def test_what_gives_no_map_or_leaves_no_factor_is_refused() -> None:
    """A tap of vectors, a network without taps, and a rate that leaves no channel are refused with the reason."""
    where = setting()
    vectors = Network(where.student.module, taps=("linear",))
    untapped = Network(where.student.module, taps=())
    with pytest.raises(CompressError, match=r"method.feed: the student's tap gives \[1, 4\]; tap a layer with maps"):
        Feed(where._replace(student=vectors))
    with pytest.raises(CompressError, match=r"method.feed.student_taps: the student has no taps; name the layers"):
        Feed(where._replace(student=untapped))
    with pytest.raises(CompressError, match=r"method.feed.paraphrase: 0.01 leaves nothing of 16 channels"):
        Feed(where, paraphrase=0.01)
    with pytest.raises(CompressError, match="generation1: this method trains fresh students"):
        FeedSequential(Setting(*where[:4]))


# Factor Transfer's variant: paraphrasers first.


def test_paraphrasers_learn_to_reconstruct_and_are_then_frozen() -> None:
    """With `paraphrase` a stage before trains an autoencoder of each teacher's map by L1; later it is left alone."""
    method = Feed(setting(teachers=2), paraphrase=0.5, paraphrasers_epochs=4, paraphrasers_lr=0.01)
    first, last = method.stages()
    assert (first.stage, last.stage, last) == ("paraphrasers", "student", method)
    data = Repeated(batch(), 8)
    step = first.step(data.batch)
    terms = first(step)
    for index in range(2):
        original = step.teacher(index).features[-1]
        difference = first.product()[f"teacher{index}_tap1"](original) - original
        torch.testing.assert_close(terms[f"l1.teacher{index}_tap1"], difference.abs().mean())
    fit = loop.fit(first, data, Repeated(data.batch, 1), settings=first.schedule(SHORT))
    assert fit.epochs[-1].losses["total"] < 0.95 * fit.epochs[0].losses["total"]
    assert (len(fit.epochs), fit.best_epoch) == (4, 4)
    before = {name: value.clone() for name, value in first.product().state_dict().items()}
    loop.fit(last, data, Repeated(data.batch, 1), settings=SHORT)
    for name, value in first.product().state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_student_is_translated_to_the_factors() -> None:
    """The translators' width is the rate times the teacher's; the target is the encoder's output, stored instead of the map."""
    method = Feed(setting(), paraphrase=0.5, beta=10.0).eval()
    freezing.freeze_all_but(method, ())
    step = method.step(batch())
    terms = method(step)
    (signal,) = step.signals_read
    assert signal == Signal(0, 1, method.paraphrasers_stage.encoder(method.pairs[0]))
    factors = step.compute(signal)
    assert factors.shape == (16, 8, 4, 4)
    own = translated(array(step.student.features[-1]), method.translators[0])
    assert float(terms["l1.teacher"].detach()) == pytest.approx(
        10 * math.sqrt(8 * 16 / 4096) * distance(own, array(factors)), rel=2e-5
    )  # as above


def test_a_paraphraser_is_judged_by_the_teacher_that_reads_its_reconstruction() -> None:
    """The epoch is selected by the teacher's logits for its reconstructed map; a perfect reconstruction changes none."""
    method = Feed(setting(), paraphrase=0.5).eval()
    stage = method.paraphrasers_stage
    step = stage.step(batch())
    assert not torch.allclose(stage.predictions(step)["teacher_tap1"], step.teacher().logits)
    stage.paraphrasers["teacher_tap1"] = nn.Identity()
    torch.testing.assert_close(stage.predictions(step)["teacher_tap1"], step.teacher().logits)
    torch.testing.assert_close(method.teachers[0](step.batch.images), step.teacher().logits)  # nothing stays on the teacher


# Together with other methods.


def test_a_cohort_and_correlations_add_to_it_and_each_network_runs_once() -> None:
    """FEED, a DIH cohort and DIST train one student: all preparatory stages first, one forward pass of each network."""
    where = setting(teachers=2)
    options: dict[str, dict[str, Any]] = {"feed": {"paraphrase": 0.5, "ce_weight": 0.0}, "dih": {}, "dist": {"ce_weight": 0.0}}
    whole = Combined(where, {name: plugins.load("methods", name)(where, **each) for name, each in options.items()})
    assert [stage.stage for stage in whole.stages()] == ["paraphrasers", "heads", "student"]
    preflight.check_structure(whole, batch())
    check_each_network_runs_once(whole)
    terms = whole(whole.step(batch()))
    assert [bool(terms[name] > 0) for name in ("feed.ce", "dih.ce", "dist.ce")] == [False, True, False]


def test_a_line_of_generations_runs_alone() -> None:
    """Sequential FEED trains several students, to which no other method could be added."""
    where = setting()
    parts = {name: plugins.load("methods", name)(where) for name in ("feed_sequential", "dist")}
    with pytest.raises(CompressError, match="'feed_sequential' trains several students one after the other; run it alone"):
        Combined(where, parts)


# Generations.


def test_each_generation_starts_afresh_and_learns_from_the_one_before() -> None:
    """Three students with weights of their own; each but the first has the one before, frozen, as its only teacher."""
    where = setting(teachers=2)
    method = FeedSequential(where, generations=3)
    stages = method.stages()
    assert [stage.stage for stage in stages] == ["generation1", "generation2", "student"]
    starts = [copy.deepcopy(stage.student.state_dict()) for stage in stages]
    for one, other in itertools.combinations(starts, 2):
        assert not torch.equal(one["module.linear.weight"], other["module.linear.weight"])
    assert tuple(stages[0].teachers) == where.teachers
    assert [list(stage.teachers) for stage in stages[1:]] == [[stages[0].student], [stages[1].student]]
    assert method.deployable() is stages[-1].student is where.student

    data = Repeated(batch(), 3)
    finished: list[dict[str, torch.Tensor]] = []
    for stage, start in zip(stages, starts, strict=True):
        assert all(torch.equal(value, start[name]) for name, value in stage.student.state_dict().items())
        loop.fit(stage, data, Repeated(data.batch, 1), settings=SHORT)
        finished.append(copy.deepcopy(stage.student.state_dict()))
    for stage, before in zip(stages, finished, strict=True):
        assert all(torch.equal(value, before[name]) for name, value in stage.student.state_dict().items())


def test_the_first_generation_is_parallel_feed_and_one_generation_is_nothing_else() -> None:
    """With one generation the loss is that of `feed`; `teacher_taps` speaks of the given teachers alone."""
    where, data = setting(), batch()
    options: dict[str, Any] = {"student_taps": ("second",), "teacher_taps": ("first",), "beta": 7.0}
    torch.manual_seed(1)
    alone = Feed(where, **options).eval()
    torch.manual_seed(1)
    (only,) = FeedSequential(where, generations=1, **options).stages()
    only.eval()
    expected, found = alone(alone.step(data)), only(only.step(data))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    _, second = FeedSequential(where, generations=2, **options).stages()
    assert isinstance(second, Feed)
    assert [(pair.student_tap, pair.teacher_tap) for pair in second.pairs] == [(1, 1)]


@pytest.mark.parametrize(
    ("name", "options"),
    [("feed", {}), ("feed", {"paraphrase": 0.5}), ("feed_sequential", {}), ("feed_sequential", {"generations": 5})],
)
def test_check_lists_the_very_stages_that_are_trained(name: str, options: dict[str, Any]) -> None:
    """What the docstring declares for these options is what the method really does."""
    defaults = {option: about.default for option, about in plugins.describe("methods", name).options.items()}
    method: Method = plugins.load("methods", name)(setting(), **options)
    assert [part.name for part in list_stages(name, defaults | options)] == [stage.stage for stage in method.stages()]


# The analysis of a finished student.


class Nothing(nn.Module):
    """A student whose map says nothing of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.linear = nn.Linear(16, 4)
        nn.init.zeros_(self.map.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.map(images).mean(dim=(2, 3)))
        return logits


def reconstructed(where: Setting) -> dict[str, float]:
    method = Feed(where, analysis_epochs=3)
    freezing.freeze_all_but(method, ())
    data = Repeated(batch(), 20)
    (table,) = method.analyse(data, Repeated(data.batch, 1))
    assert table.columns[0] == "teacher"
    return dict(zip(table.columns[1:], map(float, table.rows[0][1:]), strict=True))


def test_the_analysis_tells_a_student_that_has_the_map_from_one_that_has_not() -> None:
    """A copy of the teacher gives the teacher's map far better, by either distance, than a student that sees nothing."""
    where = setting()
    copied = reconstructed(where._replace(student=copy.deepcopy(where.teachers[0])))
    blind = reconstructed(where._replace(student=Network(Nothing(), taps=("map",), classifier="linear")))
    for split, distance in itertools.product(("training", "held out"), ("scaled L1", "squared")):
        assert copied[f"{distance}, {split}"] < 0.7 * blind[f"{distance}, {split}"]
    assert blind["squared, held out"] < blind["mean square of the map, held out"]


def test_the_analysis_is_repeatable_and_leaves_no_trace() -> None:
    """It gives the same numbers whatever the generator's state, and moves neither the networks nor the generator."""
    method = Feed(setting(teachers=2), analysis_epochs=1)
    freezing.freeze_all_but(method, ())
    data = Repeated(batch(), 3)
    before = copy.deepcopy(method.state_dict())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    (first,) = method.analyse(data, Repeated(data.batch, 1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    (second,) = method.analyse(data, Repeated(data.batch, 1))
    assert first == second
    assert [row[0] for row in first.rows] == ["teacher0", "teacher1"]
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert Feed(setting(), analysis_epochs=0).analyse(data, Repeated(data.batch, 1)) == ()


# The trained half of a run, on digits.


class Students(NamedTuple):
    results: tuple[StageResult, ...]
    found: dict[str, bool]
    """Whether each stage was found in the cache."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of runs for all, so that the teacher is trained once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def train(runs: Path, tiny_recipe: str, translate_once: None) -> Callable[..., Students]:
    """Check and train what a recipe says, as `compress run` does before it exports and measures."""

    def go(*overrides: str) -> Students:
        text = io.StringIO()
        parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", ("baselines=[]", *overrides))
        events = Events(console=Console(file=text, width=200))
        with open_run(parsed, base=runs, runs=runs, events=events) as work:
            pipeline._check_before_training(work)
            teacher = obtain_teacher(work, 0, parsed.teacher[0])
            student = train_student(work, "student", parsed.method, [teacher])
        lines = (line for line in text.getvalue().splitlines() if "on validation" in line)
        return Students(student.results, {line.split(":")[0]: "found in the cache" in line for line in lines})

    return go


@pytest.mark.slow
def test_a_run_keeps_every_generation_and_finds_it_again(train: Callable[..., Students], runs: Path) -> None:
    """Each generation is a stage with its folder, key and validation; one generation more re-uses all that came before."""
    first = train("method={name: feed_sequential, generations: 3}")
    names = ["generation1", "generation2", "student"]
    assert [result.stage for result in first.results] == names
    assert not any(first.found[name] for name in names)
    assert len({result.key for result in first.results}) == 3
    assert len({(runs / "tiny" / name / "weights.safetensors").read_bytes() for name in names}) == 3
    for result in first.results:
        assert read(runs / "tiny" / result.stage / "metrics.json", StageResult).key == result.key
    (table,) = first.results[-1].analyses
    accuracies = [result.validation.top1_percent for result in first.results if result.validation]
    assert [row[:2] for row in table.rows] == [(str(number), f"{top1:.2f}") for number, top1 in enumerate(accuracies, 1)]

    again = train("method={name: feed_sequential, generations: 3}")
    assert all(again.found.values())
    assert again.results == first.results
    longer = train("method={name: feed_sequential, generations: 4}")
    assert [stage for stage, found in longer.found.items() if not found] == ["generation3", "student"]
    other = train("method={name: feed_sequential, generations: 2, beta: 100}")
    assert [stage for stage, found in other.found.items() if not found] == ["generation1", "student"]


@pytest.mark.slow
def test_paraphrasers_are_shared_between_students(train: Callable[..., Students]) -> None:
    """The autoencoders belong to teacher and data: another beta finds them again, and the report judges them."""
    first = train("method={name: feed, paraphrase: 0.5, paraphrasers_epochs: 1, analysis_epochs: 1}")
    assert [result.stage for result in first.results] == ["paraphrasers", "student"]
    assert set(first.results[0].members) == {"teacher_tap2"}
    assert [table.title for table in first.results[1].analyses] == ["Reconstruction of the teachers' maps"]
    second = train("method={name: feed, paraphrase: 0.5, paraphrasers_epochs: 1, beta: 100, analysis_epochs: 0}")
    assert second.found == {"teacher": True, "paraphrasers": True, "student": False}
