"""Trackio: runs of several recipes beside each other, in a database of this machine.

Seen by `trackio show`. Nothing is sent anywhere unless `remote` allows it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout

import trackio

from compress.errors import CompressError
from compress.recipe import Text
from compress.tracking import TrackedRun

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""Variables of the environment by which trackio sends to a server."""


class Trackio:
    """Keeps the figures in trackio's own folder (`TRACKIO_DIR`, else `~/.cache/huggingface/trackio`).

    Args:
        project: Under which runs stand beside each other.
        remote: Send them where `TRACKIO_SPACE_ID` or `TRACKIO_SERVER_URL` says; otherwise these are refused.
    """

    def __init__(self, *, project: Text = "edge-compress", remote: bool = False) -> None:
        self.project, self.remote = project, remote
        found = next((name for name in REMOTE if os.environ.get(name)), None)
        if found is not None and not remote:
            raise CompressError(
                f"track: trackio: {found} is set, by which trackio sends the run to {os.environ[found].partition('?')[0]}; "
                "unset it, or allow that: track: {tracker: trackio, remote: true}"
            )

    def begin(self, run: TrackedRun) -> None:
        """Begin a run, or continue the one of that name."""
        with redirect_stdout(sys.stderr):  # where results of ours go, it would greet
            self._run = trackio.init(
                self.project, run.name, config=dict(run.recipe), resume="allow", embed=False, auto_log_gpu=False,
                auto_log_cpu=False,
            )  # fmt: skip

    def log(self, stage: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Take the figures of an epoch."""
        self._run.log({f"{stage}/{name}": value for name, value in figures.items()}, step=epoch)

    def finish(self, figures: Mapping[str, float]) -> None:
        """Take the results, and wait until all is in the database."""
        if figures:
            self._run.log({f"result/{name}": value for name, value in figures.items()})
        with redirect_stdout(sys.stderr):
            trackio.finish()
