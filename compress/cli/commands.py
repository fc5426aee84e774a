"""`compress`: parse, call one function, print.

Every command has the common options and error messages of `compress.cli.terminal`. Nothing but click is imported until a
command runs, so `--help`, `--version` and completion answer at once.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from compress import __version__
from compress.cli.device import device
from compress.cli.terminal import Program, Terminal, make_common_options, prepare_streams, report_bug
from compress.errors import CompressError, GateFailed, Interrupted, Unreachable, Unstable, Unwritable

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
KINDS = ("methods", "models", "data", "exporters", "runtimes", "devices")


class RunFolder(click.Path):
    """The folder of a run or bundle; a file in its place is answered with what to give instead."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or fail as a wrong usage if it is a file."""
        path = Path(str(super().convert(value, param, ctx)))
        if path.is_file():
            self.fail(_explain_file(path, ctx.info_name or "" if ctx else ""), param, ctx)
        return path


def _explain_file(path: Path, verb: str) -> str:
    """Return what to give in place of a file where a folder is wanted."""
    holder = next(
        (each for each in (path.absolute().parent, path.absolute().parent.parent) if (each / "manifest.json").is_file()), None
    )
    if verb in ("verify", "predict") and holder is not None:
        image = ["IMAGE"] if verb == "predict" else []
        return f"{path} is a file; give the folder of its bundle: {quote(verb, holder, *image, '--file', path.name)}"
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


ABOUT = """Distil a small vision model from a large one, export it, prove that the file still works, measure it.

\b
Start:       compress init, compress check recipe.yaml, compress run recipe.yaml
Exit codes:  0 good, 1 our bug, 2 bad recipe or usage, 3 gate failed,
             4 measurement unstable, 5 a device, file or package could not be
             reached, 130 interrupted (state saved)
"""


@click.group(cls=Program, help=ABOUT, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def program() -> None:
    """Hold the commands."""


def add_command(name: str) -> Callable[[F], click.Command]:
    """Return a decorator that adds a command with the common options; the function gets the `Terminal` first."""

    def decorate(function: F) -> click.Command:
        command = program.command(name)(click.pass_obj(function))
        command.params += make_common_options()
        return command

    return decorate


def main() -> None:
    """Run the command line; unexpected errors say that they are ours."""
    sys.excepthook = report_bug
    prepare_streams()
    program()


@add_command("run")
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
        _show_report(terminal, runs / loaded.name)
        raise
    except (Interrupted, KeyboardInterrupt) as error:
        again = quote("run", recipe, *_repeat_options(overrides, seeds, runs))
        raise Interrupted(_explain_interruption(str(error), runs / loaded.name, again)) from error
    _show_report(terminal, runs / loaded.name)
    bundle = runs / loaded.name / "bundle"
    use = quote("predict", bundle, "IMAGE") if bundle.is_dir() else quote("export", bundle.parent, "--to", "openvino")
    terminal.hint(f"{use}, or {quote('compare', runs)}/*")


def quote(*words: object) -> str:
    """Return what to type for a command, each of its words quoted as the shell needs it."""
    return shlex.join(["compress", *map(str, words)])


@add_command("check")
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
    planned = planned.model_copy(update={"notes": (*notes, *planned.notes)})
    from compress.run import dry_run  # loads torch, so only after what needs none was found good

    with terminal.events().task("dry run: networks and methods", total=1) as task:
        estimate = dry_run.check_with_random_images(
            loaded, base=recipe.parent, runs=runs, classes=planned.classes, plan=planned
        )
        task.advance()
    planned = planned.model_copy(update={"estimate": estimate})
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


@add_command("export")
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
@click.option("--licence", default="unknown", show_default=True, help="With --hub: licence of the weights, e.g. apache-2.0.")
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
    licence: str, recipe: Path | None, model: str | None, overrides: Sequence[str], **network: Any,
) -> None:  # fmt: skip
    """Export and gate a student of a run, or other weights.

    Give a run's folder, or the weights that it left in student/weights.safetensors. Any other file of weights needs --recipe,
    or --model and --classes; without a recipe no labels are known, so the files are proved to give the network's answers
    and nothing more.
    """
    wanted = list(map(_export_as_yaml, formats))
    run_only = {"--hub": hub is not None, "--licence": licence != "unknown", "--student": student != "student"}
    _check_export(source, recipe=recipe, model=model, network=network, run_only=[name for name, on in run_only.items() if on])
    if hub is not None:
        if formats or out is not None:
            raise click.UsageError("--hub writes the bundle that the run left; give it without --to and --out")
        _write_hub(terminal, source if student == "student" else source / f"bundle-{student}", hub, licence)
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
    if not is_run and recipe is None and model is None and "--hub" not in run_only:
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


def _export_as_yaml(text: str) -> str:
    name, _, precision = text.partition(":")
    return f"{{format: {name}, precision: {precision}}}" if precision else f"{{format: {name}}}"


@add_command("verify")
@click.argument("bundle", type=RunFolder())
@click.option("--file", help="Only this file of the bundle.")
@click.option("--locate", is_flag=True, help="Find the first layer in which each file parts from a good file of its network.")
@click.option("--against", type=FOLDER, metavar="RUN", help="With --locate: the run whose student the good file is made of.")
@threads_option
def verify(
    terminal: Terminal, *, bundle: Path, file: str | None, locate: bool, against: Path | None, threads: int
) -> None:  # fmt: skip
    """Gate the files of a bundle again, on their own runtimes.

    Images, the torch network's outputs and the gate are those that the bundle carries; what its gate allows beyond the
    defaults is said.
    """
    from compress.cli import tables
    from compress.deployed.verify import find_unfamiliar_programs, refuse_failures, verify_bundle

    events = terminal.events()
    if against is not None and not locate:
        raise click.UsageError("--against says where to look for a good file; give it with --locate")
    if locate:
        from compress.deployed.locate import locate_divergence

        found = locate_divergence(bundle, file=file, against=against, events=events)
        terminal.write_result(found, *tables.draw_layers(found))
        terminal.hint(f"{quote('verify', bundle)} judges the files; compress export RUN writes them anew")
        return
    gates = verify_bundle(bundle, file=file, threads=threads, events=events)
    terminal.write_result(gates, tables.draw_gates(gates), *tables.list_gate_notes(gates))
    for program in find_unfamiliar_programs(bundle):
        events.say(f"{program}: is not what this version writes; another version's, or changed: read it before you run it")
    if any(gate.status == "failed" for gate in gates.values()):
        terminal.hint(f"{quote('verify', bundle, '--locate')} names the layer in which a file parts from a good one")
    refuse_failures(gates)
    terminal.hint(quote("bench", bundle))


@add_command("bench")
@click.argument("paths", type=PATH, nargs=-1, required=True, metavar="FILE_OR_RUN...")
@click.option("--against", help="File that the others are compared with; default: the first.")
@click.option("--device", default="local", show_default=True, help="Where to measure (compress list devices).")
@threads_option
@click.option("--batch-size", type=click.IntRange(min=1), help="Images per call; default: what the files fix, or 1.")
@click.option("--rounds", type=click.IntRange(min=5), default=15, show_default=True, help="Interleaved rounds.")
@click.option(
    "--seconds",
    type=FiniteRange(min=0, min_open=True),
    default=12.0,
    show_default=True,
    help="Time for all files together.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="[INPUT=]SIZES",
    help="What a file that is in no bundle leaves open: 3,224,224, or images=3,640,640 for one input; repeatable.",
)
def bench(
    terminal: Terminal, *, paths: Sequence[Path], against: str | None, device: str, threads: int, batch_size: int | None,
    rounds: int, seconds: float, shapes: Sequence[str],
) -> None:  # fmt: skip
    """Measure files, bundles or runs against each other.

    A file of another tool is timed on noise of the type and shape that it takes, with any number of inputs and outputs.
    """
    from compress.cli import tables
    from compress.deployed.bench import measure_files, refuse_unstable

    measured = measure_files(
        paths, against=against, device=device, threads=threads, batch_size=batch_size, rounds=rounds, seconds=seconds,
        shape=shapes, events=terminal.events(),
    )  # fmt: skip
    terminal.write_result(measured, tables.draw_timings(measured))
    refuse_unstable(measured)
    terminal.hint("more --seconds narrows the intervals; compress compare RUN... shows accuracy beside latency")


program.add_command(device)


@add_command("predict")
@click.argument("bundle", type=RunFolder())
@click.argument("images", type=PATH, nargs=-1, required=True, metavar="IMAGE_OR_FOLDER...")
@click.option("--file", help="File of the bundle; default: the first.")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Classes to show.")
@click.option("--csv", "as_csv", is_flag=True, help="Write a line of CSV for each picture as it is classified.")
@click.option("--json-lines", "as_lines", is_flag=True, help="Write a line of JSON for each picture as it is classified.")
@threads_option
def predict(
    terminal: Terminal, *, bundle: Path, images: Sequence[Path], file: str | None, top: int, as_csv: bool, as_lines: bool,
    threads: int,
) -> None:  # fmt: skip
    """Classify your pictures with the deployed file.

    A folder stands for all pictures in it and below.
    """
    from compress.cli import tables
    from compress.deployed.predict import iterate_predictions, refuse_unread

    if as_csv + as_lines + terminal.as_json > 1:
        raise click.UsageError("--csv, --json-lines and --json say the same in other forms; give one of them")
    predictions = iterate_predictions(bundle, images, file=file, top=top, threads=threads, events=terminal.events())
    if as_csv:
        done = list(terminal.write_csv(tables.list_prediction_columns(top), predictions, tables.list_prediction_cells))
    elif as_lines:
        done = list(terminal.write_json_lines(predictions))
    else:
        done = list(predictions)
        terminal.write_result(done, tables.draw_predictions(done))
    refuse_unread(done)
    terminal.hint(quote("bench", bundle))


@add_command("compare")
@click.argument("runs", type=RunFolder(), nargs=-1, required=True, metavar="RUN...")
@click.option("--out", type=PATH, help="Also write the comparison with its accuracy-latency picture to this .html file.")
def compare(terminal: Terminal, *, runs: Sequence[Path], out: Path | None) -> None:
    """Put the reports of several runs into one table."""
    from benchmarks import report

    reports = [_read_report(run) for run in runs]
    if out is not None:
        report.write_comparison(reports, out)
    shown = (report.make_comparison_table(reports), *report.make_student_tables(reports), *([f"written: {out}"] if out else []))
    terminal.write_result(report.make_document(reports), *shown)
    terminal.hint(quote("report", runs[0]) if out else "the same command with --out comparison.html draws the picture")


@add_command("report")
@click.argument("run", type=RunFolder())
def report_(terminal: Terminal, *, run: Path) -> None:
    """Print the report of a run; writes report.md and .html anew."""
    from benchmarks import report

    try:
        report.write(_read_report(run), run)
    except Unwritable as error:  # of a run that one may only read
        terminal.warn(f"{error}; the pages there are as they were")
    _show_report(terminal, run)
    terminal.hint(shlex.join(["open", str(run / "report.html")]))


def _show_report(terminal: Terminal, run: Path) -> None:
    from benchmarks import report

    written = _read_report(run)
    paths = f"report: {run / 'report.html'}  {run / 'report.md'}  {run / 'report.json'}"
    shown = (report.make_headline(written, run), report.make_table(written), *report.make_score_tables(written))
    terminal.write_result(report.add_headline(written), *shown, paths)


def _read_report(run: Path) -> Any:
    from compress.records import Report, read

    path = run / "report.json"
    if run.is_dir() and not path.exists():
        raise Unreachable(f"{run}: has no report yet, as its run is unfinished or failed; repeat that run, or leave it out")
    return read(path, Report)


@add_command("list")
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.argument("name", required=False)
def list_(terminal: Terminal, *, kind: str | None, name: str | None) -> None:
    """List what a recipe may name, or the options of one name."""
    from compress.cli import catalogue

    terminal.write_result(*catalogue.show(kind, name))
    if name is None:
        terminal.hint(quote("list", kind, "NAME") if kind else quote("list", "KIND"))
    else:
        terminal.hint("name it in a recipe, then compress check RECIPE")


@add_command("init")
@click.argument("path", type=PATH, default=Path("recipe.yaml"))
@click.option(
    "--data",
    type=FOLDER,
    help="Folder of one folder for each class, with or without train/ and test/, or of parquet files in hub layout; default: "
    "embedded digits.",
)
def init(terminal: Terminal, *, path: Path, data: Path | None) -> None:
    """Write a commented recipe to start from; never overwrites.

    With --data it looks at the pictures, and proposes sizes, networks, schedule and budget that fit them.
    """
    from compress.plan import starter

    seen = starter.write(path, data=data, events=terminal.events())
    terminal.write_result({"written": str(path), "seen": list(seen)}, *seen, f"written: {path}")
    terminal.hint(quote("check", path))


@add_command("schema")
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


@add_command("doctor")
@runs_option
def doctor(terminal: Terminal, *, runs: Path) -> None:
    """Tell what works on this machine and what does not."""
    from compress.cli import tables
    from compress.cli.doctor import examine, refuse_broken

    findings = examine(runs)
    terminal.write_result(findings, tables.draw_findings(findings))
    refuse_broken(findings)
    terminal.hint("compress init")
