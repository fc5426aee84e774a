"""Take the student's files to the devices of the recipe: the gate again, accuracy, and latency where times mean something.

Every file is proved on this machine first, and what a device answers is compared with that. Devices work side by side, those
that are emulated here one after the other; one that fails or is out of reach does not stop the others. What a device gave is
found again under a key that names it, its options and what it says of itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import exporters
from benchmarks import protocol
from benchmarks.devices import Device, is_emulated, list_stable_facts
from benchmarks.devices._remote import Remote
from benchmarks.environment import read_environment
from benchmarks.report import paired
from compress import records
from compress.errors import CompressError, Interrupted, Unreachable, Unstable, Unwritable
from compress.events import Events
from compress.fingerprint import hash_plugin, hash_sources, make_key
from compress.plan.devices import list_further
from compress.preprocess import normalise
from compress.recipe import DeviceSection
from compress.records import DeviceResults, Document, Environment, Gate, HostComparison, SeedScore, Variant
from compress.run.context import Run, Trained
from compress.run.export import TORCH, ExportedFile
from compress.run.measure import RunTiming, time_files
from compress.run.teacher_budget import fail_file
from compress.run.verify import VERDICT, SplitLogits, make_subject, run_file, select_samples
from compress.statistics.paired import mcnemar
from compress.system.files import hash_file
from compress.text import quantify
from compress.training.evaluate import measure_accuracy
from exporters.verification.interface import ExpectedInterface
from exporters.verification.judge import explain_unusable, judge
from exporters.verification.rule import Outputs

RESULTS = "results.json"


class StoredResults(Document):
    """Record of what a device gave, in the cache."""

    results: DeviceResults
    unstable: str = ""
    """Why no timing there meant anything."""


class DeviceOutcome(NamedTuple):
    """What a device gave, and what the run ends with because of it."""

    results: DeviceResults
    problem: CompressError | None = None


class _Place(NamedTuple):
    """A device, its section in the recipe, and how reports call it."""

    section: DeviceSection
    device: Device
    name: str


class _Proof(NamedTuple):
    """What one file gave on a device."""

    variant: Variant
    gate: Gate
    beside_host: HostComparison | None = None
    environment: Environment | None = None


def try_devices(
    run: Run, shipped: Trained, files: Sequence[ExportedFile], logits: SplitLogits
) -> tuple[list[ExportedFile], list[DeviceOutcome]]:
    """Return the files, failed where they fail on a device, and what each device beside this machine gave.

    Args:
        run: Run context.
        shipped: The student.
        files: All files of the run, proved on this machine.
        logits: Of the student as it was trained.
    """
    places = [_Place(*each) for each in list_further(run.recipe)]
    if not places:
        return [*files], []
    emulated = [index for index, place in enumerate(places) if is_emulated(place.device)]
    boards = [index for index in range(len(places)) if index not in emulated]

    def work(indices: Sequence[int]) -> list[tuple[int, DeviceOutcome]]:
        return [(i, _try_device(run, places[i], shipped=shipped, files=files, logits=logits)) for i in indices]

    groups = [[index] for index in boards] + ([emulated] if emulated else [])
    with ThreadPoolExecutor(len(groups)) as pool:
        found = dict(pair for done in pool.map(work, groups) for pair in done)
    outcomes = [found[index] for index in range(len(places))]
    return [_hold_to_devices(run, item, [each.results for each in outcomes]) for item in files], outcomes


def choose_files(place: _Place, files: Sequence[ExportedFile], network: str) -> list[ExportedFile]:
    """Return the files of a network that go to a device: those that passed, are named, and whose runtime may be there."""
    there, patterns = getattr(place.device, "runtimes", None), place.section.files
    return [
        item
        for item in _list_own(files, network)
        if item.gate.status == "passed"
        and (there is None or item.variant.runtime in there)
        and (not patterns or any(fnmatchcase(item.path.name, each) for each in patterns))
    ]


def _list_own(files: Sequence[ExportedFile], network: str) -> list[ExportedFile]:
    """Return the files of a network that a device could run."""
    return [item for item in files if item.variant.network == network and item.section.format != TORCH]


def _try_device(
    run: Run, place: _Place, *, shipped: Trained, files: Sequence[ExportedFile], logits: SplitLogits
) -> DeviceOutcome:
    """Prove, and time, on one device; what was done with the same files and settings is found again."""
    name, chosen = place.name, choose_files(place, files, shipped.name)
    left = [item.path.name for item in _list_own(files, shipped.name) if item not in chosen]
    notes = (f"not taken there (failed here, without a runtime there, or not named): {', '.join(left)}",) if left else ()
    empty = DeviceResults(name=name, emulated=is_emulated(place.device), status="passed", notes=notes)
    if not chosen:
        return DeviceOutcome(empty)
    run.events.say(f"{name}: taking {quantify(len(chosen), 'file')} there")
    if isinstance(place.device, Remote):
        place.device.say = lambda text: run.events.say(f"{name}: {text}")
    timed = [] if empty.emulated else [item for item in files if _is_timed(item, chosen, run.recipe.measure.against)]
    try:
        stored = _find_results(run, place, empty, chosen, timed=timed, logits=logits)
    except (Interrupted, Unwritable):
        raise
    except CompressError as error:
        reason = str(error).removeprefix(f"{name}: ")  # some devices say their name
        run.events.warn(f"{name}: {reason}")
        results = empty.model_copy(update={"status": "unreachable", "reason": reason})
        return DeviceOutcome(results, Unreachable(f"{name}: {reason}"))
    results = stored.results.model_copy(update={"notes": notes})
    _report_verdicts(run, results)
    unrun = [f"{file} on {name}: {gate.reason}" for file, gate in results.gates.items() if gate.status == "skipped"]
    problem = Unreachable("\n".join(unrun)) if unrun else Unstable(f"{name}: {stored.unstable}") if stored.unstable else None
    return DeviceOutcome(results, problem)


def _report_verdicts(run: Run, results: DeviceResults) -> None:
    """Report the verdicts that files got on a device."""
    for file, gate in results.gates.items():
        words = {"passed": "gate passed", "failed": f"gate FAILED: {gate.reason}", "skipped": f"NOT JUDGED: {gate.reason}"}
        run.events.say(f"{file} on {results.name}: {words[gate.status]}")
        run.events.emit("gate", file=file, device=results.name, **gate.model_dump())


def _is_timed(item: ExportedFile, chosen: Sequence[ExportedFile], against: str) -> bool:
    """Return whether a file is timed on a device: those that go there, and a teacher's alike with which they are compared."""
    alike = {(each.variant.format, each.variant.precision) for each in chosen}
    if item.variant.name in {each.variant.name for each in chosen}:
        return True
    is_teacher = against == "teacher" and paired.is_teacher(item.variant.network)
    return is_teacher and item.variant.accuracy is not None and (item.variant.format, item.variant.precision) in alike


class _Incomplete(Exception):
    """Some of it could not be done, so it is not kept for the next time."""

    def __init__(self, stored: StoredResults) -> None:
        super().__init__(stored.results.name)
        self.stored = stored


def _find_results(
    run: Run, place: _Place, empty: DeviceResults, chosen: Sequence[ExportedFile], *, timed: Sequence[ExportedFile],
    logits: SplitLogits,
) -> StoredResults:  # fmt: skip
    """Return what a device gives, from the cache where all of it was done before.

    Raises:
        Unreachable: The device does not answer, or no file could be run there.
    """

    def make(folder: Path) -> None:
        stored = _work_there(run, place, empty, chosen, timed=timed, logits=logits, folder=folder)
        if stored.unstable or any(gate.status == "skipped" for gate in stored.results.gates.values()):
            raise _Incomplete(stored)
        records.save(folder / RESULTS, stored)

    key = make_key(
        files=[[item.variant.name, hash_file(item.path), item.gate.status] for item in (*chosen, *timed)],
        measure=run.recipe.measure.model_dump(mode="json", exclude={"devices"}), device=place.section.model_dump(mode="json"),
        facts=list_stable_facts(place.device), gate=run.recipe.gate.model_dump(mode="json"),
        data=[run.data.key, run.data.test_key], plugin=hash_plugin("devices", place.section.device),
        packages=read_environment().packages, source=hash_sources(*VERDICT, "compress/run/devices.py"),
    )  # fmt: skip
    try:
        return records.read(run.cache.make(key, f"results of {place.name}", make) / RESULTS, StoredResults)
    except _Incomplete as found:
        return found.stored


def _work_there(
    run: Run, place: _Place, empty: DeviceResults, chosen: Sequence[ExportedFile], *, timed: Sequence[ExportedFile],
    logits: SplitLogits, folder: Path,
) -> StoredResults:  # fmt: skip
    """Prove and time files on a device.

    Raises:
        Unreachable: No file could be run there.
    """
    begun = monotonic()
    proofs = {item.variant.name: _prove(run, place, item, logits) for item in chosen}
    if all(proof.gate.status == "skipped" for proof in proofs.values()):
        raise Unreachable("; ".join(dict.fromkeys(proof.gate.reason for proof in proofs.values())))
    rows = {name: proof.variant for name, proof in proofs.items()}
    environments = [proof.environment for proof in proofs.values() if proof.environment is not None]
    sound = [item for item in timed if item.variant.name not in proofs or proofs[item.variant.name].gate.status == "passed"]
    unstable = ""
    if any(item.variant.name in proofs for item in sound):
        run.events.say(f"{place.name}: timing {quantify(len(sound), 'file')}")
        try:
            timing = time_files(run, sound, folder, device=place.device)
        except Unstable as error:
            unstable = str(error)
        else:
            environments.insert(0, timing.environment)
            rows = {item.variant.name: rows.get(item.variant.name, _strip(item.variant, place.name)) for item in sound} | rows
            rows = {name: _add_times(row, timing) for name, row in rows.items()}
    failed = [name for name, proof in proofs.items() if proof.gate.status == "failed"]
    results = empty.model_copy(
        update={
            "status": "failed" if failed else "passed", "rows": tuple(rows.values()),
            "environment": next(iter(environments), None),
            "reason": "; ".join(f"{name}: {proofs[name].gate.reason}" for name in failed),
            "gates": {name: proof.gate for name, proof in proofs.items()},
            "beside_host": {name: proof.beside_host for name, proof in proofs.items() if proof.beside_host is not None},
            "seconds": monotonic() - begun,
        }
    )  # fmt: skip
    return StoredResults(results=results, unstable=unstable)


def _add_times(row: Variant, timing: RunTiming) -> Variant:
    """Return a row with its latency, throughput and ratio, as far as it was timed."""
    name = row.name
    return row.model_copy(
        update={
            "latency_ms": timing.latency_ms.get(name), "ratio": timing.ratio.get(name),
            "throughput_per_s": timing.throughput_per_s.get(name), "energy": timing.energy.get(name),
        }
    )  # fmt: skip


def _strip(variant: Variant, device: str) -> Variant:
    """Return the row of a file without what was found on this machine."""
    nothing = dict.fromkeys((
        "accuracy", "validation", "agreement_percent", "max_abs_diff", "latency_ms", "throughput_per_s", "ratio", "energy",
        "peak_memory_bytes", "ladder", "seconds",
    ))  # fmt: skip
    return variant.model_copy(update={**nothing, "device": device, "effective": {}, "correct": ""})


def _prove(run: Run, place: _Place, item: ExportedFile, logits: SplitLogits) -> _Proof:
    """Run samples and test images through a file on a device, and judge it on the samples."""
    data, exporter, row = run.data, exporters.load(item.section), _strip(item.variant, place.name)
    chosen, shown = select_samples(run), select_test_images(len(data.test.labels), place.section.images)
    held, tested = data.validation.images[chosen], data.test.images[shown]
    file = make_subject(item.variant.name, item.path, exporter)
    try:
        found = run_file(file, [held, tested], data.preprocess, device=place.device)
        count = len(chosen)
        outputs = Outputs(found.logits[:count], {key: values[:count] for key, values in found.further.items()})
        gate = judge(
            file.path, ExpectedInterface(
                data.preprocess, data.classes, file.batch_size, file.takes_pixels, file.gives_class,
                item.logits.validation.shape[1:], data.task.boxes,
            ),
            outputs, protocol.make_runner(file, device=place.device, events=Events()),
            held if file.takes_pixels else normalise(held, data.preprocess), reference=item.logits.validation[chosen],
            labels=run.validation_labels[chosen], settings=run.recipe.gate, precision=exporter.precision,
            original=logits.validation[chosen] if item.adapted else None, task=data.task,
        )  # fmt: skip
    except CompressError as error:
        gate = explain_unusable(error, file.runtime)
        return _Proof(row.model_copy(update={"status": gate.status, "reason": gate.reason}), gate)
    row = row.model_copy(update={"status": gate.status, "reason": gate.reason})
    if gate.max_abs_diff is None:
        return _Proof(row, gate, environment=found.machine)
    answered, network = found.logits[count:], item.logits.test[shown]
    row = row.model_copy(
        update={
            "accuracy": measure_accuracy(answered, data.test.labels[shown], data.task),
            "agreement_percent": 100 * data.task.measure_agreement(network, answered),
            "max_abs_diff": float(np.abs(answered - network).max()), "effective": found.effective,
            "peak_memory_bytes": found.peak_memory_bytes,
        }
    )  # fmt: skip
    beside = _compare_with_host(run, item, found.logits[:count], answered, shown)
    return _Proof(row, gate, beside, found.machine)


def select_test_images(images: int, wanted: int | str) -> NDArray[np.intp]:
    """Return the numbers of the test images whose accuracy is taken on a device, [n], spread over the split."""
    count = images if isinstance(wanted, str) else min(images, wanted)
    return np.linspace(0, images - 1, count).astype(np.intp)


def _compare_with_host(
    run: Run, item: ExportedFile, samples: NDArray[np.float32], answered: NDArray[np.float32], shown: NDArray[np.intp]
) -> HostComparison | None:  # fmt: skip
    """Compare logits of samples [S, K] and of test images [n, K] with what the same file answered on this machine."""
    own, variant = item.outputs, item.variant
    if own is None:
        return None
    beside = HostComparison(
        samples=len(own), agreement_percent=100 * run.data.task.measure_agreement(own, samples),
        max_abs_diff=float(np.abs(own - samples).max()),
    )  # fmt: skip
    if not variant.correct or variant.accuracy is None or answered.ndim != 2:
        return beside
    score = SeedScore(seed=run.seed, validation=variant.accuracy, accuracy=variant.accuracy, correct=variant.correct)
    only_here, only_there, p_value = mcnemar(
        paired.unpack(score)[shown], answered.argmax(axis=1) == run.data.test.labels[shown]
    )
    return beside.model_copy(update={"only_here": only_here, "only_there": only_there, "p_value": p_value})


def _hold_to_devices(run: Run, item: ExportedFile, results: Sequence[DeviceResults]) -> ExportedFile:
    """Return a file, failed where it failed on a device: what a device refuses is not handed over."""
    for each in results:
        gate = each.gates.get(item.variant.name)
        if gate is not None and gate.status == "failed":
            item = fail_file(run, item, f"failed on {each.name}: {gate.reason}")
    return item


def find_rows_elsewhere(outcomes: Sequence[DeviceOutcome]) -> Mapping[str, tuple[Variant, ...]]:
    """Return what devices gave for each file, by its name."""
    rows = [row for outcome in outcomes for row in outcome.results.rows if row.name in outcome.results.gates]
    return {name: tuple(row for row in rows if row.name == name) for name in dict.fromkeys(row.name for row in rows)}


def raise_first_problem(outcomes: Sequence[DeviceOutcome], report: Path) -> None:
    """Raise for devices that were out of reach, or else for those where nothing could be timed; the report names them all.

    Raises:
        Unreachable: A device, or a runtime on it, was out of reach.
        Unstable: No timing on a device meant anything.
    """
    problems = [outcome.problem for outcome in outcomes if outcome.problem is not None]
    for kind in (Unreachable, Unstable):
        if found := [str(problem) for problem in problems if isinstance(problem, kind)]:
            raise kind("\n".join([*found, f"everything else is in {report}"]))
