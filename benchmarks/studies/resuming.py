"""Continue a study from the result that an interrupted call of the same command and version left."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from compress.errors import CompressError
from compress.records import Document, read


class Resumable(Document):
    """A result that says what it was made by."""

    command: str
    source: str
    """sha256 of the sources that decide it."""


R = TypeVar("R", bound=Resumable)


def read_earlier(path: Path, kind: type[R], *, command: str, source: str) -> R | None:
    """Return what an earlier call left, `None` where there is nothing.

    Args:
        path: Of the result.
        kind: Its type.
        command: That is carried out now.
        source: sha256 of the sources that decide the result.

    Raises:
        CompressError: It is of another command or version, or damaged; the message says which, and what to do.
    """
    if not path.is_file():
        return None
    earlier = read(path, kind)
    anew = "give another --out, or remove it to begin anew"
    if earlier.command != command:
        raise CompressError(f"{path}: was made by `{earlier.command}`, and this is `{command}`; {anew}")
    if earlier.source != source:
        raise CompressError(
            f"{path}: was made by other sources of this tool (sha256 {earlier.source[:12]}, now {source[:12]}), and numbers of "
            f"two versions are not mixed; {anew}"
        )
    return earlier
