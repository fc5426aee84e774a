"""Find bundles, their files and their samples from paths that a user gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from compress import plugins
from compress.errors import CompressError, Unreachable
from compress.records import BundleFile, Manifest
from compress.system.files import open_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.protocol import Subject


NOISE_IMAGES = 16
"""Pictures of noise."""


class Pictures(NamedTuple):
    """The same pictures for both kinds of files."""

    images: NDArray[np.float32]
    """As the network sees them, [N, C, H, W]."""
    pixels: NDArray[np.uint8] | None
    """As files see them that carry the preprocessing, [N, H, W, C]; `None` where only a shape is known."""


def find_bundle(path: Path) -> Path:
    """Return the bundle that a path is, or holds.

    Raises:
        Unreachable: There is none.
    """
    for folder in (path, path / "bundle"):
        if (folder / "manifest.json").is_file():
            return folder
    raise Unreachable(
        f"{path}: holds no bundle (no manifest.json); give the folder of a bundle, or of a run whose gates passed"
    )


def read_bundle(path: Path) -> tuple[Path, Manifest]:
    """Return the folder and the manifest of a bundle, after paths, checksums and verdicts were checked.

    Raises:
        CompressError: The bundle is not what its manifest says.
        Unreachable: There is no bundle.
    """
    from exporters.bundle.bundle import check_bundle

    folder = find_bundle(path)
    return folder, check_bundle(folder)


def choose_file(manifest: Manifest, file: str | None) -> BundleFile:
    """Return one file of a bundle by its name there; without one, the first.

    Raises:
        CompressError: There is no such file.
    """
    known = {entry.path: entry for entry in manifest.files}
    if file is not None and file not in known:
        raise CompressError(f"--file {file}: the bundle has no such file; {plugins.suggest_name(file, list(known))}")
    return manifest.files[0] if file is None else known[file]


def make_subject(folder: Path, entry: BundleFile) -> Subject:
    """Return a file as something to run, called by its name in the bundle."""
    from benchmarks.protocol import Subject

    return Subject(
        name=entry.path, path=folder / entry.path, runtime=entry.runtime, batch_size=entry.batch_size,
        takes_pixels=entry.takes_pixels, gives_class=entry.gives_class,
    )  # fmt: skip


def read_pictures(folder: Path, manifest: Manifest) -> Pictures:
    """Return the bundle's samples."""
    from compress.preprocess import normalise
    from exporters.bundle.bundle import read_samples

    pixels = read_samples(folder, manifest).images
    return Pictures(normalise(pixels, manifest.preprocess), pixels)


def find_subjects(paths: Sequence[Path]) -> list[Subject]:
    """Return what is measured; names are file names, with the folder before them where they repeat.

    Raises:
        CompressError: No runtime opens such a file, it is a device or a pipe, or a bundle is not what its manifest says.
        Unreachable: A file is not there.
    """
    from benchmarks import protocol

    found: list[Subject] = []
    for path in paths:
        if path.is_dir():
            folder, manifest = read_bundle(path)
            found += [make_subject(folder, entry) for entry in manifest.files]
        elif path.is_file():
            found.append(protocol.Subject(name=path.name, path=path, runtime=_choose_safe_runtime(path)))
        elif not path.exists():
            raise Unreachable(f"{path}: there is no such file, bundle or run")
        else:
            with open_file(path):  # says what else it is
                pass
    names = [subject.name for subject in found]
    return [subject if names.count(subject.name) == 1 else replace(subject, name=str(subject.path)) for subject in found]


def _choose_safe_runtime(path: Path) -> str:
    """Return the runtime of a file that may come from a stranger.

    Raises:
        CompressError: No runtime opens such a file, or loading it can run code that it brings.
    """
    from benchmarks import protocol

    name = protocol.find_runtime(path)
    if not plugins.load("runtimes", name).inert:
        raise CompressError(
            f"{path}: loading such a file can run code that it brings; measure its ONNX or OpenVINO file instead"
        )
    return name


def choose_inputs(file: Path, image: tuple[int, ...] | None) -> Pictures:
    """Return what to measure a file with: the pictures of its bundle, or noise of the given shape where it is in none.

    Args:
        file: In a bundle or run.
        image: Shape of an image [C, H, W]; default: that of the bundle.

    Raises:
        CompressError: The file lies in no bundle and no shape is given, or takes images of another shape than the given one.
    """
    import numpy as np

    if image is not None and find_bundle_around(file) is None:
        return Pictures(np.random.default_rng(0).standard_normal((NOISE_IMAGES, *image), dtype=np.float32), None)
    held = read_pictures(*read_bundle(_require_bundle(file)))
    if image not in (None, held.images.shape[1:]):
        given, taken = (",".join(map(str, shape)) for shape in (image or (), held.images.shape[1:]))
        raise CompressError(f"--shape {given}: {file} takes images of {taken}, as its bundle says; leave --shape out")
    return held


def find_bundle_around(file: Path) -> Path | None:
    """Return the bundle that a file lies in, or that of the run in whose folder it lies; `None` for any other file."""
    around = (file.absolute().parent, file.absolute().parent.parent)
    return next(
        (folder for folder in around if any((each / "manifest.json").is_file() for each in (folder, folder / "bundle"))), None
    )


def _require_bundle(file: Path) -> Path:
    folder = find_bundle_around(file)
    if folder is None:
        raise CompressError(
            f"{file}: lies in no bundle and no run, so its input is unknown; give --shape channels,height,width"
        )
    return folder
