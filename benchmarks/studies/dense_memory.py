"""Memory in which a file of maps is judged: `python -m benchmarks.studies.dense_memory [--images N] [--size N] [--out FILE]`.

Logits of a network and of its file, and masks, are drawn for as many pictures as PASCAL VOC's validation split has; the gate
judges them in a process of its own. Logits lie in files, as those of a run do when there are many. What counts is the memory
that the system cannot take back at will (anonymous pages); pages of these files come on top while there is room. With the
defaults it takes some four minutes of one core and a gigabyte and a half of disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import read_environment
from compress.errors import CompressError
from compress.records import Document, Environment, save

OUT = Path(__file__).parents[1] / "results" / "dense_memory.json"
CLASSES, STRIDE = 21, 8
ALLOWED = 2 << 30
EVERY = 0.02
"""Seconds between two looks at the memory."""


class DenseMemory(Document):
    """What judging took."""

    command: str
    images: int
    size: int
    classes: int
    stride: int
    status: str
    """Of the gate."""
    anonymous_bytes: int
    """The most that the system could not have taken back."""
    resident_bytes: int
    """The most with pages of files, which it can."""
    seconds: float
    """Of the judging process's own time, without drawing."""
    environment: Environment


def draw(folder: Path, images: int, size: int) -> None:
    """Write masks, and logits of a network and of a file that differs as int8 does, one image after the other."""
    random, side = np.random.default_rng(0), size // STRIDE
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.uint8, (images, size, size))
    both = [
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (images, CLASSES, side, side))
        for name in ("network", "file")
    ]
    for row in range(images):
        cells = np.zeros((side, side), np.uint8)
        top, left = random.integers(0, side // 2, 2)
        cells[top : top + side // 2, left : left + side // 3] = random.integers(1, CLASSES)
        masks[row] = cells.repeat(STRIDE, 0).repeat(STRIDE, 1)[:size, :size]
        logits = 4 * np.eye(CLASSES, dtype=np.float32)[cells].transpose(2, 0, 1)
        both[0][row] = logits + random.standard_normal(logits.shape, dtype=np.float32)
        both[1][row] = both[0][row] + 0.02 * random.standard_normal(logits.shape, dtype=np.float32)


def judge(folder: Path) -> dict[str, object]:
    """Judge what was drawn, and return the verdict with the memory that this process took."""
    from compress.recipe import GateSection
    from compress.tasks import load_task
    from exporters import gate

    network, file = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("network", "file"))
    masks: NDArray[np.uint8] = np.load(folder / "masks.npy")  # in memory, as a run has them
    with _watch() as seen:
        begun = process_time()
        task = load_task("segmentation")
        verdict = gate(network, file, masks, settings=GateSection(), precision="int8", task=task)
        seconds = process_time() - begun
    return {"status": verdict.status, "seconds": seconds, **seen}


@contextmanager
def _watch() -> Iterator[dict[str, int]]:
    """Give the most memory that this process has, of its own and with pages of files, until the block ends."""
    seen, done = {"anonymous_bytes": 0, "resident_bytes": 0}, threading.Event()

    def look() -> None:
        while not done.wait(EVERY):
            lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
            for name, field in (("anonymous_bytes", "RssAnon"), ("resident_bytes", "VmRSS")):
                seen[name] = max(seen[name], 1024 * int(lines[field].split()[0]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


@click.command()
@click.option("--images", default=1449, show_default=True, type=click.IntRange(min=2), help="Pictures that are judged.")
@click.option("--size", default=512, show_default=True, type=click.IntRange(min=64), help="Their height and width in pixels.")
@click.option("--out", default=OUT, type=click.Path(dir_okay=False, path_type=Path), help="Where the result goes.")
@click.option("--judge", "drawn", hidden=True, type=click.Path(file_okay=False, path_type=Path), help="What was drawn.")
def main(images: int, size: int, out: Path, drawn: Path | None) -> None:
    """Measure in how much memory the gate judges maps; ends with 1 where it is more than 2 GiB."""
    if drawn is not None:
        click.echo(json.dumps(judge(drawn)))
        return
    with tempfile.TemporaryDirectory(prefix="edge-compress-") as name:
        draw(Path(name), images, size)
        words = [sys.executable, "-m", "benchmarks.studies.dense_memory", "--judge", name]
        told = subprocess.run(words, check=True, capture_output=True, text=True)
    try:
        result = DenseMemory(
            command=f"python -m benchmarks.studies.dense_memory --images {images} --size {size}", images=images, size=size,
            classes=CLASSES, stride=STRIDE, environment=read_environment(), **json.loads(told.stdout),
        )  # fmt: skip
        save(out, result)
    except CompressError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    click.echo(f"{images} pictures of {size} pixels: {result.anonymous_bytes / 2**30:.2f} GiB, gate {result.status}")
    sys.exit(result.anonymous_bytes > ALLOWED)


if __name__ == "__main__":
    main()
