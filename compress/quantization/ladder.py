"""Search for an int8 file that meets the gate, rung by rung of a ladder of ever costlier remedies.

Default post-training quantization ruins some small networks and does no harm to others; which, nobody knows before a file was
run. So each rung makes files, runs them on their own runtime on the validation split, and has the gate judge them. The first
file that passes ends the search. The rungs, each on top of the best before it:

default: Ranges as the quantizer estimates them by itself.
statistics: Every other way to estimate ranges and biases that the quantizer offers, the most promising first.
saturation: A spare bit in the weights, where the processor adds int8 products in 16 bits and would saturate. With the best
    statistics first, then with the others: as long as products saturate, statistics can hardly be told apart.
mixed: The layers that do most harm stay in floating point: 1, 2, 4, ... of them until the gate passes, then fewer by bisection.
    The order is measured, each layer quantized alone (`compress.quantization.sensitivity`). At most `int8.max_float_layers` of
    all layers are kept: a file that is float in all but name is better made by the next rung, or as fp16.
distillation: The network itself is adapted to int8 by its teachers, and quantized by the best of the first three rungs.

Decisions. Statistics are tried in order until one passes, not all of them: a candidate can take a minute, and what passes is
good enough by the user's own budget; where none passes, or the rung is pinned, all are tried and the best goes on. Better is
what misses the gate by fewer points of top-1 and agreement together; of files that pass, the one with the fewest float layers.
The sensitivity is measured with the statistics that were best so far. A pinned rung stands alone, on default statistics;
distillation then has the spare bit where the processor needs it, for rounding is what it learns to bear. A candidate that the
quantizer refuses or the runtime cannot run is recorded as failed with the reason, and the search goes on; if none left a file,
the first reason is raised. Nothing here sees the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Generic, Literal

from compress.errors import CompressError, Interrupted, Unreachable
from compress.events import Events
from compress.quantization.candidate import B, Candidate, LadderResult, Unavailable, judge_file, rank
from compress.quantization.sensitivity import measure_layer_sensitivity
from compress.recipe import GateSection, Int8Section
from compress.records import Ladder, Rung, Sensitivity
from exporters import Quantization

RungName = Literal["default", "statistics", "saturation", "mixed", "distillation"]
RUNGS: tuple[RungName, ...] = ("default", "statistics", "saturation", "mixed", "distillation")
"""In the order in which they are tried."""
FORESEEN_FROM = 3
"""Layers after which the time for all is foreseen; the first ones may load what the others find loaded."""


class _TooLong(CompressError):
    """The limit of time leaves no room to measure the sensitivity of the layers."""


class LadderSearch(Generic[B]):
    """One search, for one file.

    Args:
        backend: The network as it was trained.
        adapt: Returns the network after quantization-aware distillation; or the reason why there is none.
        statistics: Names of the quantizer's statistics, `default` first.
        settings: Which rungs, how long, how much in floating point.
        gate: The budget.
        no_spare_bit: Why the runtime or this processor needs no spare bit; empty where it needs one.
        calibration_images: How many images the ranges are estimated on, for the record.
        folder: Where files are left, each in a folder with the number of its rung.
        name: Name of the file, for progress.
        events: Where progress goes.
        clock: Returns seconds.
    """

    def __init__(
        self, backend: B, *, adapt: Callable[[Quantization], B] | Unavailable, statistics: tuple[str, ...],
        settings: Int8Section, gate: GateSection, no_spare_bit: str, calibration_images: int, folder: Path, name: str,
        events: Events, clock: Callable[[], float] = monotonic,
    ) -> None:  # fmt: skip
        self._backend, self._adapt, self._statistics = backend, adapt, statistics
        self._settings, self._gate, self._no_spare_bit = settings, gate, no_spare_bit
        self._calibration_images, self._folder, self._name = calibration_images, folder, name
        self._events, self._clock = events, clock
        self._begun = clock()
        self._rungs: list[Rung] = []
        self._candidates: dict[int, Candidate[B]] = {}
        self._sensitivity: tuple[Sensitivity, ...] = ()

    def search(self) -> LadderResult[B]:
        """Return the file that meets the gate, or the one that misses it by least, with the record of all that was tried.

        Raises:
            CompressError: No rung left a file that could be judged; the message is that of the first.
            Unreachable: The disk is full, the folder cannot be written, or a package is missing.
            Interrupted: The user stopped.
        """
        steps: Mapping[RungName, Callable[[], None]] = {
            "default": self._try_default, "statistics": self._try_statistics, "saturation": self._try_saturation,
            "mixed": self._try_mixed, "distillation": self._try_distillation,
        }  # fmt: skip
        for rung in RUNGS if self._settings.rung == "auto" else (self._settings.rung,):
            if self._is_late():
                minutes, limit = (self._clock() - self._begun) / 60, self._settings.max_minutes
                self._record_skipped(rung, f"after {minutes:.1f} minutes no further rung is begun (int8.max_minutes {limit:g})")
                continue
            steps[rung]()
            if self._has_passed():
                break
        if not self._candidates:
            raise CompressError(f"{self._name}: no int8 file could be made: {self._rungs[0].reason}")
        chosen = max(self._candidates, key=self._rank_number)
        best = {each: self._candidates[each] for each in self._find_best_of_rungs()}
        return LadderResult(self._candidates[chosen], best, self._build_record(chosen))

    def _is_late(self) -> bool:
        return self._clock() - self._begun > 60 * self._settings.max_minutes

    def _has_passed(self) -> bool:
        return any(each.passed for each in self._candidates.values())

    def _find_best_of_rungs(self) -> list[int]:
        """Return the number of the best file of each rung, in order."""
        numbers: dict[str, list[int]] = {}
        for number, candidate in self._candidates.items():
            numbers.setdefault(candidate.rung.rung, []).append(number)
        return sorted(max(own, key=self._rank_number) for own in numbers.values())

    def _rank_number(self, number: int) -> tuple[float, ...]:
        return rank(self._candidates[number], self._gate)

    def _find_best_quantization(self) -> Quantization:
        """Return the best of the first three rungs; the quantizer's default where none was tried."""
        whole = [each for each in self._candidates.values() if not each.quantization.keep]
        return max(whole, key=lambda each: rank(each, self._gate)).quantization if whole else Quantization()

    def _try_default(self) -> None:
        self._try("default", self._backend, Quantization(), "the quantizer's own statistics")

    def _try_statistics(self) -> None:
        if len(self._statistics) < 2:
            self._record_skipped("statistics", "this quantizer has no other statistics")
        for index, statistics in enumerate(self._statistics[1:]):
            if index and (self._is_late() or (self._has_passed() and self._settings.rung == "auto")):
                break
            self._try("statistics", self._backend, Quantization(statistics=statistics), f"statistics {statistics}")

    def _try_saturation(self) -> None:
        if self._no_spare_bit and self._settings.rung == "auto":
            self._record_skipped("saturation", self._no_spare_bit)
            return
        best = self._find_best_quantization().statistics
        others = [each for each in self._statistics if each != best] if self._settings.rung == "auto" else []
        for index, statistics in enumerate([best, *others]):
            if index and self._is_late():
                break
            quantization = Quantization(statistics=statistics, saturation_fix=True)
            if self._try("saturation", self._backend, quantization, f"a spare bit, statistics {statistics}"):
                break

    def _try_mixed(self) -> None:
        layers, base, begun = self._backend.layers, self._find_best_quantization(), self._clock()
        most = int(self._settings.max_float_layers * len(layers))
        if most < 1:
            share = f"{self._settings.max_float_layers:g} of its {len(layers)} layers"
            self._record_skipped("mixed", f"int8.max_float_layers: {share} is less than one")
            return
        try:
            self._sensitivity = self._measure_sensitivity(base)
        except _TooLong as error:
            self._record_skipped("mixed", str(error))
            return
        except (Unreachable, Interrupted):
            raise
        except CompressError as error:
            self._record_failed("mixed", "sensitivity of each layer", str(error), begun)
            return
        worst = [each.layer for each in self._sensitivity]

        def keep(count: int) -> bool:
            nonlocal begun
            kept = tuple(layer for layer in layers if layer in worst[:count])
            detail = f"{count} of {len(layers)} layers in floating point, {_describe_quantization(base)}"
            passed = self._try("mixed", self._backend, replace(base, keep=kept), detail, begun=begun)
            begun = self._clock()
            return passed

        _find_fewest(keep, most, self._is_late)

    def _try_distillation(self) -> None:
        base, begun = self._find_best_quantization(), self._clock()
        if not self._candidates:
            base = replace(base, saturation_fix=not self._no_spare_bit)
        if isinstance(self._adapt, Unavailable):
            self._record_skipped("distillation", self._adapt.reason)
            return
        self._events.say(f"{self._name}: distillation: the network is adapted to int8 by its teachers")
        try:
            backend = self._adapt(base)
        except (Unreachable, Interrupted):
            raise
        except CompressError as error:
            self._record_failed("distillation", "quantization-aware distillation", str(error), begun)
            return
        detail = f"adapted by its teachers, {_describe_quantization(base)}"
        self._try("distillation", backend, base, detail, begun=begun)

    def _measure_sensitivity(self, base: Quantization) -> tuple[Sensitivity, ...]:
        """Return how much each layer harms alone, worst first.

        Raises:
            _TooLong: It would take longer than the limit of time, as soon as that can be foreseen.
        """
        layers, begun, limit, measured = self._backend.layers, self._clock(), self._settings.max_minutes, 0

        def count_layer(layer: str) -> None:
            nonlocal measured
            measured += 1
            task.advance(note=layer)
            each = (self._clock() - begun) / 60 / measured
            if measured >= FORESEEN_FROM and (begun - self._begun) / 60 + each * len(layers) > limit:
                raise _TooLong(
                    f"how much each of {len(layers)} layers harms would take {each * len(layers):.1f} minutes, and nothing is "
                    f"begun after {limit:g} (int8.max_minutes); raise it to use this rung"
                )

        with self._events.task(
            f"{self._name}: sensitivity of {len(layers)} layers", total=len(layers), kind="int8 search"
        ) as task:
            found = measure_layer_sensitivity(self._backend, base, self._folder / "alone", count_layer)
        self._events.emit("sensitivity", file=self._name, layers=[each.model_dump() for each in found])
        return found

    def _try(self, rung: RungName, backend: B, quantization: Quantization, detail: str, *, begun: float | None = None) -> bool:
        """Make a file, run and judge it; return whether it passes."""
        begun = self._clock() if begun is None else begun
        number = len(self._rungs)
        with self._events.task(f"{self._name}: {rung}: {detail}", total=2, kind="int8 search") as task:
            try:
                path = backend.write(self._folder / str(number), quantization)
            except (Unreachable, Interrupted):
                raise
            except CompressError as error:
                self._record_failed(rung, detail, str(error), begun, kept=quantization.keep)
                return False
            task.advance()
            gate, accuracy = judge_file(backend, path)
            task.advance()
        if always := backend.always_float:
            detail += f"; {', '.join(always[:3])}{' …' if len(always) > 3 else ''} in float, as the format leaves them"
        record = Rung(
            rung=rung, detail=detail, status=gate.status, reason=gate.reason, validation=accuracy,
            agreement_percent=gate.agreement_percent,
            drop_points=gate.drop_points if gate.top1_drop_points is None else gate.top1_drop_points,
            size_bytes=backend.count_bytes(path), seconds=self._clock() - begun,
            float_layers=(*quantization.keep, *backend.always_float),
        )  # fmt: skip
        self._record(record)
        self._candidates[number] = Candidate(record, gate, quantization, backend, path)
        return self._candidates[number].passed

    def _record_skipped(self, rung: RungName, reason: str) -> None:
        self._record(Rung(rung=rung, detail="", status="skipped", reason=reason, seconds=0.0))

    def _record_failed(self, rung: RungName, detail: str, reason: str, begun: float, *, kept: tuple[str, ...] = ()) -> None:
        seconds = self._clock() - begun
        self._record(Rung(rung=rung, detail=detail, status="failed", reason=reason, seconds=seconds, float_layers=kept))

    def _record(self, rung: Rung) -> None:
        self._rungs.append(rung)
        self._events.emit("rung", file=self._name, **rung.model_dump())

    def _build_record(self, chosen: int) -> Ladder:
        pinned = (
            ""
            if self._settings.rung == "auto"
            else f"The recipe pins rung {self._settings.rung!r} (int8.rung), so no other was tried."
        )
        return Ladder(
            rungs=tuple(self._rungs), chosen=chosen if self._candidates[chosen].passed else None,
            sensitivity=self._sensitivity, calibration_images=self._calibration_images, note=pinned,
        )  # fmt: skip


def _find_fewest(passes: Callable[[int], bool], most: int, is_late: Callable[[], bool]) -> None:
    """Ask for 1, 2, 4, ... up to `most` until one passes, then bisect below it; nothing further is asked once it is late."""
    failed, count = 0, 1
    while not passes(count):
        if count == most or is_late():
            return
        failed, count = count, min(2 * count, most)
    while count - failed > 1 and not is_late():
        middle = (failed + count) // 2
        failed, count = (failed, middle) if passes(middle) else (middle, count)


def _describe_quantization(quantization: Quantization) -> str:
    return f"statistics {quantization.statistics}{', a spare bit' if quantization.saturation_fix else ''}"


def describe_ladder(name: str, ladder: Ladder) -> Iterator[str]:
    """Yield lines for people on how a search ended: which rung passed, and why the others did not."""
    if ladder.chosen is None:
        yield f"{name}: no rung of the int8 ladder meets the gate; the nearest is kept apart"
    else:
        chosen = ladder.rungs[ladder.chosen]
        yield f"{name}: int8 by rung {chosen.rung!r} ({chosen.detail}), {chosen.seconds:.0f} s"
    others = [each for index, each in enumerate(ladder.rungs) if index != ladder.chosen and each.status != "passed"]
    for each in others:
        yield f"  {each.rung} {each.status}{f' ({each.detail})' if each.detail else ''}: {each.reason}"
