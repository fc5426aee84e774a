"""Search for an int8 file of weights that no run made: the ladder of a run, but for the rung that needs teachers."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import exporters
from benchmarks.environment import read_environment
from benchmarks.protocol import Subject, make_runner
from compress.events import Events
from compress.models import Network
from compress.preprocess import normalise
from compress.quantization.candidate import Unavailable
from compress.quantization.ladder import LadderSearch
from compress.quantization.saturation import explain_no_spare_bit
from compress.recipe import GateSection, Int8Section
from compress.records import Gate, Ladder, Preprocess
from compress.run import cache
from compress.system.files import writable
from compress.tasks import CLASSIFICATION, Task
from exporters import About, Quantizable, Quantization, Quantizer, Simulated

NO_TEACHERS = "a file of weights comes without teachers; compress run adapts a student to int8"


class Compared(NamedTuple):
    """A network, and the pictures by which its files are judged."""

    network: Network
    preprocess: Preprocess
    pixels: NDArray[np.uint8]
    """[N, H, W, C]."""
    reference: NDArray[np.float32]
    """Logits of the network, [N, K]."""
    labels: NDArray[np.int64]
    """[N]."""
    gate: GateSection
    calibration: NDArray[np.float32]
    """Normalised pictures for ranges, [M, C, H, W]."""


class GivenBackend:
    """A given network and one format; the contract is `compress.quantization.candidate.QuantizationBackend`.

    Args:
        compared: The network and its pictures.
        exporter: The format, with precision int8.
        about: Metadata of the files.
        file: Name of each file.
        events: Where progress of a runner goes.
    """

    def __init__(self, compared: Compared, exporter: Quantizer, about: About, *, file: str, events: Events) -> None:
        self._compared, self._exporter, self._about, self._file, self._events = compared, exporter, about, file, events
        self.reference, self.labels = compared.reference, compared.labels
        self.task: Task = CLASSIFICATION

    @cached_property
    def _quantizable(self) -> Quantizable:
        image = torch.from_numpy(self._compared.calibration[:1])
        return self._exporter.prepare_int8(self._compared.network, image, self._compared.calibration, about=self._about)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that can stay in floating point, from input to output."""
        return self._quantizable.layers

    @property
    def always_float(self) -> tuple[str, ...]:
        """Names of the layers that stay in floating point in every file, as far as the files so far have shown."""
        return self._quantizable.always_float

    def write(self, folder: Path, quantization: Quantization) -> Path:
        """Write the int8 file into a folder and return its path.

        Raises:
            CompressError: The format cannot hold this network so.
            Unreachable: The disk is full or the folder cannot be written.
        """
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._quantizable.write(folder / self._file, quantization)
        return folder / self._file

    def count_bytes(self, path: Path) -> int:
        """Return the size of all parts of a file."""
        return sum(part.stat().st_size for part in self._exporter.list_parts(path))

    def run_file(self, path: Path, images: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Return the logits [N, K] of a file on its own runtime, for all pictures or for those with the numbers `images`, [N].

        Raises:
            CompressError: The runtime cannot run it.
        """
        exporter, shown = self._exporter, self._compared.pixels if images is None else self._compared.pixels[images]
        subject = Subject(path.name, path, exporter.runtime, exporter.batch_size, exporter.takes_pixels, exporter.gives_class)
        fed = shown if exporter.takes_pixels else normalise(shown, self._compared.preprocess)
        return make_runner(subject, events=self._events)(fed, None).logits

    def simulate(self, quantization: Quantization, images: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Return the logits [N, K] of a file as torch simulates them for the pictures with the numbers `images`, [N].

        `None` where a file is written as quickly.

        Raises:
            CompressError: The format cannot hold this network so.
        """
        if not isinstance(self._quantizable, Simulated):
            return None
        return self._quantizable.simulate(quantization, normalise(self._compared.pixels[images], self._compared.preprocess))

    def judge(self, logits: NDArray[np.float32]) -> Gate:
        """Return the gate's verdict on a file by its logits, [N, K]."""
        return exporters.gate(self.reference, logits, self.labels, settings=self._compared.gate, precision="int8")


def search_int8(
    compared: Compared, exporter: Quantizer, about: About, *, settings: Int8Section, path: Path, events: Events
) -> Ladder:
    """Search for an int8 file that passes the gate; it is copied to its path, and the others are removed.

    Args:
        compared: The network, on the CPU, and its pictures.
        exporter: The format, with precision int8.
        about: Metadata of the files.
        settings: Which rungs, how long, how much in floating point.
        path: Of the file.
        events: Where progress goes.

    Raises:
        CompressError: The format cannot hold the network in int8.
        Unreachable: The disk is full, the folder cannot be written, or a package is missing.
        Interrupted: The user stopped.
    """
    tried = path.with_name(f"{path.name}.tried")
    found = LadderSearch(
        GivenBackend(compared, exporter, about, file=path.name, events=events), adapt=Unavailable(NO_TEACHERS),
        statistics=exporter.statistics,
        settings=settings, gate=compared.gate,
        no_spare_bit=exporter.no_spare_bit or explain_no_spare_bit(read_environment().facts["instructions"]),
        calibration_images=len(compared.calibration), folder=tried, name=path.name, events=events,
    ).search()  # fmt: skip
    for part in exporter.list_parts(found.chosen.path):
        cache.copy(part, path.with_name(part.name))
    shutil.rmtree(tried)
    return found.ladder
