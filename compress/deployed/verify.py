"""Apply the gate of a bundle to its files again, on their own runtimes.

A gate is what its writer set: whoever loosens it, and makes every checksum right again, is caught by nobody. So verdicts say
where a gate allows more than the defaults do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from compress.deployed.files import Pictures, choose_file, make_subject, read_bundle, read_pictures
from compress.errors import CompressError, GateFailed, Unreachable
from compress.records import BundleFile, Gate, Manifest, Precision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.devices import Device
    from compress.events import Events
    from compress.recipe import GateSection
    from compress.tasks import Task
    from exporters.bundle.samples import Samples


def verify_bundle(
    bundle: Path, *, file: str | None = None, device: str = "local", threads: int = 1, events: Events
) -> dict[str, Gate]:
    """Gate the files of a bundle on their own runtimes against the logits that the bundle carries.

    The gate is the manifest's, with the same budget as in the run; where it allows more than the defaults do, the note of the
    verdict says so. Beyond the gate, a file must not differ by more than twice what it did when it was handed over.
    A file whose runtime cannot be reached there is skipped, with the reason, and the others are judged.

    Args:
        bundle: A bundle or the folder of its run.
        file: Only this file, by its path in the bundle.
        device: Where the files are run: a name or an address.
        threads: Threads of the runtime.
        events: Where progress is reported.

    Raises:
        CompressError: The bundle is not what its manifest says, or there is no such device.
        Unreachable: There is no bundle.
    """
    from benchmarks.devices import open_device
    from exporters.bundle.bundle import read_samples

    place = open_device(device)

    folder, manifest = read_bundle(bundle)
    chosen = manifest.files if file is None else (choose_file(manifest, file),)
    samples, shown = read_samples(folder, manifest), read_pictures(folder, manifest)
    return {
        entry.path: _judge_file(folder, manifest, entry, samples, shown, device=place, threads=threads, events=events)
        for entry in chosen
    }


def _judge_file(
    folder: Path, manifest: Manifest, entry: BundleFile, samples: Samples, shown: Pictures, *, device: Device, threads: int,
    events: Events,
) -> Gate:  # fmt: skip
    """Judge a file by the manifest's gate, and by the differences that were recorded when it was handed over."""
    from benchmarks import protocol
    from compress.recipe import GateSection
    from compress.tasks import load_task
    from exporters.verification.interface import ExpectedInterface
    from exporters.verification.judge import explain_unusable, judge
    from exporters.verification.rule import Recorded

    subject, settings = make_subject(folder, entry), GateSection.model_validate(manifest.gate)
    run = protocol.make_runner(subject, threads=threads, device=device, events=events)
    expected = ExpectedInterface(
        manifest.preprocess,
        manifest.classes,
        entry.batch_size,
        entry.takes_pixels,
        entry.gives_class,
        manifest.shape,
        load_task(manifest.task).boxes,
    )
    recorded = None if entry.on_samples is None else Recorded(**entry.on_samples.model_dump())
    fed, reference = samples.images if entry.takes_pixels else shown.images, samples.get_logits(entry)
    try:  # in a process of its own, so a file that crashes the runtime does not crash us
        verdict = judge(
            subject.path, expected, run(fed, None), run, fed, reference=reference, labels=samples.labels, settings=settings,
            precision=entry.precision, recorded=recorded, task=load_task(manifest.task),
        )  # fmt: skip
    except CompressError as error:
        return explain_unusable(error, entry.runtime)
    if lenient := ", ".join(
        find_looser_bounds(settings, reference.reshape(len(reference), -1), entry.precision, load_task(manifest.task))
    ):
        note = "; ".join(filter(None, [verdict.note, f"the gate of this bundle allows {lenient}"]))
        verdict = verdict.model_copy(update={"note": note})
    return verdict


def find_looser_bounds(
    settings: GateSection, reference: NDArray[np.float32], precision: Precision, task: Task
) -> Iterator[str]:
    """Yield what a gate allows beyond the defaults of `GateSection`; nothing where it is as strict or stricter.

    Args:
        settings: The gate.
        reference: Logits of the network, [N, K], on whose size the default of the largest difference depends.
        precision: Of the file.
        task: What the network is for.
    """
    from compress.recipe import GateSection
    from exporters.verification.rule import compute_bound, get_usual_agreement

    default = GateSection()
    if settings.max_top1_drop_points > default.max_top1_drop_points:
        yield f"a drop of {settings.max_top1_drop_points:g} points (default {default.max_top1_drop_points:g})"
    least = get_usual_agreement(precision, is_dense=task.is_dense, boxes=task.boxes)
    if settings.min_agreement is not None and settings.min_agreement < least:
        yield f"an agreement of {100 * settings.min_agreement:g} % (default {100 * least:g} %)"
    usual = compute_bound(reference, precision)
    if settings.max_abs_diff is not None and settings.max_abs_diff > usual:
        yield f"logits that differ by {settings.max_abs_diff:g} (default {usual:.3g})"


def find_unfamiliar_programs(bundle: Path) -> tuple[str, ...]:
    """Return the programs in a bundle that are not those which this version writes; no command runs any of them.

    Raises:
        CompressError: The bundle is not what its manifest says.
        Unreachable: There is no bundle.
    """
    from exporters.bundle.bundle import find_unfamiliar_programs

    return find_unfamiliar_programs(*read_bundle(bundle))


def refuse_failures(gates: Mapping[str, Gate]) -> None:
    """Raise if a gate failed, or could not be tried.

    Raises:
        GateFailed: The message names each file and why.
        Unreachable: None failed, but some were not run; the message names each and why.
    """
    failed = [f"{name}: {gate.reason}" for name, gate in gates.items() if gate.status == "failed"]
    if failed:
        raise GateFailed("\n".join(failed))
    skipped = [gate.reason for gate in gates.values() if gate.status == "skipped"]
    if skipped:
        reasons = dict.fromkeys(skipped)
        raise Unreachable("\n".join([f"{len(skipped)} of {len(gates)} files were not judged:", *reasons]))
