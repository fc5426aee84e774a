"""Build the report of a run from its rows, gates, stages and scores."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import exporters
from benchmarks.environment import read_environment
from benchmarks.report import paired
from compress.records import DeviceResults, Report, StageResult, Variant
from compress.run.context import REJECTED, Run, Trained
from compress.run.export import ExportedFile
from compress.run.measure import MeasuredFiles
from compress.run.seeds import FurtherSeeds, JudgedImages, collect_scores, describe_seeds
from compress.run.verify import SplitLogits
from compress.run.worst import draw_worst_images
from compress.tasks import CLASSIFICATION, Task
from compress.text import quantify
from compress.training import preflight


class RunResults(NamedTuple):
    """All results of a run, from which its report is built."""

    trained: Sequence[Trained]
    """Teachers, the student that is shipped, and the baselines of the first seed."""
    files: Sequence[ExportedFile]
    measured: MeasuredFiles
    unexported: Sequence[Variant]
    """Rows of networks that were not exported, and of files that could not be made."""
    further: FurtherSeeds
    judged: Sequence[JudgedImages]
    """Of every network and seed."""
    shipped: SplitLogits
    """Logits of the student that is shipped."""
    devices: Sequence[DeviceResults] = ()
    """What each device beside this machine gave."""


def build_report(run: Run, found: RunResults) -> Report:
    """Return the report of a run."""
    stages = _collect_stages(found)
    seconds = {**found.further.seconds, **{key: stage.seconds for key, stage in stages.items()}}
    scores = collect_scores(run, found.judged)
    guesses = preflight.describe_guessing("student", found.shipped.validation, run.validation_labels, run.data.task)
    return Report(
        name=run.recipe.name,
        recipe=run.recipe.model_dump(mode="json"),
        status="failed" if _find_failed(found.files) else "passed",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=sum(seconds.values())
        + sum(item.seconds for item in found.files)
        + found.measured.seconds
        + sum(each.seconds for each in found.devices),
        classes=run.data.classes,
        images={name: len(getattr(run.data, name).labels) for name in ("train", "validation", "test")},
        task=run.data.task.name,
        variants=(*found.measured.variants.values(), *found.unexported),
        gates={item.variant.name: item.gate for item in found.files},
        stages=tuple(stages.values()),
        environment=found.measured.environment or read_environment(),
        devices=tuple(found.devices),
        notes=(
            *_describe_protocol(run),
            *describe_seeds(run, scores),
            *([f"Nothing could be timed: {found.measured.problem}"] if found.measured.problem else []),
            *(note.text for note in run.data.notes if not note.is_warning),
        ),
        warnings=(
            *(note.text for note in run.data.notes if note.is_warning),
            *filter(None, [guesses]),
            *run.events.warnings,
        ),
        worst=draw_worst_images(run, found.shipped.test),
        test_key=run.data.test_key,
        scores=scores,
        paired=paired.compare_all(scores),
    )


def add_notes(run: Run, report: Report, notes: Sequence[str]) -> Report:
    """Return the report with further notes, which are also said."""
    for note in notes:
        run.events.say(note)
    return report.model_copy(update={"notes": (*report.notes, *notes)})


def describe_failures(run: Run, files: Sequence[ExportedFile]) -> str:
    """Return the path of each student's file that failed its gate, and why it failed, a line each."""
    lines = [f"{run.folder / REJECTED / item.path.name}: {item.gate.reason}" for item in _find_failed(files)]
    return "\n".join([*lines, f"the files are kept apart; see {run.folder / 'report.html'}"])


def describe_unjudged(files: Sequence[ExportedFile], unmade: Sequence[Variant]) -> str:
    """Return each file that could not be made or run, which is no fault of its own, a line each; nothing where none."""
    unrun = [(item.variant.name, item.gate.reason) for item in files if item.gate.status == "skipped"]
    unrun += [(row.name, row.reason) for row in unmade if row.status == "skipped"]
    return "\n".join(f"{name}: {reason}" for name, reason in unrun)


def _find_failed(files: Sequence[ExportedFile]) -> list[ExportedFile]:
    return [item for item in files if item.gate.status == "failed" and item.variant.network == "student"]


def _collect_stages(found: RunResults) -> dict[str, StageResult]:
    """Return every stage that was trained, once, by its key: those of networks, then those that adapted one to int8."""
    trained = {result.key: result for item in found.trained for result in item.results}
    return trained | {result.key: result for item in found.files for result in item.adapted}


def _describe_metric(task: Task) -> str:
    if task.name == CLASSIFICATION.name:
        return "Accuracy is top-1 on the test split, which no choice has seen; its interval is Wilson's at 95 %."
    size = ", at the network's input size" if task.is_dense else ""
    return (
        f"Accuracy is {task.metric.title} on the test split{size}, which no choice has seen; its 95 % interval is a bootstrap "
        "over images, and says nothing of other seeds."
    )


def _describe_protocol(run: Run) -> tuple[str, ...]:
    settings, exported = run.recipe.measure, [exporters.load(section).precision for section in run.recipe.exports]
    int8 = (
        "An int8 file is what the ladder of quantization came to: its ranges are estimated on training images, every choice is "
        "made on the validation split, and the test split reports the result."
        + (" The teacher's gets the first rung and no other." if run.recipe.opponent == "teacher" else "")
    )
    opponent = {
        "teacher": "the teacher's file of the same format and precision",
        "student": "the student's float32 file of the same format (the teachers are not exported)",
    }
    return (
        _describe_metric(run.data.task),
        "The gate compares each file with the torch network on the validation split, on the file's own runtime.",
        (
            f"Latency: after warm-up, {settings.rounds} interleaved rounds of all files, split among "
            f"{quantify(min(settings.launches, settings.rounds), 'process', 'processes')}, those with other work repeated; "
            f"threads: {settings.threads}, batch {settings.batch_size}; its interval is that of the median over rounds and "
            "processes, wider where they resemble each other. Latencies of different runs are not compared: the machine "
            "differs from run to run by "
            "more than their intervals say."
        ),
        f"A ratio compares a file with {opponent[run.recipe.opponent]}, round by round.",
        "Peak memory is that of a process that runs only this file, in batches of 32.",
        "Rows that were not exported were not timed; one with the student's graph has its latency.",
        *([int8] if "int8" in exported else []),
    )
