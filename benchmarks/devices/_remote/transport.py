"""The contract of what leads to a board, and a conversation with a program there.

A transport knows how one shell command is run on the board with stdin, stdout and exit status carried over, and nothing of what
is run. Everything that a board says is untrusted: lines and files have a greatest length.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import IO, Any, Protocol, cast

from compress.errors import Unreachable
from compress.text import escape_commands

LINE_BYTES = 1 << 20
"""The longest line that a board of ours says."""
FOREIGN_LINES = 100
"""Most lines before the first of ours, which a login shell's own files may print."""
SAID_BYTES = 4096
"""Of what a command wrote to stderr, the end is kept."""


class Lost(Unreachable):
    """The connection was lost or did not come about, for a reason that may pass."""


class Transport(Protocol):
    """What leads to a board."""

    where: str
    """How messages call the board."""

    def hold(self) -> AbstractContextManager[None]:
        """Keep what makes several commands cheap while the context lasts."""

    def command(self, script: str) -> list[str]:
        """Return the command that runs a script in the POSIX shell of the board, in the home folder there."""

    def explain(self, status: int, said: str) -> Unreachable | None:
        """Return why a command did not run on the board, `Lost` where that may pass; None where it ran there.

        Args:
            status: With which the command of this machine ended.
            said: What it wrote to stderr.
        """


class Conversation:
    """Lines of JSON and files from a program on a board.

    Args:
        process: The command of this machine that leads there.
        seconds: A board that says nothing for so long is lost.
    """

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self.process, self._seconds = process, seconds
        self._towards, self._from = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        self._kept, self._begun = b"", False

    def write(self, content: bytes) -> None:
        """Send; what a program that has ended no longer reads is no error, for it has said why."""
        with suppress(BrokenPipeError):
            self._towards.write(content)
            self._towards.flush()

    def close(self) -> None:
        """Say that nothing more comes."""
        with suppress(BrokenPipeError):
            self._towards.close()

    def read_document(self) -> dict[str, Any] | None:
        """Return the next line of JSON, None at the end.

        Raises:
            Lost: The board says nothing any more.
            Unreachable: What it says is no answer.
        """
        for _ in range(FOREIGN_LINES):
            line = self._read_line()
            if not line.endswith(b"\n"):
                return None
            try:
                document = json.loads(line)
            except (ValueError, RecursionError):
                document = None
            if isinstance(document, dict):
                self._begun = True
                return document
            if self._begun:
                break
        raise Unreachable("answers with something else than was asked for; look at it with ssh by hand")

    def read_bytes(self, count: int) -> Iterator[bytes]:
        """Yield so many bytes, or fewer where it ends before.

        Raises:
            Lost: The board says nothing any more.
        """
        while count > 0 and (self._kept or self._fill()):
            taken, self._kept = self._kept[:count], self._kept[count:]
            count -= len(taken)
            yield taken

    def _read_line(self) -> bytes:
        while b"\n" not in self._kept:
            if len(self._kept) > LINE_BYTES:
                raise Unreachable(f"answers with a line of more than {LINE_BYTES} bytes; look at it by hand")
            if not self._fill():
                break
        line, end, self._kept = self._kept.partition(b"\n")
        return line + end

    def _fill(self) -> bool:
        stream = self._from.fileno()
        if not select.select([stream], [], [], self._seconds)[0]:
            self.process.kill()
            raise Lost(f"said nothing for {self._seconds:g} s")
        content = os.read(stream, 1 << 16)
        self._kept += content
        return bool(content)


@contextmanager
def converse(transport: Transport, script: str, *, seconds: float) -> Iterator[tuple[Conversation, IO[bytes]]]:
    """Give a conversation with a script on a board, and the file of what it writes to stderr; it ends with the context."""
    with tempfile.TemporaryFile() as said:  # a file, for a connection that stays open holds it, too
        process = subprocess.Popen(
            transport.command(script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, start_new_session=True
        )
        conversation = Conversation(process, seconds)
        try:
            yield conversation, said
        finally:
            conversation.close()
            end(process)
            cast("IO[bytes]", process.stdout).close()


def end(process: subprocess.Popen[bytes], *, seconds: float = 5.0) -> None:
    """Wait for a command that has nothing more to say, and kill it where it does not end."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    if process.poll() is None:
        process.kill()
        process.wait()


def read_said(said: IO[bytes]) -> str:
    """Return the end of what a command wrote to stderr, as a terminal may show it."""
    length = said.seek(0, os.SEEK_END)
    said.seek(max(0, length - SAID_BYTES))
    return escape_commands(said.read().decode("utf-8", "replace").replace("\r", "")).strip()


def clip(text: object, length: int = 300) -> str:
    """Return what a board said as one short line that commands no terminal."""
    line = " ".join(escape_commands(str(text)[: 4 * length]).split())
    return line if len(line) <= length else line[:length] + "…"
