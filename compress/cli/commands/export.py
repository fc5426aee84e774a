"""`compress export`: files of a run's students, or of other weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from compress.cli.arguments import FOLDER, PATH, make_command, overrides_option, quote
from compress.cli.terminal import Terminal
from compress.errors import CompressError, Unreachable


@make_command("export")
@click.argument("source", type=PATH, metavar="RUN_OR_CHECKPOINT")
@click.option(
    "--to",
    "formats",
    multiple=True,
    metavar="FORMAT[:PRECISION]",
    help="E.g. openvino:fp16; repeatable; default: the recipe's exports, and ONNX where there is no recipe.",
)
@click.option(
    "--student",
    default="student",
    show_default=True,
    metavar="NAME",
    help="Network of the report to export; a baseline, such as supervised, also gets a bundle, RUN/bundle-NAME.",
)
@click.option("--out", type=FOLDER, help="Folder to write; default: RUN/exports, or CHECKPOINT-export.")
@click.option(
    "--hub", type=FOLDER, help="Write the run's bundle as a new folder in the layout of the Hugging Face hub instead."
)
@click.option("--push", metavar="OWNER/NAME", help="Send the run's bundle to this repository of the Hugging Face hub instead.")
@click.option("--revision", metavar="BRANCH", help="With --push: branch of the repository; default: its main one.")
@click.option("--public", is_flag=True, help="With --push: everybody may read it; default: only you and whom you let.")
@click.option(
    "--licence", default="unknown", show_default=True, help="With --hub or --push: licence of the weights, e.g. apache-2.0."
)
@click.option("--recipe", type=PATH, help="Of a checkpoint: the recipe whose student it is; its data judges the files.")
@click.option("--model", help="Of a checkpoint: its network, e.g. torchvision.resnet18 or module:function.")
@click.option(
    "--classes", metavar="N|NAMES|FILE", help="With --model: how many, their names a,b,c, or a file of a name a line."
)
@click.option("--image-size", type=click.IntRange(min=1), help="With --model: height and width in pixels.")
@click.option("--channels", type=click.Choice(["rgb", "gray"]), help="With --model: of the pictures; default: what fits.")
@click.option("--mean", metavar="M,M,M", help="With --model: of each channel from 0 to 1, as it was trained.")
@click.option("--std", metavar="S,S,S", help="With --model: of each channel from 0 to 1, as it was trained.")
@click.option("--images", type=FOLDER, help="With --model: pictures to compare on, and for the ranges of int8.")
@overrides_option
def export(
    terminal: Terminal, *, source: Path, formats: Sequence[str], student: str, out: Path | None, hub: Path | None,
    push: str | None, revision: str | None, public: bool, licence: str, recipe: Path | None, model: str | None,
    overrides: Sequence[str], **network: Any,
) -> None:  # fmt: skip
    """Export and gate a student of a run, or other weights.

    Give a run's folder, or the weights that it left in student/weights.safetensors. Any other file of weights needs --recipe,
    or --model and --classes; without a recipe no labels are known, so the files are proved to give the network's answers
    and nothing more.
    """
    wanted = list(map(_export_as_yaml, formats))
    run_only = {
        "--hub": hub is not None,
        "--push": push is not None,
        "--licence": licence != "unknown",
        "--student": student != "student",
    }
    if push is None and (revision is not None or public):
        raise click.UsageError("--revision and --public are said of a repository; name it with --push OWNER/NAME")
    _check_export(source, recipe=recipe, model=model, network=network, run_only=[name for name, on in run_only.items() if on])
    if hub is not None or push is not None:
        if formats or out is not None or (hub is not None and push is not None):
            raise click.UsageError("--hub and --push take the bundle that the run left; give one, without --to and --out")
        run = source if student == "student" else source / f"bundle-{student}"
        if hub is not None:
            _write_hub(terminal, run, hub, licence)
        else:
            _push(terminal, run, str(push), licence, revision=revision, public=public)
    elif recipe is not None or model is not None:
        target = out or source.parent / f"{source.stem}-export"
        _export_checkpoint(
            terminal, source, target, wanted=wanted, overrides=overrides, recipe=recipe, model=model, network=network
        )
    else:
        exports = [f"exports=[{', '.join(wanted)}]"] if wanted else []
        _export_run(terminal, source, out, [*exports, *overrides], student=student)


def _check_export(
    source: Path, *, recipe: Path | None, model: str | None, network: Mapping[str, Any], run_only: Sequence[str]
) -> None:
    """Refuse what does not go together, before anything heavy is loaded.

    Raises:
        CompressError: A file of weights does not say which network it is of.
        Unreachable: There is no such file or run.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in network.items() if value is not None]
    if not source.exists():
        raise Unreachable(f"{source}: there is no such run or checkpoint; see what `compress run` said")
    folder = source.parent.parent if source.name == "weights.safetensors" and source.parent.name == "student" else source
    is_run = (folder / "recipe.yaml").is_file()
    if recipe is not None and (model is not None or given):
        raise click.UsageError(f"--recipe says all of the network and its data; leave out {', '.join(given or ['--model'])}")
    if given and model is None:
        raise click.UsageError(f"{given[0]} is said of a network that is named; name it with --model")
    if (recipe or model) is not None and run_only:
        raise click.UsageError(f"{', '.join(run_only)} is for a run; give it without --recipe and --model")
    if (recipe or model) is not None and source.is_dir():
        raise click.UsageError(f"{source} is a folder; with --recipe or --model give the file of weights")
    if model is not None and network["classes"] is None:
        raise click.UsageError("--model needs --classes: how many there are, e.g. --classes 6, or their names")
    if (network["mean"] is None) != (network["std"] is None):
        raise click.UsageError("--mean and --std belong together; give both")
    if not is_run and recipe is None and model is None and not {"--hub", "--push"} & set(run_only):
        if source.is_file():
            example = quote("export", source, "--model", "torchvision.resnet18", "--classes", 6)
            raise CompressError(
                f"{source}: is no student's weights.safetensors in a run, and does not say which network it is of; give "
                f"--model and --classes, e.g. {example}, or --recipe FILE"
            )
        raise CompressError(f"{source}: is no run (it holds no recipe.yaml) and no file of weights; give either")


def _export_run(terminal: Terminal, source: Path, out: Path | None, overrides: Sequence[str], *, student: str) -> None:
    import exporters
    from compress.cli import tables
    from compress.deployed.verify import refuse_failures
    from compress.recipe import load
    from compress.run import reexport

    run = reexport.find_run_folder(source)
    sections, target = load(run / "recipe.yaml", overrides).exports, out or run / "exports"
    if not sections:
        raise CompressError(f"{run / 'recipe.yaml'}: names no exports; say what with --to, for example --to onnx:fp32")
    gates = reexport.export(run, sections, out=target, events=terminal.events(), student=student)
    terminal.write_result(gates, tables.draw_gates(gates), *tables.list_gate_notes(gates))
    refuse_failures(gates)
    terminal.hint(quote("bench", *(exporters.load(section).name_file(target, student) for section in sections)))


def _export_checkpoint(
    terminal: Terminal, source: Path, out: Path, *, wanted: Sequence[str], overrides: Sequence[str], recipe: Path | None,
    model: str | None, network: Mapping[str, Any],
) -> None:  # fmt: skip
    from compress.cli import tables
    from compress.deployed import request as requested
    from compress.plan.checks import list_foreign_code
    from compress.recipe import load

    request = None
    if recipe is not None:
        loaded = load(recipe, [*([f"exports=[{', '.join(wanted)}]"] if wanted else []), *overrides])
    else:
        request = requested.Request(
            str(model), requested.read_classes(network["classes"]), network["image_size"], network["channels"],
            mean=requested.read_numbers("mean", network["mean"]), std=requested.read_numbers("std", network["std"]),
            images=network["images"],
        )  # fmt: skip
        settings = [f"{'' if '.' in each.partition('=')[0] else 'student.'}{each}" for each in overrides]
        loaded = requested.make_recipe(request, wanted, settings)
    for line in list_foreign_code(loaded):  # before any of it is imported
        terminal.events().say(line)
    from compress.deployed import checkpoint  # loads torch, so only after what needs none was found good
    from compress.deployed.verify import refuse_failures

    if request is None:
        gates = checkpoint.export_by_recipe(source, loaded, base=Path(recipe or "").parent, out=out, events=terminal.events())
    else:
        gates = checkpoint.export_named(source, request, loaded, out=out, events=terminal.events())
    terminal.write_result(gates, tables.draw_gates(gates), *tables.list_gate_notes(gates), f"written: {out}")
    refuse_failures(gates)
    terminal.hint(quote("predict", out / "bundle", "IMAGE"))


def _write_hub(terminal: Terminal, run: Path, hub: Path, licence: str) -> None:
    from compress.deployed.files import find_bundle
    from exporters.bundle.hub import write_hub_folder

    write_hub_folder(find_bundle(run), hub, licence=licence)
    terminal.write_result({"hub": str(hub)}, f"{hub} can be uploaded; nothing was sent")
    terminal.hint(quote("verify", hub))


def _push(terminal: Terminal, run: Path, repository: str, licence: str, *, revision: str | None, public: bool) -> None:
    from compress.deployed.files import find_bundle
    from compress.deployed.push import push_bundle

    sent = push_bundle(find_bundle(run), repository, licence=licence, revision=revision, public=public)
    who = "only those whom you let can read it" if sent.private else "everybody can read it"
    terminal.write_result(sent._asdict(), f"sent: {sent.address}; {who}")
    terminal.hint(f"hf download {sent.repository} --revision {sent.commit}")


def _export_as_yaml(text: str) -> str:
    name, _, precision = text.partition(":")
    return f"{{format: {name}, precision: {precision}}}" if precision else f"{{format: {name}}}"
