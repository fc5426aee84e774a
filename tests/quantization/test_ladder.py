"""The int8 search, on a network of which we decide what quantization does to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import exporters
from compress.errors import CompressError, Interrupted, RuntimeCrashed, Unreachable
from compress.events import Events
from compress.quantization import ladder
from compress.quantization.candidate import LadderResult, Unavailable
from compress.quantization.ladder import LadderSearch, describe_ladder
from compress.recipe import GateSection, Int8Section
from compress.records import Gate, Ladder
from compress.tasks import CLASSIFICATION
from exporters import Quantization

LAYERS = tuple(f"conv{number}" for number in range(16))
IMAGES, CLASSES = 400, 5
GATE = GateSection(max_top1_drop_points=1.0, min_agreement=0.97)

Harm = Callable[[Quantization], float]
"""Share of the images on which a file of a quantization is wrong."""


class Pretended:
    """A network that is right on every image; a file of it is wrong on as many as `harm` says."""

    def __init__(self, harm: Harm, layers: Sequence[str] = LAYERS, *, gate: GateSection = GATE) -> None:
        self.layers, self.harm, self.gate = tuple(layers), harm, gate
        self.always_float: tuple[str, ...] = ()
        self.labels: NDArray[np.int64] = np.arange(IMAGES) % CLASSES
        self.reference: NDArray[np.float32] = 5 * np.eye(CLASSES, dtype=np.float32)[self.labels]
        self.written: list[Quantization] = []
        self.task = CLASSIFICATION

    def write(self, folder: Path, quantization: Quantization) -> Path:
        self.written.append(quantization)
        folder.mkdir(parents=True)
        path = folder / "net-int8.fake"
        path.write_text(json.dumps(self.harm(quantization)))
        return path

    def count_bytes(self, path: Path) -> int:
        return path.stat().st_size

    def run_file(self, path: Path, images: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        share = float(json.loads(path.read_text()))
        answers = self.reference.copy()
        wrong = np.arange(IMAGES) < round(share * IMAGES)
        answers[wrong] = np.roll(answers[wrong], 1, axis=1)
        answers += np.float32(share)  # even where no class changes, more harm moves the logits further
        return answers if images is None else answers[images]

    def simulate(self, _quantization: Quantization, _images: NDArray[np.intp]) -> NDArray[np.float32] | None:
        return None

    def judge(self, logits: NDArray[np.float32]) -> Gate:
        settings = self.gate.model_copy(update={"max_abs_diff": 1e9})
        return exporters.gate(self.reference, logits, self.labels, settings=settings, precision="int8")


class Clock:
    """Seconds that pass only when a file is written."""

    def __init__(self, network: Pretended, seconds: float) -> None:
        self.network, self.seconds = network, seconds

    def __call__(self) -> float:
        return self.seconds * len(self.network.written)


def search(network: Pretended, folder: Path, *, events: Events | None = None, **options: Any) -> LadderResult[Pretended]:
    """Search with defaults; `options` replace those of the recipe's section or of the search."""
    own = {name: options.pop(name) for name in ("adapt", "statistics", "no_spare_bit", "clock") if name in options}
    return LadderSearch(
        network, gate=network.gate, settings=Int8Section(**options), calibration_images=300, folder=folder, name="net",
        events=events or Events(),
        **{
            "adapt": Unavailable("no teachers"), "statistics": ("default", "bias", "minmax"), "no_spare_bit": "it has VNNI",
            **own,
        },
    ).search()  # fmt: skip


def path_of(record: Ladder) -> list[tuple[str, str]]:
    return [(rung.rung, rung.status) for rung in record.rungs]


def damaged(*layers: str, each: float = 0.05) -> Harm:
    """Harm that some layers do unless they stay in floating point."""
    return lambda quantization: each * len(set(layers) - set(quantization.keep))


def test_the_search_ends_at_the_first_file_that_passes(tmp_path: Path) -> None:
    """A network that int8 does not hurt costs one candidate."""
    network = Pretended(lambda _: 0.005)
    end = search(network, tmp_path)
    assert path_of(end.ladder) == [("default", "passed")]
    assert network.written == [Quantization()]
    assert (end.ladder.chosen, end.chosen.path) == (0, tmp_path / "0" / "net-int8.fake")
    rung = end.ladder.rungs[0]
    assert rung.validation is not None
    assert (rung.validation.top1_percent, rung.validation.samples) == (99.5, IMAGES)
    assert (rung.agreement_percent, rung.drop_points) == (99.5, 0.5)


def test_other_statistics_are_tried_until_one_passes(tmp_path: Path) -> None:
    """The second rung ends with the first statistics that meet the budget."""
    harm = {"default": 0.3, "bias": 0.2, "minmax": 0.005, "entropy": 0.0}
    network = Pretended(lambda quantization: harm[quantization.statistics])
    end = search(network, tmp_path, statistics=tuple(harm))
    assert path_of(end.ladder) == [("default", "failed"), ("statistics", "failed"), ("statistics", "passed")]
    assert end.chosen.quantization == Quantization(statistics="minmax")


def test_the_best_statistics_are_kept_for_the_rungs_above(tmp_path: Path) -> None:
    """Where none is enough, the spare bit and the float layers come on top of the best, and not of the last."""
    harm = {"default": 0.3, "bias": 0.1, "minmax": 0.2}
    network = Pretended(lambda quantization: harm[quantization.statistics])
    search(network, tmp_path, no_spare_bit="")
    assert network.written[3] == Quantization(statistics="bias", saturation_fix=True)
    assert {each.statistics for each in network.written if each.keep} == {"bias"}


def test_the_spare_bit_is_tried_only_where_the_processor_needs_it(tmp_path: Path) -> None:
    """On another processor the rung is skipped, and says why."""
    network = Pretended(lambda quantization: 0.0 if quantization.saturation_fix else 0.3)
    end = search(network, tmp_path / "old", no_spare_bit="")
    assert path_of(end.ladder)[-1] == ("saturation", "passed")
    end = search(network, tmp_path / "new", no_spare_bit="it has VNNI")
    skipped = end.ladder.rungs[3]
    assert (skipped.rung, skipped.status, skipped.reason) == ("saturation", "skipped", "it has VNNI")


def test_a_spare_bit_that_does_harm_is_given_back(tmp_path: Path) -> None:
    """The rungs above build on the best, which the spare bit need not be."""
    network = Pretended(lambda quantization: 0.4 if quantization.saturation_fix else 0.3)
    search(network, tmp_path, no_spare_bit="")
    assert not any(each.saturation_fix for each in network.written if each.keep)


def test_with_the_spare_bit_all_statistics_get_another_chance(tmp_path: Path) -> None:
    """While products saturate, the best statistics are an accident, so the others are tried with the bit, too."""
    harm = {"default": 0.005, "bias": 0.2, "minmax": 0.2}

    def share(quantization: Quantization) -> float:
        return harm[quantization.statistics] if quantization.saturation_fix else 0.3 - 0.1 * (quantization.statistics == "bias")

    network = Pretended(share)
    end = search(network, tmp_path, no_spare_bit="")
    assert [each for each in network.written if each.saturation_fix] == [
        Quantization(statistics="bias", saturation_fix=True),
        Quantization(saturation_fix=True),
    ]
    assert end.chosen.quantization == Quantization(saturation_fix=True)
    assert end.ladder.chosen is not None


def test_layers_that_a_format_leaves_in_float_are_in_the_record(tmp_path: Path) -> None:
    """What stays in floating point though nobody asked for it is named beside the rung, and is no layer to keep."""
    network = Pretended(damaged())
    network.always_float = ("squeeze", "excite")
    end = search(network, tmp_path)
    (rung,) = end.ladder.rungs
    assert rung.float_layers == ("squeeze", "excite")
    assert rung.detail.endswith("; squeeze, excite in float, as the format leaves them")
    assert end.chosen.quantization == Quantization()


@pytest.mark.parametrize("worst", [("conv3",), ("conv3", "conv9"), ("conv0", "conv7", "conv15"), tuple(LAYERS[4:9])])
def test_the_fewest_layers_that_are_enough_stay_in_floating_point(tmp_path: Path, worst: tuple[str, ...]) -> None:
    """Sensitivity finds the layers that do the harm, wherever they are, and bisection gives the others back to int8."""
    network = Pretended(damaged(*worst))
    end = search(network, tmp_path, statistics=("default",))
    assert end.chosen.quantization.keep == worst
    assert end.ladder.chosen is not None
    assert end.ladder.rungs[end.ladder.chosen].float_layers == worst
    assert {each.layer for each in end.ladder.sensitivity[: len(worst)]} == set(worst)
    assert [each.relative_difference for each in end.ladder.sensitivity] == sorted(
        (each.relative_difference for each in end.ladder.sensitivity), reverse=True
    )
    assert len(end.ladder.sensitivity) == len(LAYERS)


def test_sensitivity_is_measured_with_each_layer_alone_in_int8(tmp_path: Path) -> None:
    """No layer hides behind another's harm."""
    network = Pretended(damaged("conv2", "conv3"))
    search(network, tmp_path, rung="mixed")
    alone = network.written[: len(LAYERS)]
    assert [set(LAYERS) - set(each.keep) for each in alone] == [{layer} for layer in LAYERS]


def test_a_layer_whose_answers_are_not_finite_is_the_worst(tmp_path: Path) -> None:
    """It comes first, and the record stays a number that JSON has."""
    network = Pretended(lambda quantization: float("nan") if "conv5" not in quantization.keep else 0.0)
    plain = network.run_file

    def run_file(path: Path, images: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        if "NaN" not in path.read_text():
            return plain(path, images)
        return np.full((IMAGES if images is None else len(images), CLASSES), np.nan, np.float32)

    network.run_file = run_file  # type: ignore[method-assign]
    end = search(network, tmp_path, rung="mixed")
    assert end.ladder.sensitivity[0].layer == "conv5"
    assert end.chosen.quantization.keep == ("conv5",)
    assert Ladder.model_validate_json(end.ladder.model_dump_json()) == end.ladder


def test_a_file_that_is_float_in_all_but_name_is_not_an_answer(tmp_path: Path) -> None:
    """No more layers than the share that the user allows stay in floating point."""
    network = Pretended(damaged(*LAYERS))
    end = search(network, tmp_path, max_float_layers=0.25)
    assert max(len(rung.float_layers) for rung in end.ladder.rungs) == 4
    assert end.ladder.chosen is None
    none = search(Pretended(damaged(*LAYERS)), tmp_path / "none", max_float_layers=0.05)
    assert ("mixed", "skipped") in path_of(none.ladder)


def test_distillation_is_the_last_rung_and_uses_the_best_quantization_so_far(tmp_path: Path) -> None:
    """The adapted network is quantized by what was best for the one before, all layers in int8."""
    adapted = Pretended(lambda _: 0.0)
    asked: list[Quantization] = []

    def adapt(quantization: Quantization) -> Pretended:
        asked.append(quantization)
        return adapted

    harm = {"default": 0.3, "bias": 0.1, "minmax": 0.2}

    def share(quantization: Quantization) -> float:
        return harm[quantization.statistics] - 0.005 * len(quantization.keep)  # float layers help, and not enough

    end = search(Pretended(share), tmp_path, adapt=adapt)
    assert path_of(end.ladder)[-1] == ("distillation", "passed")
    assert end.chosen.backend is adapted
    assert asked == adapted.written == [Quantization(statistics="bias")]


def test_if_every_rung_fails_the_nearest_is_chosen_and_marked(tmp_path: Path) -> None:
    """Nothing is chosen; the file is the one that misses the gate by least, and every rung says why."""
    harm = {"default": 0.3, "bias": 0.06, "minmax": 0.2}
    end = search(Pretended(lambda quantization: harm[quantization.statistics]), tmp_path)
    assert end.ladder.chosen is None
    assert not end.chosen.passed
    assert end.chosen.quantization.statistics == "bias"
    assert [rung for rung, _ in path_of(end.ladder)][-1] == "distillation"
    assert all(rung.reason for rung in end.ladder.rungs)
    assert "no rung of the int8 ladder meets the gate" in next(iter(describe_ladder("net", end.ladder)))


def test_nearest_counts_the_points_of_accuracy_and_of_agreement_that_are_missing(tmp_path: Path) -> None:
    """Of two files that fail, the better misses the gate by fewer points together, whichever of its rules that is."""
    found = {"default": (60.0, 9.0), "bias": (90.0, 0.0), "minmax": (96.0, 3.0)}  # agreement in percent, drop in points
    network = Pretended(lambda quantization: list(found).index(quantization.statistics) / 10)

    def judge(logits: NDArray[np.float32]) -> Gate:
        agreement, drop = list(found.values())[round(10 * float(logits.min()))]
        return Gate(status="failed", reason="far", samples=IMAGES, agreement_percent=agreement, top1_drop_points=drop)

    network.judge = judge  # type: ignore[method-assign]
    end = search(network, tmp_path, max_float_layers=0.0)
    assert end.chosen.quantization.statistics == "minmax"


@pytest.mark.parametrize("rung", ladder.RUNGS)
def test_a_pinned_rung_is_the_only_one(tmp_path: Path, rung: str) -> None:
    """The user's choice is tried alone, also where it is not needed, and the record says that it was pinned."""
    network, adapted = Pretended(damaged("conv1")), Pretended(lambda _: 0.0)
    end = search(network, tmp_path, rung=rung, adapt=lambda _: adapted)
    assert {each.rung for each in end.ladder.rungs} == {rung}
    assert rung in end.ladder.note
    if rung == "saturation":
        assert network.written == [Quantization(saturation_fix=True)]
    if rung == "statistics":
        assert [each.statistics for each in network.written] == ["bias", "minmax"]
    if rung == "distillation":
        assert adapted.written == [Quantization(saturation_fix=False)]


def test_a_pinned_distillation_has_the_spare_bit_where_the_processor_needs_it(tmp_path: Path) -> None:
    """Nothing before it found out that products saturate, and what the network learns must be what the file does."""
    adapted = Pretended(lambda _: 0.0)
    search(Pretended(damaged("conv1")), tmp_path, rung="distillation", adapt=lambda _: adapted, no_spare_bit="")
    assert adapted.written == [Quantization(saturation_fix=True)]


def test_pinned_statistics_are_all_tried_and_the_best_is_chosen(tmp_path: Path) -> None:
    """Who pins the rung wants the best of it, not the first that passes."""
    harm = {"default": 0.3, "bias": 0.01, "minmax": 0.0}
    end = search(Pretended(lambda quantization: harm[quantization.statistics]), tmp_path, rung="statistics")
    assert end.chosen.quantization.statistics == "minmax"
    assert end.ladder.chosen == 1


def test_no_rung_is_begun_after_the_limit_of_time(tmp_path: Path) -> None:
    """What was not tried is in the record with the minutes and the field that sets them."""
    network = Pretended(lambda _: 0.3)
    end = search(network, tmp_path, max_minutes=2.0, clock=Clock(network, 90.0))
    assert len(network.written) == 2
    assert path_of(end.ladder) == [
        ("default", "failed"), ("statistics", "failed"), ("saturation", "skipped"), ("mixed", "skipped"),
        ("distillation", "skipped"),
    ]  # fmt: skip
    assert all("3.0 minutes" in rung.reason and "int8.max_minutes 2" in rung.reason for rung in end.ladder.rungs[2:])


def test_layers_are_simulated_where_files_take_long_to_write(tmp_path: Path) -> None:
    """The same layers are kept as if each had its file, and none is written for the measurement."""

    class Slow(Pretended):
        def simulate(self, quantization: Quantization, images: NDArray[np.intp]) -> NDArray[np.float32] | None:
            return self.reference[images] * np.float32(1 - self.harm(quantization))

    quick, slow = Pretended(damaged("conv3", "conv7")), Slow(damaged("conv3", "conv7"))
    kept = [search(network, tmp_path / name).chosen.quantization.keep for name, network in (("q", quick), ("s", slow))]
    assert kept == [("conv3", "conv7")] * 2
    assert len(quick.written) - len(slow.written) == len(LAYERS)


def test_layers_are_not_measured_where_their_time_is_not_there(tmp_path: Path) -> None:
    """It is foreseen after a few of them, so that adapting the network still has a chance within the limit."""
    network = Pretended(lambda _: 0.3)
    adapted = Pretended(lambda _: 0.0)
    end = search(network, tmp_path, max_minutes=5.0, adapt=lambda _: adapted, clock=Clock(network, 20.0))
    assert path_of(end.ladder)[-2:] == [("mixed", "skipped"), ("distillation", "passed")]
    assert "16 layers harms would take 5.3 minutes" in end.ladder.rungs[-2].reason
    assert end.ladder.sensitivity == ()
    assert len([each for each in network.written if len(each.keep) == len(LAYERS) - 1]) == 3
    with pytest.raises(CompressError, match=r"no int8 file could be made: .* \(int8.max_minutes\); raise it"):
        search(network, tmp_path, rung="mixed", max_minutes=5.0, clock=Clock(network, 20.0))


def test_a_passing_file_is_not_refined_after_the_limit_of_time(tmp_path: Path) -> None:
    """Time is spent on what is needed before it is spent on what is nicer."""
    network = Pretended(damaged("conv1", "conv2", "conv3"))
    end = search(network, tmp_path, rung="mixed", max_minutes=1.0, clock=Clock(network, 60 / (len(LAYERS) + 2.5)))
    assert len(end.chosen.quantization.keep) == 4
    assert end.ladder.chosen is not None


def test_what_a_quantizer_refuses_is_recorded_as_failed_and_the_search_goes_on(tmp_path: Path) -> None:
    """The reason is in the record; only if nothing at all can be made is it raised."""

    def refuse(quantization: Quantization) -> float:
        if quantization.statistics != "minmax":
            raise CompressError("no Relu6")
        return 0.0

    end = search(Pretended(refuse), tmp_path)
    assert [(rung.status, rung.reason) for rung in end.ladder.rungs] == [("failed", "no Relu6")] * 2 + [("passed", "")]
    with pytest.raises(CompressError, match="net: no int8 file could be made: no Relu6"):
        search(Pretended(refuse), tmp_path / "none", statistics=("default",))


@pytest.mark.parametrize("error", [Unreachable("disk full"), Interrupted("stopped")])
def test_a_full_disk_and_an_interruption_end_the_search(tmp_path: Path, error: CompressError) -> None:
    """They say nothing of the network, so no rung is called failed for them."""

    def refuse(_: Quantization) -> float:
        raise error

    with pytest.raises(type(error)):
        search(Pretended(refuse), tmp_path)


def test_a_file_that_the_runtime_cannot_run_has_failed(tmp_path: Path) -> None:
    """A crash of the runtime is this rung's failure and not the run's."""
    network = Pretended(lambda _: 0.0)
    plain, crashed = network.run_file, []

    def run_file(path: Path, images: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        if not crashed:
            crashed.append(path)
            raise RuntimeCrashed("the runtime died with signal 11")
        return plain(path, images)

    network.run_file = run_file  # type: ignore[method-assign]
    end = search(network, tmp_path)
    assert path_of(end.ladder) == [("default", "failed"), ("statistics", "passed")]
    assert "signal 11" in end.ladder.rungs[0].reason


def test_a_killed_runner_ends_the_search(tmp_path: Path) -> None:
    """It says nothing of the file, so no rung is called failed for it."""
    network = Pretended(lambda _: 0.0)

    def run_file(path: Path, images: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        raise Unreachable("the runner was killed, most likely because memory ran out")

    network.run_file = run_file  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match="memory ran out"):
        search(network, tmp_path)


def test_the_best_file_of_each_rung_is_named_for_timing(tmp_path: Path) -> None:
    """The chosen file is among them, and no rung is there twice."""
    network = Pretended(damaged("conv1", "conv2", "conv3"))
    end = search(network, tmp_path)
    rungs = [end.ladder.rungs[number].rung for number in end.best]
    assert rungs == ["default", "statistics", "mixed"]
    assert end.chosen in end.best.values()


def test_every_step_is_told_to_machines_and_the_end_to_people(tmp_path: Path) -> None:
    """events.jsonl has a line for each rung; people read which rung passed and why the others did not."""
    events = Events(tmp_path / "events.jsonl")
    end = search(Pretended(damaged("conv3")), tmp_path / "files", events=events)
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["rung"] for line in lines if line["event"] == "rung"] == [rung.rung for rung in end.ladder.rungs]
    assert sum(line["event"] == "sensitivity" for line in lines) == 1
    said = list(describe_ladder("net", end.ladder))
    assert said[0].startswith("net: int8 by rung 'mixed' (1 of 16 layers in floating point")
    assert any("saturation skipped: it has VNNI" in line for line in said)
    assert any("default failed" in line and "agreement 95.00 %" in line for line in said)


@given(needed=st.integers(1, 70), most=st.integers(1, 64))
def test_bisection_finds_the_fewest_in_logarithmic_time(needed: int, most: int) -> None:
    """Where more float layers never do harm, the fewest that pass are found, in about twice the logarithm of tries."""
    asked: list[int] = []

    def passes(count: int) -> bool:
        asked.append(count)
        return count >= needed

    ladder._find_fewest(passes, most, lambda: False)
    assert max(asked) <= most
    assert len(asked) == len(set(asked)) <= 2 * most.bit_length() + 1
    passed = [count for count in asked if count >= needed]
    assert (min(passed) == needed) if needed <= most else (not passed and max(asked) == most)
