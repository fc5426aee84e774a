"""A real network on the ladder: files of it are written by its exporter, run by the runner, and judged by the gate."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.preprocess import normalise
from compress.quantization.calibration import Calibration
from compress.records import Gate
from compress.run.context import Run, Trained
from compress.run.verify import Logits, describe, judge, make_subject, run_file
from compress.system.files import writable
from exporters._exporter import Quantisable, Quantisation, Quantiser, Simulated


class Footing:
    """One network and one format; see `compress.quantization.ladder.Footing` for what it is to the ladder.

    Args:
        run: Run context.
        trained: The network, on the CPU.
        exporter: The format, with precision int8.
        calibration: Images of the training split.
        reference: What the network says of the validation images in float32, [N, K].
        original: What it said before it was adapted to int8, if it was.
    """

    def __init__(
        self, run: Run, trained: Trained, exporter: Quantiser, calibration: Calibration, *, reference: Logits,
        original: Logits | None = None,
    ) -> None:  # fmt: skip
        self._run, self._exporter, self._calibration = run, exporter, calibration
        self.trained, self.reference, self.original = trained, reference, original

    @cached_property
    def _quantisable(self) -> Quantisable:
        network, image = self.trained.network, self._run.data.sample_image()
        return self._exporter.quantisable(network, image, self._calibration.images, about=describe(self._run, self.trained))

    @property
    def layers(self) -> tuple[str, ...]:
        """What can stay in floating point."""
        return self._quantisable.layers

    @property
    def labels(self) -> NDArray[np.int64]:
        """Of the validation images, [N]."""
        return self._run.validation_labels

    def write(self, folder: Path, quantisation: Quantisation) -> Path:
        """Write the int8 file and return its path."""
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        path = self._exporter.path(folder, self.trained.name)
        self._quantisable.write(path, quantisation)
        return path

    def size_bytes(self, path: Path) -> int:
        """Return the size of all that belongs to a file."""
        return sum(part.stat().st_size for part in self._exporter.parts(path))

    def answer(self, path: Path, images: NDArray[np.intp] | None = None) -> Logits:
        """Return the logits of a file on its own runtime."""
        held = self._run.data.validation.images
        shown = held if images is None else held[images]
        return run_file(make_subject(path.name, path, self._exporter), [shown], self._run.data.preprocess).logits

    def simulated(self, quantisation: Quantisation, images: NDArray[np.intp]) -> Logits | None:
        """Return what torch says that a file would say, where writing one takes long."""
        if not isinstance(self._quantisable, Simulated):
            return None
        shown = normalise(self._run.data.validation.images[images], self._run.data.preprocess)
        return self._quantisable.simulate(quantisation, shown)

    def judge(self, logits: Logits) -> Gate:
        """Return what the gate says."""
        return judge(self._run, logits, precision="int8", reference=self.reference, original=self.original)
