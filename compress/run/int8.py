"""How a file of precision int8 is made: what the ladder needs of a run, and what it leaves in the cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import exporters
from benchmarks.environment import environment
from compress.fingerprint import hash_sources
from compress.quantization import calibration, ladder
from compress.quantization.calibration import Calibration
from compress.quantization.ladder import Climb
from compress.recipe import ExportSection, Int8Section, canonical
from compress.run import cache
from compress.run.context import Run, Trained
from compress.run.int8_backend import Footing
from compress.run.verify import SplitLogits, WrittenFile, compute_logits, describe
from compress.system.files import writable
from exporters._exporter import Quantisation, Quantiser

TRIED, PLAIN = "tried", -1
TAUGHT = frozenset({"auto", "distillation"})
"""What `int8.rung` may say for teachers to be of use."""
FOR_COMPARISON = "It is there for comparison, so no other rung was tried."


class Aid(NamedTuple):
    """What a file of precision int8 is made with, beside its network."""

    settings: Int8Section
    calibration: Calibration
    teachers: tuple[Trained, ...] | str
    """Who adapt the network to int8 if all else fails; or why there are none."""
    yardstick: bool
    """Whether the file is there to be compared with, and need not be compared itself."""


def aid(run: Run, teachers: Sequence[Trained] | str, *, yardstick: bool) -> Aid:
    """Return what a run gives to the ladder; a yardstick gets the first rung and no other."""
    settings = run.recipe.int8.model_copy(update={"rung": "default"}) if yardstick else run.recipe.int8
    return Aid(settings, calibration.of(run), teachers if isinstance(teachers, str) else tuple(teachers), yardstick)


def key(run: Run, aid: Aid) -> Mapping[str, object]:
    """Return what decides which int8 file is made, beside what decides any file."""
    machine = environment()
    teachers = aid.teachers if aid.settings.rung in TAUGHT else ""
    return {
        "settings": canonical(aid.settings), "calibration": aid.calibration.key, "yardstick": aid.yardstick,
        "machine": [machine.cpu, machine.facts["instructions"]],
        "teachers": teachers if isinstance(teachers, str) else [each.key for each in teachers],
        "methods": [] if isinstance(teachers, str) else [canonical(method) for method in run.recipe.method],
        "source": hash_sources("compress/quantization/*.py", "compress/run/int8*.py", "compress/run/qad.py"),
    }  # fmt: skip


def climbed(
    run: Run, trained: Trained, section: ExportSection, said: SplitLogits, *, folder: Path, name: str, aid: Aid
) -> WrittenFile:
    """Climb the ladder; what was taken lies in `folder`, the best file of each rung below it.

    Raises:
        CompressError: The format cannot hold the network in int8.
        Unreachable: The disk is full, the folder cannot be written, or a package is missing.
    """
    exporter, tried = cast("Quantiser", exporters.load(section)), folder / TRIED
    with writable(tried):
        shutil.rmtree(tried, ignore_errors=True)  # of a climb that was interrupted
    no_spare_bit = exporter.no_spare_bit or ladder.needs_no_spare_bit(environment().facts["instructions"])
    end = Climb(
        Footing(run, trained, exporter, aid.calibration, reference=said.validation),
        adapt=_adapter(run, trained, exporter, said, aid), statistics=exporter.statistics, settings=aid.settings,
        gate=run.recipe.gate, spare_bit=no_spare_bit,
        calibration_images=len(aid.calibration.images), folder=tried, name=name, events=run.events,
    ).climb()  # fmt: skip
    for part in exporter.parts(end.taken.path):
        cache.copy(part, folder / part.name)
    path, own, original = folder / end.taken.path.name, end.taken.footing.trained, end.taken.footing.original
    compared = {} if aid.yardstick else {number: each.path for number, each in end.best.items()}
    _forget(tried, compared)
    if compared:
        compared[PLAIN] = _in_float(run, trained, section, tried)
    record = end.ladder.model_copy(update={"note": FOR_COMPARISON}) if aid.yardstick else end.ladder
    return WrittenFile(path, own, said if original is None else compute_logits(run, own), original, record, compared)


def _forget(tried: Path, kept: Mapping[int, Path]) -> None:
    """Remove the files of the ladder that nobody looks at again."""
    needed = {path.parent for path in kept.values()}
    for folder in tried.iterdir():
        if folder not in needed:
            shutil.rmtree(folder)


def _in_float(run: Run, trained: Trained, section: ExportSection, folder: Path) -> Path:
    """Write the same network in float32, with the other options as they are."""
    exporter = exporters.load(section.model_copy(update={"precision": "fp32"}))
    path = exporter.path(folder, trained.name)
    exporter.export(trained.network, run.data.sample_image(), path, about=describe(run, trained))
    return path


def _adapter(
    run: Run, trained: Trained, exporter: Quantiser, said: SplitLogits, aid: Aid
) -> Callable[[Quantisation], Footing] | str:
    """Return what adapts the network to int8 by its teachers, or why there is nothing."""
    teachers = aid.teachers
    if isinstance(teachers, str):
        return teachers

    def adapt(quantisation: Quantisation) -> Footing:
        from compress.run.qad import distil_quantised  # needed by few runs, and it loads the training half

        adapted = distil_quantised(
            run, trained, run.recipe.method, teachers, calibration=aid.calibration.images,
            saturation_fix=quantisation.saturation_fix,
        )  # fmt: skip
        reference = compute_logits(run, adapted).validation
        return Footing(run, adapted, exporter, aid.calibration, reference=reference, original=said.validation)

    return adapt
