"""What `evaluate` and `measure` promise, with real runtimes."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

from benchmarks import figures
from benchmarks.conditions import choose_rounds
from benchmarks.devices import Progress
from benchmarks.devices.local import share_processes
from benchmarks.environment import read_environment
from benchmarks.job import Job, make_job_folder
from benchmarks.machine import read_machine
from benchmarks.protocol import Images, Inputs, Measurement, Subject, compute_ratio, evaluate, measure
from compress.errors import CompressError, Unreachable, Unstable
from compress.events import Events
from compress.preprocess import normalise
from compress.records import Preprocess
from tests.benchmarks.tiny import Tiny

MIB = 1 << 20


@pytest.mark.slow
def test_measuring_gives_every_subject_its_figures(tiny: Tiny, tmp_path: Path) -> None:
    """Files of several runtimes are timed in the same rounds, and everything that was asked for is told."""
    raw = tmp_path / "raw.json"
    several = [subject for subject in tiny.subjects.values() if subject.batch_size is None]
    figures = measure(several, tiny.images, against="torch", rounds=5, seconds=0.3, launches=1, batch_size=2, raw=raw)
    assert list(figures) == [subject.name for subject in several]
    for name, found in figures.items():
        latency = found.latency
        assert latency.p90 is not None
        assert 0 < latency.ci95[0] <= latency.p50 <= latency.ci95[1]
        assert latency.p50 <= latency.p90
        assert (len(latency.rounds), latency.threads, latency.batch_size) == (5, 1, 2)
        assert latency.load > 0
        assert latency.first_call > 0
        assert found.throughput_per_s == pytest.approx(2000 / latency.mean)
        assert found.effective["threads"] == "1"
        assert (found.ratio is None) is (name == "torch")


def test_the_raw_series_are_kept(tiny: Tiny, tmp_path: Path) -> None:
    """Every call's nanoseconds, the order of each round and the machine before and after can be looked at again."""
    raw = tmp_path / "raw.json"
    subjects = [tiny.subjects["onnxruntime"], replace(tiny.subjects["onnxruntime"], name="again")]
    measured = measure(subjects, tiny.images, against=None, rounds=5, seconds=0.1, raw=raw)
    kept = json.loads(raw.read_text())
    made = [launch["rounds"] for launch in kept["launches"]]
    assert [launch["wanted"] for launch in kept["launches"]] == [2, 2, 1]
    assert all(wanted <= found <= 2 * wanted for wanted, found in zip((2, 2, 1), made, strict=True))
    assert [sorted(order) for order in kept["orders"]] == [[0, 1]] * sum(made)
    assert kept["before"]["load_average"]
    assert kept["launches"][0]["after"]["context_switches"]
    counted = choose_rounds([one["waited"] for one in kept["subjects"].values()], kept["launches"])
    for name, one in kept["subjects"].items():
        rounds = [one["rounds_ns"][number] for numbers in counted for number in numbers]
        assert np.median([np.median(calls) for calls in rounds]) / 1e6 == pytest.approx(measured[name].latency.p50)
        assert sum(map(len, rounds)) == measured[name].latency.samples
        assert len(one["rounds_ns"]) == len(one["cpu_ns"]) == len(one["waited"]) == sum(made)
        assert len(one["load_ns"]) == 3
        assert measured[name].ratio is None


def test_the_order_of_rounds_comes_from_the_seed(tiny: Tiny, tmp_path: Path) -> None:
    """Orders vary between rounds and are the same for the same seed."""
    subjects = [replace(tiny.subjects["onnxruntime"], name=name) for name in "abcd"]
    orders = []
    for number, seed in enumerate((0, 0, 1)):
        raw = tmp_path / f"{number}.json"
        measure(subjects, tiny.images, against=None, rounds=5, seconds=0.05, launches=1, seed=seed, raw=raw)
        orders.append(json.loads(raw.read_text())["orders"][:5])
    assert orders[0] == orders[1] != orders[2]
    assert len({tuple(order) for order in orders[0]}) > 1


def test_a_ratio_can_be_taken_afterwards(tiny: Tiny) -> None:
    """Two latencies of one measurement give the ratio that `measure` itself reports, and its inverse the other way."""
    subjects = [tiny.subjects["onnxruntime"], replace(tiny.subjects["openvino"], name="other")]
    figures = measure(subjects, tiny.images, against="other", rounds=5, seconds=0.1)
    own, other = figures["onnxruntime"].latency, figures["other"].latency
    assert compute_ratio("other", other, own) == figures["onnxruntime"].ratio
    assert compute_ratio("onnxruntime", own, other).speedup == pytest.approx(1 / compute_ratio("other", other, own).speedup)


def test_peak_memory_is_that_of_the_file_and_not_of_its_caller(tiny: Tiny) -> None:
    """A big calling process does not show in the figure, which a forked or vforked child otherwise inherits."""
    ballast = np.ones(600 * MIB, np.uint8)
    found = evaluate(tiny.subjects["onnxruntime"], tiny.images)
    assert found.peak_memory_bytes is not None
    assert found.baseline_memory_bytes is not None
    assert 0 < found.baseline_memory_bytes < found.peak_memory_bytes < ballast.nbytes // 2


def test_a_shared_runner_gives_the_answers_and_the_memory_of_one_alone(tiny: Tiny) -> None:
    """Files that share a runner answer to the last bit as alone, and their peak memory is the same within 5 %."""
    subject = tiny.subjects["onnxruntime"]
    alone = evaluate(subject, tiny.images)
    with share_processes():
        shared = [evaluate(subject, tiny.images) for _ in range(2)]
    for found in shared:
        assert np.array_equal(found.logits, alone.logits)
        assert found.effective == alone.effective
        assert found.peak_memory_bytes == pytest.approx(alone.peak_memory_bytes, rel=0.05)  # 1 MB of 60 seen
        assert found.baseline_memory_bytes == pytest.approx(alone.baseline_memory_bytes, rel=0.05)


def test_peak_memory_does_not_grow_with_the_number_of_images(tiny: Tiny) -> None:
    """Images are read batch by batch, so the figure is the network's and not the data set's."""
    few = evaluate(tiny.subjects["onnxruntime"], tiny.images)
    many = evaluate(tiny.subjects["onnxruntime"], np.tile(tiny.images, (12_000, 1, 1, 1)), batch_size=2048)  # 97 MiB
    assert few.peak_memory_bytes is not None
    assert many.peak_memory_bytes is not None
    assert many.peak_memory_bytes - few.peak_memory_bytes < 40 * MIB


def test_progress_is_shown_as_it_goes(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner's steps reach the caller's console."""
    monkeypatch.setattr("compress.events.PLAIN_INTERVAL_SECONDS", -1.0)
    console = Console(file=io.StringIO(), width=100)
    evaluate(tiny.subjects["onnxruntime"], tiny.images, batch_size=4, events=Events(console=console))
    lines = console.file.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"evaluate onnxruntime: {done}/11 onnxruntime" for done in (4, 8, 11)]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        pytest.param(np.zeros((0, 3, 8, 8), np.float32), r"images are float32 \[0, 3, 8, 8\]", id="none"),
        pytest.param(np.zeros((1, 3, 8, 8), np.uint8), r"images are uint8 \[1, 3, 8, 8\]", id="not normalised"),
        pytest.param(np.zeros((3, 8, 8), np.float32), r"images are float32 \[3, 8, 8\]", id="no batch"),
    ],
)
def test_images_of_another_kind_are_refused(images: np.ndarray, message: str, tiny: Tiny) -> None:
    """The message shows type and shape of what was given."""
    with pytest.raises(CompressError, match=message):
        evaluate(tiny.subjects["onnxruntime"], images)


def test_images_of_another_size_are_an_error_of_the_file(tiny: Tiny) -> None:
    """What the runtime says about a wrong shape arrives, with the file's name before it."""
    with pytest.raises(CompressError, match=r"onnxruntime: .*[Ii]nvalid dimensions"):
        evaluate(tiny.subjects["onnxruntime"], np.zeros((1, 3, 9, 9), np.float32))


def test_options_that_make_no_measurement_are_refused(tiny: Tiny) -> None:
    """Each impossible option gives its own sentence before anything starts."""
    one = tiny.subjects["onnxruntime"]
    with pytest.raises(CompressError, match="names must differ and hold 'teacher', not"):
        measure([one], tiny.images, against="teacher")
    with pytest.raises(CompressError, match="names must differ"):
        measure([one, one], tiny.images, against=None)
    with pytest.raises(CompressError, match="4 rounds give no interval; use at least 5"):
        measure([one], tiny.images, against=None, rounds=4)
    with pytest.raises(CompressError, match=r"threads 0, .* must be above 0"):
        evaluate(one, tiny.images, threads=0)
    with pytest.raises(CompressError, match="10000 threads are asked for, and this process may use"):
        evaluate(one, tiny.images, threads=10_000)
    with pytest.raises(CompressError, match="openvino opens files that end in"):
        evaluate(replace(one, runtime="openvino"), tiny.images)


def test_a_name_may_hold_anything(tiny: Tiny) -> None:
    """The name of a subject is shown, never used as a path or an option."""
    subject = Subject("../--help; rm 'x'\n", tiny.subjects["onnxruntime"].path, "onnxruntime")
    assert evaluate(subject, tiny.images).logits.shape == (11, 5)


def test_a_runtime_without_its_file_part_is_named(tiny: Tiny, tmp_path: Path) -> None:
    """An IR whose weights were left behind is reported by the missing part."""
    lonely = tmp_path / "lonely.xml"
    lonely.write_bytes(tiny.subjects["openvino"].path.read_bytes())
    with pytest.raises(Unreachable, match=r"lonely\.bin is not there or cannot be read"):
        evaluate(Subject("lonely", lonely, "openvino"), tiny.images)


class Recorded:
    """A device that answers with calls in milliseconds for each round, as a disturbed machine may give them."""

    name = "recorded"

    def __init__(
        self, *, rounds: dict[str, list[list[float]]], settled: bool = True, waited: dict[str, list[float | None]] | None = None
    ) -> None:
        self.rounds, self.settled, self.waited = rounds, settled, waited or {}

    def run(self, job: Path, *, timeout_seconds: float, progress: Progress) -> None:  # noqa: ARG002 (the contract)
        """Leave the recorded answer in the job folder."""
        common = {"load_ns": [1], "first_call_ns": [1], "settled": self.settled, "effective": {}}
        series = {name: [[1e6 * call for call in calls] for calls in rounds] for name, rounds in self.rounds.items()}
        subjects = {
            name: {
                "rounds_ns": rounds, "cpu_ns": [1e6] * len(rounds), "major_faults": [0] * len(rounds),
                "waited": self.waited.get(name, [0.0] * len(rounds)),
            } | common
            for name, rounds in series.items()
        }  # fmt: skip
        (count,) = {len(rounds) for rounds in series.values()}
        thirds = [count // 3 + (number < count % 3) for number in range(3)]
        launches = [{"rounds": each, "wanted": each, "clock_khz": [None] * each, "before": {}, "after": {}} for each in thirds]
        result = {"subjects": subjects, "launches": launches, "machine": read_machine()}
        (job / "result.json").write_text(json.dumps(result))


def figures_of(tiny: Tiny, device: Recorded) -> dict[str, Measurement]:
    """Return the figures of recorded rounds, compared with `b` where there are two."""
    subjects = [replace(tiny.subjects["onnxruntime"], name=name) for name in device.rounds]
    return measure(subjects, tiny.images, against="b" if "b" in device.rounds else None, device=device)


def alike(*rounds: float) -> list[list[float]]:
    """Return rounds of three equal calls each."""
    return [[value] * 3 for value in rounds]


QUIET, HEATING = alike(1.0, 1.01, 1.0, 0.99, 1.0, 1.0), alike(1.0, 1.1, 1.2, 1.3, 1.4, 1.5)


@pytest.mark.parametrize("seed", range(25))
def test_every_figure_lies_in_its_own_interval(tiny: Tiny, seed: int) -> None:
    """Median and ratio and their intervals are one estimator each, however unevenly rounds are long and disturbed."""
    random = np.random.default_rng(seed)
    count, spread = int(random.integers(5, 16)), float(random.uniform(0.01, 0.5))
    slowness = random.lognormal(0, spread, count)
    lengths = np.clip(10 / slowness**4, 3, 1000).astype(int)  # fast rounds hold most calls, so the median of all is theirs
    rounds = {
        name: [(slow * random.lognormal(0, spread, length)).tolist() for length, slow in zip(lengths, slowness, strict=True)]
        for name in "ab"
    }
    for found in figures_of(tiny, Recorded(rounds=rounds)).values():
        assert found.latency.ci95[0] <= found.latency.p50 <= found.latency.ci95[1]
        assert found.ratio is None or found.ratio.ci95[0] <= found.ratio.speedup <= found.ratio.ci95[1]


def test_a_percentile_is_told_only_from_enough_calls(tiny: Tiny) -> None:
    """p99 needs a thousand calls and p90 a hundred; below that there is none, and the record says why."""
    calls = np.random.default_rng(0).lognormal(0, 0.1, (10, 100))
    found = {
        name: figures_of(tiny, Recorded(rounds={"a": rows.tolist()}))["a"].latency
        for name, rows in (("1000", calls), ("990", calls[:, :99]), ("90", calls[:, :9]))
    }
    assert found["1000"].p99 == pytest.approx(np.percentile(calls, 99))
    assert found["1000"].percentiles_missing is None
    assert found["990"].p90 == pytest.approx(np.percentile(calls[:, :99], 90))
    assert found["990"].p99 is None
    assert found["990"].percentiles_missing == "p99 needs at least 1000 calls; measure longer"
    assert found["90"].p90 is None
    both = "p90 needs at least 100 calls and p99 needs at least 1000 calls; measure longer"
    assert found["90"].percentiles_missing == both


def test_an_unstable_series_is_flagged_and_shown(tiny: Tiny) -> None:
    """Rounds that drift, or a warm-up that never settled, keep their figures and lose the word stable."""
    assert figures_of(tiny, Recorded(rounds={"a": QUIET}))["a"].latency.stable
    assert not figures_of(tiny, Recorded(rounds={"a": HEATING}))["a"].latency.stable
    assert not figures_of(tiny, Recorded(rounds={"a": QUIET}, settled=False))["a"].latency.stable


def test_other_work_is_a_cause_in_words(tiny: Tiny) -> None:
    """A file whose process waited for a core is unstable because of that, and its ratio to one that did not wait is open."""
    waited: dict[str, list[float | None]] = {"a": [0.0, 0.5, 0.0, 0.0, 0.0, 0.0], "b": [0.0] * 6}
    found = figures_of(tiny, Recorded(rounds={"a": QUIET, "b": alike(*[1.08] * 6)}, waited=waited))
    assert found["a"].latency.instability is not None
    assert found["a"].latency.instability.startswith("disturbed: it waited for a core 50 % of the time in 1 of 6 rounds")
    assert found["a"].latency.waited_percent == pytest.approx(50 / 6)
    assert found["b"].latency.stable
    assert found["a"].ratio is not None
    assert found["a"].ratio.verdict == "unstable"
    calm = figures_of(tiny, Recorded(rounds={"a": QUIET, "b": alike(*[1.08] * 6)}))["a"]
    assert calm.ratio is not None
    assert calm.ratio.verdict == "faster"


def test_one_process_is_not_enough_to_be_stable(tiny: Tiny, tmp_path: Path) -> None:
    """A latency says how many processes made it; with fewer than three it is not stable, and that is told."""
    found = measure([tiny.subjects["onnxruntime"]], tiny.images, against=None, rounds=5, seconds=0.05, launches=1)
    latency = found["onnxruntime"].latency
    assert latency.launches == (5,)
    assert "timed in 1 process of the 3 that an interval needs" in str(latency.instability)


def test_calls_can_come_at_the_pace_of_a_camera(tiny: Tiny, tmp_path: Path) -> None:
    """With a pace, a round of so many calls takes as long as a camera takes for as many pictures; the record says the pace."""
    one, raw = [tiny.subjects["onnxruntime"]], tmp_path / "raw.json"
    begun = time.monotonic()
    found = measure(one, tiny.images, against=None, rounds=5, seconds=0.5, calls_per_second=50, launches=1, raw=raw)
    calls = sum(map(len, json.loads(raw.read_text())["subjects"]["onnxruntime"]["rounds_ns"]))
    assert 25 <= calls <= 50  # five rounds of five calls, or twice as many where other work disturbed them
    assert time.monotonic() - begun > (calls - 10) / 50
    assert found["onnxruntime"].latency.calls_per_second == 50
    with pytest.raises(CompressError, match="a pace above 0 and up to 1000"):
        measure(one, tiny.images, against=None, rounds=5, calls_per_second=0)


@pytest.mark.parametrize("damage", [{"launches": []}, {"launches": [{}]}, {"subjects": {"a": {}}}, {"subjects": 3}])
def test_a_damaged_answer_is_refused_in_a_sentence(damage: dict[str, object], tiny: Tiny) -> None:
    """A device that answers with something else gives one message and no traceback."""
    device = Recorded(rounds={"a": QUIET})
    answer = device.run

    def run(job: Path, *, timeout_seconds: float, progress: Progress) -> None:
        answer(job, timeout_seconds=timeout_seconds, progress=progress)
        (job / "result.json").write_text(json.dumps(json.loads((job / "result.json").read_text()) | damage))

    device.run = run  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match="its result is not what the runner writes"):
        figures_of(tiny, device)


def test_heat_that_slows_both_does_not_spoil_the_comparison(tiny: Tiny) -> None:
    """Two series that drift together are unstable each, and their ratio is still exact."""
    found = figures_of(tiny, Recorded(rounds={"a": HEATING, "b": [[2 * call for call in calls] for calls in HEATING]}))["a"]
    assert not found.latency.stable
    assert found.ratio is not None
    assert (found.ratio.against, found.ratio.speedup, found.ratio.verdict) == ("b", pytest.approx(2), "faster")


def test_noise_in_one_alone_is_an_unstable_verdict(tiny: Tiny) -> None:
    """Where the ratio wanders widely around 1, neither difference nor sameness is claimed."""
    found = figures_of(tiny, Recorded(rounds={"a": alike(0.7, 1.4, 0.8, 1.3, 0.9, 1.2), "b": alike(*[1.0] * 6)}))["a"]
    assert found.ratio is not None
    assert found.ratio.verdict == "unstable"


def test_a_measurement_without_any_use_is_an_error(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, useless_factor: float) -> None:
    """Only when the rounds of every file scatter wildly is there no figure at all; the message says by how much."""
    monkeypatch.setattr(figures, "USELESS_FACTOR", useless_factor)
    wild = alike(1.0, 30.0, 1.0, 40.0, 2.0, 80.0)
    with pytest.raises(Unstable, match=r"scatter too much for any figure \(a 1.25 to 37.5 ms\); stop other work"):
        figures_of(tiny, Recorded(rounds={"a": wild}))
    assert figures_of(tiny, Recorded(rounds={"a": wild, "b": QUIET})).keys() == {"a", "b"}


def takes_pixels(path: Path) -> Subject:
    """Write a file that takes uint8 [batch, H, W, C] and answers with the mean of each channel."""
    pixels = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", None, None, None])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", None])
    nodes = [
        onnx.helper.make_node("Cast", ["images"], ["wide"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("ReduceMean", ["wide", "axes"], ["logits"], keepdims=0),
    ]
    axes = onnx.numpy_helper.from_array(np.array([1, 2]), "axes")
    graph = onnx.helper.make_graph(nodes, "means", [pixels], [logits], [axes])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return Subject("pixels", path, "onnxruntime", takes_pixels=True)


def test_a_file_that_carries_the_preprocessing_is_fed_pixels(tiny: Tiny, tmp_path: Path) -> None:
    """It gets the decoded image as it is, beside files that get the normalised one, in evaluation and in measurement."""
    subject = takes_pixels(tmp_path / "means.onnx")
    count, channels, height, width = tiny.images.shape
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)
    found = evaluate(subject, tiny.images, pixels=pixels).logits
    np.testing.assert_allclose(found, pixels.mean(axis=(1, 2)), rtol=1e-5)
    both = [subject, tiny.subjects["onnxruntime"]]
    assert set(measure(both, tiny.images, pixels=pixels, against=None, rounds=5, seconds=0.1)) == {"pixels", "onnxruntime"}


@pytest.mark.parametrize("pixels", [None, np.zeros((1, 2, 2, 3), np.uint8), np.zeros((64, 3, 8, 8), np.float32)])
def test_pixels_that_are_not_the_images_are_refused(tiny: Tiny, tmp_path: Path, pixels: np.ndarray | None) -> None:
    """Nobody measures a file on other pictures than the ones it is compared on."""
    with pytest.raises(CompressError, match="needs pixels uint8"):
        evaluate(takes_pixels(tmp_path / "means.onnx"), tiny.images, pixels=pixels)


def test_pixels_with_their_constants_are_what_the_host_would_send(tiny: Tiny) -> None:
    """Images that travel as bytes give bit for bit what normalised ones give, in evaluation with any batch and in a timing."""
    pre = Preprocess(width=8, height=8, channels="rgb", mean=(0.1, 0.2, 0.3), std=(0.9, 0.3, 0.2), interpolation="bilinear")
    pixels = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), np.uint8)
    subject = tiny.subjects["onnxruntime"]
    for batch_size in (1, 4, 32):
        sent = evaluate(subject, Inputs.from_pixels(pixels, pre), batch_size=batch_size).logits
        assert np.array_equal(sent, evaluate(subject, normalise(pixels, pre), batch_size=batch_size).logits)
    assert measure([subject], Inputs.from_pixels(pixels, pre), against=None, rounds=5, seconds=0.05)


def test_files_of_several_resolutions_are_timed_together(tiny: Tiny) -> None:
    """Each file is fed images of its own size in the same interleaved rounds; one without images is named."""
    subjects = [replace(takes_any_size(tiny), name=name) for name in ("small", "large")]
    images = {"small": tiny.images, "large": np.zeros((3, 3, 96, 96), np.float32)}
    found = measure(subjects, images, against="small", rounds=5, seconds=0.1)
    assert found["large"].ratio is not None
    with pytest.raises(CompressError, match=r"large: has no images among \['small'\]"):
        measure(subjects, {"small": tiny.images}, against=None, rounds=5, seconds=0.1)


def takes_any_size(tiny: Tiny) -> Subject:
    """Write a file that takes float32 [batch, C, H, W] of any size and answers with the mean of each channel."""
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 3, None, None])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 3])
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    path = tiny.subjects["onnxruntime"].path.with_name("any_size.onnx")
    graph = onnx.helper.make_graph(nodes, "means", [images], [logits])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return Subject("any", path, "onnxruntime")


def test_equal_images_travel_once(tiny: Tiny) -> None:
    """However many files are fed the same array, it lies in the job once, and pixels as the bytes that they are."""
    pixels = np.zeros((11, 8, 8, 3), np.uint8)
    subjects = [replace(tiny.subjects["onnxruntime"], name=name) for name in "abc"]
    images: dict[str, Images | Inputs] = dict.fromkeys("abc", Inputs(pixels=pixels, scale=(1.0,) * 3, shift=(0.0,) * 3))
    images["b"] = Inputs(pixels=pixels.copy(), scale=(2.0,) * 3, shift=(0.0,) * 3)
    with make_job_folder(Job("measure", threads=1, batch_size=1), subjects, images, None) as folder:
        (only,) = (folder / "inputs").iterdir()
        assert np.load(only).nbytes == pixels.nbytes
        listed = json.loads((folder / "job.json").read_text())["subjects"]
    assert [each["scale"][0] for each in listed] == [1, 2, 1]


def test_what_ran_tells_where_it_ran(tiny: Tiny) -> None:
    """The facts of the machine come with every result, from the process that ran the file."""
    here = read_environment()
    for found in (
        evaluate(tiny.subjects["onnxruntime"], tiny.images).machine,
        measure([tiny.subjects["onnxruntime"]], tiny.images, against=None, rounds=5, seconds=0.05)["onnxruntime"].machine,
    ):
        assert (found.cpu, found.memory_bytes, found.packages) == (here.cpu, here.memory_bytes, here.packages)
