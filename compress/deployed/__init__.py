"""What can be done with files that were exported: gate them again, measure them, let them classify pictures.

A bundle is a folder with `manifest.json`; wherever one is asked for, the folder of its run will do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import plugins
from compress.deployed import files as bundles
from compress.errors import CompressError, GateFailed, Unreachable, Unstable
from compress.records import Gate, Latency, Manifest, Ratio, Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.protocol import Evaluation, Subject
    from compress.events import Events


class Timing(Record):
    """What `bench` says of one file."""

    path: str
    runtime: str
    latency_ms: Latency
    ratio: Ratio | None = None
    throughput_per_s: float
    effective: dict[str, str]
    """What the runtime says that it really did."""


class Score(Record):
    """One class and its share of the softmax."""

    name: str
    score: float


class Prediction(Record):
    """What the deployed file says of one picture."""

    image: str
    classes: tuple[Score, ...] = ()
    """Best first."""
    milliseconds: float | None = None
    """Median of a call for one image, without decoding and resizing; none where the machine gives no stable figure."""
    error: str = ""
    """Why the picture could not be read; empty when it was."""


def verify(bundle: Path, *, file: str | None = None, threads: int = 1, events: Events) -> dict[str, Gate]:
    """Gate the files of a bundle on their own runtimes against the logits that the bundle carries.

    The gate is the manifest's; where it allows more than the defaults do, that is said and stands in the note of the verdict.
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
    from compress.deployed import gate_defaults as _leniency
    from compress.recipe import GateSection
    from exporters.bundle import bundle as _bundle
    from exporters.verification.interface import Promise
    from exporters.verification.judge import judge

    folder, manifest = bundles.read(bundle)
    chosen = manifest.files if file is None else (bundles.choose(manifest, file),)
    samples, shown = _bundle.read_samples(folder, manifest), bundles.pictures(folder, manifest)
    said = GateSection.model_validate(manifest.gate)
    one_image = 100 / len(samples.labels)  # of so few images, one hit less is no verdict
    settings = said.model_copy(update={"max_top1_drop_points": max(said.max_top1_drop_points, one_image)})
    gates = {}
    for entry in chosen:
        promise = Promise(manifest.preprocess, manifest.classes, entry.batch_size, entry.takes_pixels, entry.gives_class)
        try:
            verdict = judge(
                folder / entry.path, promise, _runs(bundles.subject(folder, entry), threads, events),
                samples.images if entry.takes_pixels else shown.images,
                reference=samples.of(entry), labels=samples.labels, settings=settings, precision=entry.precision,
            )  # fmt: skip
        except Unreachable as error:  # said by a process of its own: what this machine cannot load, it cannot kill us with
            gates[entry.path] = Gate(status="skipped", reason=str(error), samples=0)
            continue
        if lenient := ", ".join(_leniency.looser(said, samples.of(entry), entry.precision)):
            note = "; ".join(filter(None, [verdict.note, f"the gate of this bundle allows {lenient}"]))
            verdict = verdict.model_copy(update={"note": note})
        gates[entry.path] = verdict
    return gates


def _runs(subject: Subject, threads: int, events: Events) -> Callable[[NDArray[Any], int | None], Evaluation]:
    """Return what runs a file on images as it takes them, so many in a call."""
    import numpy as np

    from benchmarks import protocol

    def run(fed: NDArray[Any], size: int | None) -> Evaluation:
        count, height, width, channels = fed.shape
        images = np.zeros((count, channels, height, width), np.float32) if subject.takes_pixels else fed
        pixels = fed if subject.takes_pixels else None
        return protocol.evaluate(subject, images, pixels=pixels, batch_size=size or 32, threads=threads, events=events)

    return run


def unfamiliar(bundle: Path) -> tuple[str, ...]:
    """Return the programs in a bundle that are not those which this version writes; no command runs any of them.

    Raises:
        CompressError: The bundle is not what its manifest says.
        Unreachable: There is no bundle.
    """
    from exporters.bundle import bundle as _bundle

    return _bundle.unfamiliar(*bundles.read(bundle))


def bench(
    paths: Sequence[Path],
    *,
    against: str | None = None,
    device: str = "local",
    threads: int = 1,
    batch_size: int = 1,
    rounds: int = 15,
    seconds: float = 12.0,
    shape: str | None = None,
    events: Events,
) -> dict[str, Timing]:
    """Measure files against each other in interleaved rounds.

    Args:
        paths: Files, bundles or runs; a bundle or run stands for all its files.
        against: Name of the file that the others are compared with; default the first.
        device: Where to measure.
        threads: Threads of the runtime.
        batch_size: Images per call.
        rounds: Interleaved rounds.
        seconds: Time for all files together.
        shape: `channels,height,width` of a file that is in no bundle.
        events: Where progress is reported.

    Raises:
        CompressError: A file is not what it is said to be, or the files take images of different shapes.
        Unreachable: A file, runtime or device is not there.
    """
    from benchmarks import protocol

    subjects, shown = bundles.subjects(paths), bundles.inputs(paths, shape)
    names = [subject.name for subject in subjects]
    if against is not None and against not in names:
        raise CompressError(f"--against {against}: is not measured; {plugins.suggestion(against, names)}")
    measured = protocol.measure(
        subjects,
        shown.images,
        pixels=shown.pixels,
        against=against or names[0],
        threads=threads,
        batch_size=batch_size,
        rounds=rounds,
        seconds=seconds,
        device=plugins.load("devices", device)(),
        events=events,
    )
    return {
        subject.name: Timing(
            path=str(subject.path),
            runtime=subject.runtime,
            latency_ms=measured[subject.name].latency,
            ratio=measured[subject.name].ratio,
            throughput_per_s=measured[subject.name].throughput_per_s,
            effective=measured[subject.name].effective,
        )
        for subject in subjects
    }


def predict(
    bundle: Path, images: Sequence[Path], *, file: str | None = None, top: int = 3, threads: int = 1, events: Events
) -> list[Prediction]:
    """Classify pictures with a deployed file, run by the runner as everywhere else.

    A picture that cannot be read does not stop the others: its prediction carries the error.

    Args:
        bundle: A bundle or the folder of its run.
        images: Picture files.
        file: File of the bundle by its name there; default the first.
        top: How many classes.
        threads: Threads of the runtime.
        events: Where progress is reported.

    Raises:
        CompressError: The bundle is not what its manifest says.
        Unreachable: There is no bundle, or its runtime did not answer.
    """
    import numpy as np

    from compress.preprocess import normalise

    folder, manifest = bundles.read(bundle)
    subject = bundles.subject(folder, bundles.choose(manifest, file))
    pictures = {str(image): _picture(image, manifest) for image in images}
    readable = {name: picture for name, picture in pictures.items() if not isinstance(picture, CompressError)}
    answers: dict[str, tuple[Score, ...]] = {}
    milliseconds = None
    if readable:
        pixels = np.stack(list(readable.values()))  # [N, H, W, C]
        shown = bundles.Pictures(normalise(pixels, manifest.preprocess), pixels)
        logits, milliseconds = _answers(subject, shown, threads=threads, events=events)
        answers = {name: _scores(row, manifest.classes, top) for name, row in zip(readable, logits, strict=True)}
    return [
        Prediction(image=name, error=str(picture))
        if isinstance(picture, CompressError)
        else Prediction(image=name, classes=answers[name], milliseconds=milliseconds)
        for name, picture in pictures.items()
    ]


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


def refuse_unstable(measured: Mapping[str, Timing]) -> None:
    """Raise if a measurement never settled.

    Raises:
        Unstable: The message names each file.
    """
    shaky = [name for name, timing in measured.items() if not timing.latency_ms.stable]
    if shaky:
        raise Unstable(f"{', '.join(shaky)}: the rounds disagree; stop what else runs on this machine, or give more --seconds")


def refuse_unread(predictions: Sequence[Prediction]) -> None:
    """Raise if a picture could not be read.

    Raises:
        CompressError: A file is no picture; the message names it, and all others that could not be read.
        Unreachable: All that is wrong is that files are not there or not open to us.
    """
    unread = [prediction for prediction in predictions if prediction.error]
    if unread:
        away = all(not os.access(prediction.image, os.R_OK) for prediction in unread)
        raise (Unreachable if away else CompressError)("\n".join(prediction.error for prediction in unread))


def _picture(path: Path, manifest: Manifest) -> NDArray[np.uint8] | CompressError:
    """Return a picture file, decoded and resized, [H, W, C], or why it cannot be read."""
    from compress.preprocess import decode

    try:
        return decode(path, manifest.preprocess, str(path))
    except CompressError as error:
        return error


def _answers(
    subject: Subject, shown: bundles.Pictures, *, threads: int, events: Events
) -> tuple[NDArray[np.float32], float | None]:
    """Return logits [N, K] and the median milliseconds for one image; `None` where the machine gives no stable figure."""
    from benchmarks import protocol

    logits = protocol.evaluate(subject, shown.images, pixels=shown.pixels, threads=threads, events=events).logits
    try:
        size = subject.batch_size or 1
        timed = protocol.measure(
            [subject], shown.images, pixels=shown.pixels, against=None, threads=threads, batch_size=size, rounds=5,
            seconds=0.5, events=events,
        )  # fmt: skip
    except Unstable:
        return logits, None
    return logits, timed[subject.name].latency.p50 / size


def _scores(logits: NDArray[np.float32], classes: Sequence[str], top: int) -> tuple[Score, ...]:
    """Return the best classes with their softmax, from logits [K]."""
    import numpy as np

    if len(logits) != len(classes):
        raise CompressError(
            f"the file gives {len(logits)} logits and its manifest names {len(classes)} classes; export it again"
        )
    exponents = np.exp(logits.astype(np.float64) - logits.max())
    shares = exponents / exponents.sum()
    best = np.argsort(-shares, kind="stable")[:top]
    return tuple(Score(name=classes[index], score=float(shares[index])) for index in best)
