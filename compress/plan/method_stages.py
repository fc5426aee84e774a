"""Stages of a method, read from its module's docstring, so that no method is imported.

A method's docstring has labelled lines: `Trained:`, `Frozen:`, `Shipped:`, `Stages:` and perhaps `Source:`; each ends where the
next label, or an empty line, begins. `Stages:` lists the stages that the method trains, in order; the last is the student. Its
grammar, with options of the method where it says OPTION:

    stages    = stage *(", " stage)
    stage     = NAME                                   always trained, such as `student`
              | NAME " if " OPTION                     where the option is neither false nor none: `paraphrasers if paraphrase`
              | NAME "1 to " NAME "{" OPTION " - 1}"   one student after another, each taught by the one before, one fewer than
                                                       the option says: `generation1 to generation{generations - 1}`
    NAME      = small letters and underscores; both names of a line of students are the same
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from compress import plugins
from compress.errors import CompressError

LABEL = re.compile(r"^(Trained|Frozen|Shipped|Stages|Source): *(.+(?:\n(?![A-Z][a-z]+:|\n).+)*)", re.MULTILINE)

STAGE = re.compile(r"(?P<name>[a-z_]+)(?: if (?P<condition>[a-z_]+)|1 to (?P=name)\{(?P<count>[a-z_]+) - 1\})?")
"""One part of the line `Stages:`."""


def read_labels(method: str) -> dict[str, str]:
    """Return the labelled lines of a method's docstring: `Trained`, `Frozen`, `Shipped`, `Stages`, `Source`.

    Raises:
        CompressError: There is no such method, or a label is missing.
    """
    plugin = plugins.describe("methods", method)
    found = {label: " ".join(text.split()).rstrip(".") for label, text in LABEL.findall(plugin.docstring)}
    missing = [label for label in ("Trained", "Frozen", "Shipped", "Stages") if label not in found]
    if missing:
        raise CompressError(f"{plugin.module}: its docstring lacks: {', '.join(f'{label}: ...' for label in missing)}")
    return found


class MethodStage(NamedTuple):
    """One stage of a method."""

    name: str
    generation: int | None = None
    """Which student of a line of students it trains, from 1; `None` for everything else."""


def list_stages(method: str, options: Mapping[str, Any]) -> list[MethodStage]:
    """Return the stages of a method with these options, by its line `Stages:`; the last is the student.

    Args:
        method: Its name.
        options: Every option of the method.

    Raises:
        CompressError: There is no such method, or its line cannot be read.
    """
    line = read_labels(method)["Stages"]
    found: list[MethodStage] = []
    for text in line.split(", "):
        match = STAGE.fullmatch(text)
        if match is None or not {match["condition"], match["count"]} <= {None, *options}:
            raise CompressError(
                f"{plugins.describe('methods', method).module}: 'Stages: {line}': {text!r} is no stage; write NAME, "
                "NAME if OPTION, or NAME1 to NAME{OPTION - 1}, with options that the method has"
            )
        if match["count"] is not None:
            found += [MethodStage(f"{match['name']}{number}", number) for number in range(1, options[match["count"]])]
        elif match["condition"] is None or options[match["condition"]] not in (None, False):
            found.append(MethodStage(match["name"]))
    return found
