"""What a recipe will do, told before anything is done, and without torch.

`plan(recipe, ...)` looks at the data source and the files that the recipe names, collects **all** that contradicts, and
otherwise returns the stages in the order in which the run goes through them. What a method trains, freezes and ships comes from
the labelled lines of its module's docstring (`Trained:`, `Frozen:`, `Shipped:`, `Stages:`), so that no method is imported.

`Stages:` lists names with commas; the last is the student. Where options decide, a part says so: `paraphrasers if paraphrase`
is there only where that option is set, and `generation1 to generation{generations - 1}` stands for as many students, each
taught by the one before, as that option says less one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from compress import plugins
from compress.errors import CompressError
from compress.plan.checks import data_problems, recipe_problems, split_sizes, storage_of, together
from compress.recipe import ExportSection, MethodSection, Recipe, TeacherSection
from compress.records import Record
from compress.text import counted

if TYPE_CHECKING:
    from rich.tree import Tree

    from compress.data import Source, Summary

STAGE = re.compile(r"(?P<name>[a-z_]+)(?: if (?P<condition>[a-z_]+)|1 to (?P=name)\{(?P<count>[a-z_]+) - 1\})?")
"""One part of the line `Stages:`."""

LONGEST_NAME = 60
"""Characters of a baseline's name that tells its options; with more it is numbered."""

LABEL = re.compile(r"^(Trained|Frozen|Shipped|Stages|Source): *(.+(?:\n(?![A-Z][a-z]+:|\n).+)*)", re.MULTILINE)


class Amount(Record):
    """How much training a stage is, before early stops."""

    epochs: int
    images_per_epoch: int
    """Images that are trained on in one epoch; the last incomplete batch is dropped."""
    trained: int
    """Forward and backward passes of one image through what is trained."""
    teacher: int
    """Forward passes of one image through all teachers."""
    seeds: int = 1
    """How many times it is trained, each counted above."""


class Stage(Record):
    """One part of the run."""

    name: str
    about: str
    trained: str = ""
    frozen: str = ""
    shipped: str = ""
    work: Amount | None = None
    kept: str = ""
    """Folder or file that keeps the result, relative to the run's folder."""
    student: bool = False
    """Whether it trains a student, and so once with every seed."""
    found: bool = False
    """Whether that is there already; it is used again if nothing that it depends on has changed."""


class Plan(Record):
    """The whole run."""

    name: str
    folder: str
    classes: tuple[str, ...]
    images: dict[str, int]
    """Images in each split."""
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()


def plan(recipe: Recipe, *, base: Path, runs: Path) -> Plan:
    """Return what a run of `recipe` will do.

    Args:
        recipe: A loaded recipe.
        base: Folder that the recipe's relative paths start from.
        runs: Folder of all runs.

    Raises:
        CompressError: The recipe contradicts itself or the data; every problem in its own line.
        Unreachable: All that is wrong is that something is not there.
    """
    problems: list[CompressError] = []
    source = plugins.load("data", recipe.data.source)(**recipe.data.options(base))
    try:
        summary = source.summary()
    except CompressError as error:
        raise together([error, *recipe_problems(recipe, base)]) from error
    problems = [*recipe_problems(recipe, base), *data_problems(recipe, source, summary)]
    if problems:
        raise together(problems)
    folder = runs / recipe.name
    images = split_sizes(recipe, summary)
    stages = [_data_stage(recipe, source, summary), *_training(recipe, images["train"]), *_delivery(recipe)]
    return Plan(
        name=recipe.name,
        folder=str(folder),
        classes=summary.classes,
        images=images,
        stages=tuple(stage.model_copy(update={"found": _is_found(folder, stage)}) for stage in stages),
        notes=tuple(_notes(recipe)),
    )


def facts(method: str) -> dict[str, str]:
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


class Part(NamedTuple):
    """One stage of a method."""

    name: str
    generation: int | None = None
    """Which student of a line of students it trains, from 1; `None` for everything else."""


def parts(method: str, options: Mapping[str, Any]) -> list[Part]:
    """Return the stages of a method with these options, by its line `Stages:`; the last is the student.

    Args:
        method: Its name.
        options: Every option of the method.

    Raises:
        CompressError: There is no such method, or its line cannot be read.
    """
    line = facts(method)["Stages"]
    found: list[Part] = []
    for text in line.split(", "):
        match = STAGE.fullmatch(text)
        if match is None or not {match["condition"], match["count"]} <= {None, *options}:
            raise CompressError(
                f"{plugins.describe('methods', method).module}: 'Stages: {line}': {text!r} is no stage; write NAME, "
                "NAME if OPTION, or NAME1 to NAME{OPTION - 1}, with options that the method has"
            )
        if match["count"] is not None:
            found += [Part(f"{match['name']}{number}", number) for number in range(1, options[match["count"]])]
        elif match["condition"] is None or options[match["condition"]] not in (None, False):
            found.append(Part(match["name"]))
    return found


def title(methods: Sequence[MethodSection]) -> str:
    """Return what reports call a set of methods, such as `dih(dist)`."""
    losses = [str(method.options().get("logit_loss", "kd")) for method in methods]
    return " + ".join(m.name if loss == "kd" else f"{m.name}({loss})" for m, loss in zip(methods, losses, strict=True))


def baseline_names(baselines: Sequence[Sequence[MethodSection]]) -> list[str]:
    """Return a name, fit for a folder, for each baseline: that of its methods; where two have the same, with what differs."""
    short = [_slug(title(methods)) for methods in baselines]
    alike = [[other for other, name in zip(baselines, short, strict=True) if name == own] for own in short]
    long = [_slug(f"{name} {_differing(own, others)}") for name, own, others in zip(short, baselines, alike, strict=True)]
    names = []
    for index, (name, told) in enumerate(zip(short, long, strict=True)):
        unique = long.count(told) == 1 and told not in short and len(told) <= LONGEST_NAME
        names.append(name if short.count(name) == 1 else told if unique else f"{name}-{index}")
    return names


def _differing(own: Sequence[MethodSection], others: Sequence[Sequence[MethodSection]]) -> str:
    """Return the options in which sets of the same methods differ, such as `temperature 2`."""
    told = []
    for place, method in enumerate(own):
        rivals = [other[place].options() for other in others]
        told += [
            f"{option} {_shown(value)}"
            for option, value in method.options().items()
            if any(rival[option] != value for rival in rivals)
        ]
    return " ".join(told)


def _shown(value: object) -> str:
    return "default" if value is None else f"{value:g}" if isinstance(value, float) else str(value).lower()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "-", text).strip("-.")


def _data_stage(recipe: Recipe, source: Source, summary: Summary) -> Stage:
    data = recipe.data
    augmentation = [f"crops from a border of {data.crop_padding}"] if data.crop_padding else []
    augmentation += ["mirrored halves"] if data.flip else []
    about = f"{data.source}: {data.image_size}×{data.image_size} {source.channels}, {data.interpolation}"
    scaling = "given mean and std" if data.mean and data.std else "mean and std of the training split"
    return Stage(name="data", about=", ".join([about, scaling, *augmentation, str(storage_of(recipe, source, summary))]))


def _training(recipe: Recipe, train_images: int) -> Iterator[Stage]:
    """Yield every stage that trains: teachers, the student's stages, the baselines."""
    several = len(recipe.teacher) > 1
    for index, teacher in enumerate(recipe.teacher):
        yield _teacher_stage(f"teacher{index}" if several else "teacher", teacher, recipe, train_images)
    yield from _student_stages("", recipe.method, recipe, train_images)
    for name, methods in zip(baseline_names(recipe.baselines), recipe.baselines, strict=True):
        yield from _student_stages(name, methods, recipe, train_images)


def _teacher_stage(name: str, teacher: TeacherSection, recipe: Recipe, train_images: int) -> Stage:
    if teacher.weights is not None:
        return Stage(name=name, about=f"{teacher.model} with the weights of {teacher.weights}", frozen="everything")
    train = teacher.train or recipe.train
    work = _work(train.epochs, train.batch_size, train_images)
    return Stage(name=name, about=f"{teacher.model}, trained on the labels", trained="everything", work=work, kept=name)


def _student_stages(baseline: str, methods: Sequence[MethodSection], recipe: Recipe, train_images: int) -> Iterator[Stage]:
    """Yield the preparatory stages of the methods in order, then the one that trains the student."""
    known = [facts(method.name) for method in methods]
    teachers = 0 if all(method.name == "supervised" for method in methods) else len(recipe.teacher)
    before = [part.name for method in methods for part in parts(method.name, method.options())[:-1]]
    places = itertools.count()
    for method, about in zip(methods, known, strict=True):
        for part, place in zip(parts(method.name, method.options())[:-1], places, strict=False):
            numbered = part.name if before.count(part.name) == 1 else f"{part.name}{place}"  # as in the run's folder
            name = f"{baseline}-{numbered}" if baseline else numbered
            if part.generation is None:
                yield _preparation(name, part.name, method, recipe, train_images)
                continue
            yield Stage(
                name=name,
                about=f"{recipe.student.model} by {method.name}, to teach the next",
                trained=about["Trained"],
                frozen=about["Frozen"],
                work=_work(recipe.train.epochs, recipe.train.batch_size, train_images, teachers, shown(recipe)),
                kept=name,
                student=True,
            )
            teachers = 1  # the one before
    yield Stage(
        name=baseline or "student",
        about=f"{recipe.student.model} by {title(methods)}",
        trained=_joined(known, "Trained"),
        frozen=_joined(known, "Frozen"),
        shipped="nothing, it is for comparison" if baseline else _joined(known, "Shipped"),
        work=_work(recipe.train.epochs, recipe.train.batch_size, train_images, teachers, shown(recipe)),
        kept=baseline or "student",
        student=True,
    )


def _preparation(name: str, stage: str, method: MethodSection, recipe: Recipe, train_images: int) -> Stage:
    """Return the stage that trains modules of a method on the teachers."""
    epochs = method.options().get(f"{stage}_epochs", recipe.train.epochs)
    return Stage(
        name=name,
        about=f"what {method.name} needs before the student",
        trained=f"the {stage}",
        frozen="everything else",
        work=_work(epochs, recipe.train.batch_size, train_images, len(recipe.teacher), shown(recipe)),
        kept=name,
    )


def _joined(known: Sequence[dict[str, str]], label: str) -> str:
    return "; ".join(dict.fromkeys(about[label] for about in known))


def _work(epochs: int, batch_size: int, images: int, teachers: int = 0, views: int | None = None) -> Amount:
    each = images // batch_size * batch_size
    answered = epochs * each if views is None else min(epochs, views) * images  # once for each view that is kept
    return Amount(epochs=epochs, images_per_epoch=each, trained=epochs * each, teacher=teachers * answered)


def shown(recipe: Recipe) -> int | None:
    """Return how many views of the training images there are, if answers to them are kept; `None` for a new one every epoch."""
    if recipe.targets.store == "off":
        return None
    return recipe.data.views if recipe.data.crop_padding or recipe.data.flip else 1


def _delivery(recipe: Recipe) -> Iterator[Stage]:
    """Yield what follows training."""
    gate, measure = recipe.gate, recipe.measure
    for section in recipe.exports:
        options = ", ".join(f"{name} {value}" for name, value in section.options().items())
        yield Stage(name="export", about=f"{section.format}: {options}" if options else section.format, kept="bundle")
        if section.options().get("precision") == "int8":
            yield Stage(name="int8", about=_ladder(recipe, section))
    if recipe.exports:
        bound = f", logits within {gate.max_abs_diff:g}" if gate.max_abs_diff is not None else ""
        drop = counted(gate.max_top1_drop_points, "point")
        agreement = "that of its precision" if gate.min_agreement is None else f"{100 * gate.min_agreement:g} %"
        rule = f"top-1 at most {drop} lower, agreement at least {agreement}{bound}"
        yield Stage(name="gate", about=f"each file on its own runtime, validation split: {rule}")
    devices = ", ".join(device.device for device in measure.devices) or "this machine"
    calls = f"batch {measure.batch_size} and {measure.throughput_batch_size}, {counted(measure.threads, 'thread')}"
    yield Stage(name="measure", about=f"{devices}: {calls}, {measure.rounds} interleaved rounds, against the {measure.against}")
    yield Stage(name="report", about="report.json, report.md, report.html", kept="report.json")


def _ladder(recipe: Recipe, section: ExportSection) -> str:
    """Return what is tried to make an int8 file."""
    int8, other = recipe.int8, plugins.load("exporters", section.format).statistics[1:]
    rungs = {
        "default": "default quantization",
        "statistics": f"statistics {', '.join(other)}" if other else "other statistics (there are none)",
        "saturation": "a spare bit where products saturate",
        "mixed": f"the worst layers in float, at most {100 * int8.max_float_layers:g} %",
        "distillation": f"quantization-aware distillation of {counted(int8.epochs, 'epoch')}",
    }
    images = f"ranges from {int8.calibration_images} training images"
    if int8.rung != "auto":
        return f"{section.format}: {rungs[int8.rung]} only (int8.rung); {images}"
    climb = "; else ".join(rungs.values())
    return f"{section.format}: until the gate passes: {climb}; {images}, no further rung after {int8.max_minutes:g} minutes"


def _is_found(folder: Path, stage: Stage) -> bool:
    if not stage.kept:
        return False
    kept = folder / stage.kept
    return any((kept / proof).is_file() for proof in ("metrics.json", "manifest.json")) or kept.is_file()


def _notes(recipe: Recipe) -> Iterator[str]:
    if not recipe.exports:
        yield "nothing is exported, so nothing is gated: add `exports:` to leave a file that can be deployed"
    if all(method.name == "supervised" for method in recipe.method):
        yield "the student is trained without its teacher: the teacher is only measured"
    lines = [method.name for method in recipe.method if any(part.generation for part in parts(method.name, method.options()))]
    if lines and recipe.student.weights is not None:
        yield f"{lines[0]}: every generation before the last starts from random weights, the last from student.weights"


def tree(whole: Plan) -> Tree:
    """Return the plan as people read it."""
    from rich.text import Text
    from rich.tree import Tree

    images = whole.images
    classes = f"{len(whole.classes)} classes"
    sizes = f"{images['train']} training, {images['validation']} validation and {images['test']} test images"
    root = Tree(Text(f"{whole.name}: {classes}; {sizes}; in {whole.folder}", style="bold"), guide_style="dim")
    for stage in whole.stages:
        branch = root.add(Text.assemble((stage.name, "bold cyan"), "  ", stage.about))
        for label, text in _details(stage):
            branch.add(Text.assemble((f"{label}: ", "dim"), text))
    for note in whole.notes:
        root.add(Text(f"note: {note}", style="yellow"))
    return root


def _details(stage: Stage) -> Iterator[tuple[str, str]]:
    for label in ("trained", "frozen", "shipped"):
        if text := getattr(stage, label):
            yield label, text
    if stage.work is not None:
        work = stage.work
        passes = f"{work.trained:,} images forward and backward"
        teaching = f"; {work.teacher:,} forward through teachers" if work.teacher else ""
        seeds = f"{work.seeds} seeds × " if work.seeds > 1 else ""
        epochs = counted(work.epochs, "epoch")
        yield "work", f"{seeds}{epochs} × {work.images_per_epoch:,} images = {passes}{teaching}"
    if stage.work is not None and stage.kept:
        yield (
            "kept in",
            f"{stage.kept}/ (found: used again if nothing it depends on has changed)" if stage.found else f"{stage.kept}/",
        )
