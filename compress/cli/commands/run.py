"""`compress run` and `compress check`: what works from a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from compress.cli.arguments import PATH, RUNS, make_command, overrides_option, quote, runs_option, seeds_option
from compress.cli.commands.reports import show_report
from compress.cli.terminal import Terminal
from compress.errors import GateFailed, Interrupted, Unstable


@make_command("run")
@click.argument("recipe", type=PATH)
@overrides_option
@seeds_option
@runs_option
def run(terminal: Terminal, *, recipe: Path, overrides: Sequence[str], seeds: str | None, runs: Path) -> None:
    """Run a recipe from data to report.

    Continues an interrupted run, and skips what is already done and unchanged. An earlier bundle of the same name is kept as
    bundle-1, bundle-2 and so on. Where every latency is unstable, the first lines say so and the exit code is 0; it is 4 where
    nothing could be timed.
    """
    from compress.plan.seeds import parse_seeds
    from compress.recipe import load

    loaded = load(recipe, overrides)
    chosen = parse_seeds(seeds, base=loaded.seed)

    from compress.run import pipeline

    try:
        pipeline.run(loaded, base=recipe.parent, runs=runs, events=terminal.events(), seeds=chosen)
    except (GateFailed, Unstable):
        show_report(terminal, runs / loaded.name)
        raise
    except (Interrupted, KeyboardInterrupt) as error:
        again = quote("run", recipe, *_repeat_options(overrides, seeds, runs))
        raise Interrupted(_explain_interruption(str(error), runs / loaded.name, again)) from error
    show_report(terminal, runs / loaded.name)
    bundle = runs / loaded.name / "bundle"
    use = quote("predict", bundle, "IMAGE") if bundle.is_dir() else quote("export", bundle.parent, "--to", "openvino")
    terminal.hint(f"{use}, or {quote('compare', runs)}/*")


@make_command("check")
@click.argument("recipe", type=PATH)
@overrides_option
@seeds_option
@runs_option
def check(terminal: Terminal, *, recipe: Path, overrides: Sequence[str], seeds: str | None, runs: Path) -> None:
    """Validate a recipe and print what a run would do.

    The pictures are decoded, of a large set some of them; networks and methods are tried on one random batch, and a step of
    each is timed. Nothing is trained.
    """
    from compress.cli import tables
    from compress.plan.checks import list_foreign_code
    from compress.plan.devices import ask_devices
    from compress.plan.pictures import check_pictures
    from compress.plan.plan import make_plan
    from compress.plan.seeds import parse_seeds, repeat_students
    from compress.recipe import load

    loaded = load(recipe, overrides)
    chosen = parse_seeds(seeds, base=loaded.seed)
    for line in list_foreign_code(loaded):  # before any of it is imported
        terminal.events().say(line)
    planned = repeat_students(make_plan(loaded, base=recipe.parent, runs=runs), chosen)
    notes = check_pictures(loaded, base=recipe.parent, events=terminal.events())
    planned = planned.model_copy(update={"notes": (*notes, *planned.notes, *ask_devices(loaded))})
    from compress.run import dry_run  # loads torch, so only after what needs none was found good
    from compress.tracking import require_trackers

    require_trackers(loaded)

    told: list[str] = []
    with terminal.events().task("dry run: networks and methods", total=1) as task:
        estimate = dry_run.check_with_random_images(
            loaded, base=recipe.parent, runs=runs, classes=planned.classes, plan=planned, notes=told
        )
        task.advance()
    planned = planned.model_copy(update={"estimate": estimate, "notes": (*planned.notes, *told)})
    terminal.write_result(planned, tables.draw_plan(planned))
    terminal.hint(quote("run", recipe, *_repeat_options(overrides, seeds, runs)))


def _repeat_options(overrides: Sequence[str], seeds: str | None, runs: Path) -> list[object]:
    """Return the options with which a recipe was given."""
    given: list[object] = [word for override in overrides for word in ("--set", override)]
    given += ["--seeds", seeds] if seeds else []
    return given + (["--runs", runs] if runs != RUNS else [])


def _explain_interruption(where: str, folder: Path, again: str) -> str:
    """Return where a run was stopped, what of it is kept, and how to go on."""
    finished = sorted(path.parent.name for path in folder.glob("*/metrics.json"))
    stages = f"finished stages ({', '.join(finished)}) in {folder}" if finished else "no stage is finished yet"
    return "\n".join([
        where or "interrupted at once; a stage that was trained goes back to its last saved state",
        f"kept: {stages}, and what was begun in {folder.parent / '.cache'}",
        f"go on: {again}",
    ])  # fmt: skip
