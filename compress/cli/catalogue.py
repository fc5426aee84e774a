"""List plug-ins and their options, read from their sources without importing them (`compress list`).

Each function returns the document for machines and what is drawn for people.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from compress import plugins
from compress.cli.tables import make_table

if TYPE_CHECKING:
    from rich.table import Table


def show(kind: str | None, name: str | None) -> tuple[Any, *tuple[Any, ...]]:
    """Return the overview, the plug-ins of one kind, or one plug-in: the document, then what is drawn.

    Raises:
        CompressError: There is no such plug-in.
    """
    if kind is None:
        return list_kinds()
    known = cast("plugins.Kind", kind)
    return list_plugins(known) if name is None else describe_plugin(known, name)


def list_kinds() -> tuple[dict[str, list[str]], Table]:
    """Return the names of all plug-ins of every kind."""
    known: dict[str, list[str]] = {kind: plugins.list_names(kind) for kind in plugins.KINDS}
    table = make_table("kind", "plug-ins")
    for kind, names in known.items():
        table.add_row(kind, ", ".join(names))
    return known, table


def list_plugins(kind: plugins.Kind) -> tuple[list[dict[str, Any]], Table]:
    """Return every plug-in of a kind with its summary and the names of its options."""
    known = [plugins.describe(kind, name) for name in plugins.list_names(kind)]
    table = make_table(kind, "what it is", "options")
    for plugin in known:
        table.add_row(plugin.name, plugin.summary, ", ".join(plugin.options))
    return [_document(plugin) for plugin in known], table


def describe_plugin(kind: plugins.Kind, name: str) -> tuple[dict[str, Any], *tuple[object, ...]]:
    """Return one plug-in with its docstring and its options.

    Raises:
        CompressError: There is no such plug-in.
    """
    from rich.text import Text

    plugin = plugins.describe(kind, name)
    unbroken = re.sub(r"(?<=[^\n]{100})\n(?=\S)", " ", plugin.docstring)  # a terminal is seldom as wide as the source
    about = Text(unbroken.partition("\nArgs:")[0].strip() + "\n")
    if not plugin.options:
        return _document(plugin), about, "It has no options."
    table = make_table("option", "type", "default", "what it is")
    for option, facts in plugin.options.items():
        table.add_row(option, describe_type(facts.annotation), _default(facts), facts.description)
    return _document(plugin), about, table


WORDS = {
    "Count": "whole number ≥ 1", "WholeNumber": "whole number ≥ 0", "Positive": "number > 0", "NonNegative": "number ≥ 0",
    "Fraction": "number, 0 < x < 1", "Share": "number, 0 ≤ x ≤ 1", "Text": "text", "str": "text", "Sha256": "sha256",
    "LogitLoss": "kd | dist", "bool": "true | false", "int": "whole number", "float": "number", "None": "none",
    "Any": "any value",
}  # fmt: skip
"""What people call the types of `compress.recipe`."""


def describe_type(annotation: str) -> str:
    """Return the annotation of an option as people write it: `Listing[Share]` is `list of number, 0 ≤ x ≤ 1`."""
    annotation = re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace("'", "").replace(", ", " | "), annotation)
    annotation = re.sub(r"Listing\[(\w+)\]", r"list of \1", annotation)
    return re.sub(r"\b[A-Z]?\w+\b", lambda found: WORDS.get(found[0], found[0]), annotation)


def _document(plugin: plugins.Plugin) -> dict[str, Any]:
    options = {
        name: {"type": option.annotation, "required": option.default is plugins.REQUIRED, "description": option.description}
        | ({} if option.default is plugins.REQUIRED else {"default": option.default})
        for name, option in plugin.options.items()
    }
    return {"name": plugin.name, "summary": plugin.summary, "module": plugin.module, "options": options}


def _default(option: plugins.Option) -> str:
    if option.default is plugins.REQUIRED:
        return "required"
    if option.default is None:
        return "none"
    return ", ".join(map(str, option.default)) if isinstance(option.default, tuple) else str(option.default)
