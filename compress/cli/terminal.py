"""Write results to stdout and all else to stderr; end with one message and exit code per error.

Expected errors (`CompressError`, a disk or folder that refuses, a package that is missing) end in their message and exit code.
What the code of others raises that a recipe names is an expected error too, with that code's own traceback before the message.
Ctrl-C is 130. Whoever closes the pipe that we write to (`compress list methods | head -1`) ends us with 141, as it ends every
other program. With `--json` an error is `{"error": ..., "exit_code": ...}` on stdout unless the results are already there, and
its message stays on stderr. What is left is our bug: its traceback, then a line that says so.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import os
import platform
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from compress import __version__
from compress.errors import CompressError, Interrupted, Unreachable
from compress.events import Events
from compress.system.package_guard import check_siblings
from compress.system.signals import treat_sigterm_as_interrupt
from compress.text import escape_commands, escape_commands_in_json

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)
T = TypeVar("T")

PIPED_WIDTH = 120
"""Columns of a table that goes to a file or a log."""

BROKEN_PIPE = 141
"""128 + SIGPIPE, what a shell reports of a program that writes to a closed pipe."""


class Terminal:
    """Where one command writes.

    Args:
        as_json: Results are one JSON document.
        quiet: No progress and no hints.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._has_document = False

    @cached_property
    def console(self) -> Console:
        """Where people look: stderr."""
        from compress.cli.safe_console import make_console

        return make_console(stderr=True)

    def events(self) -> Events:
        """Return where long work reports its progress to."""
        return Events(console=self.console, quiet=self.quiet)

    def write_result(self, result: object, *shown: object) -> None:
        """Write `result` as the JSON document, or what is `shown` for people."""
        if self.as_json:
            self._write_document(_dump(result))
        else:
            sys.stdout.write(self._draw(*shown))
        sys.stdout.flush()

    def write_json_lines(self, results: Iterable[T]) -> Iterator[T]:
        """Write each result as a line of JSON as soon as it is there, and yield it."""
        for result in results:
            self._write_document(json.dumps(json.loads(_dump(result)), ensure_ascii=False))
            sys.stdout.flush()
            yield result

    def write_csv(
        self, columns: Sequence[str], results: Iterable[T], list_cells: Callable[[T, int], Sequence[object]]
    ) -> Iterator[T]:
        """Write a header, and each result as a line of CSV as soon as it is there, and yield it.

        Args:
            columns: Names of the columns.
            results: What is written.
            list_cells: Returns the cells of a result, for so many columns.
        """
        for cells, result in chain([(columns, None)], ((list_cells(each, len(columns)), each) for each in results)):
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow(cells)
            sys.stdout.write(escape_commands(line.getvalue()))
            sys.stdout.flush()
            if result is not None:
                yield result

    def hint(self, text: str) -> None:
        """Say what to type next."""
        if not (self.as_json or self.quiet):
            self.console.print(f"next: {text}", style="dim", markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Say what did not work although the command did."""
        _write_message(escape_commands(message) + "\n")

    def refuse(self, message: str, exit_code: int) -> int:
        """Write an error and return its exit code."""
        self.refuse_as_json(message, exit_code)
        _write_message(escape_commands(message) + "\n")
        return exit_code

    def refuse_as_json(self, message: str, exit_code: int) -> None:
        """Write an error for machines, if they listen and have no document yet."""
        if self.as_json and not self._has_document:
            self._write_document(json.dumps({"error": message, "exit_code": exit_code}))

    def _write_document(self, text: str) -> None:
        self._has_document = True
        text = escape_commands_in_json(text)
        encoding = (sys.stdout.encoding or "utf-8").lower().replace("-", "").replace("_", "")
        sys.stdout.write((text if encoding == "utf8" else _escape_beyond_ascii(text)) + "\n")

    def _draw(self, *shown: object) -> str:
        from compress.cli.safe_console import make_console

        console = make_console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
        with console.capture() as capture:
            for item in shown:
                console.print(item, markup=False, highlight=False, soft_wrap=isinstance(item, str))
        return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n" if shown else ""


class Program(click.Group):
    """The group of all commands; turns expected errors into a message and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note `--json` before anything can go wrong, so that a wrong usage is answered in JSON too."""
        ctx.obj = Terminal(as_json="--json" in args)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Return the commands in the order in which one needs them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        from compress.cli.foreign_code import explain_failures, find_lines

        terminal: Terminal = ctx.obj
        try:
            check_siblings()
            with treat_sigterm_as_interrupt(), explain_failures():
                result = super().invoke(ctx)
            sys.stdout.flush()
        except click.ClickException as error:
            terminal.refuse_as_json(error.format_message(), error.exit_code)
            shown = io.StringIO()
            error.show(file=shown)
            _write_message(escape_commands(shown.getvalue()))
            ctx.exit(error.exit_code)
        except CompressError as error:
            if lines := find_lines(error):
                terminal.warn(lines)
            ctx.exit(terminal.refuse(str(error), error.exit_code))
        except KeyboardInterrupt:
            ctx.exit(
                terminal.refuse(
                    "interrupted; nothing half-written stays behind, and what was finished is kept where it belongs; the same "
                    "command starts again",
                    Interrupted.exit_code,
                )
            )
        except ModuleNotFoundError as error:
            if not error.name or find_spec(error.name.partition(".")[0]) is not None:
                raise
            from compress.plugins import explain_missing_package

            ctx.exit(
                terminal.refuse(explain_missing_package(f"compress {ctx.invoked_subcommand}", error), Unreachable.exit_code)
            )
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(BROKEN_PIPE)
        except OSError as error:
            from compress.system.files import REFUSALS

            if error.errno not in REFUSALS:
                raise
            message = f"{error.filename or 'a file'}: {error.strerror}; free space, or choose a folder that you may write to"
            ctx.exit(terminal.refuse(message, Unreachable.exit_code))
        return result


PLAIN = {"×": "x", "–": "-", "−": "-", "…": "...", "≥": ">=", "≤": "<=", "±": "+/-", "→": "->", "·": "|", "µ": "u", "√": "sqrt"}
"""What our own tables and messages may hold that a console in another encoding cannot show, and what says the same there."""


def _write_message(text: str) -> None:
    """Write to stderr; where that cannot be written, nobody can be told, and the exit code is what is left."""
    try:
        click.echo(text, err=True, nl=False)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # else Python fails at it once more when it ends


def open_closed_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr the null device in their place.

    Else the next file that is opened gets the number of the missing one, and whatever writes to that stream writes into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (lives as long as the process)
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def prepare_streams() -> None:
    """Let stdout and stderr replace what their encoding does not have, such as a class 猫 on a console of Western Europe.

    In `PLAIN` characters that say the same, else by their numbers; no output ever ends in an error.
    """
    codecs.register_error("compress.replace", _replace_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="compress.replace")


def _replace_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    shown = "".join(PLAIN.get(each, each.encode("ascii", "backslashreplace").decode("ascii")) for each in found)
    return shown, error.end


def _escape_beyond_ascii(text: str) -> str:
    """Return JSON with the same values in ASCII alone, which is read the same in any encoding."""
    return re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)


def _dump(result: object) -> str:
    """Return a result as JSON; where a name in it is no UTF-8, the bytes that are none are escaped."""
    from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

    try:
        return to_json(result, indent=1, inf_nan_mode="null").decode()
    except PydanticSerializationError:
        pass
    try:
        return json.dumps(to_jsonable_python(result), indent=1)
    except UnicodeEncodeError:  # of the name of a field
        return json.dumps(result, default=to_jsonable_python, indent=1)


def report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an unexpected error, and whose fault it is; takes the place of `sys.excepthook`."""
    from compress.cli.foreign_code import find_failure

    traceback.print_exception(kind, error, trace)
    caller = find_failure(error.with_traceback(trace))
    or_theirs = f", or in how {caller.name} calls it" if caller is not None else ""
    Terminal(as_json="--json" in sys.argv).refuse(
        f"this is a bug in compress{or_theirs} ({kind.__name__}); please report the lines above", 1
    )


def _set_quiet(context: click.Context, _option: click.Parameter, value: bool) -> None:
    context.find_root().obj.quiet = value


def _set_verbosity(_context: click.Context, _option: click.Parameter, value: int) -> None:
    if value:
        level = logging.INFO if value == 1 else logging.DEBUG
        logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
        logger.info("edge-compress %s, Python %s: %s", __version__, platform.python_version(), " ".join(sys.argv[1:]))


def make_common_options() -> list[click.Parameter]:
    """Return the options that every command has."""
    return [
        click.Option(["--json"], is_flag=True, expose_value=False, help="Print one JSON document and nothing else on stdout."),
        click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_set_quiet, help="No progress, no hints."),
        click.Option(
            ["-v", "--verbose"], count=True, expose_value=False, callback=_set_verbosity, help="Log more; -vv logs everything."
        ),
    ]
