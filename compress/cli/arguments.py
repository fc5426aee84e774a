"""What the commands share: types of arguments, options, and what makes a function a command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from compress.cli.terminal import make_common_options

F = TypeVar("F", bound=Callable[..., Any])


class UserPath(click.Path):
    """A path in which `~` is the user's folder also where the shell leaves it, as in `--data=~/pictures`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or fail as a wrong usage."""
        if isinstance(value, str) and value.startswith("~"):
            from compress.system.files import resolve_path

            value = str(resolve_path(Path(), value))
        return super().convert(value, param, ctx)


PATH = UserPath(path_type=Path)
FOLDER = UserPath(path_type=Path, file_okay=False)
RUNS = Path("runs")
DOCUMENTS = frozenset({"", ".bin", ".cpp", ".hpp", ".json", ".md", ".npz", ".png", ".py", ".txt"})
"""Endings of files of a bundle that no runtime opens."""


class RunFolder(click.Path):
    """The folder of a run or bundle; a file in its place is answered with what to give instead."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or fail as a wrong usage if something else is there than a folder."""
        path = Path(str(super().convert(value, param, ctx)))
        if path.is_file():
            self.fail(_explain_file(path, ctx.info_name or "" if ctx else ""), param, ctx)
        if path.exists() and not path.is_dir():
            self.fail(f"{path} is a device or a pipe; give the folder of a run or bundle", param, ctx)
        return path


def _explain_file(path: Path, verb: str) -> str:
    """Return what to give in place of a file where a folder is wanted."""
    holder = next(
        (each for each in (path.absolute().parent, path.absolute().parent.parent) if (each / "manifest.json").is_file()), None
    )
    if verb in ("verify", "predict") and holder is not None:
        image = ["IMAGE"] if verb == "predict" else []
        chosen = [] if path.suffix in DOCUMENTS else ["--file", path.name]
        return f"{path} is a file; give the folder of its bundle: {quote(verb, holder, *image, *chosen)}"
    if verb in ("verify", "predict"):
        return (
            f"{path} is a file, and lies in no bundle; {verb} takes the folder of a run or bundle, which knows how pictures "
            f"are prepared and what is right; {quote('bench', path)} times it alone"
        )
    return f"{path} is a file; give the folder of the run: {quote(verb, path.parent)}"


class FiniteRange(click.FloatRange):
    """A number in a range, of which NaN and infinity are never part; click's own lets both through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail as a wrong usage."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class PercentType(click.ParamType[float]):
    """A share in percent, as `5%` or `5`; gives 0.05."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the share, or fail as a wrong usage."""
        if isinstance(value, float):
            return value
        try:
            number = float(str(value).strip().removesuffix("%"))
        except ValueError:
            self.fail(f"{value!r} is no share; write 5% for five in a hundred.", param, ctx)
        if not 0 <= number <= MOST_PERCENT:
            self.fail(f"{value!r} is not from 0% to {MOST_PERCENT:g}%.", param, ctx)
        return number / 100


MOST_PERCENT = 1000.0
overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Replace one field of the recipe, e.g. train.epochs=3; repeatable.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of the runtime."
)
seeds_option = click.option(
    "--seeds",
    metavar="N|S,S,...",
    help="Train student and baselines with N seeds, from the recipe's on, or with these, e.g. 1,5,9; the first is shipped.",
)
runs_option = click.option("--runs", type=FOLDER, default=RUNS, show_default=True, help="Folder of all runs.")


def make_command(name: str) -> Callable[[F], click.Command]:
    """Return a decorator that makes a command with the common options; the function gets the `Terminal` first."""

    def decorate(function: F) -> click.Command:
        command = click.command(name)(click.pass_obj(function))
        command.params += make_common_options()
        return command

    return decorate


def quote(*words: object) -> str:
    """Return what to type for a command, each of its words quoted as the shell needs it."""
    return shlex.join(["compress", *map(str, words)])
