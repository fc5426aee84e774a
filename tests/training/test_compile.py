"""What runs the network in training: compiled it trains like eager torch, is chosen by trial, and says why where it cannot."""

from __future__ import annotations

import io
import itertools
import math
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from compress.data import InMemory
from compress.errors import CompressError, Interrupted
from compress.events import Events
from compress.freezing import freeze_all_but
from compress.methods import Forward, Method, Setting
from compress.methods.supervised import Supervised
from compress.models import Network, Outputs, count_macs
from compress.models.resnet_cifar import resnet8
from compress.recipe import TrainSection
from compress.records import EngineTrials, read
from compress.teachers.signals import run_dry_step
from compress.training import loop
from compress.training.compile import compile_network
from compress.training.engines import TOLERANCE, StudentEngine, _Trial, choose_engine
from tests.tiny import CPU, PREPROCESS, Counted, data, fresh, held_out, split, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning"),  # torch's own use
]
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch's inductor needs a C++ compiler"
)


class Small(nn.Module):
    """Two convolutions, with all that makes training differ from evaluation."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.classifier = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.second(self.first(images)).mean((2, 3)))
        return logits


class Fickle(Small):
    """What it computes depends on the numbers, which no graph can hold."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * (2 if images.sum() > 0 else 1)


class Counting(Small):
    """It counts its passes: in a buffer that is a new tensor each time, in a plain tensor, or in a number."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "buffer":
            self.register_buffer("passes", torch.zeros(()))
        else:
            self.passes = torch.zeros(()) if kind == "tensor" else 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes = self.passes + 1
        return super().forward(images)


def network(module: nn.Module | None = None) -> Network:
    torch.manual_seed(3)
    return Network(module or Small(), taps=["first", "second"], classifier="classifier")


def supervised(module: nn.Module | None = None) -> Method:
    return Supervised(Setting(network(module), (), next(data().epoch(0)).images[:1], 4))


def deep() -> Method:
    torch.manual_seed(0)
    return Supervised(Setting(resnet8(4, 1), (), next(data().epoch(0)).images[:1], 4))


def chosen(
    method: Method, folder: Path, engine: str, *, steps: int = 10, autocast: torch.dtype | None = None, name: str = "e.json"
) -> StudentEngine:
    return choose_engine(
        method, next(data().epoch(0)), engine=engine, steps=steps, autocast=autocast, events=Events(),
        decision=folder / name, shared=folder / "shared",
    )  # fmt: skip


def passed(runs: Forward, images: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Return logits, maps and gradients of a pass."""
    torch.manual_seed(5)
    outputs = runs(images)
    gradients = torch.autograd.grad(outputs.logits.square().sum() + outputs.features[1].sum(), parameters)
    return [outputs.logits, outputs.features[1], *gradients]


# A compiled network is the network ------------------------------------------------------------------------------------------


@needs_compiler
def test_a_compiled_pass_is_an_eager_pass() -> None:
    """Logits, maps, gradients, statistics and the random numbers of dropout agree, in training and in evaluation mode."""
    ours, theirs = network(), network()
    runs = compile_network("compile", ours, [1], CPU)
    for training, batch in zip((True, True, False), data().epoch(0), strict=False):
        ours.train(training)
        theirs.train(training)
        found = passed(runs, batch.images, list(ours.parameters()))
        exact = passed(theirs.outputs, batch.images, list(theirs.parameters()))
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))
    assert not list(ours.module.first._forward_hooks)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@needs_compiler
@pytest.mark.parametrize("name", ["kd", "dskd", "feed", "atsc"])
def test_a_method_trains_compiled_as_it_trains_eager(tmp_path: Path, name: str) -> None:
    """Whatever a method reads of its student, and in however many phases, the weights after an epoch are the same."""
    trained = []
    for engine in ("eager", "compile"):
        method = fresh(name).stages()[-1]
        running = chosen(method, tmp_path / engine, engine)
        settings = TrainSection(epochs=1, batch_size=16)
        ran = Counted(running.forward or method.student.outputs)
        loop.fit(method, data(), held_out(), settings=settings, seed=7, forward=ran)
        assert (running.engine, running.forward is None) == (engine, engine == "eager")
        assert ran.steps >= len(data())  # a phase may do without the student
        trained.append(weights(method))
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-3, atol=1e-4)


@needs_compiler
def test_a_compiled_training_that_is_stopped_continues_to_the_same_bytes(tmp_path: Path) -> None:
    """What was chosen is kept beside the state, and what it computes does not depend on when it was compiled."""
    settings = TrainSection(epochs=2, batch_size=16, precision="bf16")
    method = supervised()
    whole = loop.fit(
        method, data(), held_out(), settings=settings, seed=7,
        forward=chosen(method, tmp_path / "whole", "compile", autocast=torch.bfloat16).forward,
    )  # fmt: skip
    counter, parts = itertools.count(1), []
    for stopped in (lambda: next(counter) == 5, lambda: False):
        torch.compiler.reset()
        part = supervised()
        running = chosen(part, tmp_path / "parts", "compile", autocast=torch.bfloat16)
        parts.append(part)
        try:
            loop.fit(
                part, data(), held_out(), settings=settings, seed=7, state=tmp_path / "state", stopped=stopped,
                forward=running.forward,
            )  # fmt: skip
        except Interrupted:
            continue
    assert whole.epochs
    assert all(torch.equal(value, weights(parts[1])[name]) for name, value in weights(method).items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_graphs_train_as_eager_torch_does(tmp_path: Path) -> None:
    """On a GPU the weights after an epoch are the same with CUDA graphs and without."""
    device = torch.device("cuda")
    trained = []
    for engine in ("eager", "cuda_graphs"):
        batches = InMemory(split(), PREPROCESS, batch_size=16, device=device, shuffle=True, seed=3, crop_padding=1, flip=True)
        method = deep().to(device)
        running = choose_engine(
            method, next(batches.epoch(0)), engine=engine, steps=10, autocast=None, events=Events(),
            decision=tmp_path / f"{engine}.json",
        )  # fmt: skip
        settings = TrainSection(epochs=1, batch_size=16)
        validation = InMemory(split(), PREPROCESS, batch_size=32, device=device)
        loop.fit(method, batches, validation, settings=settings, seed=7, forward=running.forward)
        trained.append(weights(method))
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-2, atol=1e-3)  # cuDNN may take other algorithms


@needs_compiler
def test_in_reduced_precision_an_engine_may_round_as_eager_torch_does(tmp_path: Path) -> None:
    """A deep network's gradients in bfloat16 are far from those of float32, whoever computes them."""
    method = deep()
    running = chosen(method, tmp_path, "compile", autocast=torch.bfloat16)
    assert running.trials[0].relative_difference > TOLERANCE
    exact = chosen(method, tmp_path / "exact", "compile")
    assert exact.trials[0].relative_difference < TOLERANCE


@needs_compiler
def test_only_maps_that_were_seen_to_be_read_are_there() -> None:
    """A map that nobody asked for is not computed apart; to read it all the same is an error and no empty map."""
    outputs = compile_network("compile", network(), [1], CPU)(next(data().epoch(0)).images)
    assert len(outputs.features) == 2
    assert outputs.features[-1].shape[1] == 8
    with pytest.raises(CompressError, match="tap 0 was not read"):
        outputs.features[0]


def test_what_a_method_reads_of_its_student_is_found() -> None:
    """Plain distillation reads no map; DSKD reads those of the layers that it teaches."""
    few = next(data().epoch(0))
    assert run_dry_step(fresh("kd"), few).student_taps == []
    dskd = fresh("dskd").stages()[-1]
    assert run_dry_step(dskd, few).student_taps == sorted({place.student_tap for place in dskd.places})  # type: ignore[union-attr]


@needs_compiler
def test_one_stage_after_the_other_may_compile(tmp_path: Path) -> None:
    """What torch compiled for one network leaves room for the next, however many there are."""
    with torch._dynamo.config.patch(recompile_limit=2):  # 8 by default
        for width in range(2, 6):
            method = supervised(Small(width))
            assert chosen(method, tmp_path / str(width), "compile").forward is not None


# What cannot be compiled ----------------------------------------------------------------------------------------------------


@needs_compiler
def test_a_network_that_cannot_be_compiled_is_named_in_one_line(tmp_path: Path) -> None:
    """An engine that the recipe names is refused; a trial leaves it out and says so."""
    with pytest.raises(CompressError, match="torch cannot compile the network") as refused:
        chosen(supervised(Fickle()), tmp_path, "compile")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@needs_compiler
@pytest.mark.parametrize("kind", ["buffer", "tensor", "number"])
def test_a_network_that_remembers_outside_its_tensors_is_refused(tmp_path: Path, kind: str) -> None:
    """What the copy learnt would be lost to the network that is validated and shipped."""
    with pytest.raises(CompressError, match="Counting gives its attribute 'passes' another value in a pass, and so runs eager"):
        chosen(supervised(Counting(kind)), tmp_path, "compile")


def test_a_network_that_cannot_be_copied_is_refused(tmp_path: Path) -> None:
    """One line says why."""
    method = supervised()
    method.student.module.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(CompressError, match=r"the network cannot be copied \(.*lock.*\), and runs eager alone"):
        chosen(method, tmp_path, "compile")


def test_without_a_compiler_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing falls back to eager torch without a word."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    method = supervised(Small(13))  # which no other test compiles
    refusal = pytest.raises(CompressError, match=r"train\.engine: torch cannot compile the network \(.*compiler")
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}), refusal:
        chosen(method, tmp_path, "compile")


def test_graphs_are_for_gpus(tmp_path: Path) -> None:
    """No other device is taken in their place."""
    with pytest.raises(CompressError, match="'cuda_graphs' runs on a CUDA device alone"):
        chosen(supervised(), tmp_path, "cuda_graphs")


def test_hooks_of_others_are_not_lost(tmp_path: Path) -> None:
    """A copy would run without them, or run theirs twice."""
    method = supervised()
    method.student.module.get_submodule("first").register_forward_hook(lambda _module, _inputs, output: output * 2)
    with pytest.raises(CompressError, match=r"has hooks at 'module\.first', and runs eager alone"):
        chosen(method, tmp_path, "compile")


# The trial ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that the compiled network takes so long, and that its gradients are so much larger."""

    def pretend(*, eager: float, compiled: float, scale: float = 1.0) -> None:
        class Pretended:
            def __init__(self, own: Network) -> None:
                self.own = own

            def __call__(self, images: Tensor) -> Outputs:
                logits, features = self.own.outputs(images)
                return Outputs(logits * scale, features)

        def milliseconds(_self: object, forward: Forward) -> float:
            return compiled if isinstance(forward, Pretended) else eager

        monkeypatch.setattr("compress.training.engines.compile_network", lambda _engine, own, _taps, _device: Pretended(own))
        monkeypatch.setattr(_Trial, "_time_pass_ms", milliseconds)
        monkeypatch.setattr("compress.training.engines.WORTH_A_TRIAL_MACS", {"cpu": 0})

    return pretend


@pytest.mark.parametrize(
    ("times", "scale", "expected"),
    [
        pytest.param((100.0, 50.0), 1.0, "compile", id="faster"),
        pytest.param((100.0, 96.0), 1.0, "eager", id="no faster than noise"),
        pytest.param((100.0, 50.0), 1.5, "eager", id="other gradients"),
        pytest.param((100.0, 50.0), float("nan"), "eager", id="not finite"),
    ],
)
def test_the_trial_takes_what_is_faster_and_right(
    tmp_path: Path, pretended: Callable[..., None], times: tuple[float, float], scale: float, expected: str
) -> None:
    """Faster by more than noise, with eager torch's gradients; both are in the report, the chosen one first."""
    pretended(eager=times[0], compiled=times[1], scale=scale)
    found = chosen(supervised(), tmp_path, "auto")
    assert found.engine == expected
    assert (found.forward is None) == (expected == "eager")
    rivals = {"eager", "compile"} - {expected} if math.isfinite(scale) else set()
    assert [trial.engine for trial in read(tmp_path / "e.json", EngineTrials).trials] == [expected, *rivals]
    assert len(found.trials) == (2 if rivals else 0)


@pytest.mark.parametrize("slowness", [0.001, 1e6], ids=["an idle machine", "a machine that seems to take days"])
def test_whether_engines_are_tried_does_not_depend_on_the_machine(
    slowness: float, tmp_path: Path, pretended: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work decides: below a fixed number of operations eager torch runs, from it on a trial is made, whatever a clock shows."""
    pretended(eager=100 * slowness, compiled=slowness)
    images = next(data().epoch(0)).images
    macs = count_macs(network(), images[:1]) * len(images) * 10
    monkeypatch.setattr("compress.training.engines.WORTH_A_TRIAL_MACS", {"cpu": macs + 1})
    assert chosen(supervised(), tmp_path, "auto", steps=10) == StudentEngine()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("compress.training.engines.WORTH_A_TRIAL_MACS", {"cpu": macs})
    assert chosen(supervised(), tmp_path, "auto", steps=10).engine == "compile"


def test_who_continues_does_not_choose_anew(tmp_path: Path, pretended: Callable[..., None]) -> None:
    """The trial's times may be others; the decision stays."""
    pretended(eager=100.0, compiled=50.0)
    assert chosen(supervised(), tmp_path, "auto").engine == "compile"
    pretended(eager=100.0, compiled=500.0)
    again = chosen(supervised(), tmp_path, "auto")
    assert (again.engine, again.trials) == ("compile", read(tmp_path / "e.json", EngineTrials).trials)


def test_what_a_trial_found_holds_for_later_stages_of_the_same_network(tmp_path: Path, pretended: Callable[..., None]) -> None:
    """A stage that is trained again under another load ends with the same bytes; another network has a trial of its own."""
    pretended(eager=100.0, compiled=50.0)
    first = chosen(supervised(), tmp_path, "auto", name="first.json")
    pretended(eager=100.0, compiled=500.0)
    again = chosen(supervised(), tmp_path, "auto", name="again.json")
    assert (again.engine, again.trials) == ("compile", first.trials)
    assert chosen(supervised(Small(5)), tmp_path, "auto", name="other.json").engine == "eager"


def test_a_damaged_decision_is_made_anew(tmp_path: Path, pretended: Callable[..., None]) -> None:
    """It is said, and the run goes on."""
    (tmp_path / "e.json").write_text("{", encoding="utf-8")
    pretended(eager=100.0, compiled=50.0)
    assert chosen(supervised(), tmp_path, "auto").engine == "compile"
    assert read(tmp_path / "e.json", EngineTrials).trials


def test_a_named_engine_with_other_gradients_is_refused(tmp_path: Path, pretended: Callable[..., None]) -> None:
    """Speed never changes results silently."""
    pretended(eager=100.0, compiled=50.0, scale=1.5)
    with pytest.raises(CompressError, match="the gradients of compile differ from those of eager float32 by"):
        chosen(supervised(), tmp_path, "compile")


def test_a_trial_leaves_the_stage_as_it_was(tmp_path: Path, pretended: Callable[..., None]) -> None:
    """Weights, statistics, modes and the generator: training begins as if nothing had been tried."""
    pretended(eager=100.0, compiled=50.0)
    method = supervised()
    freeze_all_but(method, ())
    before, modes, state = weights(method), [module.training for module in method.modules()], torch.get_rng_state()
    chosen(method, tmp_path, "auto")
    assert all(torch.equal(value, before[name]) for name, value in weights(method).items())
    assert modes == [module.training for module in method.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert not any(parameter.requires_grad for parameter in method.parameters())


def test_a_stage_that_trains_no_student_runs_eager(tmp_path: Path) -> None:
    """Heads and translators on teachers are small, and their teachers are frozen."""
    heads = fresh("dih").stages()[0]
    assert chosen(heads, tmp_path, "compile") == StudentEngine()


def test_an_engine_that_fails_in_the_trial_is_left_out_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on eager, and says why."""

    def refuse(*_: object) -> Forward:
        raise CompressError("train.engine: torch cannot compile the network (no luck); use eager")

    monkeypatch.setattr("compress.training.engines.compile_network", refuse)
    monkeypatch.setattr("compress.training.engines.WORTH_A_TRIAL_MACS", {"cpu": 0})
    text = io.StringIO()
    found = choose_engine(
        supervised(), next(data().epoch(0)), engine="auto", steps=10, autocast=None,
        events=Events(console=Console(file=text, width=1000)), decision=tmp_path / "e.json",
    )  # fmt: skip
    assert found == StudentEngine()
    assert "engine compile is left out: train.engine: torch cannot compile the network (no luck)\n" in text.getvalue()
