"""The benchmark of training: who is timed how, on what, and what is said of it; on a pair of tiny networks."""

from __future__ import annotations

import functools
import itertools
import json
import mmap
import re
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.studies.training_speed import (
    peers,
    roofline,
    rounds,
)
from benchmarks.studies.training_speed.__main__ import PROFILED, SUBJECTS, _make_command, _summarise_speeds, main
from benchmarks.studies.training_speed.memory import Peak, _print_peak, count_mapped_bytes, measure_peak
from benchmarks.studies.training_speed.ours import KD, OURS, Ours, Workshop, prepare
from benchmarks.studies.training_speed.pairs import PAIRS, TORCHVISION, Pair, make_network, settle
from benchmarks.studies.training_speed.profile import OUTSIDE, profile_steps
from benchmarks.studies.training_speed.report import (
    WANTED,
    Roofline,
    Speed,
    TrainingSpeed,
    Wanted,
    compare,
    compute_roofline,
    judge_goal,
    summarise_memory,
    summarise_speed,
    summarise_store,
)
from benchmarks.studies.training_speed.roofline import Cost, _Traffic, count_cost, make_probes
from benchmarks.studies.training_speed.rounds import Steps, Subject, measure_rates
from compress.data import Split
from compress.errors import CompressError
from compress.events import Events
from compress.methods import Signal
from compress.models.resnet_cifar import resnet8
from compress.recipe import TeacherOutputsSection
from compress.records import read

CPU = torch.device("cpu")
TINY = Pair(
    name="resnet56-resnet20", teacher="resnet_cifar.resnet8", student="resnet_cifar.resnet8",
    size=8, classes=100, batch_size=8, padding=1, images=24,
)  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop with a tiny pair."""
    return prepare(tmp_path_factory.mktemp("workshop"), TINY, device=CPU)


# Timing


class Clock:
    """A clock that only steps move."""

    def __init__(self) -> None:
        self.now, self.turns = 0.0, list[str]()

    def subject(self, name: str, seconds: list[float], *, settle: int = 1) -> Subject:
        """Return a subject whose steps take so long, the last again and again."""

        def steps() -> Steps:
            self.turns.append(name)
            try:
                for duration in itertools.chain(seconds, itertools.repeat(seconds[-1])):
                    self.now += duration
                    yield
            finally:
                self.turns.append(f"{name} ends")

        return Subject(name, steps, work=10.0, settle=settle)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the rounds read."""
    clock = Clock()
    monkeypatch.setattr(rounds.time, "perf_counter", lambda: clock.now)
    return clock


def test_a_rate_is_work_per_second_of_settled_steps(clock: Clock) -> None:
    """Slow first steps of a turn do not count, and the last step counts whole."""
    found = measure_rates([clock.subject("a", [5.0, 3.0, 0.4], settle=2)], rounds=2, seconds=1.0)
    assert found["a"] == pytest.approx([3 * 10 / 1.2] * 2)


def test_every_round_has_one_turn_of_everybody(clock: Clock) -> None:
    """Turns do not overlap, their order differs between rounds, and the first round of all does not count."""
    subjects = [clock.subject(name, [1.0]) for name in "abc"]
    found = measure_rates(subjects, rounds=6, seconds=1.0)
    begun, ended = clock.turns[::2], clock.turns[1::2]
    assert ended == [f"{name} ends" for name in begun]
    rounds = [begun[place : place + 3] for place in range(0, len(begun), 3)]
    assert len(rounds) == 7
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert {name: len(values) for name, values in found.items()} == {"a": 6, "b": 6, "c": 6}


def test_a_step_longer_than_the_time_is_timed_once(clock: Clock) -> None:
    """However short the time, one step is measured."""
    assert measure_rates([clock.subject("a", [4.0])], rounds=1, seconds=0.0)["a"] == (2.5,)


# The roofline


def batch_of(size: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    return torch.rand(4, channels, size, size), torch.arange(4) % 3


def test_arithmetic_of_plain_networks_is_what_torch_counts() -> None:
    """Where torch's own counter is right, without groups, ours agrees: forward and backward of student, forward of teacher."""
    images, labels = batch_of(16)
    found = count_cost(resnet8(5, 3), resnet8(5, 3), images, labels)
    with FlopCounterMode(display=False) as forward:
        logits = resnet8(5, 3)(images)
    with FlopCounterMode(display=False) as backward:
        F.cross_entropy(logits, labels).backward()
    assert found.teacher_flop == forward.get_total_flops()
    assert found.step_flop == forward.get_total_flops() + backward.get_total_flops()


def test_arithmetic_of_grouped_convolutions() -> None:
    """Each gradient of a depthwise convolution takes as much arithmetic as its forward pass; the images need none."""
    stem, depthwise = nn.Conv2d(3, 6, 1, bias=False), nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
    student = nn.Sequential(stem, depthwise, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = count_cost(student, nn.Identity(), *batch_of(8))
    pixels = 4 * 8 * 8
    first, second = 2 * pixels * 6 * 3, 2 * pixels * 6 * 9
    assert found.step_flop == 2 * first + 3 * second  # stem: forward and its weights; depthwise: forward and both gradients


def test_traffic_is_operands_and_results() -> None:
    """An addition reads two tensors and writes one; a view moves nothing."""
    with _Traffic() as traffic:
        torch.ones(10).view(2, 5)
        made = traffic.bytes
        torch.ones(10) + torch.ones(10)
    assert made == 40
    assert traffic.bytes == made + 2 * 40 + 3 * 40


def test_probes_are_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's arithmetic and its memory are timed like any subject."""
    monkeypatch.setattr(roofline, "SIDE", 64)
    monkeypatch.setattr(roofline, "COPIED_BYTES", 1 << 16)
    found = measure_rates(make_probes(CPU), rounds=1, seconds=0.0, uncounted=0)
    assert found["sgemm"][0] > 1e6
    assert found["copy"][0] > 1e6


# Pairs and our steps


def test_settled_norms_have_the_statistics_of_the_images() -> None:
    """After settling, evaluation mode normalises like training mode, and momentum is as it was."""
    norm = nn.BatchNorm2d(3)
    images = 5 + 3 * torch.randn(64, 3, 4, 4)
    settle(norm, [images[:32], images[32:]])
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, images.mean(dim=(0, 2, 3)))
    assert norm.momentum == 0.1


@pytest.mark.parametrize("name", sorted({name for pair in PAIRS.values() for name in (pair.teacher, pair.student)}))
def test_networks_of_the_pairs_have_taps_and_classifier(name: str) -> None:
    """Every network of a pair can be built with other classes, the same for the same seed."""
    with torch.device("meta"):
        made = make_network(name, 7, seed=0)
    assert made.classifier.out_features == 7
    assert len(made.taps) == (len(TORCHVISION[name.partition(".")[2]][0]) if name.startswith("torchvision") else 3)


def test_everybody_trains_the_same_networks(workshop: Workshop) -> None:
    """Students start equal, whoever opens the folder has the same teacher, and no step changes it."""
    other = Workshop(workshop.folder, CPU)
    states = [shop.make_student().state_dict() for shop in (workshop, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    steps = other.make_subject("kd").steps()
    next(steps)
    for name, value in workshop.teacher.state_dict().items():
        assert torch.equal(value, other.teacher.state_dict()[name]), name


@pytest.mark.parametrize(("one", "two"), [("kd", "kd, cached"), ("dih", "dih, cached")])
def test_cached_steps_do_the_same_work(workshop: Workshop, one: str, two: str) -> None:
    """With the teacher's outputs from the store a student becomes what it becomes without, but for half precision."""
    students = []
    for name in (one, two):
        torch.manual_seed(0)  # of DIH's heads
        run, _ = workshop.prepare(OURS[name])
        with Events().task("", total=1) as task:
            for batch, targets in itertools.islice(run.batches(), 2):
                assert bool(targets) == OURS[name].cached
                run.advance(batch, targets, task)
        students.append(torch.cat([parameter.detach().flatten() for parameter in run.method.student.parameters()]))
    begun = torch.cat([parameter.detach().flatten() for parameter in workshop.make_student().parameters()])
    moved = (students[0] - begun).norm()
    assert moved > 0
    assert (students[0] - students[1]).norm() < 1e-2 * moved  # half precision keeps three digits


def test_steps_go_on_over_epochs(workshop: Workshop) -> None:
    """A subject has no last step, and a new turn continues where the last one ended."""
    run, _ = workshop.prepare(Ours("supervised"))
    assert len(run.train) == 3
    subject = workshop.make_subject("plain")
    for _ in range(2):
        turn = subject.steps()
        for _ in range(5):
            next(turn)
        turn.close()


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    """Data that does not fit a pair is named, with what would."""
    split = Split(np.zeros((30, 9, 9, 3), np.uint8), np.zeros(30, np.int64))
    with pytest.raises(CompressError, match=re.escape("[30, 9, 9, 3]; it needs [24, 8, 8, 3]")):
        prepare(tmp_path, TINY, device=CPU, split=split)


def test_fields_of_train_can_differ(workshop: Workshop) -> None:
    """A step with another setting of `train` is one line in the table."""
    assert workshop.make_settings(Ours("kd", train={"nesterov": True})).nesterov


# torchdistill


def test_torchdistill_does_the_same_work(workshop: Workshop) -> None:
    """One step of its box and one of ours, on the same batch, change the weights alike."""
    pytest.importorskip("torchdistill", reason="the extra peers is not installed")
    assert peers.compare_updates(workshop) < 1e-4


def test_other_work_is_refused(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another loss there would be nothing to compare."""
    pytest.importorskip("torchdistill", reason="the extra peers is not installed")
    monkeypatch.setattr(peers, "CE_WEIGHT", 0.8)
    with pytest.raises(CompressError, match="it does other work"):
        peers.compare_updates(workshop)


@pytest.mark.parametrize("make", [peers.Pictures, peers.Tensors])
def test_its_images_are_ours(workshop: Workshop, make: type[peers.Pictures | peers.Tensors]) -> None:
    """Its data sets give float images of the pair's size with the labels of the same rows, as often as an epoch asks."""
    made = make(workshop)
    for index in (3, 3 + TINY.images):
        image, label = made[index]
        assert (image.dtype, tuple(image.shape)) == (torch.float32, (3, 8, 8))
        assert label == workshop.split.labels[3]
    assert len(made) > 10 * TINY.images


def test_tensors_are_normalised(workshop: Workshop) -> None:
    """Without transforms its images have the values that ours have."""
    expected = (workshop.split.images[5].astype(np.float64) / 255 - 0.5) / 0.25
    image, _ = peers.Tensors(workshop)[5]
    np.testing.assert_allclose(image.numpy(), expected.transpose(2, 0, 1), atol=1e-6)  # float32


# What is said


def bounds(*gflop_per_s: float) -> Roofline:
    """Return a machine with such an sgemm in each round, a student of 1 and a teacher of 2 GFLOP for each image."""
    cost = Cost(step_flop=int(1e9), teacher_flop=int(2e9), step_bytes=1)
    rates = {"sgemm": tuple(1e9 * each for each in gflop_per_s), "copy": (1.0,) * len(gflop_per_s)}
    return compute_roofline(cost, rates, images=1)


def spoken(**rounds: list[float]) -> dict[str, Speed]:
    names = {"cached": "kd, cached", "kd": "kd", "plain": "plain", "peer": "torchdistill"}
    return {names[name]: summarise_speed(names[name], values, {}) for name, values in rounds.items()}


@pytest.mark.parametrize(
    ("goal", "interval", "expected"),
    [(2, (2, 3), "met"), (2, (1, 1.9), "missed"), (2, (1, 2), "undecided"), (None, (1, 2), "no goal")],
)
def test_a_goal_is_met_only_by_the_whole_interval(goal: float | None, interval: tuple[float, float], expected: str) -> None:
    """What an interval leaves open is called undecided."""
    assert judge_goal(goal, interval) == expected


def test_ratios_are_those_of_the_same_rounds() -> None:
    """A disturbance that halves everybody's rate in a round changes no ratio, and the limit depends on who runs the teacher."""
    speeds, machine = spoken(cached=[600, 300, 600], kd=[300, 150, 300], peer=[100, 50, 100]), bounds(1200, 600, 1200)
    found = compare(Wanted("kd, cached", "torchdistill", 5.0), speeds, TINY, machine)
    assert found.ratio is not None
    assert (found.ratio.speedup, found.ratio.ci95) == (pytest.approx(6), pytest.approx((6, 6)))
    assert (found.outcome, found.limit) == ("met", pytest.approx(12))
    assert compare(Wanted("kd", "torchdistill"), speeds, TINY, machine).limit == pytest.approx(4)


def test_goals_against_the_peer_are_for_one_pair() -> None:
    """Other pairs are compared with torchdistill too, without a goal; goals against plain training hold for all."""
    other, speeds = PAIRS["resnet32x4-resnet8x4"], spoken(cached=[600], plain=[600], peer=[100])
    judged = [
        compare(Wanted("kd, cached", against, 0.95), speeds, other, bounds(1)).outcome for against in ("torchdistill", "plain")
    ]
    assert judged == ["no goal", "met"]


def test_bounds_follow_from_cost_and_machine() -> None:
    """100 GFLOP/s and a step of 2 GFLOP for 10 images allow 500 images/s, and less with a teacher."""
    rounds = {"sgemm": (90e9, 100e9, 110e9), "copy": (2.0**30,) * 3}
    found = compute_roofline(Cost(step_flop=int(2e9), teacher_flop=int(3e9), step_bytes=2**20), rounds, images=10)
    assert found.step_bound_images_per_s == pytest.approx(500)
    assert found.uncached_bound_images_per_s == pytest.approx(200)
    assert found.step_traffic_images_per_s == pytest.approx(10 * 1024)


def test_pages_of_the_store_do_not_count_as_memory() -> None:
    """A cached run may need 1.1 times the memory of plain training, and the pages of the store beside."""
    plain = [Peak(1000, 0)] * 5
    assert summarise_memory("kd, cached", [Peak(1150, 60)] * 5, plain).outcome == "met"
    assert summarise_memory("kd, cached", [Peak(1150, 40)] * 5, plain).outcome == "missed"
    assert summarise_memory("kd", [Peak(3000, 0)] * 5, plain).outcome == "no goal"
    assert summarise_memory("kd, cached", [Peak(None, 0)] * 5, [Peak(None, 0)] * 5).outcome == "not measured"
    assert summarise_memory("kd, cached", [Peak(1000, 0)] * 5, []).outcome == "not measured"


def test_memory_that_scatters_around_the_goal_is_undecided() -> None:
    """One process in two above the goal says nothing; the median of all and their interval are in the report."""
    plain = [Peak(1000, 0)] * 5
    scattered = [Peak(bytes_, 0) for bytes_ in (1000, 1200, 1050, 1180, 1090)]
    found = summarise_memory("kd, cached", scattered, plain)
    assert (found.outcome, found.times_plain, found.ci95) == ("undecided", 1.09, (1.0, 1.2))
    assert (found.peak_bytes, found.peaks_bytes) == (1090, (1000, 1200, 1050, 1180, 1090))


@pytest.mark.parametrize(
    ("signals", "classes", "taken", "expected"),
    [(4, 100, 1024.0, "met"), (4, 100, 1025.0, "missed"), (5, 1000, 9999.0, "no goal")],
)
def test_the_store_has_a_goal_for_four_members(signals: int, classes: int, taken: float, expected: str) -> None:
    """1 KiB for each image and view holds the logits of four members of a cohort, 100 classes."""
    assert summarise_store(signals, classes, taken).outcome == expected


def test_what_is_compared_is_measured() -> None:
    """Every comparison names subjects that there are."""
    assert {name for wanted in WANTED for name in wanted[:2]} <= {*OURS, *peers.INPUTS}


def test_mapped_pages_are_counted(tmp_path: Path) -> None:
    """Pages of mapped files of one folder that were read are seen, others are not."""
    if not Path("/proc/self/smaps").exists():
        pytest.skip("the system does not tell")
    path = tmp_path / "store" / "file"
    path.parent.mkdir()
    path.write_bytes(b"x" * (64 * mmap.PAGESIZE))
    kept = np.memmap(path, mode="r")
    assert int(kept.sum()) == 64 * mmap.PAGESIZE * ord("x")
    assert count_mapped_bytes(tmp_path / "store") == 64 * mmap.PAGESIZE
    assert count_mapped_bytes(tmp_path / "sto") == 0


def test_memory_is_refused_where_the_store_is_empty(tmp_path: Path) -> None:
    """A process that would have to run the teacher first says so instead of giving its peak."""
    prepare(tmp_path, TINY, device=CPU)
    with pytest.raises(CompressError, match="the store lacked outputs"):
        _print_peak(tmp_path, "kd, cached", "cpu")


@pytest.mark.slow
def test_memory_tells_pages_of_the_store(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the store is complete, the peak and the store's share of the resident pages are printed for the caller."""
    workshop.make_subject("dih, cached")
    _print_peak(workshop.folder, "dih, cached", "cpu")
    told = json.loads(capsys.readouterr().out)
    assert told["peak_bytes"] is None or told["peak_bytes"] > told["mapped_bytes"] >= 4 * mmap.PAGESIZE


@pytest.mark.slow
def test_a_process_that_fails_has_no_memory(tmp_path: Path) -> None:
    """A crash is an error with its last line, and no small number."""
    with pytest.raises(CompressError, match=r"memory of plain: its process ended with status 1: .*pair\.json"):
        measure_peak(tmp_path, "plain", "cpu")


def test_the_fastest_engine_is_named(workshop: Workshop) -> None:
    """What the trial chose, and how far its outputs are from eager float32, stands beside the rate."""
    run, facts = workshop.prepare(OURS["kd, fastest engine"])
    batch, targets = next(run.batches())
    assert targets is not None
    assert float(facts["relative difference"]) <= TeacherOutputsSection().tolerance
    found = targets[Signal(0)]
    with torch.no_grad():
        exact = workshop.teacher(batch.images)
    assert (found - exact).norm() <= TeacherOutputsSection().tolerance * exact.norm()
    assert facts["engine"]


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The command on the tiny pair, without torchdistill."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PAIRS, TINY.name, TINY)
        patch.setattr(peers, "find_spec", lambda _: None)
        patch.setitem(OURS, "kd, fastest engine", Ours("kd", KD, engine="channels_last"))  # type: ignore[arg-type]
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # translating to C++ takes a minute
        patch.setattr(roofline, "SIDE", 64)
        patch.setattr(roofline, "COPIED_BYTES", 1 << 16)
        patch.setattr("benchmarks.studies.training_speed.__main__.WEIGHED", ("plain",))
        patch.setattr("benchmarks.studies.training_speed.__main__.PROCESSES", 1)
        patch.setattr("sys.argv", ["training_speed", "--pair", TINY.name, "--out", str(out)])
        arguments = ["--pair", TINY.name, "--rounds", "5", "--seconds", "0", "--out", str(out)]
        return CliRunner().invoke(main, arguments), out


@pytest.mark.slow
def test_a_missing_peer_is_visible(called: tuple[Result, Path]) -> None:
    """Without torchdistill its rows stand there, not measured, with what to install; and no comparison is invented."""
    result, out = called
    assert result.exit_code == 0, result.output
    found = read(out / "report.json", TrainingSpeed).pairs[0]
    rows = {speed.subject: speed for speed in found.speeds}
    for name in peers.INPUTS:
        assert rows[name].images_per_s is None
        assert "install the extra peers" in rows[name].reason
    outcomes = {each.outcome for each in found.compared if each.against in peers.INPUTS}
    assert outcomes == {"not measured"}
    text = (out / "report.md").read_text(encoding="utf-8")
    assert text.count("not measured | – | not installed; install the extra peers") == len(peers.INPUTS)


@pytest.mark.slow
def test_the_report_holds_every_subject_and_the_store(called: tuple[Result, Path]) -> None:
    """Every step of ours has its rounds, memory is that of a process, and four members take less than 1 KiB."""
    _, out = called
    found = read(out / "report.json", TrainingSpeed)
    (pair,) = found.pairs
    assert [speed.subject for speed in pair.speeds if speed.rounds] == list(OURS)
    assert all(len(speed.rounds) == 5 for speed in pair.speeds if speed.rounds)
    assert pair.store is not None
    assert pair.store.signals == 4
    assert pair.store.bytes_per_image_and_view >= 800  # 4 members, 100 classes, 2 bytes
    assert [memory.subject for memory in pair.memory] == ["plain"]
    assert pair.memory[0].peak_bytes is None or pair.memory[0].times_plain == 1


def test_only_what_is_asked_for_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--subject` leaves out all else: no row, no comparison, no profile, no memory and no store of what is not there."""
    monkeypatch.setitem(PAIRS, TINY.name, TINY)
    monkeypatch.setattr(roofline, "SIDE", 64)
    monkeypatch.setattr(roofline, "COPIED_BYTES", 1 << 16)
    monkeypatch.setattr("benchmarks.studies.training_speed.__main__.WEIGHED", ("plain",))
    arguments = ["--pair", TINY.name, "--rounds", "5", "--seconds", "0", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, [*arguments, "--subject", "dist", "--subject", "dist, cached"])
    assert result.exit_code == 0, result.output
    (pair,) = read(tmp_path / "report.json", TrainingSpeed).pairs
    assert [speed.subject for speed in pair.speeds] == ["dist", "dist, cached"]
    assert (pair.compared, pair.profiles, pair.memory, pair.store, pair.same_work) == ((), (), (), None, None)
    assert "torchdistill |" not in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_int8_teacher_tells_how_coarse_it_is(called: tuple[Result, Path]) -> None:
    """Beside its rate stands how far its outputs are from those of float32."""
    _, out = called
    (pair,) = read(out / "report.json", TrainingSpeed).pairs
    (facts,) = [speed.facts for speed in pair.speeds if speed.subject == "kd, int8 teacher"]
    assert facts["engine"] == "openvino_int8"
    assert 1e-4 < float(facts["relative difference"]) < 1


@pytest.mark.slow
def test_the_report_tells_where_the_time_goes(called: tuple[Result, Path]) -> None:
    """For each profiled subject the parts are all there is; convolutions and their gradients are among plain training's."""
    _, out = called
    (pair,) = read(out / "report.json", TrainingSpeed).pairs
    assert [each.subject for each in pair.profiles] == [name for name in PROFILED if name in OURS]
    for each in pair.profiles:
        assert sum(share.percent for share in each.shares) == pytest.approx(100, abs=0.1)
    plain = {share.operator for share in pair.profiles[0].shares}
    assert any("convolution_backward" in operator for operator in plain)
    assert "| plain, " in (out / "report.md").read_text(encoding="utf-8")


def test_a_compiled_step_does_the_same_work(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled student's weights after two steps are those of the plain one, and it was compiled."""
    used = []

    def backend(graph: torch.fx.GraphModule, _: object, **_options: object) -> Callable[..., object]:
        used.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    students = []
    for name in ("plain", "plain, compiled"):
        run, _ = workshop.prepare(OURS[name])
        assert (run.forward is None) == (name == "plain")
        with Events().task("", total=1) as task:
            for batch, targets in itertools.islice(run.batches(), 2):
                run.advance(batch, targets, task)
        students.append(torch.cat([parameter.detach().flatten() for parameter in run.method.student.parameters()]))
    assert used
    torch.testing.assert_close(students[0], students[1])


def test_what_a_machine_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler, or on a GPU, a step that cannot run has a reason in place of a rate."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert "needs a C++ compiler" in OURS["plain, compiled"].explain_absence(CPU)
    assert "on a CPU alone" in OURS["kd, int8 teacher"].explain_absence(torch.device("cuda"))
    assert not OURS["kd, cached"].explain_absence(CPU)
    speeds = _summarise_speeds([], {}, CPU, SUBJECTS)
    assert (speeds["plain, compiled"].images_per_s, speeds["plain, compiled"].rounds) == (None, ())
    absent = compare(Wanted("plain, compiled", "plain"), speeds, TINY, bounds(1))
    assert absent.outcome == "not measured"


def test_profiles_are_shares_of_a_step() -> None:
    """A step that does nothing but multiply matrices spends its time there; one that sleeps spends it outside torch."""
    left = torch.rand(256, 256)

    def multiply() -> Steps:
        while True:
            left @ left
            yield

    def sleep() -> Steps:
        while True:
            time.sleep(0.005)
            yield

    busy, idle = (profile_steps(Subject("x", steps, work=1.0)) for steps in (multiply, sleep))
    assert busy.shares[0].operator == "aten::mm"
    assert busy.shares[0].calls_per_step == 1
    assert idle.shares[-1].operator == OUTSIDE
    assert idle.shares[-1].percent > 80


@pytest.mark.slow
def test_the_report_names_no_place_of_this_machine(called: tuple[Result, Path]) -> None:
    """The command is given without where the report went."""
    _, out = called
    assert read(out / "report.json", TrainingSpeed).command == f"python -m benchmarks.studies.training_speed --pair {TINY.name}"
    for path in out.iterdir():
        assert str(out) not in path.read_text(encoding="utf-8")


def test_the_folder_of_the_data_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a data set the report keeps the name of its folder."""
    monkeypatch.setattr("sys.argv", ["x", "--data", "/home/somebody/cifar100", "--rounds", "9"])
    command = _make_command(Path("/home/somebody/cifar100"))
    assert command == "python -m benchmarks.studies.training_speed --data cifar100 --rounds 9"


def test_an_absent_gpu_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not there is refused in one line."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(main, ["--device", "cuda"])
    assert result.exit_code == CompressError("").exit_code
    assert "torch sees no CUDA device" in result.output


@given(st.lists(st.floats(1, 1e4), min_size=5, max_size=15), st.randoms(use_true_random=False))
def test_every_interval_holds_its_figure(rounds: list[float], random: Random) -> None:
    """Rate, ratio and memory come from the same estimator as the interval beside them."""
    other = random.sample(rounds, len(rounds))
    plain, cached = summarise_speed("plain", other, {}), summarise_speed("kd, cached", rounds, {})
    for found in (plain, cached):
        assert found.images_per_s is not None
        assert found.ci95 is not None
        assert found.ci95[0] <= found.images_per_s <= found.ci95[1]
    ratio = compare(
        Wanted("kd, cached", "plain"), {"plain": plain, "kd, cached": cached}, TINY, bounds(*[1e3] * len(rounds))
    ).ratio
    assert ratio is not None
    assert ratio.ci95[0] <= ratio.speedup <= ratio.ci95[1]
    peaks, plains = ([Peak(round(1e6 * each), 0) for each in values] for values in (rounds, other))
    memory = summarise_memory("kd, cached", peaks, plains)
    assert memory.ci95 is not None
    assert memory.times_plain is not None
    assert memory.ci95[0] <= memory.times_plain <= memory.ci95[1]
