"""The delivered half of a run: export, proof on the file's own runtime, measurement.

Every file is run by the runner in a process of its own on validation and test images. The gate judges the validation images;
the test images are for the report alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import exporters
from benchmarks.environment import environment
from benchmarks.protocol import Measurement, Subject, evaluate, measure, ratio
from compress import evaluate as torch_evaluate
from compress import records, stages
from compress.errors import CompressError
from compress.files import sha256_of
from compress.preprocess import normalise
from compress.recipe import ExportSection, canonical
from compress.records import Document, Environment, Gate, Latency, Ratio, Variant
from compress.work import Trained, Work
from exporters._exporter import Exporter

OUTCOME, TIMING = "outcome.json", "timing.json"
TORCH = "torch"


class Outcome(Document):
    """What is known of one exported file before it is timed."""

    variant: Variant
    gate: Gate
    path: str
    parts: dict[str, str]
    seconds: float


class Timing(Document):
    """What was measured, by the variant's name."""

    latency_ms: dict[str, Latency]
    ratio: dict[str, Ratio]
    throughput_per_s: dict[str, float]
    seconds: float
    environment: Environment
    """The machine when it was measured."""


class Answers(NamedTuple):
    """What the torch network says, computed in float32 on the CPU."""

    validation: NDArray[np.float32]
    test: NDArray[np.float32]


class Delivered(NamedTuple):
    """One exported file and what is known of it."""

    variant: Variant
    gate: Gate
    folder: Path
    path: Path
    section: ExportSection
    seconds: float
    """How long export and proof took when they were made."""


def answers(work: Work, trained: Trained) -> Answers:
    """Return the logits of a network on the validation and the test split."""
    cpu = torch.device("cpu")  # where the files run; a GPU may round differently
    network, splits = trained.network.to(cpu), (work.data.validation, work.data.test)
    return Answers(*(torch_evaluate.logits(network, work.whole(split, device=cpu)) for split in splits))


def plain(work: Work, trained: Trained, said: Answers, *, shipped: Trained) -> Variant:
    """Return the row of a network that is compared as trained and not exported, beside the one that is shipped."""
    same = _macs(work, trained) == _macs(work, shipped)
    graph = "the same graph as the student's" if same else "another graph than the student's, and so another latency"
    return Variant(
        name=f"{trained.name}-torch", network=trained.name, method=trained.method, format=TORCH, runtime=TORCH,
        precision="fp32", device="local", parameters=torch_evaluate.parameters(trained.network), macs=_macs(work, trained),
        accuracy=torch_evaluate.accuracy(said.test, work.data.test.labels),
        validation=torch_evaluate.accuracy(said.validation, work.data.validation.labels),
        status="skipped", reason=f"not exported: {graph}",
    )  # fmt: skip


def deliver(work: Work, trained: Trained, section: ExportSection, said: Answers) -> Delivered:
    """Export a network, run the file on its own runtime, and judge it.

    The network is on the CPU, where `answers` has put it.

    Raises:
        CompressError: The format cannot hold the network.
        Unreachable: The disk is full or the folder cannot be written.
    """
    exporter = exporters.load(section)
    key = stages.key(
        network=trained.key, name=trained.name, section=canonical(section), data=[work.data.key, work.data.test_key],
        gate=canonical(work.recipe.gate),
        packages={name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime", "openvino")},
        source=_source("exporters", "benchmarks"), exporter=stages.plugin("exporters", section.format),
        runtime=stages.plugin("runtimes", exporter.runtime),
    )  # fmt: skip
    if (known := work.cache.find(key)) is not None and records.read(known / OUTCOME, Outcome).gate.samples == 0:
        work.cache.drop(key)  # it could not be run, which may have been the machine's fault: try again
    name = exporter.path(Path(), f"{trained.name}-{section.format}").stem

    def make(folder: Path) -> None:
        begun = monotonic()
        path = exporter.path(folder, trained.name)
        with work.events.task(f"export {name}", total=2) as task:
            exporter.export(trained.network, work.data.image(), path)
            task.advance()
            variant, gate = _prove(work, trained, _subject(name, path, exporter), section, said)
            task.advance()
        parts = {part.name: sha256_of(part) for part in exporter.parts(path)}
        size = sum(part.stat().st_size for part in exporter.parts(path))
        variant = variant.model_copy(update={"size_bytes": size})
        made = Outcome(variant=variant, gate=gate, path=path.name, parts=parts, seconds=monotonic() - begun)
        records.save(folder / OUTCOME, made)

    folder = work.cache.make(key, make)
    outcome = records.read(folder / OUTCOME, Outcome)
    for part, sha256 in outcome.parts.items():
        if sha256_of(folder / part) != sha256:
            raise CompressError(f"{folder / part}: was changed after it was proved; delete {folder} and run again")
    mark = "passed" if outcome.gate.status == "passed" else f"FAILED: {outcome.gate.reason}"
    work.events.say(f"{name}: gate {mark}")
    work.events.emit("gate", file=name, **outcome.gate.model_dump())
    return Delivered(outcome.variant, outcome.gate, folder, folder / outcome.path, section, outcome.seconds)


class Timed(NamedTuple):
    """All files with what was measured."""

    variants: Mapping[str, Variant]
    seconds: float = 0.0
    """How long measuring took when it was done."""
    environment: Environment | None = None
    """The machine when it was measured."""
    problem: CompressError | None = None
    """Why nothing could be timed."""


def time(work: Work, delivered: Sequence[Delivered]) -> Timed:
    """Return the rows of all files that run, with latency, throughput, and their ratio to the reference of their runtime.

    Files of one runtime and precision are compared with the same file of `measure.against`. What could not
    be timed is tried again next time.
    """
    runnable = [item for item in delivered if item.variant.accuracy is not None]
    settings = work.recipe.measure
    machine = environment()
    key = stages.key(
        files=[[item.variant.name, sha256_of(item.path)] for item in runnable],
        measure=settings.model_dump(mode="json", exclude={"devices"}), packages=machine.packages, cpu=machine.cpu,
        source=_source("benchmarks"),
    )  # fmt: skip

    def make(folder: Path) -> None:
        records.save(folder / TIMING, _measure(work, runnable, folder))

    rows = {item.variant.name: item.variant for item in delivered}
    if not runnable:
        return Timed(rows)
    try:
        made = work.cache.make(key, make)
    except CompressError as error:
        return Timed(rows, problem=error)
    stages.publish(made, work.folder / "measurements")
    timing = records.read(made / TIMING, Timing)
    for field in ("latency_ms", "ratio", "throughput_per_s"):
        for name, value in getattr(timing, field).items():
            rows[name] = rows[name].model_copy(update={field: value})
    return Timed(rows, timing.seconds, timing.environment)


def _measure(work: Work, delivered: Sequence[Delivered], folder: Path) -> Timing:
    """Time all files; the raw series of every call are left in the folder."""
    settings, begun = work.recipe.measure, monotonic()
    single = _run_rounds(work, delivered, settings.batch_size, folder / "latency-raw.json")
    bulk = _run_rounds(work, delivered, settings.throughput_batch_size, folder / "throughput-raw.json")
    latency = {name: found.latency for name, found in single.items()}
    pairs = {item.variant.name: _opponent(item, delivered, settings.against) for item in delivered}
    ratios = {
        name: ratio(other, latency[other], latency[name])
        for name, other in pairs.items()
        if name in latency and other is not None and other in latency
    }
    throughput = {name: found.throughput_per_s for name, found in bulk.items()}
    return Timing(
        latency_ms=latency, ratio=ratios, throughput_per_s=throughput, seconds=monotonic() - begun, environment=environment()
    )


def _run_rounds(work: Work, delivered: Sequence[Delivered], batch_size: int, raw: Path) -> dict[str, Measurement]:
    """Time all files that take this many images in a call."""
    settings = work.recipe.measure
    subjects = [_subject(item.variant.name, item.path, exporters.load(item.section)) for item in delivered]
    fitting = [subject for subject in subjects if subject.batch_size in (None, batch_size)]
    return measure(
        fitting, normalise(work.data.validation.images[:256], work.data.preprocess), against=None, threads=settings.threads,
        batch_size=batch_size, rounds=settings.rounds, seconds=settings.seconds, events=work.events, raw=raw,
    ) if fitting else {}  # fmt: skip


def _subject(name: str, path: Path, exporter: Exporter) -> Subject:
    return Subject(name, path, exporter.runtime, exporter.batch_size)


def _opponent(item: Delivered, delivered: Sequence[Delivered], network: str) -> str | None:
    """Return the name of the file that this one is compared with: the other network in the same format and precision."""
    like = [
        other.variant.name
        for other in delivered
        if other.variant.network.startswith(network)
        and (other.variant.format, other.variant.precision) == (item.variant.format, item.variant.precision)
        and other is not item
    ]
    return like[0] if like else None


def _prove(work: Work, trained: Trained, subject: Subject, section: ExportSection, said: Answers) -> tuple[Variant, Gate]:
    """Run the file on validation and test images, and judge it on the validation images."""
    data = work.data
    images = normalise(np.concatenate([data.validation.images, data.test.images]), data.preprocess)
    precision = exporters.load(section).precision
    row = Variant(
        name=subject.name, network=trained.name, method=trained.method, format=section.format, runtime=subject.runtime,
        precision=precision, device="local", parameters=torch_evaluate.parameters(trained.network), macs=_macs(work, trained),
        status="failed",
    )  # fmt: skip
    try:
        found = evaluate(subject, images)
    except CompressError as error:
        reason = f"{subject.runtime} cannot run it: {error}"
        return row.model_copy(update={"reason": reason}), Gate(status="failed", reason=reason, samples=0)
    held = len(data.validation.labels)
    on_validation, on_test = found.logits[:held], found.logits[held:]
    gate = exporters.gate(
        said.validation, on_validation, data.validation.labels, settings=work.recipe.gate, precision=precision
    )
    if gate.max_abs_diff is None:  # not what was promised, so there is nothing to compare
        return row.model_copy(update={"reason": gate.reason}), gate
    return row.model_copy(
        update={
            "accuracy": torch_evaluate.accuracy(on_test, data.test.labels),
            "validation": torch_evaluate.accuracy(on_validation, data.validation.labels),
            "agreement_percent": 100 * float((on_test.argmax(axis=1) == said.test.argmax(axis=1)).mean()),
            "max_abs_diff": float(np.abs(on_test - said.test).max()),
            "peak_memory_bytes": found.peak_memory_bytes,
            "effective": found.effective,
            "status": gate.status,
            "reason": gate.reason,
        }
    ), gate


def _macs(work: Work, trained: Trained) -> int:
    return torch_evaluate.macs(trained.network, work.data.image())


def _source(*packages: str) -> str:
    """Return the sha256 of our own source that makes or judges a file."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for path in sorted(path for package in packages for path in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
