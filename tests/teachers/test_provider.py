"""Outputs of frozen teachers during a stage: kept or computed, the student sees the same."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn

from compress import plugins, records
from compress.data import Batch, InMemory, Split
from compress.errors import CompressError, Interrupted, Unreachable
from compress.events import Events
from compress.freezing import freeze_all_but
from compress.methods import Combined, Method, Setting, Signal, Step
from compress.models import Network, count_macs
from compress.recipe import TeacherOutputsSection, TrainSection
from compress.records import EngineTrials
from compress.teachers import engines, plan
from compress.teachers.plan import OutputsRequest
from compress.teachers.provider import TeacherOutputs, provide_outputs
from compress.teachers.signals import find_required_signals, find_validation_signals
from compress.training import loop
from tests.teachers.example import EXACT, ROWS, SIZE, data, held_out, listening, split, teachers
from tests.teachers.one_view import slow_method
from tests.tiny import PREPROCESS, fresh, setting, tiny

SETTINGS = TrainSection(epochs=4, batch_size=SIZE)
LONG_SECONDS = 300
"""No process that does anything takes that long to import torch and run, whatever else runs."""
METHODS = [name for name in plugins.list_names("methods") if name not in {"supervised", "cwd"}]  # cwd: dense logits alone


def train_all(
    method: Method, ask: Callable[[Method], TeacherOutputs | None], settings: TrainSection = SETTINGS
) -> dict[str, Tensor]:
    """Train every stage, and return all weights."""
    for stage in method.stages():
        asks = bool(find_required_signals(stage, next(data().epoch(0))))
        loop.fit(stage, data(), held_out(), settings=settings, seed=7, teachers=ask(stage) if asks else None)
    return {name: value.clone() for name, value in method.state_dict().items()}


def nobody(_stage: Method) -> None:
    return None


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


# Kept or computed, the same training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_training_from_the_store_ends_with_the_same_bytes(name: str, tmp_path: Path) -> None:
    """Every method and each of its stages: outputs in fp32 from the store, computed by eager, or by the step: bit-equal."""
    asked = [stage for stage in fresh(name).stages() if find_required_signals(stage, next(data().epoch(0)))]
    if fresh(name).moves_teacher:
        assert not asked  # what moves is never kept
        return
    assert asked
    plain = train_all(fresh(name), nobody)
    assert equal(plain, train_all(fresh(name), lambda stage: teachers(stage, tmp_path, EXACT)))
    off = EXACT.model_copy(update={"store": "off"})
    assert equal(plain, train_all(fresh(name), lambda stage: teachers(stage, tmp_path, off)))


@pytest.mark.parametrize("extra", [{"precision": "bf16"}, {"ema_decay": 0.9}, {"optimizer": "adamw"}], ids=str)
def test_precision_average_and_optimizer_do_not_matter(extra: dict[str, Any], tmp_path: Path) -> None:
    """Mixed precision, averaged weights and another optimiser: stored and computed runs are bit-equal, heads included."""
    settings = SETTINGS.model_copy(update=extra)
    autocast = loop.DTYPES[settings.precision]
    plain = train_all(fresh("dih"), nobody, settings)
    stored = train_all(fresh("dih"), lambda stage: teachers(stage, tmp_path, autocast=autocast), settings)
    assert equal(plain, stored)


def test_several_teachers_and_several_methods_share_one_store(tmp_path: Path) -> None:
    """Two teachers, and a cohort combined with correlations: bit-equal, and each output is there once."""

    def combined() -> Method:
        torch.manual_seed(0)
        where = setting(teachers=2)
        return Combined(where, {name: plugins.load("methods", name)(where) for name in ("dih", "dist")})

    plain = train_all(combined(), nobody)
    assert equal(plain, train_all(combined(), lambda stage: teachers(stage, tmp_path)))
    signals = {"logits": 2, "maps": 4, "heads": 4}
    assert len(list((tmp_path / "targets").glob("*/view0000-float32.npy"))) == sum(signals.values())


@pytest.mark.parametrize("name", ["kd", "dist", "dih", "fitnet"])
def test_half_precision_changes_the_weights_little(name: str, tmp_path: Path) -> None:
    """Stored in fp16, the student's weights after four epochs are within 1 % of those without a store, and not the same."""
    half = EXACT.model_copy(update={"precision": "fp16"})
    plain = train_all(fresh(name), nobody)
    stored = train_all(fresh(name), lambda stage: teachers(stage, tmp_path, half))
    assert not equal(plain, stored)
    own = [key for key in plain if key.startswith("student.") and plain[key].is_floating_point()]
    ours, theirs = (torch.cat([weights[key].flatten() for key in own]) for weights in (stored, plain))
    assert float((ours - theirs).norm() / theirs.norm()) < 0.01


def test_every_row_of_every_batch_gets_its_own_output(tmp_path: Path) -> None:
    """In shuffled order, in both views and every epoch, an output is that of the very image that the student sees."""
    method, batches = fresh("dih"), data()
    kept = teachers(method, tmp_path, batches=batches)
    for epoch in range(4):
        kept.prepare_epoch(epoch)
        for batch in batches.epoch(epoch):
            step = method.step(batch)
            for signal, output in kept.get_signals(batch).items():
                torch.testing.assert_close(output, step.compute(signal), rtol=0, atol=0)


@pytest.mark.parametrize("rows", [49, 64, 65])
def test_the_last_batch_of_a_sweep_is_as_exact_as_the_others(rows: int, tmp_path: Path) -> None:
    """One image left over is computed with the last bits that it has in a whole batch."""
    whole = split()
    grown = Split(np.concatenate([whole.images, whole.images[::-1]])[:rows], np.concatenate([whole.labels] * 2)[:rows])
    method, batches = fresh("kd"), data(grown, crop_padding=0, flip=False)
    kept = teachers(method, tmp_path, batches=batches)
    kept.prepare_epoch(0)
    seen = set()
    for batch in itertools.chain(*(batches.epoch(epoch) for epoch in range(6))):
        assert batch.rows is not None
        seen |= set(batch.rows.tolist())
        assert torch.equal(kept.get_signals(batch)[Signal(0)], method.step(batch).teacher().logits)
    assert len(seen) == rows


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5, 8])
def test_a_run_that_is_stopped_continues_from_the_store_with_the_same_bytes(tmp_path: Path, stop_after: int) -> None:
    """Stopped in any epoch and continued by new objects: the weights of a run without a stop, and no view is made twice."""
    plain = train_all(fresh("kd"), nobody)
    counter, sweeps = itertools.count(1), []
    for attempt in range(2):
        method = fresh("kd")
        kept = teachers(method, tmp_path)
        options: dict[str, Any] = {"settings": SETTINGS, "seed": 7, "state": tmp_path / "state", "teachers": kept}
        if attempt == 0:
            with pytest.raises(Interrupted):
                loop.fit(method, data(), held_out(), stopped=lambda: next(counter) == stop_after, **options)
        else:
            loop.fit(method, data(), held_out(), **options)
            assert equal(plain, method.state_dict())
        sweeps.append(kept.summarize().views_computed)
    assert sweeps[1] == 2  # those before the stop are counted on
    assert sweeps[0] == (0 if stop_after == 1 else sweeps[0])  # the first batches that are counted are those of the sweep
    assert not list((tmp_path / "targets").rglob("*.partial"))


def test_validation_reads_what_the_teachers_said_of_the_held_out_images(tmp_path: Path) -> None:
    """A stage whose heads are validated runs the teacher over the held-out images once, and every score is as without."""
    plain = loop.fit(fresh("dih").stages()[0], data(), held_out(), settings=SETTINGS, seed=7)
    heads, images = fresh("dih").stages()[0], held_out()
    signals = find_validation_signals(heads, next(images.epoch(0)))
    assert signals == [Signal(0, 0), Signal(0, 1)]
    request = OutputsRequest(
        heads, signals, images, section=EXACT, folder=tmp_path / "targets", epochs=4, shared=False, autocast=None,
        events=Events(),
    )  # fmt: skip
    validating = provide_outputs(request)
    calls: list[int] = []
    heads.teachers[0].register_forward_hook(lambda *_: calls.append(1))
    kept = loop.fit(heads, data(), images, settings=SETTINGS, seed=7, teachers=teachers(heads, tmp_path), validating=validating)
    assert len(calls) <= 2 * 4 + 2 + 3  # two views and the held-out images, once each, and as many looks at what is read
    assert [epoch.validation_percent for epoch in kept.epochs] == [e.validation_percent for e in plain.epochs]
    assert kept.best_epoch == plain.best_epoch


def test_another_student_and_another_seed_find_the_outputs(tmp_path: Path) -> None:
    """The second student of the same teacher, in another order, computes nothing."""
    first, second = fresh("kd"), fresh("dist")
    one = teachers(first, tmp_path)
    loop.fit(first, data(), held_out(), settings=SETTINGS, teachers=one)
    with torch.no_grad():
        second.student.classifier.weight.zero_()
    calls: list[int] = []
    other = teachers(second, tmp_path, batches=data(seed=99))
    handle = second.teachers[0].register_forward_hook(lambda *_: calls.append(1))
    for epoch in range(4):
        other.prepare_epoch(epoch)
        for batch in data(seed=99).epoch(epoch):
            second(second.step(batch, signals=other.get_signals(batch)))
    handle.remove()
    assert calls == []
    assert (one.summarize().views_computed, other.summarize().views_computed) == (2, 0)


def test_the_time_of_outputs_is_part_of_the_epoch(tmp_path: Path) -> None:
    """What sweeping and reading cost is in `teacher_seconds`, which is part of `seconds`."""
    method = fresh("kd")
    fit = loop.fit(method, data(), held_out(), settings=SETTINGS, teachers=teachers(method, tmp_path))
    assert all(0 < epoch.teacher_seconds < epoch.seconds for epoch in fit.epochs)


# Which file is whose -------------------------------------------------------------------------------------------------------


def keys(method: Method, folder: Path, section: TeacherOutputsSection = EXACT, **options: Any) -> list[str]:
    return [output.key for output in teachers(method, folder, section, **options).plan.signals]


class Factor:
    """An option that is neither a number nor a module."""

    value = 1.0


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = Factor()

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.factor.value


def _one_weight(method: Method) -> None:
    values = method.teachers[0].module.first[0].weight.data.view(-1)
    values[3] = torch.nextafter(values[3], torch.tensor(9.0))


def _unseen_weight(method: Method) -> None:
    """So small that no probe can tell."""
    method.teachers[0].classifier.bias.data[0] = 1e-30


def _heads(method: Method) -> None:
    for head in method.heads_stage.heads.values():
        head[-1].bias.data[0] = 1e-30


def _factor(method: Method) -> None:
    """Nothing that a weight, an attribute or the source shows."""
    method.teachers[0].module.second[-1].factor.value = 1.5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_one_weight, {"teacher logits", "teacher head0 on first", "teacher head1 on second"}),
        (_unseen_weight, {"teacher logits", "teacher head0 on first", "teacher head1 on second"}),
        (_heads, {"teacher head0 on first", "teacher head1 on second"}),
        (_factor, {"teacher logits", "teacher head1 on second"}),
    ],
    ids=["one weight", "a weight that is not felt", "heads", "what only the outputs show"],
)
def test_another_teacher_or_head_has_other_files(change: Callable[[Method], None], expected: set[str], tmp_path: Path) -> None:
    """The last bit of one weight, a head, even an option that only shows in the outputs: old outputs are not found."""
    where = setting()
    where.teachers[0].module.second.append(Scaled())
    method = fresh("dih", where)
    with torch.no_grad():
        for bias in (where.teachers[0].classifier.bias, *(head[-1].bias for head in method.heads_stage.heads.values())):
            bias[0] = 0
    before, names = keys(method, tmp_path), [output.name for output in teachers(method, tmp_path).plan.signals]
    assert keys(method, tmp_path) == before
    change(method)
    after = keys(method, tmp_path)
    assert {name for name, one, other in zip(names, before, after, strict=True) if one != other} == expected


def _other_pixel() -> Split:
    images, labels = split()
    images = images.copy()
    images[-1, -1, -1, 0] ^= 1  # of an image that no probe sees
    return Split(images, labels)


@pytest.mark.parametrize(
    "changed",
    [
        {"of": _other_pixel()},
        {"preprocess": PREPROCESS.model_copy(update={"mean": (0.5000001,)})},
        {"crop_padding": 2},
        {"flip": False},
        {"augmentation_seed": 1},
        {"batch_size": 8},
        {"memory_format": torch.contiguous_format},
    ],
    ids=["pixel", "mean", "padding", "flip", "augmentation seed", "batch size", "memory format"],
)
def test_other_images_have_other_files(changed: dict[str, Any], tmp_path: Path) -> None:
    """Other pixels have other outputs; another batch size or layout gives the same ones with other last bits."""
    rgb = Split(split().images.repeat(3, axis=3), split().labels)  # one channel has but one layout
    options = {"of": rgb, "preprocess": PREPROCESS} if "memory_format" in changed else {}
    method = fresh("kd", _colour()) if options else fresh("kd")
    known = keys(method, tmp_path, batches=data(**options))
    assert set(known).isdisjoint(keys(method, tmp_path, batches=data(**{**options, **changed})))


def _colour() -> Setting:
    teacher, student = (plugins.load("models", "resnet_cifar.resnet8")(4, 3) for _ in range(2))
    return Setting(student, (teacher,), torch.zeros(1, 3, 8, 8), 4)


@pytest.mark.parametrize("other", [{"seed": 9}, {"views": 3}, {"views": None}], ids=str)
def test_other_orders_and_numbers_of_views_have_the_same_files(other: dict[str, Any], tmp_path: Path) -> None:
    """Runs that differ in what changes no output share them; labels are no part of an output."""
    method = fresh("kd")
    assert keys(method, tmp_path, batches=data(**other)) == keys(method, tmp_path)
    assert keys(method, tmp_path, batches=data(Split(split().images, split().labels[::-1].copy()))) == keys(method, tmp_path)


def test_other_taps_engines_and_precisions_of_training_have_other_files(tmp_path: Path) -> None:
    """The same network with other taps, another engine, or mixed precision: nothing is confused."""
    one, other = (
        Setting(tiny(2), (_tapped(*taps),), torch.zeros(1, 1, 8, 8), 4) for taps in (("first", "second"), ("second",))
    )
    assert keys(fresh("kd", one), tmp_path) != keys(fresh("kd", other), tmp_path)
    found = {
        tuple(keys(fresh("kd"), tmp_path, EXACT.model_copy(update={"engine": engine}), autocast=autocast))
        for engine in ("eager", "channels_last", "openvino")
        for autocast in (None, torch.bfloat16)
    }
    assert len(found) == 6


def _tapped(*taps: str) -> Network:
    torch.manual_seed(1)
    return Network(tiny(8).module, taps=taps, classifier="linear")


def test_two_teachers_that_are_equal_share_their_outputs(tmp_path: Path) -> None:
    """The same network twice is asked for one file, and both get it."""
    twin = tiny(8)
    method = fresh("kd", Setting(tiny(2), (twin, twin), torch.zeros(1, 1, 8, 8), 4))
    kept, batch = teachers(method, tmp_path), next(data().epoch(0))
    kept.prepare_epoch(0)
    outputs = kept.get_signals(batch)
    assert torch.equal(outputs[Signal(0)], outputs[Signal(1)])
    assert torch.equal(outputs[Signal(0)], method.step(batch).teacher().logits)


# What is damaged or gone ---------------------------------------------------------------------------------------------------


def _outputs(kept: TeacherOutputs, batches: InMemory) -> list[Tensor]:
    kept.prepare_epoch(0)
    return [output for batch in batches.epoch(0) for output in kept.get_signals(batch).values()]


@pytest.mark.parametrize("spoil", ["truncated", "flipped", "no record", "no outputs", "other record"])
def test_a_bad_store_is_made_anew_with_the_right_outputs(spoil: str, tmp_path: Path) -> None:
    """Whatever happened to one file, the next run has the right outputs, made them once, and says at most one line."""
    method, batches, said = fresh("dih"), data(), listening()
    truth = _outputs(teachers(method, tmp_path), batches)
    paths = sorted((tmp_path / "targets").glob("*/*.npy"))
    path = paths[0]
    data_ = bytearray(path.read_bytes())
    data_[-5] ^= 1
    record = json.loads(path.with_suffix(".json").read_text())
    {
        "truncated": lambda: path.write_bytes(path.read_bytes()[:-4]),
        "flipped": lambda: path.write_bytes(data_),
        "no record": lambda: path.with_suffix(".json").unlink(),
        "no outputs": path.unlink,
        "other record": lambda: path.with_suffix(".json").write_text(json.dumps({**record, "shape": [ROWS, 3]})),
    }[spoil]()
    before = {other: other.stat().st_mtime_ns for other in paths[1:]}
    again = teachers(method, tmp_path, events=said.events)
    assert all(torch.equal(one, other) for one, other in zip(truth, _outputs(again, batches), strict=True))
    assert again.summarize().views_computed == 1
    assert {other: other.stat().st_mtime_ns for other in paths[1:]} == before  # the others were good
    text = said.text.getvalue()
    assert text == ("" if spoil.startswith("no") else f"teacher_outputs: {path} is damaged; it is computed anew\n")


def test_outputs_that_vanish_during_an_epoch_are_no_wrong_outputs(tmp_path: Path) -> None:
    """A folder that is emptied under a run either still serves what it mapped, or the run stops and says what to do."""
    method, batches = fresh("kd"), data()
    kept = teachers(method, tmp_path)
    truth = _outputs(kept, batches)
    for path in (tmp_path / "targets").glob("*/view*"):
        path.unlink()
    assert all(
        torch.equal(one, other)
        for one, other in zip(truth, (a for b in batches.epoch(0) for a in kept.get_signals(b).values()), strict=True)
    )
    with pytest.raises(CompressError, match=r"the outputs for view 1 are gone from .*; repeat the command"):
        kept.get_signals(next(batches.epoch(1)))


def test_batches_that_do_not_say_their_rows_are_refused(tmp_path: Path) -> None:
    """Without rows there is no way to tell whose outputs are wanted; without a store there is no need."""
    kept = teachers(fresh("kd"), tmp_path)
    kept.prepare_epoch(0)
    unknown = Batch(torch.zeros(SIZE, 1, 8, 8), torch.zeros(SIZE, dtype=torch.int64))
    with pytest.raises(CompressError, match=r"do not say which images they hold; set teacher_outputs.store: off"):
        kept.get_signals(unknown)
    off = teachers(fresh("kd"), tmp_path, EXACT.model_copy(update={"store": "off"}))
    assert off.get_signals(unknown)[Signal(0)].shape == (SIZE, 4)


@pytest.mark.parametrize(
    ("factor", "message"), [(1e6, r"reaches \d.*teacher_outputs.precision: fp32"), (float("nan"), "not finite")]
)
def test_a_teacher_beyond_half_precision_is_refused(factor: float, message: str, tmp_path: Path) -> None:
    """Logits of a million in fp16, or no numbers at all: the run stops before it learns from them."""
    method = fresh("kd")
    method.teachers[0].classifier.weight.data *= factor
    half = EXACT.model_copy(update={"precision": "fp16"})
    with pytest.raises(CompressError, match=f"teacher_outputs: teacher logits .*{message}"):
        teachers(method, tmp_path, half).prepare_epoch(0)
    if factor == 1e6:
        teachers(method, tmp_path).prepare_epoch(0)


class Mount(NamedTuple):
    mountpoint: str
    fstype: str


@pytest.mark.parametrize("fstype", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused_or_not_used(fstype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`store: on` stops and says what to do; `auto` says why it keeps nothing, computes, and gives the same outputs."""
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [Mount("/", fstype)])
    method, said = fresh("kd"), listening()
    with pytest.raises(
        CompressError,
        match=rf"store: on, but .* is on {fstype}, .*put --runs on a local disk, or set teacher_outputs.store: auto",
    ):
        teachers(method, tmp_path)
    auto = teachers(method, tmp_path, EXACT.model_copy(update={"store": "auto"}), events=said.events)
    assert f"not kept: {tmp_path / 'targets'} is on {fstype}" in said.text.getvalue()
    assert f"is on {fstype}" in auto.summarize().store
    auto.prepare_epoch(0)
    batch = next(data().epoch(0))
    assert torch.equal(auto.get_signals(batch)[Signal(0)], method.step(batch).teacher().logits)
    assert not list(tmp_path.rglob("*.npy"))


def test_too_much_is_refused_or_not_kept(tmp_path: Path) -> None:
    """Above `max_gib` the store is not used, and `store: on` says how much it would take and what to raise."""
    method, small = fresh("dih"), EXACT.model_copy(update={"max_gib": 1e-6})
    heads = method.stages()[0]
    with pytest.raises(
        CompressError,
        match=r"store: on, but 2 views would take 0.00029 GiB, more than teacher_outputs.max_gib 1e-06; raise it, or",
    ):
        teachers(heads, tmp_path, small)
    auto = teachers(heads, tmp_path, small.model_copy(update={"store": "auto"}))
    assert auto.summarize().store.startswith("2 views would take 0.00029 GiB")


def test_a_disk_that_is_full_stops_the_run_with_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space: the run stops, nothing half-written stays, and repeating it with space ends with the same bytes."""
    from compress.teachers import store

    def full(_writer: store._Writer, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    method = fresh("kd")
    with monkeypatch.context() as patch:
        patch.setattr(store._Writer, "_put", full)
        with pytest.raises(Unreachable, match=r"cannot be written \(No space left on device\); free space or choose another"):
            loop.fit(method, data(), held_out(), settings=SETTINGS, seed=7, teachers=teachers(method, tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "locks"]
    assert equal(train_all(fresh("kd"), nobody), train_all(fresh("kd"), lambda stage: teachers(stage, tmp_path)))


@pytest.mark.slow
def test_two_processes_that_want_the_same_view_make_it_once(tmp_path: Path, root: Path) -> None:
    """Started at the same moment: one makes the view, the other waits and finds it, and both have the right outputs."""
    names = ["one", "other"]
    started = [
        subprocess.Popen([sys.executable, "-m", "tests.teachers.one_view", str(tmp_path), name], cwd=root) for name in names
    ]
    deadline = time.monotonic() + LONG_SECONDS
    while not all((tmp_path / f"{name}.ready").exists() for name in names) and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [process.wait(timeout=LONG_SECONDS) for process in started] == [0, 0]
    reports = [json.loads((tmp_path / f"{name}.json").read_text()) for name in names]
    assert sorted(report["made"] for report in reports) == [0, 1]
    assert reports[0]["outputs"] == reports[1]["outputs"]
    whole = next(data(batch_size=ROWS).read_view(0))
    method = slow_method()
    freeze_all_but(method, ())
    torch.testing.assert_close(torch.tensor(reports[0]["outputs"]), method.step(whole).teacher().logits)


# What is read --------------------------------------------------------------------------------------------------------------


def test_what_a_stage_reads_is_found_and_nothing_changes() -> None:
    """Weights, statistics, modes and random numbers are as before; heads in training read maps, frozen ones are read."""
    method, batch = fresh("dih"), next(data().epoch(0))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    random = torch.get_rng_state()
    heads, student = method.stages()
    assert find_required_signals(heads, batch) == [Signal(0, 0), Signal(0, 1)]
    first, second = method.heads_stage.heads.values()
    assert find_required_signals(student, batch) == [Signal(0), Signal(0, 0, first), Signal(0, 1, second)]
    assert equal(before, method.state_dict())
    assert torch.equal(random, torch.get_rng_state())
    assert not any(parameter.requires_grad for parameter in method.parameters())


def test_a_stage_without_frozen_teachers_reads_nothing() -> None:
    """Labels alone, and a method whose teacher moves, have nothing to keep."""
    batch = next(data().epoch(0))
    assert find_required_signals(fresh("supervised"), batch) == []

    class Alternating(Method):
        def phases(self) -> dict[str, list[nn.Parameter]]:
            return {"student": list(self.student.parameters()), "teacher": list(self.teachers.parameters())}

        def losses(self, step: Step) -> dict[str, Tensor]:
            return {"gap": (step.student.logits - step.teacher().logits).square().mean()}

    assert find_required_signals(Alternating(setting()), batch) == []


# Engines -------------------------------------------------------------------------------------------------------------------

AUTO = TeacherOutputsSection(store="off")


def _offered(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let this machine have eager and these engines."""
    known = engines.list_engines

    def some(joint: engines.JointTeachers, images: Tensor, autocast: torch.dtype | None) -> dict[str, Any]:
        here = {**known(joint, images, autocast), "bf16": lambda: engines.build_channels_last(joint, torch.bfloat16)}
        return {name: here[name] for name in ("eager", *names)}

    monkeypatch.setattr(engines, "list_engines", some)


@pytest.fixture
def always_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny teachers are worth a trial, too."""
    monkeypatch.setattr(plan, "WORTH_A_TRIAL_MACS", {"cpu": 0})


@pytest.mark.usefixtures("always_tried")
def test_a_trial_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that continues takes the engine of before without a trial; so does another stage with the same teachers."""
    _offered(monkeypatch, "channels_last")
    said = listening()
    first = teachers(fresh("kd"), tmp_path, AUTO, events=said.events).summarize()
    assert len(first.trials) == 2
    assert len(list((tmp_path / "targets" / "engines").glob("*.json"))) == 1
    assert "per batch" in said.text.getvalue()
    monkeypatch.setattr(engines, "try_engines", lambda *_, **__: pytest.fail("tried again"))
    for epochs in (4, 400):
        again = teachers(fresh("kd"), tmp_path, AUTO, epochs=epochs).summarize()
        assert (again.engine, again.trials) == (first.engine, first.trials)


@pytest.mark.usefixtures("always_tried")
def test_a_later_trial_does_not_change_what_a_stage_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage keeps the engine of its own trial, although the trial that all share was made anew and ended otherwise."""
    _offered(monkeypatch, "channels_last")
    own = tmp_path / "own.json"
    first = teachers(fresh("kd"), tmp_path, AUTO, decision=own).summarize()
    (shared,) = (tmp_path / "targets" / "engines").glob("*.json")
    records.save(shared, EngineTrials(trials=first.trials[::-1]))
    assert teachers(fresh("kd"), tmp_path, AUTO).summarize().engine != first.engine
    assert teachers(fresh("kd"), tmp_path, AUTO, decision=own).summarize().engine == first.engine


@pytest.mark.parametrize("slowness", [0.0, 1e6], ids=["an idle machine", "a machine that seems to take days"])
def test_whether_engines_are_tried_does_not_depend_on_the_machine(
    slowness: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work decides: below a fixed number of operations eager runs, from it on a trial is made, whatever a clock shows."""
    _offered(monkeypatch, "channels_last")
    monkeypatch.setattr(engines, "time_batch_seconds", lambda *_: slowness)
    method = fresh("kd")
    macs = count_macs(method.teachers[0], next(data().epoch(0)).images[:1]) * SIZE * len(data()) * 4
    monkeypatch.setattr(plan, "WORTH_A_TRIAL_MACS", {"cpu": macs + 1})
    few = teachers(method, tmp_path, AUTO).summarize()
    assert (few.engine, few.trials) == ("eager", ())
    assert not (tmp_path / "targets" / "engines").exists()
    monkeypatch.setattr(plan, "WORTH_A_TRIAL_MACS", {"cpu": macs})
    assert len(teachers(method, tmp_path, AUTO).summarize().trials) == 2


@pytest.mark.usefixtures("always_tried")
def test_a_damaged_memory_of_engines_is_said_and_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spoilt file costs a trial and a line, not the run."""
    _offered(monkeypatch, "channels_last")
    teachers(fresh("kd"), tmp_path, AUTO)
    (path,) = (tmp_path / "targets" / "engines").glob("*.json")
    path.write_text("{")
    said = listening()
    assert len(teachers(fresh("kd"), tmp_path, AUTO, events=said.events).summarize().trials) == 2
    assert str(path) in said.text.getvalue()
    assert "the engines are tried anew" in said.text.getvalue()


def test_an_engine_that_is_too_inexact_for_these_outputs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for by name is held to the same tolerance, and the message says by how much it fails."""
    _offered(monkeypatch, "bf16")
    strict = EXACT.model_copy(update={"engine": "bf16", "tolerance": 1e-4})
    with pytest.raises(
        CompressError, match=r"teacher_outputs.engine: bf16 differs from eager float32 by 0.0.*tolerance 0.0001; raise"
    ):
        teachers(fresh("kd"), tmp_path, strict).prepare_epoch(0)
    assert not list(tmp_path.rglob("*.npy"))


def test_an_engine_that_this_machine_lacks_is_refused(tmp_path: Path) -> None:
    """The message names those that it has."""
    absent = EXACT.model_copy(update={"engine": "fp16"})
    with pytest.raises(CompressError, match=r"'fp16' does not run on this machine; it has: eager, channels_last"):
        teachers(fresh("kd"), tmp_path, absent).prepare_epoch(0)


@pytest.mark.parametrize("store", ["on", "off"])
def test_outputs_of_a_half_precise_engine_fit_a_training_in_float32(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever an engine computes in, heads that are trained in float32 read float32."""
    _offered(monkeypatch, "bf16")
    section = EXACT.model_copy(update={"store": store, "engine": "bf16", "tolerance": 0.1})
    heads = fresh("dih").stages()[0]
    kept = teachers(heads, tmp_path, section)
    kept.prepare_epoch(0)
    assert {output.dtype for output in kept.get_signals(next(data().epoch(0))).values()} == {torch.float32}
    loop.fit(heads, data(), held_out(), settings=SETTINGS, teachers=kept)


@pytest.mark.parametrize("engine", ["eager", "channels_last"])
@pytest.mark.parametrize("store", ["on", "off"])
def test_the_teacher_outputs_in_evaluation_mode_and_stays_as_it_is(engine: str, store: str, tmp_path: Path) -> None:
    """A teacher with dropout and batch norm that somebody put in training mode gives its true outputs and learns nothing."""
    method, batches = fresh("kd"), data()
    network = method.teachers[0]
    before = {name: (value.clone(), value.stride()) for name, value in network.state_dict().items()}
    kept = teachers(method, tmp_path, EXACT.model_copy(update={"engine": engine, "store": store}))
    network.train()
    kept.prepare_epoch(0)
    batch = next(batches.epoch(0))
    output = kept.get_signals(batch)[Signal(0)]
    assert all(part.training for part in network.modules())
    freeze_all_but(method, ())
    torch.testing.assert_close(output, method.step(batch).teacher().logits)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name][0]), name
        assert value.stride() == before[name][1], name


# The report ----------------------------------------------------------------------------------------------------------------


def test_the_report_says_how_the_outputs_came(tmp_path: Path) -> None:
    """Signals by name, engine, what was made and what was found, bytes, the true rounding error, and the time."""
    method, batches = fresh("dih"), data()
    half = EXACT.model_copy(update={"precision": "fp16"})
    first = teachers(method, tmp_path, half)
    first.prepare_epoch(0)
    second = teachers(method, tmp_path, half)
    for epoch in range(4):
        second.prepare_epoch(epoch)
    found = second.summarize()
    assert found.signals == ("teacher logits", "teacher head0 on first", "teacher head1 on second")
    assert (found.engine, found.store, found.precision) == ("eager", "kept", "fp16")
    assert (first.summarize().views_computed, found.views, found.views_computed) == (1, 2, 1)
    assert found.seconds > 0
    freeze_all_but(method, ())
    errors, outputs = [], []
    for view in range(2):
        for batch in batches.read_view(view):
            step = method.step(batch)
            exact = [step.compute(signal).numpy().astype(np.float64) for signal in second.request.signals]
            errors += [np.abs(output - output.astype(np.float16)).max() for output in exact]
            outputs.append(exact)
    assert found.max_abs_error == pytest.approx(max(errors), rel=1e-3)  # a last bit of float32 may move a rounding
    assert found.bytes_per_image == 2 * sum(output[0].size for output in outputs[0])


def test_the_report_of_a_run_that_continued_counts_all_views(tmp_path: Path) -> None:
    """The largest error is that over every view, also of those that an earlier process made and read."""
    method, half = fresh("kd"), EXACT.model_copy(update={"precision": "fp16"})
    whole = teachers(method, tmp_path, half)
    for epoch in range(2):
        whole.prepare_epoch(epoch)
    last = teachers(method, tmp_path, half)
    last.prepare_epoch(1)
    assert last.summarize().max_abs_error == whole.summarize().max_abs_error > 0


def test_the_report_says_why_nothing_was_kept(tmp_path: Path) -> None:
    """Off, or read only once: no views, no bytes, no precision, and the reason."""
    method = fresh("kd")
    off = teachers(method, tmp_path, EXACT.model_copy(update={"store": "off"})).summarize()
    assert (off.store, off.precision, off.views, off.bytes_per_image) == ("off in the recipe", None, 0, 0)
    auto = EXACT.model_copy(update={"store": "auto"})
    once = data(views=None)
    assert teachers(method, tmp_path, auto, batches=once, shared=False).summarize().store == "every view is read once"
    assert teachers(method, tmp_path, auto, batches=once, shared=True).summarize().store == "kept"
    assert teachers(method, tmp_path, auto, shared=False).summarize().store == "kept"
    assert teachers(method, tmp_path, EXACT, batches=once, shared=False).summarize().store == "kept"


def test_a_cohort_of_four_with_a_hundred_classes_takes_less_than_a_kibibyte(tmp_path: Path) -> None:
    """A teacher and its three heads, 100 classes each, in fp16: what lies on disk for one view, divided by its images."""
    torch.manual_seed(0)
    teacher, student = (plugins.load("models", "resnet_cifar.resnet8")(100, 1) for _ in range(2))
    method = plugins.load("methods", "dih")(Setting(student, (teacher,), torch.zeros(1, 1, 8, 8), 100))
    kept = teachers(method, tmp_path, EXACT.model_copy(update={"precision": "fp16"}))
    kept.prepare_epoch(0)
    files = list((tmp_path / "targets").glob("*/*.npy"))
    assert len(files) == 4
    assert sum(path.stat().st_size for path in files) / ROWS <= 1024
    assert kept.summarize().bytes_per_image == 4 * 100 * 2
