"""The exception tree: every message a user may see without a traceback.

`CompressError` is the root and carries the exit code of the process. A message has three parts: where, what is wrong with
the actual value, and what to do. Anything that is not a `CompressError` is our bug and is shown with its traceback.

Exit codes: 0 good, 1 our bug, 2 bad recipe, input or usage, 3 gate failed, 4 measurement unstable, 5 a device, file or
package could not be reached, 130 interrupted (state saved).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path


class CompressError(Exception):
    """Bad input: a recipe, checkpoint, image, model or argument that cannot be used as it is."""

    exit_code = 2


class RecipeError(CompressError):
    """One or more problems in a recipe, all found in one pass.

    Args:
        problems: One line each, `file:line: field: what is wrong; what to do`.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)  # as given, so that the error can be pickled

    def __str__(self) -> str:
        return "\n".join(self.problems)


class GateFailed(CompressError):
    """An exported file ran, or failed to run, in a way that its gate does not accept."""

    exit_code = 3


class Unstable(CompressError):
    """A measurement never settled, so no number is reported."""

    exit_code = 4


class Unreachable(CompressError):
    """A device, file, folder or package that the work needs could not be reached."""

    exit_code = 5


class Unwritable(Unreachable):
    """The disk is full, or a folder or file cannot be written; whatever else goes on without it, this is never passed over."""


class RuntimeCrashed(CompressError):
    """A runtime crashed the process in which it opened or ran a file, for which that file may well be the reason."""

    exit_code = 5


class Interrupted(CompressError):
    """The user stopped the work; what was done is saved and the same command continues it."""

    exit_code = 130


def explain_refusal(path: Path, error: OSError) -> str:
    """Return why a file system does not let a path be written, and what to do."""
    in_the_way = error.errno in {errno.EISDIR, errno.ENOTDIR, errno.EEXIST}
    remedy = "move away what is in its place" if in_the_way else "free space"
    return f"{path}: cannot be written ({error.strerror}); {remedy} or choose another folder"
