"""Verification of an exported file: run on its own runtime, and compared with the network that it was made of.

A file must give the outputs of the network that it was made of; its accuracy may drop by the budget against the network that
was trained. The two are one, except after quantization-aware distillation, which adapts the network itself. There agreement and
the largest difference are taken against the adapted network in float32, for they ask whether the export is true to what was
trained; but the drop is taken against the student as it was before, or else an adaptation that cost five points would pass by
comparing its file with itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import exporters
from benchmarks import protocol
from benchmarks.devices import Device
from benchmarks.protocol import Evaluation, Subject
from benchmarks.report import paired
from compress import __version__
from compress.errors import CompressError
from compress.events import Events
from compress.models import count_macs, count_parameters
from compress.preprocess import Images, normalise
from compress.recipe import ExportSection
from compress.records import Gate, Ladder, Precision, Preprocess, Variant
from compress.run.context import Run, Trained
from compress.training import evaluate
from exporters import About, Exporter
from exporters.verification.interface import ExpectedInterface
from exporters.verification.judge import explain_unusable
from exporters.verification.judge import judge as judge_file
from exporters.verification.rule import Outputs, make_comparable, measure_differences

Logits = NDArray[np.float32]

HARNESS = ("benchmarks/*.py", "benchmarks/runtimes/*.py", "benchmarks/devices/**/*.py")
"""Our own source that runs and times files."""
VERDICT = (
    "exporters/**/*.py", *HARNESS, "compress/run/export.py", "compress/run/verify.py", "compress/preprocess.py",
    "compress/geometry.py", "compress/input_probes.py", "compress/tasks/*.py", "compress/records/*.py",
    "compress/statistics/*.py",
)  # fmt: skip
"""Our own source that decides an exported file and what is said of it."""
SAMPLES, SAMPLES_BYTES = (64, 256), 4 << 20
"""Fewest and most validation images that travel with a bundle, and how many bytes all but the fewest may take. Few samples see
little: of files that lose three points of accuracy, 64 miss two in five."""

SLICE_BYTES = 1 << 28
"""Bytes of images on disk that one process runs; as float32 they take four times as much memory. The first such slice also
shows whether activations stay within fp16."""


class SplitLogits(NamedTuple):
    """Logits of a torch network, computed in float32 on the CPU."""

    validation: NDArray[np.float32]
    """[N, K]."""
    test: NDArray[np.float32]
    """[N, K]."""


class WrittenFile(NamedTuple):
    """A written file that is to be verified."""

    path: Path
    trained: Trained
    """The network that it was made of."""
    logits: SplitLogits
    """Logits of that network."""
    original: NDArray[np.float32] | None = None
    """Logits of the validation images before the network was adapted to int8, if it was, [N, K]."""
    ladder: Ladder | None = None
    candidates: Mapping[int, Path] = {}
    """int8 files that are timed, by the number of their rung in the ladder."""
    float32: Path | None = None
    """The same network in float32, with which those are compared."""


def compute_logits(run: Run, trained: Trained) -> SplitLogits:
    """Compute the logits of a network, which lies on the CPU, on the validation and the test split."""
    cpu = torch.device("cpu")
    return SplitLogits(
        *(
            evaluate.compute_logits(trained.network, run.batch_in_order(split, device=cpu), images=len(split.labels))
            for split in (run.data.validation, run.data.test)
        )
    )


def make_subject(name: str, path: Path, exporter: Exporter) -> Subject:
    """Return a file on the runtime of its format."""
    return Subject(name, path, exporter.runtime, exporter.batch_size, exporter.takes_pixels, exporter.gives_class)


def make_metadata(run: Run, trained: Trained) -> About:
    """Return the metadata of a file; it depends on the network alone, so that equal networks give equal files."""
    provenance = {"made by": f"edge-compress {__version__}", "method": trained.method, "stage": trained.key}
    return About(trained.name, run.data.classes, run.data.preprocess, provenance)


class VerifiedFile(NamedTuple):
    """The row of a file before it is timed, its verdict, and what it gave for the samples of a bundle."""

    variant: Variant
    gate: Gate
    outputs: NDArray[np.float32] | None = None
    """Logits of the samples (`select_samples`), float32 [samples, K]; `None` where it gave none that could be compared."""


def select_samples(run: Run) -> NDArray[np.intp]:
    """Return the numbers of the validation images that travel with a bundle, [samples]; of every class, sorted or not."""
    held = run.data.validation.images
    count = min(len(held), max(SAMPLES[0], min(SAMPLES[1], SAMPLES_BYTES // math.prod(held.shape[1:]))))
    return np.linspace(0, len(held) - 1, count).astype(np.intp)


def verify_file(run: Run, made: WrittenFile, file: Subject, section: ExportSection) -> VerifiedFile:
    """Run the file on validation and test images, and judge it on the validation images.

    A file that its runtime does not run has failed; where that is no fault of the file, it is not judged.
    """
    data, logits, precision = run.data, made.logits, exporters.load(section).precision
    row = _make_row(run, made.trained, file, section, precision)
    try:
        found = run_file(file, [data.validation.images, data.test.images], data.preprocess, events=run.events)
        on_validation, on_test = np.split(found.logits, [len(data.validation.labels)])
        gate = _judge_outputs(run, made, file, found, precision=precision)
    except CompressError as error:
        gate = explain_unusable(error, file.runtime)
        return VerifiedFile(row.model_copy(update={"status": gate.status, "reason": gate.reason}), gate)
    if gate.max_abs_diff is None:  # no logits that could be compared
        return VerifiedFile(row.model_copy(update={"reason": gate.reason}), gate)
    row = row.model_copy(
        update={
            "accuracy": evaluate.measure_accuracy(on_test, data.test.labels, data.task),
            "validation": evaluate.measure_accuracy(on_validation, data.validation.labels, data.task),
            "calibration": evaluate.measure_calibration(
                (on_validation, on_test), (data.validation.labels, data.test.labels), data.task
            ),
            "agreement_percent": 100 * data.task.measure_agreement(logits.test, on_test),
            "max_abs_diff": float(measure_differences(*make_comparable(logits.test, on_test, data.task.boxes)).largest.max()),
            **paired.pack_scores(data.task, data.task.tally(on_test, data.test.labels)),
            "peak_memory_bytes": found.peak_memory_bytes,
            "effective": found.effective,
            "status": gate.status,
            "reason": gate.reason,
        }
    )
    return VerifiedFile(row, gate, on_validation[select_samples(run)])


def _make_row(run: Run, trained: Trained, file: Subject, section: ExportSection, precision: Precision) -> Variant:
    """Return the row of a file before it has run."""
    return Variant(
        name=file.name, network=trained.name, method=trained.method, format=section.format, runtime=file.runtime,
        precision=precision, device="local", parameters=count_parameters(trained.network),
        macs=count_macs(trained.network, run.data.sample_image()), status="failed",
    )  # fmt: skip


def _judge_outputs(run: Run, made: WrittenFile, file: Subject, found: Evaluation, *, precision: Precision) -> Gate:
    """Judge all that a file gave for the validation images, and run it further where that is needed."""
    data, count = run.data, len(run.data.validation.labels)
    outputs = Outputs(found.logits[:count], {name: values[:count] for name, values in found.further.items()})
    pixels = next(_iterate_slices([data.validation.images]))
    return judge_file(
        file.path, ExpectedInterface(
            data.preprocess, data.classes, file.batch_size, file.takes_pixels, file.gives_class,
            made.logits.validation.shape[1:], data.task.boxes,
        ),
        outputs, protocol.make_runner(file, events=run.events),
        pixels if file.takes_pixels else normalise(pixels, data.preprocess), reference=made.logits.validation,
        labels=run.validation_labels, settings=run.recipe.gate, precision=precision, original=made.original, task=data.task,
    )  # fmt: skip


def run_file(
    file: Subject, splits: Sequence[Images], preprocess: Preprocess, *, batch_size: int = 32, device: Device | None = None,
    events: Events | None = None,
) -> Evaluation:  # fmt: skip
    """Run the images of some splits, one after the other, through a file on its own runtime.

    Images in memory are run by one process, images on disk by one for every `SLICE_BYTES` of them.

    Args:
        file: The file on its runtime.
        splits: Images of each split, uint8 [N, H, W, C].
        preprocess: How they become float32 [N, C, H, W].
        batch_size: Images in a call.
        device: Where; default: here.
        events: Where progress is shown.
    """
    parts = [
        protocol.evaluate(
            file, protocol.Inputs.from_pixels(pixels, preprocess), batch_size=batch_size, device=device, events=events
        )
        for pixels in _iterate_slices(splits)
    ]
    if len(parts) == 1:
        return parts[0]
    peaks = [part.peak_memory_bytes for part in parts if part.peak_memory_bytes is not None]
    return dataclasses.replace(
        parts[0],
        logits=np.concatenate([part.logits for part in parts]),
        peak_memory_bytes=max(peaks, default=None),
        further={name: np.concatenate([part.further[name] for part in parts]) for name in parts[0].further},
    )


def _iterate_slices(splits: Sequence[Images]) -> Iterator[NDArray[np.uint8]]:
    """Yield the images of all splits in order: in one array where they lie in memory, in several where they do not."""
    arrays = [images for images in splits if isinstance(images, np.ndarray)]
    if len(arrays) == len(splits):
        yield np.concatenate(arrays)
        return
    for images in splits:
        rows = max(1, SLICE_BYTES // math.prod(images.shape[1:]))
        for start in range(0, len(images), rows):
            yield images[start : start + rows]


def judge(run: Run, logits: Logits, *, precision: Precision, reference: Logits, original: Logits | None = None) -> Gate:
    """Judge a file by its logits on the validation images.

    Args:
        run: Run context.
        logits: Logits of the file, [N, K].
        precision: Of the file.
        reference: Logits of the network that the file was made of, [N, K]: agreement and differences are taken from them.
        original: Logits of that network before it was adapted to int8, if it was, [N, K]: the drop of top-1 is taken from
            them.
    """
    return exporters.gate(
        reference,
        logits,
        run.validation_labels,
        settings=run.recipe.gate,
        precision=precision,
        original=original,
        task=run.data.task,
    )
