"""Classify or segment pictures, or find objects in them, with a deployed file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.deployed.files import Pictures, choose_file, make_subject, read_bundle
from compress.errors import CompressError, Unreachable, Unstable
from compress.records import Manifest, Record
from compress.system.files import writable
from compress.tasks import load_task
from compress.text import quantify

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.protocol import Subject
    from compress.events import Events


LARGEST_BYTES = 256 << 20
"""Of pictures that are classified together, as the network sees them."""
TIMED_IMAGES = 16
"""Pictures that are fed in turn while a call is timed."""


class ClassScore(Record):
    """One class and its score: its share of the softmax of logits that were divided by the file's temperature.

    Of a segmentation it is the share of the pixels, and of a detection there is one for each object.
    """

    name: str
    score: float
    box: tuple[float, float, float, float] | None = None
    """Of an object: left, top, right and bottom in pixels of the picture."""


class Prediction(Record):
    """Classes that the deployed file gives one picture."""

    image: str
    classes: tuple[ClassScore, ...] = ()
    """Best first."""
    milliseconds: float | None = None
    """Median of a call for one image, without decoding and resizing; none where the machine gives no stable figure."""
    map: str = ""
    """Of a segmentation, the PNG whose values are the classes, of the picture's size where all of it was shown; empty where no
    folder was given."""
    overlay: str = ""
    """The map laid over the picture, or the picture with the boxes of a detection."""
    error: str = ""
    """Why the picture could not be read; empty when it was."""


def classify_pictures(
    bundle: str | Path, images: Sequence[str | Path], *, file: str | None = None, top: int = 3, threads: int = 1,
    events: Events, out: Path | None = None,
) -> list[Prediction]:  # fmt: skip
    """Classify pictures with a deployed file, run by the runner as everywhere else.

    A picture that cannot be read does not stop the others: its prediction carries the error.

    Args:
        bundle: A bundle or the folder of its run.
        images: Picture files, and folders, which stand for all pictures in them and below.
        file: File of the bundle by its name there; default the first.
        top: How many classes.
        threads: Threads of the runtime.
        events: Where progress is reported.
        out: Folder for the maps of a segmentation, or the boxes of a detection.

    Raises:
        CompressError: The bundle is not what its manifest says, a folder holds no pictures, or a folder is given for maps that
            there are none of.
        Unreachable: There is no bundle, or its runtime did not answer.
    """
    return list(iterate_predictions(bundle, images, file=file, top=top, threads=threads, events=events, out=out))


def iterate_predictions(
    bundle: str | Path, images: Sequence[str | Path], *, file: str | None = None, top: int = 3, threads: int = 1,
    events: Events, out: Path | None = None,
) -> Iterator[Prediction]:  # fmt: skip
    """Yield predictions in the order of the pictures, some pictures at a time, so that any number fits into memory.

    Args:
        bundle: As for `classify_pictures`.
        images: As for `classify_pictures`.
        file: As for `classify_pictures`.
        top: As for `classify_pictures`.
        threads: As for `classify_pictures`.
        events: As for `classify_pictures`.
        out: As for `classify_pictures`.

    Raises:
        CompressError: As `classify_pictures`.
        Unreachable: As `classify_pictures`.
    """
    from benchmarks.devices.local import share_processes

    folder, manifest = read_bundle(Path(bundle))
    chosen = choose_file(manifest, file)
    subject = make_subject(folder, chosen)
    if out is not None and len(manifest.shape) == 1:
        raise CompressError(
            f"--out {out}: maps and boxes are drawn of segmentations and detections, and this bundle is of one class an image"
        )
    if out is not None:
        with writable(out):
            out.mkdir(parents=True, exist_ok=True)
    paths = find_pictures([Path(image) for image in images], events)
    rows = max(1, LARGEST_BYTES // (4 * manifest.preprocess.depth * manifest.preprocess.height * manifest.preprocess.width))
    classifier = _Classifier(subject, manifest, chosen.temperature or 1.0, top=top, threads=threads, out=out)
    with share_processes(), events.task("pictures", total=len(paths)) as task:
        for start in range(0, len(paths), rows):
            yield from classifier.classify(paths[start : start + rows], events)
            task.advance(len(paths[start : start + rows]))


def find_pictures(paths: Sequence[Path], events: Events) -> list[Path]:
    """Return the files that are given, and for each folder the pictures in it and below, in the order of their names.

    Hidden files and folders, and what a Mac adds to archives, are no pictures. Links that lead nowhere and pipes are found by
    their names, so that who reads them says what they are.

    Args:
        paths: Files and folders.
        events: Told how many other files a folder holds.

    Raises:
        CompressError: A folder holds no pictures.
    """
    from compress.preprocess import READ_FORMATS, SUFFIXES

    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        files = [each for each in sorted(path.rglob("*")) if not _is_hidden(each.relative_to(path)) and not each.is_dir()]
        pictures = [each for each in files if each.suffix.lower() in SUFFIXES]
        if not pictures:
            raise CompressError(f"{path}: holds no pictures, in it or below; give a folder of {READ_FORMATS} files")
        if len(files) > len(pictures):
            left_out = quantify(len(files) - len(pictures), "other file")
            events.say(f"{path}: {left_out} left out, whose names do not end as those of pictures do")
        found += pictures
    return found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


class _Classifier:
    """A deployed file with its manifest; the time of a call is measured once.

    Args:
        subject: The file.
        manifest: Of its bundle.
        temperature: Divides its logits before the softmax.
        top: How many classes.
        threads: Threads of the runtime.
        out: Folder for maps; `None` writes none.
    """

    def __init__(
        self, subject: Subject, manifest: Manifest, temperature: float, *, top: int, threads: int, out: Path | None = None
    ) -> None:
        self.out, self.written = out, 0
        self.subject, self.manifest, self.temperature, self.top, self.threads = subject, manifest, temperature, top, threads
        self.boxes = load_task(manifest.task).boxes
        self.is_timed = False
        self.milliseconds: float | None = None

    def classify(self, images: Sequence[Path], events: Events) -> Iterator[Prediction]:
        """Yield the prediction of each picture, or why it cannot be read."""
        import numpy as np

        from benchmarks import protocol
        from compress.preprocess import normalise

        pictures = [_read_picture(image, self.manifest) for image in images]
        readable = [picture for picture in pictures if not isinstance(picture, CompressError)]
        rows: Iterator[NDArray[np.float32]] = iter(())
        if readable:
            pixels = np.stack(readable)  # [N, H, W, C]
            shown = Pictures(normalise(pixels, self.manifest.preprocess), pixels)
            rows = iter(
                protocol.evaluate(self.subject, shown.images, pixels=pixels, threads=self.threads, events=events).logits
            )
            if not self.is_timed:
                self.milliseconds, self.is_timed = _time_call(self.subject, shown, threads=self.threads, events=events), True
        for image, picture in zip(images, pictures, strict=True):
            if isinstance(picture, CompressError):
                yield Prediction(image=str(image), error=str(picture))
            elif self.boxes:
                yield self._describe_boxes(image, next(rows))
            elif len(self.manifest.shape) > 1:
                yield self._describe_map(image, next(rows))
            else:
                classes = _rank_classes(next(rows) / self.temperature, self.manifest.classes, self.top)
                yield Prediction(image=str(image), classes=classes, milliseconds=self.milliseconds)

    def _describe_boxes(self, image: Path, answers: NDArray[np.float32]) -> Prediction:
        """Return the objects in a picture, the surest first, from answers [A, K + 4], and draw them."""
        import numpy as np
        from PIL import Image, ImageOps

        from compress.geometry import place_picture
        from compress.tasks import SHOWN_SCORE, choose_detections, draw_boxes

        if answers.shape != self.manifest.shape:
            raise CompressError(
                f"the file gives {list(answers.shape)} and its manifest says {list(self.manifest.shape)}; export it again"
            )
        found = choose_detections(answers, least_score=SHOWN_SCORE)
        with Image.open(image) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        (width, height), (left, top) = place_picture(picture.size, self.manifest.preprocess)
        scale = np.array([width / picture.width, height / picture.height] * 2)
        places = ((found.boxes - [left, top, left, top]) / scale).clip(0, [*picture.size, *picture.size]).round(2)
        objects = tuple(
            ClassScore(name=self.manifest.classes[label], score=float(score), box=tuple(box))
            for box, score, label in zip(places.tolist(), found.scores, found.classes, strict=True)
        )
        prediction = Prediction(image=str(image), classes=objects, milliseconds=self.milliseconds)
        if self.out is None:
            return prediction
        self.written += 1
        name = self.out / f"{self.written:04}-{image.stem}-boxes.png"
        with writable(self.out):
            draw_boxes(picture, [each.model_dump() for each in objects]).save(name)
        return prediction.model_copy(update={"overlay": str(name)})

    def _describe_map(self, image: Path, logits: NDArray[np.float32]) -> Prediction:
        """Return the shares of the classes in a picture, from logits [K, h, w], and write its map."""
        import numpy as np
        from PIL import Image, ImageOps

        from compress.preprocess import decode
        from compress.tasks import draw_map, lay_over, list_regions
        from compress.tasks.segmentation import resize_logits

        if logits.shape != self.manifest.shape:
            raise CompressError(
                f"the file gives logits {list(logits.shape)} and its manifest says {list(self.manifest.shape)}; export it again"
            )
        preprocess = self.manifest.preprocess
        if preprocess.geometry == "squeeze":
            with Image.open(image) as opened:
                picture = ImageOps.exif_transpose(opened).convert("RGB")
        else:  # the network saw a part of the picture, or more, so the map is of what it saw
            shown = decode(image, preprocess, str(image))
            picture = Image.fromarray(shown.squeeze(-1) if shown.shape[-1] == 1 else shown).convert("RGB")
        answers = resize_logits(logits, (picture.height, picture.width)).argmax(axis=0).astype(np.uint8)
        shares = tuple(ClassScore(name=each.name, score=each.share) for each in list_regions(answers, self.manifest.classes))
        found = Prediction(image=str(image), classes=shares[: self.top], milliseconds=self.milliseconds)
        if self.out is None:
            return found
        self.written += 1
        names = [self.out / f"{self.written:04}-{image.stem}{end}.png" for end in ("-map", "-overlay")]
        with writable(self.out):
            draw_map(answers).save(names[0])
            lay_over(picture, answers).save(names[1])
        return found.model_copy(update={"map": str(names[0]), "overlay": str(names[1])})


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


def _time_call(subject: Subject, shown: Pictures, *, threads: int, events: Events) -> float | None:
    """Return the median milliseconds for one image; `None` where the machine gives no stable figure."""
    from benchmarks import protocol

    size = subject.batch_size or 1
    try:
        timed = protocol.measure(
            [subject], shown.images[:TIMED_IMAGES], pixels=None if shown.pixels is None else shown.pixels[:TIMED_IMAGES],
            against=None, threads=threads, batch_size=size, rounds=5, seconds=0.5, launches=1, events=events,
        )  # fmt: skip
    except Unstable:
        return None
    return timed[subject.name].latency.p50 / size


def _rank_classes(logits: NDArray[np.float32], classes: Sequence[str], top: int) -> tuple[ClassScore, ...]:
    """Return the best classes with their softmax, from logits [K] that were divided by the temperature."""
    import numpy as np

    if len(logits) != len(classes):
        raise CompressError(
            f"the file gives {len(logits)} logits and its manifest names {len(classes)} classes; export it again"
        )
    exponents = np.exp(logits.astype(np.float64) - logits.max())
    shares = exponents / exponents.sum()
    best = np.argsort(-shares, kind="stable")[:top]
    return tuple(ClassScore(name=classes[index], score=float(shares[index])) for index in best)
