"""The bundle: what is handed over to a device, and the check of one that came from a stranger.

A bundle is a flat folder: model files that passed their gate, `manifest.json`, `samples.npz` with images and the torch
network's logits (so that the files can be verified anywhere), and a README. It is written whole or not at all. `check`
trusts nothing in it: no path, no checksum, no archive.
"""

from __future__ import annotations

import math
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from compress import plugins, records
from compress.errors import CompressError, Unreachable
from compress.files import sha256_of, whole
from compress.recipe import GateSection
from compress.records import BundleFile, Gate, Manifest, Preprocess
from exporters._exporter import INPUT, OUTPUT, Exporter
from exporters._readme import readme

MANIFEST, SAMPLES, README = "manifest.json", "samples.npz", "README.md"
MAX_MANIFEST_BYTES = 16 << 20


class Deployable(NamedTuple):
    """A model file with its verdict."""

    path: Path
    format: str
    exporter: Exporter
    """As it wrote the file."""
    gate: Gate


class Samples(NamedTuple):
    """Images on which a bundle can be verified anywhere."""

    images: NDArray[np.uint8]
    """[N, H, W, C], before normalisation."""
    labels: NDArray[np.int64]
    """[N]"""
    logits: NDArray[np.float32]
    """[N, classes], of the torch network."""


def write(
    folder: Path,
    *,
    name: str,
    classes: Sequence[str],
    preprocess: Preprocess,
    files: Iterable[Deployable],
    samples: Samples,
    gate: GateSection,
    provenance: Mapping[str, str],
) -> Manifest:
    """Write a bundle; one that was there is replaced.

    Args:
        folder: Where it shall be.
        name: What it is called.
        classes: Names in label order.
        preprocess: What happens to an image before the network sees it.
        files: The model files, each with a gate that passed.
        samples: Held-out images with labels and the torch network's logits.
        gate: What the files were held to.
        provenance: Recipe, weights and package versions.

    Returns:
        The manifest, as `check` read it back.

    Raises:
        CompressError: A file did not pass its gate, can run code when it is loaded, or does not fit the rest.
        Unreachable: The disk is full, the folder cannot be written, or a file is missing.
    """
    files = tuple(files)
    if not files:
        raise CompressError(f"{folder}: no file passed its gate, so there is nothing to hand over; see why in the report")
    with whole(folder) as temporary:
        temporary.mkdir()
        np.savez(temporary / SAMPLES, **samples._asdict())
        manifest = Manifest(
            name=name,
            classes=tuple(classes),
            preprocess=preprocess,
            input=INPUT,
            output=OUTPUT,
            files=tuple(_copy(file, temporary) for file in files),
            gate=gate.model_dump(),
            samples=SAMPLES,
            samples_sha256=sha256_of(temporary / SAMPLES),
            provenance=dict(provenance),
        )
        records.save(temporary / MANIFEST, manifest)
        (temporary / README).write_text(readme(manifest), encoding="utf-8")
        return check(temporary)


def check(folder: Path) -> Manifest:
    """Return the manifest of a bundle in which everything is what the manifest says, and nothing can reach outside.

    Raises:
        CompressError: The bundle is not safe or not whole; the message names the file.
        Unreachable: A file cannot be read.
    """
    present = set(_plain_files(folder))
    if MANIFEST not in present:
        raise CompressError(f"{folder}: has no {MANIFEST}; give the folder that `compress run` or `compress export` left")
    if (folder / MANIFEST).stat().st_size > MAX_MANIFEST_BYTES:
        raise CompressError(f"{folder / MANIFEST}: is larger than {MAX_MANIFEST_BYTES >> 20} MiB; get the bundle again")
    manifest = records.read(folder / MANIFEST, Manifest)
    _check_manifest(folder / MANIFEST, manifest)
    listed = [name for file in manifest.files for name in file.parts] + [manifest.samples]
    if surplus := sorted(present - {*listed, MANIFEST, README}):
        raise CompressError(f"{folder / surplus[0]}: is not in the manifest; remove what does not belong to the bundle")
    for name in listed:
        if name not in present or listed.count(name) > 1 or name in {MANIFEST, README}:
            raise CompressError(
                f"{folder / name}: the manifest lists it, but not once as a file of its own; get the bundle again"
            )
    for file in manifest.files:
        _check_file(folder, file)
    read_samples(folder, manifest)
    return manifest


def read_samples(folder: Path, manifest: Manifest) -> Samples:
    """Return the samples of a bundle.

    Raises:
        CompressError: They are not what the manifest says.
    """
    path = folder / manifest.samples
    _check_sum(path, manifest.samples_sha256)
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
        if packed:  # stored members cannot be larger than the file, so there is no room for a decompression bomb
            raise CompressError(f"{path}: is compressed; write it with numpy.savez")
        with np.load(path, allow_pickle=False) as arrays:
            samples = Samples(*(arrays[field] for field in Samples._fields))
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError, MemoryError) as error:
        raise CompressError(
            f"{path}: is not an npz with {', '.join(Samples._fields)} ({error}); get the bundle again"
        ) from error
    pre, count, classes = manifest.preprocess, len(samples.labels), len(manifest.classes)
    wanted: dict[str, tuple[type, tuple[int, ...]]] = {
        "images": (np.uint8, (count, pre.height, pre.width, len(pre.mean))),
        "labels": (np.int64, (count,)),
        "logits": (np.float32, (count, classes)),
    }
    for field, (dtype, shape) in wanted.items():
        array: NDArray[Any] = getattr(samples, field)
        if array.dtype != dtype or array.shape != shape:
            found = f"{array.dtype} {list(array.shape)}"
            raise CompressError(f"{path}: {field} are {found}, the manifest asks for {np.dtype(dtype)} {list(shape)}")
    if not count or samples.labels.min() < 0 or samples.labels.max() >= classes or not np.isfinite(samples.logits).all():
        raise CompressError(f"{path}: needs images, labels in 0 .. {classes - 1} and finite logits; get the bundle again")
    return samples


def _copy(file: Deployable, folder: Path) -> BundleFile:
    parts = file.exporter.parts(file.path)
    if file.gate.status != "passed":
        raise CompressError(f"{file.path}: its gate {file.gate.status} ({file.gate.reason}); a bundle holds only what passed")
    for part in parts:
        if not part.is_file():
            raise Unreachable(f"{part}: is not there; export it again")
        if (folder / part.name).exists():
            raise CompressError(f"{part}: another file of the bundle has this name; give each export its own")
        shutil.copyfile(part, folder / part.name)
    return BundleFile(
        path=file.path.name,
        parts={part.name: sha256_of(folder / part.name) for part in parts},
        format=file.format,
        runtime=file.exporter.runtime,
        precision=file.exporter.precision,
        size_bytes=sum((folder / part.name).stat().st_size for part in parts),
        batch_size=file.exporter.batch_size,
        gate=file.gate,
    )


def _plain_files(folder: Path) -> Iterator[str]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise Unreachable(f"{folder}: cannot be read ({error.strerror}); give the folder of a bundle") from error
    for entry in entries:
        if entry.is_symlink() or not entry.is_file():
            raise CompressError(f"{entry}: is not a plain file; a bundle has no links and no folders")
        yield entry.name


def _check_manifest(path: Path, manifest: Manifest) -> None:
    pre = manifest.preprocess
    channels = {"gray": 1, "rgb": 3}[pre.channels]
    demands = {
        "files: is empty": bool(manifest.files),
        "classes: is empty or repeats a name": 0 < len(manifest.classes) == len(set(manifest.classes)),
        "preprocess: height and width must be positive": pre.height > 0 and pre.width > 0,
        f"preprocess: mean and std need {channels} values": len(pre.mean) == len(pre.std) == channels,
        "preprocess: mean and std must be finite, std above 0": all(map(math.isfinite, (*pre.mean, *pre.std)))
        and min(pre.std) > 0,
        f"input and output: must be {INPUT!r} and {OUTPUT!r}": (manifest.input, manifest.output) == (INPUT, OUTPUT),
    }
    for complaint, met in demands.items():
        if not met:
            raise CompressError(f"{path}: {complaint}; get the bundle again")
    try:
        GateSection.model_validate(manifest.gate)
    except ValidationError as error:
        raise CompressError(
            f"{path}: gate: is not what files are held to ({error.error_count()} errors); get the bundle again"
        ) from error
    for name in (manifest.samples, *(name for file in manifest.files for name in (file.path, *file.parts))):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
            raise CompressError(f"{path}: {name!r} is not a plain file name, so it could lead out of the bundle; do not use it")


def _check_file(folder: Path, file: BundleFile) -> None:
    """Refuse a model file that is not what its entry says, or that could do more than be read as data."""
    path = folder / file.path
    exporter: Exporter = plugins.load("exporters", file.format)()
    if not exporter.inert:
        raise CompressError(f"{path}: loading a file of format {file.format!r} can run code, so a bundle must not hold one")
    suffix, parts = exporter.path(folder, "x").suffix, {part.name for part in exporter.parts(path)}
    if path.suffix != suffix or set(file.parts) != parts or file.runtime != exporter.runtime:
        wanted = f"{', '.join(sorted(parts))} ending in {suffix!r} for {exporter.runtime}"
        raise CompressError(f"{path}: a file of format {file.format!r} is {wanted}; the manifest says otherwise")
    if file.gate.status != "passed":
        raise CompressError(f"{path}: its gate {file.gate.status} ({file.gate.reason}); export it again")
    for name, sha256 in file.parts.items():
        _check_sum(folder / name, sha256)
    if file.size_bytes != sum((folder / name).stat().st_size for name in file.parts):
        raise CompressError(f"{path}: has another size than the {file.size_bytes} bytes of the manifest; get the bundle again")
    if suffix == ".onnx":
        _refuse_external_data(path)


def _check_sum(path: Path, sha256: str) -> None:
    found = sha256_of(path)
    if found != sha256:
        raise CompressError(f"{path}: has sha256 {found}, the manifest says {sha256}; it was changed or damaged: get it again")


def _refuse_external_data(path: Path) -> None:
    """Refuse an ONNX file that names other files; runtimes would read them from wherever it says."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise CompressError(f"{path}: is not an ONNX file ({error}); get the bundle again") from error
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise CompressError(
                f"{path}: tensor {tensor.name!r} lies in another file; a bundle's ONNX files hold all their weights"
            )


def _tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor of a protobuf message, however deep: initializers, attributes, subgraphs, functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in (value,) if hasattr(value, "DESCRIPTOR") else value:
                yield from _tensors(item)
