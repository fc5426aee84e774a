"""Export a network and verify the file on its own runtime.

Every file is run by the runner in a process of its own on validation and test images. The gate judges the validation images;
the test images are for the report alone. A file of precision int8 is searched for first
(`compress.run.int8`), and then verified like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import exporters
from benchmarks.environment import read_environment
from compress import records
from compress.errors import CompressError
from compress.fingerprint import hash_plugin, hash_sources, make_key
from compress.models import count_macs, count_parameters
from compress.quantization.candidate import Unavailable
from compress.recipe import ExportSection, canonical
from compress.records import Document, Gate, StageResult, Status, Variant
from compress.run.context import Run, Trained
from compress.run.int8 import Int8Inputs, collect_inputs, collect_key_parts, export_int8
from compress.run.verify import (
    VERDICT,
    SplitLogits,
    WrittenFile,
    make_metadata,
    make_subject,
    verify_file,
)
from compress.system.files import hash_file
from compress.training.evaluate import measure_accuracy, measure_calibration
from exporters import Exporter

NO_TEACHERS = Unavailable("no teachers")
OUTCOME, LOGITS, SAMPLES = "outcome.json", "logits.npz", "samples.npy"
TORCH = "torch"


class Outcome(Document):
    """Record of one exported file before it is timed."""

    variant: Variant
    gate: Gate
    path: str
    parts: dict[str, str]
    tried: dict[int, str]
    """Files of the int8 search that are timed, relative to the stage: the best of each rung by its number in the ladder. Empty
    for other precisions, and for a file that others are compared with."""
    float32: str | None = None
    """The same network in float32, with which those are compared."""
    adapted: tuple[StageResult, ...]
    """Stages that adapted the network to int8."""
    seconds: float
    """Of export and verification; the stages above have their own."""


class ExportedFile(NamedTuple):
    """One exported file with its row of the report and its verdict."""

    variant: Variant
    gate: Gate
    folder: Path
    path: Path
    section: ExportSection
    seconds: float
    """How long export and verification took when they were done."""
    logits: SplitLogits
    """Of the torch network that the file was made of; quantization-aware distillation makes it of another network."""
    adapted: tuple[StageResult, ...]
    """Stages that made that other network."""
    candidates: Mapping[int, Path] = {}
    """Files of the int8 search that are timed, by the number of their rung; see `Outcome.tried`."""
    float32: Path | None = None
    """The same network in float32, with which those are compared."""
    outputs: NDArray[np.float32] | None = None
    """Logits of the file for the samples of a bundle, float32 [samples, K]; `None` where it gave none to compare."""


def describe_unexported(run: Run, trained: Trained, logits: SplitLogits, *, shipped: Trained) -> Variant:
    """Return the row of the report for a network that was trained for comparison and is not exported."""
    image = run.data.sample_image()
    same = count_macs(trained.network, image) == count_macs(shipped.network, image)
    graph = "the same graph as the student's" if same else "another graph than the student's, and so another latency"
    return Variant(
        name=f"{trained.name}-torch", network=trained.name, method=trained.method, format=TORCH, runtime=TORCH,
        precision="fp32", device="local", parameters=count_parameters(trained.network), macs=count_macs(trained.network, image),
        accuracy=measure_accuracy(logits.test, run.data.test.labels, run.data.task),
        validation=measure_accuracy(logits.validation, run.data.validation.labels, run.data.task),
        calibration=measure_calibration(
            (logits.validation, logits.test), (run.data.validation.labels, run.data.test.labels), run.data.task
        ),
        status="skipped", reason=f"not exported: {graph}",
    )  # fmt: skip


def describe_unmade(run: Run, trained: Trained, section: ExportSection, reason: str, *, status: Status) -> Variant:
    """Return the row of the report for a file that could not be made, without figures."""
    exporter = exporters.load(section)
    return Variant(
        name=_name_row(exporter, trained, section), network=trained.name, method=trained.method, format=section.format,
        runtime=exporter.runtime, precision=exporter.precision, device="local", parameters=count_parameters(trained.network),
        macs=count_macs(trained.network, run.data.sample_image()), status=status, reason=reason,
    )  # fmt: skip


def _name_row(exporter: Exporter, trained: Trained, section: ExportSection) -> str:
    return exporter.name_file(Path(), f"{trained.name}-{section.format}").stem


def export_file(
    run: Run, trained: Trained, section: ExportSection, logits: SplitLogits, *,
    teachers: tuple[Trained, ...] | Unavailable = NO_TEACHERS, for_comparison: bool = False,
) -> ExportedFile:  # fmt: skip
    """Export a network, run the file on its own runtime, and judge it.

    Args:
        run: Run context.
        trained: The network, on the CPU.
        section: The format.
        logits: The network's logits.
        teachers: They adapt the network to int8 if nothing else helps; or why there are none, and that rung is skipped.
        for_comparison: Whether others are compared with this file: in int8 it gets the first rung and no other.

    Raises:
        CompressError: The format cannot hold the network.
        Unreachable: The disk is full or the folder cannot be written.
    """
    exporter = exporters.load(section)
    int8 = collect_inputs(run, teachers, for_comparison=for_comparison) if exporter.precision == "int8" else None
    key = _make_key(run, trained, section, int8)
    name = _name_row(exporter, trained, section)
    if (known := run.cache.find(key, name)) is not None and records.read(known / OUTCOME, Outcome).gate.samples == 0:
        run.cache.drop(key)  # it could not be run, which may have been the machine's fault: try again

    def make(folder: Path) -> None:
        begun = monotonic()
        if int8 is None:
            made = _write(run, trained, exporter, logits, exporter.name_file(folder, trained.name))
        else:
            made = export_int8(run, trained, section, logits, folder=folder, name=name, inputs=int8)
        records.save(folder / OUTCOME, _verify(run, made, section, name, folder=folder, begun=begun))

    exported = _read_exported(run.cache.make(key, name, make), section, logits)
    _report_verdict(run, exported.variant, exported.gate)
    return exported


def _read_exported(folder: Path, section: ExportSection, logits: SplitLogits) -> ExportedFile:
    """Return an exported file from its folder in the cache, `logits` being those of the network before any adaptation.

    Raises:
        CompressError: A part of the file was changed.
    """
    outcome = records.read(folder / OUTCOME, Outcome)
    for part, sha256 in outcome.parts.items():
        if hash_file(folder / part) != sha256:
            raise CompressError(f"{folder / part}: was changed after it was proved; delete {folder} and run again")
    return ExportedFile(
        outcome.variant.model_copy(update={"seconds": outcome.seconds}), outcome.gate, folder, folder / outcome.path, section,
        outcome.seconds, _load_logits(folder / LOGITS) if outcome.adapted else logits, outcome.adapted,
        candidates={number: folder / path for number, path in outcome.tried.items()},
        float32=None if outcome.float32 is None else folder / outcome.float32,
        outputs=None if outcome.gate.max_abs_diff is None else np.load(folder / SAMPLES, allow_pickle=False),
    )  # fmt: skip


def _make_key(run: Run, trained: Trained, section: ExportSection, int8: Int8Inputs | None) -> str:
    """Return the cache key of an exported file: the sha256 over all that decides the file and its verdict."""
    return make_key(
        network=trained.key, name=trained.name, method=trained.method, section=canonical(section),
        data=[run.data.key, run.data.test_key], gate=_describe_gate(run),
        packages=read_environment().packages,
        source=hash_sources(*VERDICT), exporter=hash_plugin("exporters", section.format),
        runtime=hash_plugin("runtimes", exporters.load(section).runtime), int8=int8 and collect_key_parts(run, int8),
    )  # fmt: skip


def _describe_gate(run: Run) -> str:
    """Return the section `gate` without the budget against the teacher, which is judged behind the cache."""
    return canonical(run.recipe.gate.model_copy(update={"max_drop_from_teacher_points": None}))


def _write(run: Run, trained: Trained, exporter: Exporter, logits: SplitLogits, path: Path) -> WrittenFile:
    """Write a file of any precision but int8."""
    with run.events.task(f"export {path.name}", total=1, kind="export") as task:
        exporter.export(trained.network, run.data.sample_image(), path, about=make_metadata(run, trained))
        task.advance()
    return WrittenFile(path, trained, logits)


def _verify(run: Run, made: WrittenFile, section: ExportSection, name: str, *, folder: Path, begun: float) -> Outcome:
    """Verify a file and return its record."""
    exporter = exporters.load(section)
    with run.events.task(f"verify {name}", total=1, kind="verification") as task:
        variant, gate, outputs = verify_file(run, made, make_subject(name, made.path, exporter), section)
        task.advance()
    if outputs is not None:
        np.save(folder / SAMPLES, outputs, allow_pickle=False)
    adapted = () if made.original is None else made.trained.results
    if adapted:
        np.savez(folder / LOGITS, validation=made.logits.validation, test=made.logits.test)
    size = sum(part.stat().st_size for part in exporter.list_parts(made.path))
    return Outcome(
        variant=variant.model_copy(update={"size_bytes": size, "ladder": made.ladder}), gate=gate, path=made.path.name,
        parts={part.name: hash_file(part) for part in exporter.list_parts(made.path)},
        tried={number: path.relative_to(folder).as_posix() for number, path in made.candidates.items()},
        float32=made.float32 and made.float32.relative_to(folder).as_posix(), adapted=adapted,
        seconds=max(0.0, monotonic() - begun - sum(result.seconds for result in adapted)),
    )  # fmt: skip


def _load_logits(path: Path) -> SplitLogits:
    with np.load(path, allow_pickle=False) as file:
        return SplitLogits(file["validation"], file["test"])


def _report_verdict(run: Run, variant: Variant, gate: Gate) -> None:
    """Report the verdict on a file."""
    words = {"passed": "gate passed", "failed": f"gate FAILED: {gate.reason}", "skipped": f"NOT JUDGED: {gate.reason}"}
    run.events.say(f"{variant.name}: {words[gate.status]}")
    run.events.emit("gate", file=variant.name, **gate.model_dump())
