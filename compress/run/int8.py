"""Export a trained network in int8: search the ladder for a file, with its exporter and runtime, and time the candidates.

A search is given calibration images and teachers by the run (`Int8Inputs`), and makes, runs and judges files by `RunBackend`.
Its best files stay in the cache and are timed against the same network in float32.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

import exporters
from benchmarks.environment import read_environment
from benchmarks.protocol import Inputs, Subject, measure
from compress import records
from compress.errors import Unstable
from compress.fingerprint import hash_sources, make_key
from compress.preprocess import normalise
from compress.quantization.calibration import Calibration, select_calibration
from compress.quantization.candidate import Unavailable
from compress.quantization.ladder import LadderSearch
from compress.quantization.saturation import explain_no_spare_bit
from compress.recipe import ExportSection, Int8Section, canonical
from compress.records import Document, Gate, Ladder, Ratio
from compress.run import cache
from compress.run.context import Run, Trained
from compress.run.verify import Logits, SplitLogits, WrittenFile, compute_logits, judge, make_metadata, make_subject, run_file
from compress.system.files import hash_file, writable
from compress.tasks import Labels, Task
from compress.text import quantify
from exporters import Quantizable, Quantization, Quantizer, Simulated

TRIED, SPEEDUPS = "tried", "speedups.json"
DISTILLED_RUNGS = frozenset({"auto", "distillation"})
"""Values of `int8.rung` for which teachers are of use."""
FOR_COMPARISON = "It is there for comparison, so no other rung was tried."
TIMED_IMAGES = 256


class Int8Inputs(NamedTuple):
    """Inputs of the search for an int8 file, beside its network."""

    settings: Int8Section
    calibration: Calibration
    teachers: tuple[Trained, ...] | Unavailable
    """They adapt the network to int8 if no other rung passes."""
    for_comparison: bool
    """Whether other files are compared with this one, so that it gets the first rung and is not timed rung by rung."""


def collect_inputs(run: Run, teachers: tuple[Trained, ...] | Unavailable, *, for_comparison: bool) -> Int8Inputs:
    """Return the inputs that a run gives to the search; a file for comparison gets the first rung and no other.

    Raises:
        CompressError: There are no calibration images, or all are of one class.
    """
    settings = run.recipe.int8.model_copy(update={"rung": "default"}) if for_comparison else run.recipe.int8
    return Int8Inputs(settings, select_calibration_images(run), teachers, for_comparison)


def select_calibration_images(run: Run) -> Calibration:
    """Select the calibration images of a run.

    Raises:
        CompressError: There are no images, or all are of one class.
    """
    return select_calibration(
        run.data.train,
        run.data.preprocess,
        count=run.recipe.int8.calibration_images,
        seed=run.recipe.seed,
        task=run.data.task,
    )


def collect_key_parts(run: Run, inputs: Int8Inputs) -> Mapping[str, object]:
    """Return the parts of the cache key of an int8 file that other files do not have."""
    machine = read_environment()
    teachers = inputs.teachers if inputs.settings.rung in DISTILLED_RUNGS else Unavailable("")
    if isinstance(teachers, Unavailable):
        taught: Mapping[str, object] = {"teachers": teachers.reason}
    else:
        taught = {
            "teachers": [each.key for each in teachers], "methods": [canonical(method) for method in run.recipe.method],
        }  # fmt: skip
    return {
        **taught,
        "settings": canonical(inputs.settings), "calibration": inputs.calibration.key,
        "for comparison": inputs.for_comparison, "machine": [machine.cpu, machine.facts["instructions"]],
        "source": hash_sources("compress/quantization/*.py", "compress/run/int8.py", "compress/run/qad.py"),
    }  # fmt: skip


def export_int8(
    run: Run, trained: Trained, section: ExportSection, logits: SplitLogits, *, folder: Path, name: str, inputs: Int8Inputs
) -> WrittenFile:
    """Search for an int8 file; the chosen one is left in `folder`, the best file of each rung below it.

    Args:
        run: Run context.
        trained: The network, on the CPU.
        section: The format, with precision int8.
        logits: Of the network in float32, each [N, K].
        folder: Where the files go.
        name: Name of the file, for progress.
        inputs: As `collect_inputs` returns them.

    Raises:
        CompressError: The format cannot hold the network in int8.
        Unreachable: The disk is full, the folder cannot be written, or a package is missing.
        Interrupted: The user stopped.
    """
    exporter, tried = cast("Quantizer", exporters.load(section)), folder / TRIED
    with writable(tried):
        shutil.rmtree(tried, ignore_errors=True)  # of a search that was interrupted
    result = LadderSearch(
        RunBackend(run, trained, exporter, inputs.calibration, reference=logits.validation),
        adapt=_build_adapter(run, trained, exporter, logits, inputs), statistics=exporter.statistics, settings=inputs.settings,
        gate=run.recipe.gate,
        no_spare_bit=exporter.no_spare_bit or explain_no_spare_bit(read_environment().facts["instructions"]),
        calibration_images=len(inputs.calibration.images), folder=tried, name=name, events=run.events,
    ).search()  # fmt: skip
    chosen, backend = result.chosen.path, result.chosen.backend
    for part in exporter.list_parts(chosen):
        cache.copy(part, folder / part.name)
    best = {} if inputs.for_comparison else {number: each.path for number, each in result.best.items()}
    _remove_all_but(best.values(), tried)
    float32 = _export_float32(run, trained, section, tried) if best else None
    ladder = result.ladder.model_copy(update={"note": FOR_COMPARISON}) if inputs.for_comparison else result.ladder
    own = logits if backend.original is None else compute_logits(run, backend.trained)
    return WrittenFile(folder / chosen.name, backend.trained, own, backend.original, ladder, best, float32)


def _remove_all_but(kept: Iterable[Path], tried: Path) -> None:
    needed = {path.parent for path in kept}
    for folder in tried.iterdir():
        if folder not in needed:
            shutil.rmtree(folder)


def _export_float32(run: Run, trained: Trained, section: ExportSection, folder: Path) -> Path:
    """Write the same network in float32, with the other options as they are."""
    exporter = exporters.load(section.model_copy(update={"precision": "fp32"}))
    path = exporter.name_file(folder, trained.name)
    exporter.export(trained.network, run.data.sample_image(), path, about=make_metadata(run, trained))
    return path


class RunBackend:
    """One network and one format: files are written by the exporter, run by the runner and judged by the gate.

    The contract is `compress.quantization.candidate.QuantizationBackend`.

    Args:
        run: Run context.
        trained: The network, on the CPU.
        exporter: The format, with precision int8.
        calibration: Images of the training split.
        reference: Logits of the network in float32 on the validation images, [N, K].
        original: Logits of the network before it was adapted to int8, if it was, [N, K].
    """

    def __init__(
        self, run: Run, trained: Trained, exporter: Quantizer, calibration: Calibration, *, reference: Logits,
        original: Logits | None = None,
    ) -> None:  # fmt: skip
        self._run, self._exporter, self._calibration = run, exporter, calibration
        self.trained, self.reference, self.original = trained, reference, original

    @cached_property
    def _quantizable(self) -> Quantizable:
        network, image = self.trained.network, self._run.data.sample_image()
        return self._exporter.prepare_int8(
            network, image, self._calibration.images, about=make_metadata(self._run, self.trained)
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that can stay in floating point, from input to output."""
        return self._quantizable.layers

    @property
    def always_float(self) -> tuple[str, ...]:
        """Names of the layers that stay in floating point in every file, as far as the files so far have shown."""
        return self._quantizable.always_float

    @property
    def labels(self) -> Labels:
        """Labels of the validation images, [N, ...]."""
        return self._run.validation_labels

    @property
    def task(self) -> Task:
        """What the network is for."""
        return self._run.data.task

    def write(self, folder: Path, quantization: Quantization) -> Path:
        """Write the int8 file into a folder and return its path.

        Raises:
            CompressError: The format cannot hold this network so.
            Unreachable: The disk is full or the folder cannot be written.
        """
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        path = self._exporter.name_file(folder, self.trained.name)
        self._quantizable.write(path, quantization)
        return path

    def count_bytes(self, path: Path) -> int:
        """Return the size of all parts of a file."""
        return sum(part.stat().st_size for part in self._exporter.list_parts(path))

    def run_file(self, path: Path, images: NDArray[np.intp] | None = None) -> Logits:
        """Return the logits [N, K] of a file on its own runtime, for all images or for those with the numbers `images`, [N].

        Raises:
            CompressError: The runtime cannot run it.
        """
        held = self._run.data.validation.images
        shown = held if images is None else held[images]
        return run_file(make_subject(path.name, path, self._exporter), [shown], self._run.data.preprocess).logits

    def simulate(self, quantization: Quantization, images: NDArray[np.intp]) -> Logits | None:
        """Return the logits [N, K] of a file as torch simulates them for the images with the numbers `images`, [N].

        `None` where a file is written as quickly.

        Raises:
            CompressError: The format cannot hold this network so.
        """
        if not isinstance(self._quantizable, Simulated):
            return None
        shown = normalise(self._run.data.validation.images[images], self._run.data.preprocess)
        return self._quantizable.simulate(quantization, shown)

    def judge(self, logits: Logits) -> Gate:
        """Return the gate's verdict on a file by its logits, [N, K]."""
        return judge(self._run, logits, precision="int8", reference=self.reference, original=self.original)


def _build_adapter(
    run: Run, trained: Trained, exporter: Quantizer, logits: SplitLogits, inputs: Int8Inputs
) -> Callable[[Quantization], RunBackend] | Unavailable:
    """Return the function that adapts the network to int8 by its teachers, or why there is none."""
    teachers = inputs.teachers
    if isinstance(teachers, Unavailable):
        return teachers

    def adapt(quantization: Quantization) -> RunBackend:
        from compress.run.qad import distil_quantized  # needed by few runs, and it loads the training half

        adapted = distil_quantized(
            run, trained, run.recipe.method, teachers, calibration=inputs.calibration.images,
            saturation_fix=quantization.saturation_fix,
        )  # fmt: skip
        reference = compute_logits(run, adapted).validation
        return RunBackend(run, adapted, exporter, inputs.calibration, reference=reference, original=logits.validation)

    return adapt


class Speedups(Document):
    """How many times as fast as float32 each file is, by its name."""

    ratios: dict[str, Ratio]


def time_candidates(
    run: Run, name: str, ladder: Ladder, float32: Subject, candidates: Mapping[int, Subject], *, source: str
) -> Ladder:
    """Return the ladder with the speed-up of the rungs whose files are given; where no timing settled, its note says so.

    Args:
        run: Run context.
        name: Name of the int8 file, for progress.
        ladder: Record of the search.
        float32: The same network in float32 on the same runtime.
        candidates: Files by the number of their rung.
        source: sha256 of our own source that measures.
    """
    subjects = [float32, *candidates.values()]
    machine, settings = read_environment(), run.recipe.measure
    key = make_key(
        what="speedups of int8", files=[[each.name, hash_file(each.path)] for each in subjects], packages=machine.packages,
        measure=settings.model_dump(mode="json", exclude={"devices"}), cpu=machine.cpu, source=source,
    )  # fmt: skip
    run.events.say(f"{name}: timing {quantify(len(candidates), 'int8 file')} against float32")
    try:
        folder = run.cache.make(
            key, f"speed of {name}", lambda folder: records.save(folder / SPEEDUPS, _measure_speedups(run, subjects, folder))
        )
    except Unstable as error:
        return ladder.model_copy(update={"note": " ".join(filter(None, [ladder.note, f"Not timed: {error}."]))})
    ratios = records.read(folder / SPEEDUPS, Speedups).ratios
    return set_speedups(ladder, {number: ratios[each.name] for number, each in candidates.items()})


def set_speedups(ladder: Ladder, speedups: Mapping[int, Ratio]) -> Ladder:
    """Return the ladder with the speed-up of the rungs with these numbers."""
    rungs = tuple(
        rung.model_copy(update={"speedup": speedups.get(number, rung.speedup)}) for number, rung in enumerate(ladder.rungs)
    )
    return ladder.model_copy(update={"rungs": rungs})


def _measure_speedups(run: Run, subjects: Sequence[Subject], folder: Path) -> Speedups:
    """Time the files at the recipe's batch size, or at the only one that they take; the raw series are left in the folder."""
    settings, pixels = run.recipe.measure, run.data.validation.images[:TIMED_IMAGES]
    found = measure(
        subjects, Inputs.from_pixels(pixels, run.data.preprocess), against=subjects[0].name, threads=settings.threads,
        batch_size=subjects[0].batch_size or settings.batch_size, rounds=settings.rounds, seconds=settings.seconds,
        launches=1, events=run.events, raw=folder / "latency-raw.json",
    )  # fmt: skip
    return Speedups(ratios={name: each.ratio for name, each in found.items() if each.ratio is not None})
