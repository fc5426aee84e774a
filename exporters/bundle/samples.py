"""Write and check the sample images of a bundle: an archive for programs, and a few PNG pictures for people.

`samples.npz` holds images, labels and the torch network's logits, so that the files can be verified anywhere. `samples/` holds
the first image of each class, at most `MAX_PICTURES`, and `samples/expected.json` the torch network's outputs for them. What is
read back is not trusted: archives must be stored uncompressed, and every picture must be the image that it claims to be.
"""

from __future__ import annotations

import math
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress import records
from compress.errors import CompressError
from compress.geometry import place_picture
from compress.preprocess import decode
from compress.records import BundleFile, Document, Manifest, Preprocess, Record
from compress.tasks import CLASSIFICATION, Labels, Task, draw_map, is_map, load_task
from compress.tasks.segmentation import resize_logits

FOLDER, EXPECTED = "samples", "samples/expected.json"
LOGITS = "logits"
"""Name of the shipped network's logits in the archive."""
FIELDS = ("images", "labels", LOGITS)
MAX_MAPS = 4
"""Pictures of a segmentation, each with its mask and map."""
MAX_PICTURES, MAX_EXPECTED_BYTES, MAX_NAME = 16, 16 << 20, 200
UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, IndexError, SyntaxError, AttributeError, RuntimeError, MemoryError, OverflowError,
    EOFError, NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile, zipfile.LargeZipFile, tokenize.TokenError,
)  # fmt: skip
"""What zipfile and numpy raise of damaged archives: beside their own errors those of the parser of an array's header."""


class Samples(NamedTuple):
    """Images on which a bundle can be verified anywhere."""

    images: NDArray[np.uint8]
    """[N, H, W, C], before normalisation."""
    labels: Labels
    """As the task has them, [N, ...]."""
    logits: NDArray[np.float32]
    """Of the torch network, [N, classes, ...]."""
    further: Mapping[str, NDArray[np.float32]] = {}
    """Logits of networks that were adapted to int8, [N, classes, ...], by the name in the entries of their files."""

    def get_logits(self, file: BundleFile) -> NDArray[np.float32]:
        """Return the logits [N, classes, ...] of the network from which a file was made."""
        return self.logits if file.logits == LOGITS else self.further[file.logits]


class Picture(Record):
    """A sample picture and the torch network's outputs for it."""

    file: str
    """PNG in the folder `samples`, of the size that the network sees, with the border that its geometry cuts off."""
    row: int
    """Of `samples.npz`."""
    label: str
    """Its true class."""
    predicted: str
    """The class with the largest logit."""
    score: float
    """Its share of the softmax of the logits as they are, without a file's temperature."""
    logits: tuple[float, ...]
    """In the order of the manifest's classes; a file may differ by its gate's `max_abs_diff` and what its processor rounds."""


class Expected(Document):
    """`samples/expected.json`."""

    carries_checksum: ClassVar[bool] = False

    pictures: tuple[Picture, ...]


def write_archive(path: Path, samples: Samples) -> None:
    """Write the archive, uncompressed: images [N, H, W, C], labels [N, ...], logits [N, classes, ...]."""
    arrays: dict[str, Any] = {"images": samples.images, "labels": samples.labels, LOGITS: samples.logits, **samples.further}
    np.savez(path, allow_pickle=False, **arrays)


def write_pictures(bundle: Path, samples: Samples, manifest: Manifest, task: Task = CLASSIFICATION) -> None:
    """Write the first image of each class as PNG, and the expected outputs; of other tasks some pictures with their answers."""
    (bundle / FOLDER).mkdir()
    pictures = []
    if task.boxes:
        _write_plain(bundle, samples, manifest.preprocess)
        return
    if samples.labels.ndim > 1:
        _write_maps(bundle, samples, manifest.preprocess)
        return
    rows = [int(np.flatnonzero(samples.labels == label)[0]) for label in np.unique(samples.labels)[:MAX_PICTURES]]
    for number, row in enumerate(rows):
        picture = _describe_picture(number, row, samples, manifest.classes)
        _draw(samples.images[row], manifest.preprocess).save(bundle / FOLDER / picture.file, "PNG")
        pictures.append(picture)
    records.save(bundle / EXPECTED, Expected(pictures=tuple(pictures)))


def _draw(pixels: NDArray[np.uint8], preprocess: Preprocess) -> Image.Image:
    """Return a picture of which every program that decodes it comes to just these pixels [H, W, C].

    Where the geometry cuts a border off, they lie within one, in which the pixels at the edge are repeated.
    """
    (width, height), (left, top) = place_picture((preprocess.width, preprocess.height), preprocess)
    border = (-top, height - preprocess.height + top), (-left, width - preprocess.width + left), (0, 0)
    whole = np.pad(pixels, border, mode="edge")
    return Image.fromarray(whole.squeeze(-1) if whole.shape[-1] == 1 else whole)


def _write_plain(bundle: Path, samples: Samples, preprocess: Preprocess) -> None:
    """Write some pictures as PNG."""
    for row in range(min(MAX_MAPS, len(samples.labels))):
        _draw(samples.images[row], preprocess).save(bundle / FOLDER / f"{row:02}.png", "PNG")


def _check_plain(bundle: Path, samples: Samples, manifest: Manifest) -> frozenset[str]:
    """Check the pictures of a detector, and return their paths below the bundle."""
    rows = range(min(MAX_MAPS, len(samples.labels)))
    for row in rows:
        _check_picture(bundle / FOLDER / f"{row:02}.png", samples.images[row], manifest)
    return frozenset(f"{FOLDER}/{row:02}.png" for row in rows)


def _write_maps(bundle: Path, samples: Samples, preprocess: Preprocess) -> None:
    """Write some pictures, each with its mask and with the network's map at the size of the mask, as PNG with a palette."""
    for row in range(min(MAX_MAPS, len(samples.labels))):
        pixels, mask = samples.images[row], samples.labels[row]
        answers = resize_logits(samples.logits[row], mask.shape).argmax(axis=0).astype(np.uint8)
        for name, picture in (("", _draw(pixels, preprocess)), ("-mask", draw_map(mask)), ("-map", draw_map(answers))):
            picture.save(bundle / FOLDER / f"{row:02}{name}.png", "PNG")


def _check_maps(bundle: Path, samples: Samples, manifest: Manifest) -> frozenset[str]:
    """Check the pictures, masks and maps of a segmentation, and return their paths below the bundle."""
    names = []
    for row in range(min(MAX_MAPS, len(samples.labels))):
        _check_picture(bundle / FOLDER / f"{row:02}.png", samples.images[row], manifest)
        mask = samples.labels[row]
        answers = resize_logits(samples.logits[row], mask.shape).argmax(axis=0).astype(np.uint8)
        for name, wanted in (("mask", mask), ("map", answers)):
            path = bundle / FOLDER / f"{row:02}-{name}.png"
            if not path.is_file() or path.stat().st_size > 2 * mask.nbytes + (1 << 16) or not is_map(path, wanted):
                raise CompressError(f"{path}: is not the {name} that {manifest.samples} holds; get the bundle again")
        names += [f"{FOLDER}/{row:02}{name}.png" for name in ("", "-mask", "-map")]
    return frozenset(names)


def _describe_picture(number: int, row: int, samples: Samples, classes: tuple[str, ...]) -> Picture:
    logits, label = samples.logits[row], classes[samples.labels[row]]
    shares = np.exp(logits.astype(np.float64) - float(logits.max()))
    plain = re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")[:40]
    return Picture(
        file=f"{number:02}-{plain or 'class'}.png",
        row=row,
        label=label,
        predicted=classes[int(logits.argmax())],
        score=float(shares.max() / shares.sum()),
        logits=tuple(logits.tolist()),
    )


def check_pictures(bundle: Path, samples: Samples, manifest: Manifest) -> frozenset[str]:
    """Check that every sample picture is the image of `samples.npz` that it claims to be.

    Returns:
        Their paths below the bundle.

    Raises:
        CompressError: A picture or its expected output differs from `samples.npz`.
        Unreachable: A file cannot be read.
    """
    if load_task(manifest.task).boxes:
        return _check_plain(bundle, samples, manifest)
    if samples.labels.ndim > 1:
        return _check_maps(bundle, samples, manifest)
    path = bundle / EXPECTED
    if path.stat().st_size > MAX_EXPECTED_BYTES:
        raise CompressError(f"{path}: is larger than {MAX_EXPECTED_BYTES >> 20} MiB; get the bundle again")
    expected = records.read(path, Expected)
    for number, picture in enumerate(expected.pictures):
        if not 0 <= picture.row < len(samples.labels) or not _is_same(
            picture, _describe_picture(number, picture.row, samples, manifest.classes)
        ):
            raise CompressError(
                f"{path}: {picture.file[:MAX_NAME]!r} is not what {manifest.samples} says; get the bundle again"
            )
        _check_picture(bundle / FOLDER / picture.file, samples.images[picture.row], manifest)
    return frozenset(f"{FOLDER}/{picture.file}" for picture in expected.pictures)


def _is_same(this: Picture, other: Picture) -> bool:
    return this == other.model_copy(update={"score": this.score}) and math.isclose(this.score, other.score, rel_tol=1e-6)


def _check_picture(path: Path, pixels: NDArray[np.uint8], manifest: Manifest) -> None:
    width, height = place_picture((manifest.preprocess.width, manifest.preprocess.height), manifest.preprocess).size
    most = 2 * width * height * manifest.preprocess.depth + (1 << 16)  # also bounds what decoding can take
    if not path.is_file() or path.stat().st_size > most:
        raise CompressError(f"{path}: is not there, or too large for its picture; get the bundle again")
    if not np.array_equal(decode(path, manifest.preprocess, str(path)), pixels):
        raise CompressError(f"{path}: is not the image that {manifest.samples} holds; get the bundle again")


def read_archive(path: Path, manifest: Manifest) -> Samples:
    """Read the samples of a bundle, after every array was seen to have the form that the manifest asks for.

    Args:
        path: The npz, whose checksum was compared.
        manifest: It says which shapes the arrays must have.

    Raises:
        CompressError: They do not fit the manifest, or are damaged.
    """
    further = [file.logits for file in manifest.files if file.logits != LOGITS]
    wanted = _list_forms(manifest.preprocess, manifest.samples_count, manifest.shape, load_task(manifest.task), further)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive, wanted)
            arrays = {name: _read_array(path, archive, name, form) for name, form in wanted.items()}
    except UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise CompressError(f"{path}: is not an npz with {', '.join(FIELDS)} ({reason}); get the bundle again") from error
    samples = Samples(arrays.pop("images"), arrays.pop("labels"), arrays.pop(LOGITS), arrays)
    check_values(path, samples, len(manifest.classes), load_task(manifest.task))
    return samples


def check_arrays(path: Path, samples: Samples, preprocess: Preprocess, classes: int, task: Task = CLASSIFICATION) -> None:
    """Check samples before they are written.

    Args:
        path: Where they go, for messages.
        samples: Images [N, H, W, C], labels [N, ...], logits [N, classes, ...].
        preprocess: Of the images.
        classes: How many there are.
        task: What the network is for.

    Raises:
        CompressError: They are not what a bundle holds.
    """
    given: dict[str, NDArray[Any]] = {
        "images": samples.images,
        "labels": samples.labels,
        LOGITS: samples.logits,
        **samples.further,
    }
    for name, form in _list_forms(
        preprocess, len(samples.labels), _make_shape(samples.logits, classes, task), task, samples.further
    ).items():
        _check_form(path, name, _Form(given[name].dtype, given[name].shape), form)
    check_values(path, samples, classes, task)


def _make_shape(logits: NDArray[np.float32], classes: int, task: Task) -> tuple[int, ...]:
    """Return the shape that logits [N, ...] of one image should have with so many classes."""
    return (*logits.shape[1:-1], classes + task.boxes) if task.boxes else (classes, *logits.shape[2:])


class _Form(NamedTuple):
    """Type and shape of an array."""

    kind: np.dtype[Any]
    shape: tuple[int, ...]


def _list_forms(
    preprocess: Preprocess, count: int, shape: tuple[int, ...], task: Task, further: Iterable[str]
) -> dict[str, _Form]:
    """Return the form of every array by its name; `shape` is that of the logits of one image."""
    logits = _Form(np.dtype(np.float32), (count, *shape))
    size = task.get_label_shape((preprocess.height, preprocess.width))
    return {
        "images": _Form(np.dtype(np.uint8), (count, preprocess.height, preprocess.width, len(preprocess.mean))),
        "labels": _Form(task.label_dtype, (count, *size)),
        LOGITS: logits,
        **dict.fromkeys(further, logits),
    }


def _check_form(path: Path, name: str, found: _Form, wanted: _Form) -> None:
    if found != wanted:
        asked = f"the manifest asks for {wanted.kind} {list(wanted.shape)}"
        raise CompressError(f"{path}: {name} are {found.kind} {list(found.shape)}, {asked}; get the bundle again")


def _check_members(path: Path, archive: zipfile.ZipFile, wanted: Iterable[str]) -> None:
    """Refuse an archive that is compressed, or holds something else than the wanted arrays, each once."""
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):  # so there is no decompression bomb
        raise CompressError(f"{path}: is compressed; write it with numpy.savez")
    names = sorted(member.filename for member in members)
    if names != sorted(f"{name}.npy" for name in wanted):
        shown = ", ".join(repr(name[:40]) for name in names[:8])
        raise CompressError(f"{path}: is not an npz with {', '.join(wanted)}, but with {shown}; get the bundle again")


def _read_array(path: Path, archive: zipfile.ZipFile, name: str, wanted: _Form) -> NDArray[Any]:
    """Read an array, of which no more memory is taken than the manifest says."""
    with archive.open(f"{name}.npy") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is of another version than numpy.savez writes")
        shape, by_columns, kind = np.lib.format.read_array_header_1_0(file)
        _check_form(path, name, _Form(kind, shape), wanted)
        content = file.read(wanted.kind.itemsize * math.prod(shape) + 1)
    if by_columns or len(content) != wanted.kind.itemsize * math.prod(shape):
        raise ValueError(f"{name} holds {len(content)} bytes in another order or number")
    array: NDArray[Any] = np.frombuffer(content, kind).reshape(shape)
    return array


def check_values(path: Path, samples: Samples, classes: int, task: Task = CLASSIFICATION) -> None:
    """Check the numbers of samples whose form is right: labels [N, ...] and logits [N, classes, ...].

    Raises:
        CompressError: There are none, a label is no class, or logits are not finite.
    """
    finite = all(np.isfinite(logits).all() for logits in (samples.logits, *samples.further.values()))
    if len(samples.labels) and finite and task.name != CLASSIFICATION.name:
        task.check_labels(str(path), samples.labels, classes, (samples.images.shape[1], samples.images.shape[2]))
        return
    if not len(samples.labels) or samples.labels.min() < 0 or samples.labels.max() >= classes or not finite:
        raise CompressError(f"{path}: needs images, labels in 0 .. {classes - 1} and finite logits; get the bundle again")
