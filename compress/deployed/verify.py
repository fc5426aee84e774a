"""Apply the gate of a bundle to its files again, on their own runtimes.

A gate is what its writer set: whoever loosens it, and makes every checksum right again, is caught by nobody. So verdicts say
where a gate allows more than the defaults do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.deployed.files import choose_file, make_subject, read_bundle, read_pictures
from compress.errors import GateFailed, Unreachable, Unwritable
from compress.records import Gate, Precision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.protocol import Evaluation, Subject
    from compress.events import Events
    from compress.recipe import GateSection


def verify_bundle(bundle: Path, *, file: str | None = None, threads: int = 1, events: Events) -> dict[str, Gate]:
    """Gate the files of a bundle on their own runtimes against the logits that the bundle carries.

    The gate is the manifest's; where it allows more than the defaults do, the note of the verdict says so.
    A file whose runtime cannot be reached here is skipped, with the reason, and the others are judged.

    Args:
        bundle: A bundle or the folder of its run.
        file: Only this file, by its path in the bundle.
        threads: Threads of the runtime.
        events: Where progress is reported.

    Raises:
        CompressError: The bundle is not what its manifest says.
        Unreachable: There is no bundle.
    """
    from compress.recipe import GateSection
    from exporters.bundle.bundle import read_samples
    from exporters.verification.interface import ExpectedInterface
    from exporters.verification.judge import judge

    folder, manifest = read_bundle(bundle)
    chosen = manifest.files if file is None else (choose_file(manifest, file),)
    samples, shown = read_samples(folder, manifest), read_pictures(folder, manifest)
    stated = GateSection.model_validate(manifest.gate)
    one_image = 100 / len(samples.labels)  # of so few images, one hit less is no verdict
    settings = stated.model_copy(update={"max_top1_drop_points": max(stated.max_top1_drop_points, one_image)})
    gates = {}
    for entry in chosen:
        promise = ExpectedInterface(
            manifest.preprocess, manifest.classes, entry.batch_size, entry.takes_pixels, entry.gives_class
        )
        try:
            verdict = judge(
                folder / entry.path, promise, _make_runner(make_subject(folder, entry), threads, events),
                samples.images if entry.takes_pixels else shown.images,
                reference=samples.get_logits(entry), labels=samples.labels, settings=settings, precision=entry.precision,
            )  # fmt: skip
        except Unwritable:  # says nothing of the file
            raise
        except Unreachable as error:  # from a process of its own, so a file that crashes the runtime does not crash us
            gates[entry.path] = Gate(status="skipped", reason=str(error), samples=0)
            continue
        if lenient := ", ".join(find_looser_bounds(stated, samples.get_logits(entry), entry.precision)):
            note = "; ".join(filter(None, [verdict.note, f"the gate of this bundle allows {lenient}"]))
            verdict = verdict.model_copy(update={"note": note})
        gates[entry.path] = verdict
    return gates


def _make_runner(subject: Subject, threads: int, events: Events) -> Callable[[NDArray[Any], int | None], Evaluation]:
    """Return what runs a file on images as it takes them, so many in a call."""
    import numpy as np

    from benchmarks import protocol

    def run(fed: NDArray[Any], size: int | None) -> Evaluation:
        count, height, width, channels = fed.shape
        images = np.zeros((count, channels, height, width), np.float32) if subject.takes_pixels else fed
        pixels = fed if subject.takes_pixels else None
        return protocol.evaluate(subject, images, pixels=pixels, batch_size=size or 32, threads=threads, events=events)

    return run


def find_looser_bounds(settings: GateSection, reference: NDArray[np.float32], precision: Precision) -> Iterator[str]:
    """Yield what a gate allows beyond the defaults of `GateSection`; nothing where it is as strict or stricter.

    Args:
        settings: The gate.
        reference: Logits of the network, [N, K], on whose size the default of the largest difference depends.
        precision: Of the file.
    """
    from compress.recipe import GateSection
    from exporters.verification.gate import AGREEMENT, compute_bound

    default = GateSection()
    if settings.max_top1_drop_points > default.max_top1_drop_points:
        yield f"a drop of {settings.max_top1_drop_points:g} points (default {default.max_top1_drop_points:g})"
    if settings.min_agreement is not None and settings.min_agreement < AGREEMENT[precision]:
        yield f"an agreement of {100 * settings.min_agreement:g} % (default {100 * AGREEMENT[precision]:g} %)"
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
        raise Unreachable("\n".join([f"{len(skipped)} of {len(gates)} files were not judged:", *skipped]))
