"""`compress init`, `list`, `schema` and `doctor`: what helps to begin."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from compress.cli.arguments import FOLDER, PATH, make_command, quote, runs_option
from compress.cli.terminal import Terminal

KINDS = ("methods", "models", "data", "tasks", "exporters", "runtimes", "devices", "trackers")
NAMED_BY_OTHERS = {"tasks", "runtimes"}
"""Kinds that no recipe names: the data source names its task, and the format its runtime."""


@make_command("list")
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.argument("name", required=False)
def list_(terminal: Terminal, *, kind: str | None, name: str | None) -> None:
    """List what a recipe may name, or the options of one name."""
    from compress.cli import catalogue

    terminal.write_result(*catalogue.show(kind, name))
    if name is None:
        terminal.hint(quote("list", kind, "NAME") if kind else quote("list", "KIND"))
    elif kind not in NAMED_BY_OTHERS:
        terminal.hint("name it in a recipe, then compress check RECIPE")


@make_command("init")
@click.argument("path", type=PATH, default=Path("recipe.yaml"))
@click.option(
    "--data",
    type=FOLDER,
    help="Folder of one folder for each class, with or without train/ and test/, or of parquet files in hub layout; default: "
    "embedded digits.",
)
@click.option(
    "--task",
    type=click.Choice(["classification", "segmentation", "detection"]),
    default="classification",
    show_default=True,
    help="What the networks shall do. For segmentation --data is a folder of train/images, train/masks and test/ likewise; "
    "default: embedded scenes. For detection there are embedded scenes alone.",
)
@click.option("--subset", help="With --data, of parquet files: the subset.")
@click.option("--label-column", help="With --data, of parquet files: the column of the labels.")
def init(
    terminal: Terminal,
    *,
    path: Path,
    data: Path | None,
    task: Literal["classification", "segmentation", "detection"],
    subset: str | None,
    label_column: str | None,
) -> None:
    """Write a commented recipe to start from; never overwrites.

    With --data it looks at the pictures, and proposes sizes, networks, schedule and budget that fit them.
    """
    from compress.plan import starter

    given = {name: value for name, value in (("subset", subset), ("label_column", label_column)) if value is not None}
    seen = starter.write(path, data=data, events=terminal.events(), parquet=given, task=task)
    terminal.write_result({"written": str(path), "seen": list(seen)}, *seen, f"written: {path}")
    terminal.hint(quote("check", path))


@make_command("schema")
@click.option("--out", type=PATH, help="File to write; default: stdout.")
def schema(terminal: Terminal, *, out: Path | None) -> None:
    """Print the JSON Schema of recipes, for your editor."""
    import json

    from compress.recipe import json_schema
    from compress.system.files import write_whole

    text = json.dumps(json_schema(), indent=1)
    if out is None:
        terminal.write_result(json_schema(), text)
    else:
        with write_whole(out) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        terminal.write_result({"written": str(out)}, f"written: {out}")
    terminal.hint(f"first line of a recipe: # yaml-language-server: $schema={out or 'recipe.schema.json'}")


@make_command("doctor")
@runs_option
def doctor(terminal: Terminal, *, runs: Path) -> None:
    """Tell what works on this machine and what does not."""
    from compress.cli import tables
    from compress.cli.doctor import examine, refuse_broken

    findings = examine(runs)
    terminal.write_result(findings, tables.draw_findings(findings))
    refuse_broken(findings)
    terminal.hint("compress init")
