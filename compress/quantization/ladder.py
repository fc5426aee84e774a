"""The rescue ladder: `precision: int8` is a goal, and this climbs rung by rung until the gate's budget is met.

Default post-training quantization ruins some small networks and does no harm to others; which, nobody knows before a file was
run. So each rung makes files, runs them on their own runtime on the validation split, and has the gate judge them. The first
file that passes ends the climb. The rungs, each on top of the best before it:

default: Ranges as the quantiser estimates them by itself.
statistics: Every other way to estimate ranges and biases that the quantiser offers, the most promising first.
saturation: A spare bit in the weights, where the processor adds int8 products in 16 bits and would saturate. With the best
    statistics first, then with the others: as long as products saturate, statistics can hardly be told apart.
mixed: The layers that do most harm stay in floating point: 1, 2, 4, ... of them until the gate passes, then fewer by bisection.
    The order is measured, each layer quantised alone (`compress.quantization.sensitivity`). At most `int8.max_float_layers` of
    all layers are kept: a file that is float in all but name is better made by the next rung, or as fp16.
distillation: The network itself is adapted to int8 by its teachers, and quantised by the best of the first three rungs.

Decisions. Statistics are tried in order until one passes, not all of them: a try can take a minute, and what passes is good
enough by the user's own budget; where none passes, or the rung is pinned, all are tried and the best goes on. Better is what
misses the gate by fewer points of top-1 and agreement together; of files that pass, the one with the fewest float layers. The
sensitivity is measured with the statistics that were best so far. A pinned rung stands alone, on default statistics;
distillation then has the spare bit where the processor needs it, for rounding is what it learns to bear. A try that the
quantiser refuses or the runtime cannot run is a failed try with the reason, and the climb goes on; if no try left a file, the
first reason is raised. Nothing here sees the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Generic, Literal

from compress.errors import CompressError, Interrupted, Unreachable
from compress.events import Events
from compress.quantization import sensitivity as _ladder_sensitivity
from compress.quantization.candidate import Climbed, F, Footing, Try, judged, rank
from compress.quantization.saturation import needs_no_spare_bit
from compress.recipe import GateSection, Int8Section
from compress.records import Ladder, Rung, Sensitivity
from exporters._exporter import Quantisation

__all__ = ["RUNGS", "Climb", "Climbed", "Footing", "needs_no_spare_bit", "told"]

Name = Literal["default", "statistics", "saturation", "mixed", "distillation"]
RUNGS: tuple[Name, ...] = ("default", "statistics", "saturation", "mixed", "distillation")
"""In the order of the climb."""
FORESEEN_FROM = 3
"""Layers after which the time for all is foreseen; the first ones may load what the others find loaded."""


class _TooLong(CompressError):
    """The limit of time leaves no room for the order of the layers."""


class Climb(Generic[F]):
    """One climb, for one file.

    Args:
        footing: The network as it was trained.
        adapt: Gives the network that was adapted to int8 so; or why there is none.
        statistics: Names of the quantiser's statistics, `default` first.
        settings: Which rungs, how long, how much in floating point.
        gate: The budget.
        spare_bit: Why the runtime or this processor needs no spare bit; empty where it needs one.
        calibration_images: How many images the ranges are estimated on, for the record.
        folder: Where files are left, each in a folder with the number of its rung.
        name: What the file is called, for progress.
        events: Where progress goes.
        clock: Seconds.
    """

    def __init__(
        self, footing: F, *, adapt: Callable[[Quantisation], F] | str, statistics: tuple[str, ...], settings: Int8Section,
        gate: GateSection, spare_bit: str, calibration_images: int, folder: Path, name: str, events: Events,
        clock: Callable[[], float] = monotonic,
    ) -> None:  # fmt: skip
        self._footing, self._adapt, self._statistics = footing, adapt, statistics
        self._settings, self._gate, self._spare_bit = settings, gate, spare_bit
        self._calibration_images, self._folder, self._name = calibration_images, folder, name
        self._events, self._clock = events, clock
        self._begun = clock()
        self._rungs: list[Rung] = []
        self._tries: dict[int, Try[F]] = {}
        self._sensitivity: tuple[Sensitivity, ...] = ()

    def climb(self) -> Climbed[F]:
        """Return the file that meets the gate, or the one that comes nearest, with how it came about.

        Raises:
            CompressError: No rung left a file that could be judged; the message is that of the first.
            Unreachable: The disk is full, the folder cannot be written, or a package is missing.
            Interrupted: The user stopped.
        """
        steps: Mapping[Name, Callable[[], None]] = {
            "default": self._default, "statistics": self._better, "saturation": self._spare, "mixed": self._mixed,
            "distillation": self._distilled,
        }  # fmt: skip
        for rung in self._wanted():
            if self._late():
                minutes, limit = (self._clock() - self._begun) / 60, self._settings.max_minutes
                self._skip(rung, f"after {minutes:.1f} minutes no further rung is begun (int8.max_minutes {limit:g})")
                continue
            steps[rung]()
            if self._passed():
                break
        if not self._tries:
            raise CompressError(f"{self._name}: no int8 file could be made: {self._rungs[0].reason}")
        number = max(self._tries, key=self._rank_of)
        best = {max(numbers, key=self._rank_of) for numbers in self._numbers().values()}
        return Climbed(self._tries[number], {each: self._tries[each] for each in sorted(best)}, self._record(number))

    def _wanted(self) -> tuple[Name, ...]:
        return RUNGS if self._settings.rung == "auto" else (self._settings.rung,)

    def _late(self) -> bool:
        return self._clock() - self._begun > 60 * self._settings.max_minutes

    def _passed(self) -> bool:
        return any(each.passed for each in self._tries.values())

    def _numbers(self) -> dict[Name, list[int]]:
        """Return the numbers of all files, by their rung."""
        return {rung: [each for each, tried in self._tries.items() if tried.rung.rung == rung] for rung in self._names()}

    def _names(self) -> set[Name]:
        return {tried.rung.rung for tried in self._tries.values()}

    def _rank_of(self, number: int) -> tuple[float, ...]:
        return rank(self._tries[number], self._gate)

    def _base(self) -> Quantisation:
        """Return the best of the first three rungs; what a quantiser does by itself where none was tried."""
        tried = [each for each in self._tries.values() if not each.quantisation.keep]
        return max(tried, key=lambda each: rank(each, self._gate)).quantisation if tried else Quantisation()

    def _default(self) -> None:
        self._try("default", self._footing, Quantisation(), "the quantiser's own statistics")

    def _better(self) -> None:
        if len(self._statistics) < 2:
            self._skip("statistics", "this quantiser has no other statistics")
        for index, statistics in enumerate(self._statistics[1:]):
            if index and (self._late() or (self._passed() and self._settings.rung == "auto")):
                break
            self._try("statistics", self._footing, Quantisation(statistics=statistics), f"statistics {statistics}")

    def _spare(self) -> None:
        if self._spare_bit and self._settings.rung == "auto":
            self._skip("saturation", self._spare_bit)
            return
        best = self._base().statistics
        others = [each for each in self._statistics if each != best] if self._settings.rung == "auto" else []
        for index, statistics in enumerate([best, *others]):
            if index and self._late():
                break
            quantisation = Quantisation(statistics=statistics, saturation_fix=True)
            if self._try("saturation", self._footing, quantisation, f"a spare bit, statistics {statistics}"):
                break

    def _mixed(self) -> None:
        layers, base, begun = self._footing.layers, self._base(), self._clock()
        most = int(self._settings.max_float_layers * len(layers))
        if most < 1:
            share = f"{self._settings.max_float_layers:g} of its {len(layers)} layers"
            self._skip("mixed", f"int8.max_float_layers: {share} is less than one")
            return
        try:
            self._sensitivity = self._measure(base)
        except _TooLong as error:
            self._skip("mixed", str(error))
            return
        except (Unreachable, Interrupted):
            raise
        except CompressError as error:
            self._fail("mixed", "sensitivity of each layer", str(error), begun)
            return
        worst = [each.layer for each in self._sensitivity]

        def keep(count: int) -> bool:
            nonlocal begun
            kept = tuple(layer for layer in layers if layer in worst[:count])
            detail = f"{count} of {len(layers)} layers in floating point, statistics {base.statistics}{_spare(base)}"
            passed = self._try("mixed", self._footing, replace(base, keep=kept), detail, begun=begun)
            begun = self._clock()
            return passed

        _fewest(keep, most, self._late)

    def _distilled(self) -> None:
        base, begun = self._base(), self._clock()
        if not self._tries:
            base = replace(base, saturation_fix=not self._spare_bit)
        if isinstance(self._adapt, str):
            self._skip("distillation", self._adapt)
            return
        self._events.say(f"{self._name}: distillation: the network is adapted to int8 by its teachers")
        try:
            footing = self._adapt(base)
        except (Unreachable, Interrupted):
            raise
        except CompressError as error:
            self._fail("distillation", "quantization-aware distillation", str(error), begun)
            return
        detail = f"adapted by its teachers, statistics {base.statistics}{_spare(base)}"
        self._try("distillation", footing, base, detail, begun=begun)

    def _measure(self, base: Quantisation) -> tuple[Sensitivity, ...]:
        """Return how much each layer harms alone, worst first.

        Raises:
            _TooLong: It would take longer than the limit of time, as soon as that can be foreseen.
        """
        layers, begun, limit, measured = self._footing.layers, self._clock(), self._settings.max_minutes, 0

        def done(layer: str) -> None:
            nonlocal measured
            measured += 1
            task.advance(note=layer)
            each = (self._clock() - begun) / 60 / measured
            if measured >= FORESEEN_FROM and (begun - self._begun) / 60 + each * len(layers) > limit:
                raise _TooLong(
                    f"how much each of {len(layers)} layers harms would take {each * len(layers):.1f} minutes, and nothing is "
                    f"begun after {limit:g} (int8.max_minutes); raise it to use this rung"
                )

        with self._events.task(f"{self._name}: sensitivity of {len(layers)} layers", total=len(layers)) as task:
            found = _ladder_sensitivity.measured(self._footing, base, self._folder / "alone", done)
        self._events.emit("sensitivity", file=self._name, layers=[each.model_dump() for each in found])
        return found

    def _try(self, rung: Name, footing: F, quantisation: Quantisation, detail: str, *, begun: float | None = None) -> bool:
        """Make a file, run and judge it; return whether it passes."""
        begun = self._clock() if begun is None else begun
        number = len(self._rungs)
        with self._events.task(f"{self._name}: {rung}: {detail}", total=2) as task:
            try:
                path = footing.write(self._folder / str(number), quantisation)
            except (Unreachable, Interrupted):
                raise
            except CompressError as error:
                self._fail(rung, detail, str(error), begun, kept=quantisation.keep)
                return False
            task.advance()
            gate, accuracy = judged(footing, path)
            task.advance()
        record = Rung(
            rung=rung, detail=detail, status=gate.status, reason=gate.reason, validation=accuracy,
            agreement_percent=gate.agreement_percent, top1_drop_points=gate.top1_drop_points,
            size_bytes=footing.size_bytes(path), seconds=self._clock() - begun, kept=quantisation.keep,
        )  # fmt: skip
        self._note(record)
        self._tries[number] = Try(record, gate, quantisation, footing, path)
        return self._tries[number].passed

    def _skip(self, rung: Name, reason: str) -> None:
        self._note(Rung(rung=rung, detail="", status="skipped", reason=reason, seconds=0.0))

    def _fail(self, rung: Name, detail: str, reason: str, begun: float, *, kept: tuple[str, ...] = ()) -> None:
        seconds = self._clock() - begun
        self._note(Rung(rung=rung, detail=detail, status="failed", reason=reason, seconds=seconds, kept=kept))

    def _note(self, rung: Rung) -> None:
        self._rungs.append(rung)
        self._events.emit("rung", file=self._name, **rung.model_dump())

    def _record(self, number: int) -> Ladder:
        pinned = (
            ""
            if self._settings.rung == "auto"
            else f"The recipe pins rung {self._settings.rung!r} (int8.rung), so no other was tried."
        )
        return Ladder(
            rungs=tuple(self._rungs), chosen=number if self._tries[number].passed else None, sensitivity=self._sensitivity,
            calibration_images=self._calibration_images, note=pinned,
        )  # fmt: skip


def _fewest(passes: Callable[[int], bool], most: int, late: Callable[[], bool]) -> None:
    """Ask for 1, 2, 4, ... up to `most` until one passes, then bisect below it; nothing further is asked once it is late."""
    failed, count = 0, 1
    while not passes(count):
        if count == most or late():
            return
        failed, count = count, min(2 * count, most)
    while count - failed > 1 and not late():
        middle = (failed + count) // 2
        failed, count = (failed, middle) if passes(middle) else (middle, count)


def _spare(quantisation: Quantisation) -> str:
    return ", a spare bit" if quantisation.saturation_fix else ""


def told(name: str, ladder: Ladder) -> Iterator[str]:
    """Yield in a line what became of a climb: which rung passed, and why the others did not."""
    if ladder.chosen is None:
        yield f"{name}: no rung of the int8 ladder meets the gate; the nearest is kept apart"
    else:
        taken = ladder.rungs[ladder.chosen]
        yield f"{name}: int8 by rung {taken.rung!r} ({taken.detail}), {taken.seconds:.0f} s"
    others = [each for index, each in enumerate(ladder.rungs) if index != ladder.chosen and each.status != "passed"]
    for each in others:
        yield f"  {each.rung} {each.status}{f' ({each.detail})' if each.detail else ''}: {each.reason}"
