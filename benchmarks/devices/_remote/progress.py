"""What people see of a job on a board: how far it is, what holds it up, and for how long a lost connection is borne."""

from __future__ import annotations

import time

from benchmarks.devices._device import Progress, Say
from benchmarks.devices._remote.transport import clip
from compress.errors import CompressError, Unreachable
from compress.text import format_duration


class Tagged:
    """Puts a board's name before the message of what is raised."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, CompressError) and not str(error).startswith(f"{self._name}: "):
            error.args = (f"{self._name}: {error}",)


class Shown:
    """Progress as far as it is known, with notes between that leave it where it is."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._done, self._total = progress, 0, 1

    def __call__(self, done: int, total: int, doing: str) -> None:
        """Show how far the job is."""
        if 0 <= done <= total:
            self._done, self._total = done, total
            self._progress(done, total, clip(doing, 80))

    def note(self, text: str) -> None:
        """Show what holds it up."""
        self._progress(self._done, self._total, text)


class Gone:
    """Since when there is no connection, and how long that is borne."""

    def __init__(self, minutes: float, say: Say) -> None:
        self._allowed, self._pause, self._say = 60 * minutes, 0.5, say
        self._since: float | None = None

    def clear(self) -> None:
        """Note that there is one."""
        self._since, self._pause = None, 0.5

    def wait(self, error: Unreachable, shown: Shown, remedy: str = "try again") -> None:
        """Wait a while before the next try.

        Raises:
            Unreachable: There was none for too long.
        """
        now = time.monotonic()
        if self._since is None:
            self._say(f"the connection is lost ({error}); tries again for {format_duration(self._allowed)}")
            self._since = now
        if now - self._since >= self._allowed:
            raise Unreachable(f"{error}; no connection for {format_duration(self._allowed)}; {remedy}") from error
        shown.note(f"lost, reconnecting ({now - self._since:.0f} s)")
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, 8.0)
