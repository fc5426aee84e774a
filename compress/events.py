"""Report progress: with an estimate of the time left for people on stderr, as one JSON line per event for machines.

Long work takes an `Events` and reports to it; `Events()` alone is silent, which is what library calls and tests use. On a
terminal progress is a live bar; elsewhere it is a plain line now and then. The number of lines does not grow with the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import Unwritable, explain_refusal
from compress.text import escape_commands

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PLAIN_INTERVAL_SECONDS = 15.0
"""Without a terminal, progress of one task is printed at most this often."""


class Task:
    """Progress of one piece of work."""

    def __init__(self, console: Console | None, bar: Progress | None, description: str, total: int, done: int) -> None:
        self._console, self._description, self._total, self._done = console, description, total, done
        self._begun: tuple[float, int] | None = None
        self._printed = time.monotonic()
        self._bar = bar
        self._note = ""
        if bar is not None:
            self._id = bar.add_task(escape_commands(description), total=total, completed=done, note="")
            bar.start()

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Count steps as done; `note` is a short figure beside the bar, such as the loss."""
        self._done += steps
        if self._begun is None and steps:
            self._begun = time.monotonic(), self._done  # the first step is slow: it compiles, or waits for teachers
        self._note = self._note if note is None else note
        if self._bar is not None:
            self._bar.update(self._id, completed=self._done, note=self._note)
        elif self._console is not None and time.monotonic() - self._printed > PLAIN_INTERVAL_SECONDS:
            self._printed = time.monotonic()
            _say(self._console, f"{self._description}: {self._done}/{self._total} {self._note}".rstrip() + self._eta())

    def _eta(self) -> str:
        if self._begun is None or self._done == self._begun[1]:
            return ""
        seconds = (time.monotonic() - self._begun[0]) / (self._done - self._begun[1]) * (self._total - self._done)
        return f", {seconds / 60:.0f} min left" if seconds > 90 else f", {seconds:.0f} s left"

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.remove_task(self._id)
            if not self._bar.tasks:
                self._bar.stop()


class Events:
    """Where work reports to.

    Args:
        path: File to which one JSON line per event is appended.
        console: Where people look; `None` is silent.
        quiet: Say warnings there and nothing else.

    Example:
        >>> import compress
        >>> from pathlib import Path
        >>> with compress.Events("progress.jsonl").task("count", total=2, kind="example") as task:
        ...     task.advance(2)
        >>> "example" in Path("progress.jsonl").read_text()
        True
    """

    def __init__(self, path: str | Path | None = None, console: Console | None = None, *, quiet: bool = False) -> None:
        self._path, self._console = None if path is None else Path(path), None if quiet else console
        self._warned = console
        self._bar: Progress | None = None
        self._nested_seconds = [0.0]
        self._followers: list[Callable[[str, Mapping[str, object]], None]] = []
        self.warnings: list[str] = []
        """What was said that belongs in the report too, each once."""

    def attach(self, path: Path) -> None:
        """Append events to this file from now on."""
        self._path = path

    def follow(self, take: Callable[[str, Mapping[str, object]], None]) -> None:
        """Call a function with the name and the fields of every event from now on."""
        self._followers.append(take)

    def emit(self, event: str, **fields: object) -> None:
        """Append an event for machines, and tell it to whoever follows.

        Raises:
            Unwritable: The file cannot be written.
        """
        for take in self._followers:
            take(event, fields)
        if self._path is None:
            return
        from pydantic_core import to_json

        texts = {name: escape_commands(text) for name, text in fields.items() if isinstance(text, str)}
        known = {"time": round(time.time(), 3), "event": event, **fields, **texts}
        line = to_json(known, inf_nan_mode="strings", fallback=str)  # JSON has no NaN, which is when events matter most
        try:
            with self._path.open("ab") as file:
                file.write(line + b"\n")
        except OSError as error:
            raise Unwritable(explain_refusal(self._path, error)) from error

    def say(self, text: str) -> None:
        """Tell people one line."""
        if self._console is not None:
            _say(self._console, text)

    def warn(self, text: str) -> None:
        """Tell people one line that belongs in the report too, such as a result that was damaged and is made anew."""
        if text not in self.warnings:
            self.warnings.append(text)
        if self._warned is not None:
            _say(self._warned, text)

    def show(self, renderable: object) -> None:
        """Show people something that rich can draw, such as a table."""
        if self._console is not None:
            self._console.print(renderable)

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, *, kind: str = "") -> Iterator[Task]:
        """Show the progress of one piece of work, of which `done` of `total` steps are behind us.

        Args:
            description: What people read.
            total: Steps in all.
            done: Steps that are done already.
            kind: Sort of work, such as `training`; where it is given, an event `step` tells programs how long it took.
        """
        if self._bar is None and self._console is not None and self._console.is_terminal:
            self._bar = _make_bar(self._console)
        task = Task(self._console, self._bar, description, total, done)
        begun = time.monotonic()
        self._nested_seconds.append(0.0)
        try:
            yield task
        finally:
            task.close()
            seconds, nested = time.monotonic() - begun, self._nested_seconds.pop()
            self._nested_seconds[-1] += seconds if kind else nested
        if kind:
            self.emit("step", kind=kind, description=description, seconds=seconds, own_seconds=seconds - nested)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _make_bar(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        transient=True,
    )
