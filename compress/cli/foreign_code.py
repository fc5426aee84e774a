"""Find in an exception whether the code of others failed, which a recipe named, and where.

A function of a network, a data source, a method or a tracker that others wrote is called in the middle of our work, and may
raise anything. Its own lines matter then, and ours do not.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compress import plugins
from compress.errors import CompressError, Unreachable, Unwritable
from compress.text import shorten

OURS = ("compress", "exporters", "benchmarks")
"""The packages of this distribution."""
LONGEST_LINE = 2000
"""Characters of a line of a traceback that are shown."""


@dataclass(frozen=True)
class Failure:
    """What the code of others had to do with an exception."""

    name: str
    """Of the module."""
    is_theirs: bool
    """Whether it was raised in that code, or in a library that it called; else our code raised it, called by that code."""
    text: str
    """Kind and message of the exception, and the line of that code."""
    lines: str
    """The traceback from where that code begins, as Python writes it."""


@contextmanager
def explain_failures() -> Iterator[None]:
    """Turn what the code of others raises, or ends the process with, into one message; all else passes.

    Raises:
        CompressError: It raised something.
        Unreachable: It did not reach a file or a server, or needs a package that is not installed.
    """
    try:
        yield
    except Unwritable as error:
        if isinstance(error.__cause__, OSError):  # which may come from their files, and not from ours
            _explain(error.__cause__)
        raise
    except CompressError:
        raise
    except (Exception, SystemExit) as error:
        _explain(error)
        raise


def _explain(error: BaseException) -> None:
    """Raise the message for what the code of others raised; nothing where it was not that code."""
    failure = find_failure(error)
    if failure is None or not failure.is_theirs:
        return
    if isinstance(error, ModuleNotFoundError):
        raise Unreachable(plugins.explain_missing_package(failure.name, error)) from error
    kind = Unreachable if isinstance(error, OSError) else CompressError
    raise kind(f"{failure.name}: {failure.text}; the recipe names this code, which is not ours: mend it there") from error


def find_lines(error: CompressError) -> str:
    """Return the traceback of the code of others whose exception a message of ours explains; else nothing."""
    cause = error.__cause__
    while cause is not None:
        has_failed = isinstance(cause, Exception | SystemExit)  # and nobody pressed Ctrl-C
        failure = find_failure(cause) if has_failed else None
        if failure is not None and failure.is_theirs and not isinstance(cause, CompressError):
            return failure.lines
        cause = cause.__cause__
    return ""


def find_failure(error: BaseException) -> Failure | None:
    """Return what the code of others has to do with an exception; nothing where none of it was running.

    Args:
        error: As it was caught.
    """
    others = [root for module in plugins.list_loaded_others() for root in _find_roots(module)]
    ours = [root for package in OURS for root in _find_roots(package)]
    first = last = None
    is_theirs, trace = False, error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if any(path.is_relative_to(root) for root in ours):
            is_theirs = False
        elif any(path.is_relative_to(root) for root in others):
            first, last, is_theirs = first or trace, trace, True
        trace = trace.tb_next
    if first is None or last is None:
        return None
    frame = last.tb_frame
    name, place = frame.f_globals.get("__name__", ""), f"{frame.f_code.co_filename}:{last.tb_lineno}, in {frame.f_code.co_name}"
    lines = [
        shorten(line, LONGEST_LINE) for line in "".join(traceback.format_exception(type(error), error, first)).splitlines()
    ]
    return Failure(name, is_theirs, f"{plugins.describe_error(error)} ({place})", "\n".join(lines))


def _find_roots(module: str) -> list[Path]:
    """Return the folders of a package, or the file of a module, as far as it is imported."""
    found = sys.modules.get(module)
    folders = [Path(each) for each in getattr(found, "__path__", ())]
    file = getattr(found, "__file__", None)
    return folders or ([Path(file)] if file else [])
