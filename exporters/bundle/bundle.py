"""Write a bundle, and check one that came from a stranger.

A bundle is a folder of model files that passed their gate, with all that is needed to run and to verify them:

    manifest.json  manifest.schema.json        everything for programs, and its JSON Schema
    README.md  MODEL_CARD.md  NOTICE.txt       everything for people (`readme.py`, `card.py`, `notice.py`)
    predict.py  rule.py  model_file.py  cpp/   programs that run it without this tool (`programs/`, `cpp.py`), and the rule by
                                               which they and this tool judge a file (`verification/`)
    bench.py                                   a program that times it without this tool (`bench.py`)
    samples.npz  samples/                      images with the torch network's logits (`samples.py`)
    SHA256SUMS                                 over all of these (`checksums.py`)

It is written whole or not at all. `check_bundle` trusts no path, checksum or archive in it, and runs none of its programs.
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
from compress.records import BundleFile, Gate, Manifest, Preprocess, SampleDifferences, Variant
from compress.system.files import hash_file, write_whole
from compress.tasks import CLASSIFICATION, DETECTIONS_PROGRAM, Task, load_task
from exporters._exporter import INPUT, OUTPUT, Exporter
from exporters._onnx.external_data import refuse_external_data
from exporters.bundle.bench import PROGRAM as BENCH
from exporters.bundle.bench import build_bench
from exporters.bundle.card import Background, render_card
from exporters.bundle.checksums import SUMS, check_checksum, check_checksums, list_files, write_checksums
from exporters.bundle.cpp import BUILD, SOURCE, build_cpp
from exporters.bundle.notice import render_notice
from exporters.bundle.readme import render_readme
from exporters.bundle.samples import (
    EXPECTED,
    LOGITS,
    Samples,
    check_arrays,
    check_pictures,
    read_archive,
    write_archive,
    write_pictures,
)
from exporters.verification.rule import Recorded, is_usable, record_any_differences, record_differences

__all__ = [
    "Background", "Deployable", "Samples", "build_programs", "check_bundle", "find_unfamiliar_programs", "read_samples",
    "write_bundle", "write_checksums",
]  # fmt: skip

MANIFEST, SCHEMA, SAMPLES = "manifest.json", "manifest.schema.json", "samples.npz"
PREDICT, RULE, MODEL_FILE, DETECTIONS = "predict.py", "rule.py", "model_file.py", "detections.py"
README, CARD, NOTICE = "README.md", "MODEL_CARD.md", "NOTICE.txt"
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"  # only in the layout of the hub (`hub.py`)
FURTHER = frozenset({
    MANIFEST, SCHEMA, PREDICT, RULE, MODEL_FILE, DETECTIONS, BENCH, README, CARD, NOTICE, SUMS, SOURCE, BUILD, EXPECTED,
    CONFIG,
    PREPROCESSOR,
})  # fmt: skip
"""Files that a bundle may hold beside those that its manifest names and the sample pictures."""
MAX_MANIFEST_BYTES = 16 << 20
FEWEST_SAMPLES = 64
"""With fewer samples than this a file cannot be proved again, unless it was proved on no more."""


class Deployable(NamedTuple):
    """A model file with its verdict."""

    path: Path
    format: str
    exporter: Exporter
    """The exporter that wrote the file."""
    gate: Gate
    outputs: NDArray[np.float32]
    """Logits that the file gives for the samples on its own runtime, float32 [N, classes]."""
    measured: Variant | None = None
    """Its row of the report."""
    logits: NDArray[np.float32] | None = None
    """Logits of the samples, float32 [N, classes], by the network it was made of; `None` where that is the shipped one."""
    elsewhere: tuple[Variant, ...] = ()
    """What was found on other devices."""


def write_bundle(
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
    task: Task = CLASSIFICATION,
) -> Manifest:
    """Write a bundle; one that was there is replaced.

    Args:
        folder: Its path.
        name: Its name.
        classes: Names in label order.
        preprocess: Preprocessing of an image.
        files: The model files, each with a gate that passed.
        samples: Held-out images with labels and the torch network's logits.
        gate: Bounds of the gate that the files passed.
        provenance: Recipe, weights and package versions.
        background: Facts about the network beside its files; for the model card.
        task: What the network is for.

    Returns:
        The manifest, as `check_bundle` read it back.

    Raises:
        CompressError: A file did not pass its gate, can run code when it is loaded, or does not fit the rest.
        Unreachable: The disk is full, the folder cannot be written, or a file is missing.
    """
    files = tuple(files)
    if not files:
        raise CompressError(f"{folder}: no file passed its gate, so there is nothing to hand over; see why in the report")
    further = {f"{LOGITS}_{number}": file.logits for number, file in enumerate(files) if file.logits is not None}
    samples = samples._replace(further=further)
    samples = samples._replace(labels=task.pack_labels(samples.labels))
    check_arrays(folder / SAMPLES, samples, preprocess, len(classes), task)
    with write_whole(folder) as temporary:
        temporary.mkdir()
        write_archive(temporary / SAMPLES, samples)
        manifest = Manifest(
            name=name,
            classes=tuple(classes),
            preprocess=preprocess,
            input=INPUT,
            output=OUTPUT,
            task=task.name,
            logits_shape=samples.logits.shape[1:],
            files=tuple(_copy_file(file, number, samples, temporary, task) for number, file in enumerate(files)),
            gate=gate.model_dump(),
            samples=SAMPLES,
            samples_count=len(samples.labels),
            samples_sha256=hash_file(temporary / SAMPLES),
            provenance=dict(provenance),
        )
        records.save(temporary / MANIFEST, manifest)
        _check_manifest(temporary / MANIFEST, manifest)
        write_pictures(temporary, read_archive(temporary / SAMPLES, manifest), manifest, task)
        _write_documents(temporary, manifest, background)
        write_checksums(temporary)
        return check_bundle(temporary)


def check_bundle(folder: Path) -> Manifest:
    """Check that a bundle holds exactly what its manifest says, and that nothing in it can reach outside.

    Returns:
        The manifest.

    Raises:
        CompressError: The bundle is not safe or not whole; the message names the file.
        Unreachable: A file cannot be read.
    """
    if MANIFEST not in list_files(folder):
        raise CompressError(f"{folder}: has no {MANIFEST}; give the folder that `compress run` or `compress export` left")
    if (folder / MANIFEST).stat().st_size > MAX_MANIFEST_BYTES:
        raise CompressError(f"{folder / MANIFEST}: is larger than {MAX_MANIFEST_BYTES >> 20} MiB; get the bundle again")
    present = check_checksums(folder)
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
    drawn = EXPECTED in present or manifest.task != CLASSIFICATION.name
    pictures = check_pictures(folder, samples, manifest) if drawn else frozenset()
    if surplus := sorted({*present} - {*listed} - FURTHER - pictures):
        raise CompressError(f"{folder / surplus[0]}: is not in the manifest; remove what does not belong to the bundle")
    return manifest


def read_samples(folder: Path, manifest: Manifest) -> Samples:
    """Read the samples of a bundle.

    Raises:
        CompressError: They do not fit the manifest.
        Unreachable: They cannot be read.
    """
    path = folder / manifest.samples
    check_checksum(path, manifest.samples_sha256, source="the manifest")
    return read_archive(path, manifest)


def find_unfamiliar_programs(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """Find the programs of a checked bundle that are not byte for byte those that this version would write into it.

    They may come from another version, or from somebody who changed them; `compress` runs none of them in any case.
    """
    written = build_programs(manifest)
    programs = (PREDICT, RULE, MODEL_FILE, DETECTIONS, BENCH, SOURCE, BUILD)
    there = [name for name in programs if (folder / name).is_file()]
    return tuple(name for name in there if (folder / name).read_bytes() != written.get(name))


def build_programs(manifest: Manifest) -> dict[str, bytes]:
    """Build every program that this version writes into a bundle, by its path in there."""
    here = Path(__file__).parent
    sources = {
        PREDICT: here / "programs" / PREDICT,
        **{name: here.with_name("verification") / name for name in (RULE, MODEL_FILE)},
        **({DETECTIONS: DETECTIONS_PROGRAM} if load_task(manifest.task).boxes else {}),
    }
    return {
        **{name: path.read_bytes() for name, path in sources.items()},
        BENCH: build_bench(manifest),
        **{name: text.encode() for name, text in build_cpp(manifest).items()},
    }


def _write_documents(folder: Path, manifest: Manifest, background: Background | None) -> None:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}
    texts = {
        README: render_readme(manifest),
        CARD: render_card(manifest, background),
        NOTICE: render_notice(manifest, background),
        SCHEMA: json.dumps(schema, indent=1) + "\n",
    }
    for name, content in {**build_programs(manifest), **{name: text.encode() for name, text in texts.items()}}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def _copy_file(file: Deployable, number: int, samples: Samples, folder: Path, task: Task) -> BundleFile:
    parts = file.exporter.list_parts(file.path)
    reference = samples.logits if file.logits is None else file.logits
    if file.gate.status != "passed":
        raise CompressError(f"{file.path}: its gate {file.gate.status} ({file.gate.reason}); a bundle holds only what passed")
    for part in parts:
        if not part.is_file():
            raise Unreachable(f"{part}: is not there; export it again")
        if file.outputs.shape != reference.shape or not np.isfinite(file.outputs).all():
            wanted = f"finite logits {list(reference.shape)} of the file for the samples"
            raise CompressError(f"{file.path}: its outputs are {list(file.outputs.shape)}; give {wanted}")
        if (folder / part.name).exists():
            raise CompressError(f"{part}: another file of the bundle has this name; give each export its own")
        shutil.copyfile(part, folder / part.name)
    return BundleFile(
        path=file.path.name,
        parts={part.name: hash_file(folder / part.name) for part in parts},
        format=file.format,
        runtime=file.exporter.runtime,
        precision=file.exporter.precision,
        size_bytes=sum((folder / part.name).stat().st_size for part in parts),
        batch_size=file.exporter.batch_size,
        takes_pixels=file.exporter.takes_pixels,
        gives_class=file.exporter.gives_class,
        temperature=file.measured and file.measured.calibration and file.measured.calibration.temperature,
        gate=file.gate,
        logits=LOGITS if file.logits is None else f"{LOGITS}_{number}",
        on_samples=SampleDifferences(**_record(reference, file.outputs, samples, task)._asdict()),
        measured=file.measured,
        elsewhere=file.elsewhere,
    )


def _record(reference: NDArray[np.float32], outputs: NDArray[np.float32], samples: Samples, task: Task) -> Recorded:
    """Return the differences of a file from its network on the samples, logits [N, classes, ...]."""
    if task.name != CLASSIFICATION.name:
        return record_any_differences(reference, outputs, task.boxes)
    return record_differences(reference, outputs, samples.labels)


def _check_manifest(path: Path, manifest: Manifest) -> None:
    pre, task = manifest.preprocess, load_task(manifest.task)
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
        "files: gate and on_samples must say by how much a file differed when it was proved": all(
            map(_is_recorded, manifest.files)
        ),
        f"samples_count: {manifest.samples_count} are fewer than the {_count_needed(manifest)} that prove a file again": (
            manifest.samples_count >= _count_needed(manifest)
        ),
        f"logits_shape: must be that of {manifest.task} with {len(manifest.classes)} classes, all sizes above 0": (
            len(manifest.shape) == task.logit_dims - 1
            and min(manifest.shape) > 0
            and task.count_classes((1, *manifest.shape)) == len(manifest.classes)
        ),
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
            raise CompressError(
                f"{path}: {name[:200]!r} is not a plain file name, so it could lead out of the bundle; do not use it"
            )


def _is_recorded(file: BundleFile) -> bool:
    """Return whether a file's entry holds usable numbers that bound it from then on."""
    figures = file.gate.max_abs_diff, file.gate.agreement_percent, file.gate.drop_points
    known = all(value is not None and math.isfinite(value) for value in figures)
    return known and file.on_samples is not None and is_usable(Recorded(**file.on_samples.model_dump()))


def _count_needed(manifest: Manifest) -> int:
    """Return how many samples a bundle must have: it cannot be fewer than a few dozen where files were proved on more."""
    return min([FEWEST_SAMPLES, *(file.gate.samples for file in manifest.files)])


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
        check_checksum(folder / name, sha256, source="the manifest")
    if file.size_bytes != sum((folder / name).stat().st_size for name in file.parts):
        raise CompressError(f"{path}: has another size than the {file.size_bytes} bytes of the manifest; get the bundle again")
    if suffix == ".onnx":
        refuse_external_data(path)
