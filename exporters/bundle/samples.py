"""Write and check the sample images of a bundle: an archive for programs, and a few PNG pictures for people.

`samples.npz` holds images, labels and the torch network's logits, so that the files can be verified anywhere. `samples/` holds
the first image of each class, at most `MAX_PICTURES`, and `samples/expected.json` the torch network's outputs for them. What is
read back is not trusted: archives must be stored uncompressed, and every picture must be the image that it claims to be.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress import records
from compress.errors import CompressError
from compress.preprocess import decode
from compress.records import BundleFile, Document, Manifest, Record

FOLDER, EXPECTED = "samples", "samples/expected.json"
LOGITS = "logits"
"""Name of the shipped network's logits in the archive."""
FIELDS = ("images", "labels", LOGITS)
MAX_PICTURES, MAX_EXPECTED_BYTES = 16, 16 << 20


class Samples(NamedTuple):
    """Images on which a bundle can be verified anywhere."""

    images: NDArray[np.uint8]
    """[N, H, W, C], before normalisation."""
    labels: NDArray[np.int64]
    """Classes, [N]."""
    logits: NDArray[np.float32]
    """Of the torch network, [N, classes]."""
    further: Mapping[str, NDArray[np.float32]] = {}
    """Logits of networks that were adapted to int8, [N, classes], by the name in the entries of their files."""

    def get_logits(self, file: BundleFile) -> NDArray[np.float32]:
        """Return the logits [N, classes] of the network from which a file was made."""
        return self.logits if file.logits == LOGITS else self.further[file.logits]


class Picture(Record):
    """A sample picture and the torch network's outputs for it."""

    file: str
    """PNG in the folder `samples`, of the size that the network sees."""
    row: int
    """Of `samples.npz`."""
    label: str
    """Its true class."""
    predicted: str
    """The class with the largest logit."""
    score: float
    """Its share of the softmax."""
    logits: tuple[float, ...]
    """In the order of the manifest's classes; a file may differ by its gate's `max_abs_diff` and what its processor rounds."""


class Expected(Document):
    """`samples/expected.json`."""

    carries_checksum: ClassVar[bool] = False

    pictures: tuple[Picture, ...]


def write_archive(path: Path, samples: Samples) -> None:
    """Write the archive, uncompressed: images [N, H, W, C], labels [N], logits [N, classes]."""
    arrays: dict[str, Any] = {"images": samples.images, "labels": samples.labels, LOGITS: samples.logits, **samples.further}
    np.savez(path, allow_pickle=False, **arrays)


def write_pictures(bundle: Path, samples: Samples, classes: tuple[str, ...]) -> None:
    """Write the first image of each class as PNG, and the expected outputs."""
    (bundle / FOLDER).mkdir()
    pictures = []
    rows = [int(np.flatnonzero(samples.labels == label)[0]) for label in np.unique(samples.labels)[:MAX_PICTURES]]
    for number, row in enumerate(rows):
        picture = _describe_picture(number, row, samples, classes)
        pixels = samples.images[row]
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(bundle / FOLDER / picture.file, "PNG")
        pictures.append(picture)
    records.save(bundle / EXPECTED, Expected(pictures=tuple(pictures)))


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
    path = bundle / EXPECTED
    if path.stat().st_size > MAX_EXPECTED_BYTES:
        raise CompressError(f"{path}: is larger than {MAX_EXPECTED_BYTES >> 20} MiB; get the bundle again")
    expected = records.read(path, Expected)
    for number, picture in enumerate(expected.pictures):
        if not 0 <= picture.row < len(samples.labels) or not _is_same(
            picture, _describe_picture(number, picture.row, samples, manifest.classes)
        ):
            raise CompressError(f"{path}: {picture.file!r} is not what {manifest.samples} says; get the bundle again")
        _check_picture(bundle / FOLDER / picture.file, samples.images[picture.row], manifest)
    return frozenset(f"{FOLDER}/{picture.file}" for picture in expected.pictures)


def _is_same(this: Picture, other: Picture) -> bool:
    return this == other.model_copy(update={"score": this.score}) and math.isclose(this.score, other.score, rel_tol=1e-6)


def _check_picture(path: Path, pixels: NDArray[np.uint8], manifest: Manifest) -> None:
    if not path.is_file() or path.stat().st_size > 2 * pixels.nbytes + (1 << 16):  # also bounds what decoding can take
        raise CompressError(f"{path}: is not there, or too large for its picture; get the bundle again")
    if not np.array_equal(decode(path, manifest.preprocess, str(path)), pixels):
        raise CompressError(f"{path}: is not the image that {manifest.samples} holds; get the bundle again")


def read_archive(path: Path, manifest: Manifest) -> Samples:
    """Read the samples of a bundle.

    Args:
        path: The npz, whose checksum was compared.
        manifest: It says which shapes the arrays must have.

    Raises:
        CompressError: They do not fit the manifest.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
        if packed:  # stored members cannot be larger than the file, so there is no room for a decompression bomb
            raise CompressError(f"{path}: is compressed; write it with numpy.savez")
        with np.load(path, allow_pickle=False) as arrays:
            further = {file.logits: arrays[file.logits] for file in manifest.files if file.logits != LOGITS}
            samples = Samples(arrays["images"], arrays["labels"], arrays[LOGITS], further)
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError, MemoryError) as error:
        raise CompressError(f"{path}: is not an npz with {', '.join(FIELDS)} ({error}); get the bundle again") from error
    _check_arrays(path, samples, manifest)
    return samples


def _check_arrays(path: Path, samples: Samples, manifest: Manifest) -> None:
    pre, count, classes = manifest.preprocess, len(samples.labels), len(manifest.classes)
    wanted: dict[str, tuple[type, tuple[int, ...]]] = {
        "images": (np.uint8, (count, pre.height, pre.width, len(pre.mean))),
        "labels": (np.int64, (count,)),
        "logits": (np.float32, (count, classes)),
        **dict.fromkeys(samples.further, (np.float32, (count, classes))),
    }
    for field, (dtype, shape) in wanted.items():
        array: NDArray[Any] = samples.further[field] if field in samples.further else getattr(samples, field)
        if array.dtype != dtype or array.shape != shape:
            found = f"{array.dtype} {list(array.shape)}"
            raise CompressError(f"{path}: {field} are {found}, the manifest asks for {np.dtype(dtype)} {list(shape)}")
    finite = all(np.isfinite(logits).all() for logits in (samples.logits, *samples.further.values()))
    if not count or samples.labels.min() < 0 or samples.labels.max() >= classes or not finite:
        raise CompressError(f"{path}: needs images, labels in 0 .. {classes - 1} and finite logits; get the bundle again")
