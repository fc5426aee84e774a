"""A job folder: all that a device needs to evaluate or time some files; `runner.py` says what lies in it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from benchmarks.inputs import AnyInputs, InputFolder, Pixels, assign
from compress import plugins
from compress.errors import CompressError, Unreachable
from compress.system.files import writable
from compress.system.leftovers import make_temporary_folder

PROGRAMS = ("runner.py", "machine.py", "timer.py", "meter.py", "sensors.py")
"""Files of this folder that travel in every job."""


@dataclass(frozen=True)
class Subject:
    """A file on a runtime."""

    name: str
    """Unique among what is measured together."""
    path: Path
    """The file; a text becomes a path."""
    runtime: str
    """A plug-in of `benchmarks/runtimes`."""
    batch_size: int | None = None
    """The only number of images that the file takes in a call; `None` takes any."""
    takes_pixels: bool = False
    """Whether the file carries the preprocessing, and so takes uint8 [batch, H, W, C]."""
    gives_class: bool = False
    """Whether the file also gives `class` and `score`; `evaluate` then brings them back."""
    feeds: tuple[tuple[str, NDArray[Any]], ...] = field(default=(), compare=False, repr=False)
    """Of a file of another tool, which is timed and not asked for logits: its inputs by name in their order, [variants, ...];
    each call gets one variant."""
    beside: tuple[Path, ...] = ()
    """Files in its folder from which such a file reads weights."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))


@dataclass(frozen=True)
class Job:
    """The settings in `job.json`."""

    task: Literal["evaluate", "measure", "sustain", "energy", "profile"]
    threads: int
    batch_size: int | None
    """`None` takes any, as `calls` say."""
    seed: int = 0
    rounds: int = 1
    seconds: float = 1.0
    launches: int = 1
    """Processes, one after the other, that share the rounds."""
    calls_per_second: float | None = None
    """Calls begin at this pace; `None` is without a pause."""
    calls: tuple[tuple[int, int], ...] = ()
    """Of task `evaluate`: calls as first image and number of images, where all images are not wanted in calls of one size."""
    meter: str = ""
    """Of task `energy`: a program there that prints what a power meter tells; empty asks the machine's own sensors."""


@contextmanager
def make_job_folder(job: Job, subjects: Sequence[Subject], images: AnyInputs, pixels: Pixels | None) -> Iterator[Path]:
    """Give a job folder, complete and movable, that vanishes afterwards.

    Raises:
        CompressError: Images, options or a file's ending are not what the runner takes.
        Unreachable: A file is not there, or the temporary folder cannot be written.
    """
    inputs = assign(subjects, images, pixels)
    chosen = {subject.name: inputs[subject.name].choose(subject) for subject in subjects if not subject.feeds}
    if min(job.threads, job.batch_size or 1, job.seconds) <= 0:
        raise CompressError(f"threads {job.threads}, batch_size {job.batch_size} and seconds {job.seconds} must be above 0")
    with make_temporary_folder() as folder:
        with writable(folder):
            for program in PROGRAMS:
                shutil.copyfile(Path(__file__).with_name(program), folder / program)
            listed, place = [], InputFolder(folder)
            for index, subject in enumerate(subjects):
                entry = _add_file(folder, index, subject)
                if subject.feeds:
                    entry["feeds"] = {name: place.add(values) for name, values in subject.feeds}
                else:
                    array, constants = chosen[subject.name]
                    entry |= {"images": place.add(array)} | constants
                listed.append(entry)
            (folder / "job.json").write_text(json.dumps(asdict(job) | {"subjects": listed}), encoding="utf-8")
        yield folder


def _add_file(folder: Path, index: int, subject: Subject) -> dict[str, Any]:
    """Copy a subject's files and its runtime into a job folder; return its entry in `job.json`, without what it is fed."""
    plugin, runtime = plugins.describe("runtimes", subject.runtime), plugins.load("runtimes", subject.runtime)
    if subject.path.suffix not in runtime.suffixes:
        raise CompressError(f"{subject.path}: {subject.runtime} opens files that end in {', '.join(runtime.suffixes)}")
    if subject.feeds and not hasattr(runtime, "open_foreign"):
        raise CompressError(f"{subject.path}: {subject.runtime} times no files of other tools; give its ONNX or OpenVINO file")
    place, code = folder / "files" / str(index), importlib.util.find_spec(plugin.module)
    place.mkdir(parents=True)
    (folder / "runtimes").mkdir(exist_ok=True)
    for part in (*runtime.parts(str(subject.path)), *map(str, subject.beside)):
        if not (Path(part).is_file() and os.access(part, os.R_OK)):
            raise Unreachable(f"{subject.name}: {part} is not there or cannot be read; export it first")
        shutil.copyfile(part, place / Path(part).name)
    shutil.copyfile(str(code.origin if code else None), folder / "runtimes" / f"{subject.runtime}.py")
    entry: dict[str, Any] = {"name": subject.name, "runtime": subject.runtime, "class": plugin.attribute}
    if subject.gives_class:
        entry["gives_class"] = True
    return entry | {"file": f"files/{index}/{subject.path.name}"}
