"""Classify pictures with a deployed file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.deployed.files import Pictures, choose_file, make_subject, read_bundle
from compress.errors import CompressError, Unreachable, Unstable
from compress.records import Manifest, Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.protocol import Subject
    from compress.events import Events


class ClassScore(Record):
    """One class and its share of the softmax."""

    name: str
    score: float


class Prediction(Record):
    """Classes that the deployed file gives one picture."""

    image: str
    classes: tuple[ClassScore, ...] = ()
    """Best first."""
    milliseconds: float | None = None
    """Median of a call for one image, without decoding and resizing; none where the machine gives no stable figure."""
    error: str = ""
    """Why the picture could not be read; empty when it was."""


def classify_pictures(
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

    folder, manifest = read_bundle(bundle)
    subject = make_subject(folder, choose_file(manifest, file))
    pictures = {str(image): _read_picture(image, manifest) for image in images}
    readable = {name: picture for name, picture in pictures.items() if not isinstance(picture, CompressError)}
    classes: dict[str, tuple[ClassScore, ...]] = {}
    milliseconds = None
    if readable:
        pixels = np.stack(list(readable.values()))  # [N, H, W, C]
        shown = Pictures(normalise(pixels, manifest.preprocess), pixels)
        logits, milliseconds = _run_and_time(subject, shown, threads=threads, events=events)
        classes = {name: _rank_classes(row, manifest.classes, top) for name, row in zip(readable, logits, strict=True)}
    return [
        Prediction(image=name, error=str(picture))
        if isinstance(picture, CompressError)
        else Prediction(image=name, classes=classes[name], milliseconds=milliseconds)
        for name, picture in pictures.items()
    ]


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


def _read_picture(path: Path, manifest: Manifest) -> NDArray[np.uint8] | CompressError:
    """Return a picture file, decoded and resized, [H, W, C], or why it cannot be read."""
    from compress.preprocess import decode

    try:
        return decode(path, manifest.preprocess, str(path))
    except CompressError as error:
        return error


def _run_and_time(
    subject: Subject, shown: Pictures, *, threads: int, events: Events
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


def _rank_classes(logits: NDArray[np.float32], classes: Sequence[str], top: int) -> tuple[ClassScore, ...]:
    """Return the best classes with their softmax, from logits [K]."""
    import numpy as np

    if len(logits) != len(classes):
        raise CompressError(
            f"the file gives {len(logits)} logits and its manifest names {len(classes)} classes; export it again"
        )
    exponents = np.exp(logits.astype(np.float64) - logits.max())
    shares = exponents / exponents.sum()
    best = np.argsort(-shares, kind="stable")[:top]
    return tuple(ClassScore(name=classes[index], score=float(shares[index])) for index in best)
