"""Training speed: `python -m benchmarks.studies.training_speed [--pair NAME] [--subject NAME] [--rounds 15] [--out FOLDER]`.

Images per second of our distillation steps, with and without stored outputs of the teacher, against our plain training and
against torchdistill's own training of the same networks on the same images (`pip install 'edge-compress[peers]'`), in
interleaved rounds of one process; how far that is from what the machine's arithmetic allows; and what it takes in memory and on
disk. Give the machine nothing else to do. The report is written after every pair. With the
defaults, timing takes half a minute for each subject of a pair (15 rounds of 2 s), all pairs and subjects half an hour or more.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import click
import torch
from rich.console import Console

from benchmarks.environment import read_environment
from benchmarks.studies.training_speed.memory import Peak, measure_peak
from benchmarks.studies.training_speed.ours import OURS, VIEWS, Workshop, prepare, read_images
from benchmarks.studies.training_speed.pairs import PAIRS
from benchmarks.studies.training_speed.peers import INPUTS, compare_updates, explain_missing, make_subjects
from benchmarks.studies.training_speed.profile import Profile, profile_steps
from benchmarks.studies.training_speed.report import (
    WANTED,
    Memory,
    PairResult,
    Rounds,
    Speed,
    TrainingSpeed,
    compare,
    compute_roofline,
    render,
    summarise_memory,
    summarise_speed,
    summarise_store,
    write,
)
from benchmarks.studies.training_speed.roofline import count_cost, make_probes
from benchmarks.studies.training_speed.rounds import Subject, measure_rates
from compress.errors import CompressError
from compress.events import Events

FOLDER = Path(__file__).parents[2] / "results" / "training_speed"
LARGEST = 64
"""Pixels; for larger images real data would not fit into memory as a whole, and random images take their place."""
WEIGHED = ("plain", "kd", "kd, cached", "dist, cached", "dih, cached")
"""Subjects whose memory is measured."""
PROCESSES = 5
"""In which the memory of each is measured: how much an allocator keeps differs from process to process."""
PROFILED = ("plain", "plain, compiled", "kd", "kd, fastest engine", "kd, cached", "kd, cached, compiled", "torchdistill")
"""Subjects that are profiled."""
SUBJECTS = (*OURS, *INPUTS)


def measure(
    workshop: Workshop, *, images: str, rounds: int, seconds: float, events: Events, wanted: Collection[str] = SUBJECTS
) -> PairResult:
    """Measure speed, profile, memory and store of one pair.

    Args:
        workshop: The pair with its images.
        images: What they show, for people.
        rounds: Interleaved rounds that count.
        seconds: How long each subject is timed in a round.
        events: Where progress goes.
        wanted: Names of the subjects that are measured.

    Raises:
        CompressError: torchdistill does other work than we, or a subject failed.
    """
    pair = workshop.pair
    events.say(f"{pair.name}: makes the store, tries engines and numbers of workers")
    ours = [
        workshop.make_subject(name)
        for name, step in OURS.items()
        if name in wanted and not step.explain_absence(workshop.device)
    ]
    inputs = [name for name in INPUTS if name in wanted and not explain_missing()]
    same_work = compare_updates(workshop) if inputs else None
    theirs = make_subjects(workshop, inputs, seconds=seconds)
    found = _time([*ours, *theirs, *make_probes(workshop.device)], workshop, rounds, seconds, events)
    batch = next(workshop.make_batches().epoch(0))
    bounds = compute_roofline(
        count_cost(workshop.make_student(), workshop.teacher, batch.images, batch.labels), found, len(batch.labels)
    )
    speeds = _summarise_speeds([*ours, *theirs], found, workshop.device, wanted)
    profiles = _profile_all([*ours, *theirs], events)
    dih = next((subject for subject in ours if subject.name == "dih, cached"), None)
    return PairResult(
        pair=pair,
        images=images,
        same_work=same_work,
        speeds=tuple(speeds.values()),
        compared=tuple(compare(each, speeds, pair, bounds) for each in WANTED if {each.subject, each.against} <= speeds.keys()),
        roofline=bounds,
        profiles=profiles,
        memory=_measure_memory(workshop, [name for name in WEIGHED if name in wanted], events),
        store=dih and summarise_store(int(dih.facts["signals"]), pair.classes, workshop.measure_store_bytes()),
    )


def _time(subjects: Sequence[Subject], workshop: Workshop, rounds: int, seconds: float, events: Events) -> Rounds:
    wait = torch.cuda.synchronize if workshop.device.type == "cuda" else lambda: None
    with events.task(workshop.pair.name, total=len(subjects) * (rounds + 1)) as task:
        return measure_rates(
            subjects, rounds=rounds, seconds=seconds, wait=wait, progress=lambda name: task.advance(note=name)
        )  # fmt: skip


def _summarise_speeds(
    subjects: Sequence[Subject], found: Rounds, device: torch.device, wanted: Collection[str]
) -> dict[str, Speed]:
    speeds = {subject.name: summarise_speed(subject.name, found[subject.name], subject.facts) for subject in subjects}
    why = {name: step.explain_absence(device) for name, step in OURS.items()} | dict.fromkeys(INPUTS, explain_missing())
    left = [name for name in why if name in wanted and name not in speeds]
    absent = {name: Speed(subject=name, reason=why[name], facts={}) for name in left}
    return speeds | absent


def _profile_all(subjects: Sequence[Subject], events: Events) -> tuple[Profile, ...]:
    chosen = [subject for subject in subjects if subject.name in PROFILED]
    with events.task("profiles", total=len(chosen)) as task:
        found = []
        for subject in chosen:
            found.append(profile_steps(subject))
            task.advance(note=subject.name)
    return tuple(found)


def _measure_memory(workshop: Workshop, names: Sequence[str], events: Events) -> tuple[Memory, ...]:
    peaks: dict[str, list[Peak]] = {name: [] for name in names}
    with events.task(f"{workshop.pair.name}, memory", total=PROCESSES * len(names)) as task:
        for _ in range(PROCESSES):
            for name in names:
                peaks[name].append(measure_peak(workshop.folder, name, workshop.device.type))
                task.advance(note=name)
    return tuple(summarise_memory(name, found, peaks.get("plain", [])) for name, found in peaks.items())


@click.command()
@click.option("--pair", "names", multiple=True, type=click.Choice(list(PAIRS)), help="Teacher and student; default: all pairs.")
@click.option(
    "--subject", "subjects", multiple=True, type=click.Choice(SUBJECTS), help="What is measured; default: everything there is."
)
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(min=5), help="Interleaved rounds that count.")
@click.option("--seconds", default=2.0, show_default=True, type=click.FloatRange(min=0), help="Of each subject in a round.")
@click.option("--batch-size", type=click.IntRange(min=2), help="Images in a step; default: as the pair says.")
@click.option("--images", type=click.IntRange(min=2), help="Images that there are; default: as the pair says.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of parquet files with small images; default: random images.",
)
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]), help="Where.")
@click.option("--out", default=FOLDER, type=click.Path(file_okay=False, path_type=Path), help="Folder of the report.")
def main(
    *,
    names: tuple[str, ...], subjects: tuple[str, ...], rounds: int, seconds: float, batch_size: int | None,
    images: int | None, data: Path | None, device: str, out: Path,
) -> None:  # fmt: skip
    """Measure how fast we train, beside plain training and torchdistill."""
    events = Events(console=Console(stderr=True))
    changes = {name: value for name, value in (("batch_size", batch_size), ("images", images)) if value is not None}
    try:
        where = _choose_device(device)
        result = TrainingSpeed(
            command=_make_command(data), environment=read_environment(), device=where.type, threads=torch.get_num_threads(),
            rounds=rounds, seconds=seconds, pairs=(),
        )  # fmt: skip
        for name in names or tuple(PAIRS):
            pair = PAIRS[name].model_copy(update=changes)
            with tempfile.TemporaryDirectory(prefix="edge-compress-") as folder:
                split = read_images(data, pair) if data is not None and pair.size <= LARGEST else None
                workshop = prepare(Path(folder), pair, device=where, split=split)
                shown = f"{pair.images} images of {data.name}" if data and split else f"{pair.images} random images"
                found = measure(
                    workshop, images=f"{shown}, {VIEWS} views", rounds=rounds, seconds=seconds, events=events,
                    wanted=subjects or SUBJECTS,
                )  # fmt: skip
            result = result.model_copy(update={"pairs": (*result.pairs, found)})
            write(result, out)  # after every pair, for the whole takes long
    except CompressError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    click.echo(render(result))


def _choose_device(name: str) -> torch.device:
    """Return the device by its name; a GPU computes float32 as float32."""
    if name == "cuda" and not torch.cuda.is_available():
        raise CompressError("--device: 'cuda' is asked for and torch sees no CUDA device; use 'auto' or 'cpu'")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


def _make_command(data: Path | None) -> str:
    """Return how this was called, without where the data and the report are on this machine."""
    given = {str(data): data.name} if data is not None else {}
    words, place = [given.get(word, word) for word in sys.argv[1:]], "--out"
    if place in words:
        del words[words.index(place) : words.index(place) + 2]
    return shlex.join(["python", "-m", "benchmarks.studies.training_speed", *words])


if __name__ == "__main__":
    main()
