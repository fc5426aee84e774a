"""Export the student of a finished run once more, in other formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import exporters
from benchmarks import report
from benchmarks.devices.local import share_processes
from benchmarks.environment import read_environment
from compress import records
from compress.errors import CompressError, Unreachable
from compress.events import Events
from compress.quantization.candidate import Unavailable
from compress.recipe import ExportSection, load
from compress.records import BundleFile, Exported, Gate, Headline, Report
from compress.records.training import WEIGHTS
from compress.run import cache, reload
from compress.run.context import RECIPE, REJECTED, Run, Trained, open_run
from compress.run.export import NO_TEACHERS, TORCH, ExportedFile, export_file
from compress.run.handover import hand_over
from compress.run.int8 import DISTILLED_RUNGS
from compress.run.measure import MeasuredFiles, add_speedups, measure_files, report_ladders
from compress.run.pipeline import export_all
from compress.run.placement import BUNDLE
from compress.run.teacher_budget import hold_to_teacher
from compress.run.verify import SplitLogits, compute_logits
from compress.system.files import hash_file, writable


def find_run_folder(path: Path) -> Path:
    """Return the folder of the run that a path is, or whose student's weights it is.

    Raises:
        Unreachable: There is no such folder or file.
        CompressError: It is neither.
    """
    if not path.exists():
        raise Unreachable(f"{path}: there is no such run or checkpoint; see what `compress run` said")
    folder = path.parent.parent if path.name == WEIGHTS and path.parent.name == "student" else path
    if not (folder / RECIPE).is_file():
        raise CompressError(f"{path}: is no run (it holds no {RECIPE}) and no student's {WEIGHTS} in one; give either")
    return folder


def export(
    run_folder: Path, sections: Sequence[ExportSection], *, out: Path | None, events: Events, student: str = reload.STUDENT
) -> dict[str, Gate]:
    """Export the student of a finished run once more, in other formats, and judge the files.

    int8 files are searched for on the whole ladder, with the run's own teachers; where these are gone, a note of the gate says
    so.

    Args:
        run_folder: A folder that `run` left.
        sections: The formats.
        out: Where the files go; default: `exports` in the run's folder. What fails its gate goes to `rejected` in there. Beside
            them, each file has a record of what is known of it.
        events: Where progress goes.
        student: Name of the network, `student` or a baseline. Of a baseline also a bundle is written, `bundle-NAME` in the
            run's folder, with the latencies of its files beside those of the teachers' files.

    Raises:
        CompressError: The folder holds no finished run, or a format cannot hold the network.
        Unreachable: The disk is full, or a folder cannot be written.
    """
    recipe = load(find_run_folder(run_folder) / RECIPE)
    target = out or run_folder / "exports"
    with open_run(recipe, base=run_folder, runs=run_folder.resolve().parent, events=events) as whole_run:
        run = reload.make_student_of(reload.use_shipped_seed(whole_run), student)
        shipped = reload.load_student(run, student).move_to_cpu()
        logits = compute_logits(run, shipped)
        write = _export_student if student == reload.STUDENT else _ship_baseline
        files = write(run, shipped, sections, logits)
        report_ladders(run, [item.variant for item in files])
        gates = {item.variant.name: _note_skipped_distillation(item) for item in files}
        made_in = read_environment()
        for item in files:
            places = target, target / REJECTED
            place, other = places if item.gate.status == "passed" else places[::-1]
            verdict = f"{item.path.name}.gate.json"
            parts = [part.name for part in exporters.load(item.section).list_parts(item.path)]
            with writable(target):
                for name in (*parts, verdict):  # an earlier export of this name may have ended otherwise
                    (other / name).unlink(missing_ok=True)
            for name in parts:
                cache.copy(item.path.parent / name, place / name)
            if place != target:
                records.save(place / verdict, gates[item.variant.name])
            entry = _describe_file(item, gates[item.variant.name], place / item.path.name, target)
            known = Exported(file=entry, weights_sha256=shipped.results[-1].files[WEIGHTS], environment=made_in)
            records.save(target / f"{item.path.name}.json", known)
    return gates


def _export_student(run: Run, shipped: Trained, sections: Sequence[ExportSection], logits: SplitLogits) -> list[ExportedFile]:
    """Export the student of a run, hold its files to the gate, and time what an int8 search tried."""
    is_int8 = any(exporters.load(section).precision == "int8" for section in sections)
    distilled = is_int8 and run.recipe.int8.rung in DISTILLED_RUNGS
    is_held = run.recipe.gate.max_drop_from_teacher_points is not None
    found = reload.load_teachers(run) if distilled or is_held else NO_TEACHERS
    with exporters.reuse_graphs(), share_processes():
        teachers = found if distilled else NO_TEACHERS
        files = [export_file(run, shipped, section, logits, teachers=teachers) for section in sections]
    if is_held and isinstance(found, Unavailable):
        run.events.say(f"gate.max_drop_from_teacher_points: is not checked; {found.reason}")
    elif is_held and not isinstance(found, Unavailable):
        known = {each.name: compute_logits(run, each.move_to_cpu()) for each in found}
        files = [hold_to_teacher(run, item, logits, known) for item in files]
    return [item._replace(variant=add_speedups(run, item, item.variant, {})) for item in files]


def _ship_baseline(run: Run, shipped: Trained, sections: Sequence[ExportSection], logits: SplitLogits) -> list[ExportedFile]:
    """Export a baseline as a run exports its student: the same gate, timed beside the teachers, and with a bundle.

    Raises:
        Unreachable: The teachers, with which its files are compared, are not there.
    """
    teachers = reload.load_teachers(run)
    if isinstance(teachers, Unavailable):
        raise Unreachable(f"--student {shipped.name}: {teachers.reason}")
    run = replace(run, recipe=run.recipe.model_copy(update={"exports": tuple(sections)}))
    known = {each.name: compute_logits(run, each.move_to_cpu()) for each in teachers}
    files, unmade = export_all(run, shipped, teachers, {**known, shipped.name: logits})
    measured = measure_files(run, files, shown=f"measurements-{shipped.name}")
    headline = _compute_headline(run, shipped.name, files, measured)
    place = f"{BUNDLE}-{shipped.name}"
    notes = [f"{row.name}: {row.reason}" for row in unmade]
    notes += hand_over(run, shipped, files, logits, measured, headline=headline, place=place)
    notes += [f"{run.folder / place}: is the bundle of {shipped.name}"] if (run.folder / place).is_dir() else []
    for note in notes:
        run.events.say(note)
    own = [item for item in files if item.variant.network == shipped.name and item.section.format != TORCH]
    return [item._replace(variant=measured.variants[item.variant.name]) for item in own]


def _compute_headline(run: Run, name: str, files: Sequence[ExportedFile], measured: MeasuredFiles) -> Headline | None:
    """Return the answers of the run's report about a baseline in the place of the student; nothing without a report."""
    path = run.folder / "report.json"
    if not path.is_file():
        return None
    record = records.read(path, Report)
    others = [each for each in record.variants if each.network != name and each.name not in measured.variants]
    changes = {
        "variants": (*measured.variants.values(), *others), "gates": {item.variant.name: item.gate for item in files},
        "recipe": run.recipe.model_dump(mode="json"), "status": "passed", "warnings": (),
    }  # fmt: skip
    return report.compute_headline(record.model_copy(update=changes), student=name)


def _describe_file(item: ExportedFile, gate: Gate, path: Path, target: Path) -> BundleFile:
    """Return the record of a file that was copied to `path`, with paths relative to `target`."""
    exporter = exporters.load(item.section)
    parts = {(path.parent / part.name).relative_to(target).as_posix(): part for part in exporter.list_parts(item.path)}
    return BundleFile(
        path=path.relative_to(target).as_posix(), parts={name: hash_file(part) for name, part in parts.items()},
        format=item.section.format, runtime=exporter.runtime, precision=exporter.precision,
        size_bytes=sum(part.stat().st_size for part in parts.values()), batch_size=exporter.batch_size,
        takes_pixels=exporter.takes_pixels, gives_class=exporter.gives_class,
        temperature=item.variant.calibration and item.variant.calibration.temperature, gate=gate, measured=item.variant,
    )  # fmt: skip


def _note_skipped_distillation(item: ExportedFile) -> Gate:
    """Return the gate of a file with a note of the last rung of its ladder, if that was wanted and could not be tried."""
    rungs = item.variant.ladder.rungs if item.variant.ladder is not None else ()
    skipped = [each.reason for each in rungs if each.rung == "distillation" and each.status == "skipped"]
    notes = filter(None, [item.gate.note, *(f"rung 'distillation' was left out: {reason}" for reason in skipped)])
    return item.gate.model_copy(update={"note": "; ".join(notes)})
