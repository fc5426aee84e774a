"""TensorBoard: curves of all stages, beside each other, from files in the run's folder.

Seen by `tensorboard --logdir runs`. Nothing is sent anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from compress.tracking import TrackedRun

FOLDER = "tensorboard"
"""In the run's folder."""


class Tensorboard:
    """Writes event files to `tensorboard/` in the run's folder, a curve for each stage."""

    def begin(self, run: TrackedRun) -> None:
        """Open a new event file for each stage when it comes; those of earlier calls stay beside it."""
        self._folder = run.folder / FOLDER
        self._writers: dict[str, SummaryWriter] = {}

    def log(self, stage: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Write the figures of an epoch, to be seen at once."""
        writer = self._open(stage)
        for name, value in figures.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()

    def finish(self, figures: Mapping[str, float]) -> None:
        """Write the results as single points, and close the files."""
        for name, value in figures.items():
            file, _, figure = name.rpartition("/")
            self._open(file).add_scalar(f"result/{figure}", value, 0)
        for writer in self._writers.values():
            writer.close()

    def _open(self, stage: str) -> SummaryWriter:
        if stage not in self._writers:
            self._writers[stage] = SummaryWriter(str(self._folder / stage))
        return self._writers[stage]
