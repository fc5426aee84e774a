"""The bundle: what is handed over to a device, and the check of one that came from a stranger.

A bundle is a folder of model files that passed their gate, with all that is needed to run and to judge them:

    manifest.json  manifest.schema.json        everything for programs, and its JSON Schema
    README.md  MODEL_CARD.md  NOTICE.txt       everything for people (`readme.py`, `card.py`, `notice.py`)
    predict.py  cpp/                           programs that run it without this tool (`programs/`, `cpp.py`)
    samples.npz  samples/                      images with the torch network's answers (`samples.py`)
    SHA256SUMS                                 over all of these (`checksums.py`)

It is written whole or not at all. `check` trusts nothing in it: no path, no checksum, no archive, and it runs no program of it.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from compress import plugins, records
from compress.errors import CompressError, Unreachable
from compress.recipe import GateSection
from compress.records import BundleFile, Gate, Manifest, Preprocess, Variant
from compress.system.files import sha256_of, whole
from exporters._exporter import INPUT, OUTPUT, Exporter
from exporters._onnx.external_data import refuse_external_data
from exporters.bundle import checksums as _seal
from exporters.bundle import cpp as _cpp
from exporters.bundle import samples as _samples
from exporters.bundle.card import Background, card
from exporters.bundle.checksums import seal
from exporters.bundle.notice import notice
from exporters.bundle.readme import readme
from exporters.bundle.samples import Samples

__all__ = ["Background", "Deployable", "Samples", "check", "programs", "read_samples", "seal", "unfamiliar", "write"]

MANIFEST, SCHEMA, SAMPLES, PREDICT = "manifest.json", "manifest.schema.json", "samples.npz", "predict.py"
README, CARD, NOTICE = "README.md", "MODEL_CARD.md", "NOTICE.txt"
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"  # only in the layout of the hub (`hub.py`)
FURTHER = frozenset({
    MANIFEST, SCHEMA, PREDICT, README, CARD, NOTICE, _seal.SUMS, _cpp.SOURCE, _cpp.BUILD, _samples.EXPECTED, CONFIG,
    PREPROCESSOR,
})  # fmt: skip
"""What a bundle may hold beside the files that its manifest names and the sample pictures."""
MAX_MANIFEST_BYTES = 16 << 20


class Deployable(NamedTuple):
    """A model file with its verdict."""

    path: Path
    format: str
    exporter: Exporter
    """As it wrote the file."""
    gate: Gate
    measured: Variant | None = None
    """Its row of the report."""
    logits: NDArray[np.float32] | None = None
    """What the network from which it was made says of the samples, [N, classes]; `None` where it is the shipped one."""


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
    background: Background | None = None,
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
        background: What is known of the network beside its files; for the model card.

    Returns:
        The manifest, as `check` read it back.

    Raises:
        CompressError: A file did not pass its gate, can run code when it is loaded, or does not fit the rest.
        Unreachable: The disk is full, the folder cannot be written, or a file is missing.
    """
    files = tuple(files)
    if not files:
        raise CompressError(f"{folder}: no file passed its gate, so there is nothing to hand over; see why in the report")
    further = {f"{_samples.LOGITS}_{number}": file.logits for number, file in enumerate(files) if file.logits is not None}
    with whole(folder) as temporary:
        temporary.mkdir()
        _samples.write(temporary / SAMPLES, samples._replace(further=further))
        manifest = Manifest(
            name=name,
            classes=tuple(classes),
            preprocess=preprocess,
            input=INPUT,
            output=OUTPUT,
            files=tuple(_copy(file, number, temporary) for number, file in enumerate(files)),
            gate=gate.model_dump(),
            samples=SAMPLES,
            samples_sha256=sha256_of(temporary / SAMPLES),
            provenance=dict(provenance),
        )
        records.save(temporary / MANIFEST, manifest)
        _check_manifest(temporary / MANIFEST, manifest)
        _samples.write_pictures(temporary, _samples.read(temporary / SAMPLES, manifest), manifest.classes)
        _write_documents(temporary, manifest, background)
        seal(temporary)
        return check(temporary)


def check(folder: Path) -> Manifest:
    """Return the manifest of a bundle in which everything is what the manifest says, and nothing can reach outside.

    Raises:
        CompressError: The bundle is not safe or not whole; the message names the file.
        Unreachable: A file cannot be read.
    """
    if MANIFEST not in _seal.present(folder):
        raise CompressError(f"{folder}: has no {MANIFEST}; give the folder that `compress run` or `compress export` left")
    if (folder / MANIFEST).stat().st_size > MAX_MANIFEST_BYTES:
        raise CompressError(f"{folder / MANIFEST}: is larger than {MAX_MANIFEST_BYTES >> 20} MiB; get the bundle again")
    present = _seal.check(folder)
    manifest = records.read(folder / MANIFEST, Manifest)
    _check_manifest(folder / MANIFEST, manifest)
    listed = [name for file in manifest.files for name in file.parts] + [manifest.samples]
    for name in listed:
        if name not in present or listed.count(name) > 1 or name in FURTHER:
            raise CompressError(
                f"{folder / name}: the manifest lists it, but not once as a file of its own; get the bundle again"
            )
    for file in manifest.files:
        _check_file(folder, file)
    samples = read_samples(folder, manifest)
    pictures = _samples.check_pictures(folder, samples, manifest) if _samples.EXPECTED in present else frozenset()
    if surplus := sorted({*present} - {*listed} - FURTHER - pictures):
        raise CompressError(f"{folder / surplus[0]}: is not in the manifest; remove what does not belong to the bundle")
    return manifest


def read_samples(folder: Path, manifest: Manifest) -> Samples:
    """Return the samples of a bundle.

    Raises:
        CompressError: They are not what the manifest says.
        Unreachable: They cannot be read.
    """
    path = folder / manifest.samples
    _seal.check_sum(path, manifest.samples_sha256, said_by="the manifest")
    return _samples.read(path, manifest)


def unfamiliar(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """Return the programs of a checked bundle that are not byte for byte what this version would write into it.

    They may come from another version, or from somebody who changed them; `compress` runs none of them in any case.
    """
    written = programs(manifest)
    there = [name for name in (PREDICT, _cpp.SOURCE, _cpp.BUILD) if (folder / name).is_file()]
    return tuple(name for name in there if (folder / name).read_bytes() != written.get(name))


def programs(manifest: Manifest) -> dict[str, bytes]:
    """Return the content of every program that this version writes into a bundle, by its path in there."""
    predict = (Path(__file__).parent / "programs" / "predict.py").read_bytes()
    return {PREDICT: predict, **{name: text.encode() for name, text in _cpp.programs(manifest).items()}}


def _write_documents(folder: Path, manifest: Manifest, background: Background | None) -> None:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}
    texts = {
        README: readme(manifest),
        CARD: card(manifest, background),
        NOTICE: notice(manifest, background),
        SCHEMA: json.dumps(schema, indent=1) + "\n",
    }
    for name, content in {**programs(manifest), **{name: text.encode() for name, text in texts.items()}}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def _copy(file: Deployable, number: int, folder: Path) -> BundleFile:
    parts = file.exporter.list_parts(file.path)
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
        takes_pixels=file.exporter.takes_pixels,
        gives_class=file.exporter.gives_class,
        gate=file.gate,
        logits=_samples.LOGITS if file.logits is None else f"{_samples.LOGITS}_{number}",
        measured=file.measured,
    )


def _check_manifest(path: Path, manifest: Manifest) -> None:
    pre = manifest.preprocess
    channels = pre.depth
    demands = {
        "files: is empty": bool(manifest.files),
        "files: logits must be a name such as logits or logits_1": all(
            re.fullmatch(r"logits(_[0-9]{1,3})?", file.logits) for file in manifest.files
        ),
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
    suffix, parts = exporter.name_file(folder, "x").suffix, {part.name for part in exporter.list_parts(path)}
    if path.suffix != suffix or set(file.parts) != parts or file.runtime != exporter.runtime:
        wanted = f"{', '.join(sorted(parts))} ending in {suffix!r} for {exporter.runtime}"
        raise CompressError(f"{path}: a file of format {file.format!r} is {wanted}; the manifest says otherwise")
    if file.gate.status != "passed":
        raise CompressError(f"{path}: its gate {file.gate.status} ({file.gate.reason}); export it again")
    for name, sha256 in file.parts.items():
        _seal.check_sum(folder / name, sha256, said_by="the manifest")
    if file.size_bytes != sum((folder / name).stat().st_size for name in file.parts):
        raise CompressError(f"{path}: has another size than the {file.size_bytes} bytes of the manifest; get the bundle again")
    if suffix == ".onnx":
        refuse_external_data(path)
