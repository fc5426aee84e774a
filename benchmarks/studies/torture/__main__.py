"""Kill runs, mutate recipes, damage artefacts and sabotage finished runs; count what came of each.

    python -m benchmarks.studies.torture [--kills 200] [--recipes 10000] [--artefacts 5000] [--sabotages 60] [--out FOLDER]

Every trial has a number and is decided by it and the seed; what was tried is kept in `--work`, so that the study continues
where it was stopped. Writes `torture.json` and `report.md`. Takes some twenty minutes on one core. Needs Linux.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import get_args

import click

from benchmarks.environment import read_environment
from benchmarks.studies.torture import report
from benchmarks.studies.torture.artefacts import Artefact, make_artefacts, try_artefact
from benchmarks.studies.torture.forked import import_everything
from benchmarks.studies.torture.recipes import mutate, try_recipe
from benchmarks.studies.torture.records import GOALS, Kind, Part, Torture
from benchmarks.studies.torture.runs import TinyRun

FOLDER = Path(__file__).parents[2] / "results" / "torture"
PIECES: dict[Kind, int] = {"kills": 1, "recipes": 500, "artefacts": 250, "sabotages": 1}
"""Trials after which what was found is kept."""
Try = Callable[[int], Iterator[str]]
"""Carries out one trial by its number and yields what came of it; a run that is killed several times, of each kill."""


class Diary:
    """What was tried and what came of it, line by line on disk.

    Args:
        path: The file; what is in it is not tried again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._entries = [json.loads(line) for line in lines]

    def add(self, kind: Kind, last: int, outcomes: Counter[str], seconds: float) -> None:
        """Keep what came of all trials of a kind up to a number that were not kept before."""
        self._entries.append({"kind": kind, "last": last, "outcomes": dict(outcomes), "seconds": seconds})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._entries[-1]) + "\n")

    def sum_up(self, kind: Kind) -> tuple[Part, int]:
        """Return what was tried of a kind, and the number of the next trial."""
        own = [entry for entry in self._entries if entry["kind"] == kind]
        outcomes: Counter[str] = Counter()
        for entry in own:
            outcomes.update(entry["outcomes"])
        tried = sum(count for outcome, count in outcomes.items() if not outcome.startswith("ended"))
        seconds = sum(entry["seconds"] for entry in own)
        return Part(kind=kind, tried=tried, outcomes=dict(outcomes), seconds=seconds), own[-1]["last"] + 1 if own else 0


def seed_trial(kind: Kind, seed: int, number: int) -> Random:
    """Return the random numbers of one trial."""
    return Random(f"{kind} {seed} {number}")  # noqa: S311 (nothing secret)


def make_trials(work: Path, seed: int) -> dict[Kind, Try]:
    """Return what carries out one trial of each kind."""
    tiny = TinyRun(work / "tiny")
    folder = work / "artefacts"
    kept: dict[str, Artefact] = {}

    def kill(number: int) -> Iterator[str]:
        return tiny.kill_and_repeat(seed_trial("kills", seed, number))

    def read_recipe(number: int) -> Iterator[str]:
        yield try_recipe(mutate(seed_trial("recipes", seed, number)), work)

    def read_artefact(number: int) -> Iterator[str]:
        if not kept:
            _ = tiny.operations
            folder.mkdir(parents=True)
            kept.update(make_artefacts(tiny.undisturbed, folder))
        random = seed_trial("artefacts", seed, number)
        name = random.choice(sorted(kept))
        found = try_artefact(kept[name], random)
        yield f"{found}: {name}" if found.startswith("fault") else found

    def sabotage(number: int) -> Iterator[str]:
        yield tiny.sabotage_and_repeat(seed_trial("sabotages", seed, number))

    return {"kills": kill, "sabotages": sabotage, "artefacts": read_artefact, "recipes": read_recipe}


def carry_out(kind: Kind, trial: Try, wanted: int, diary: Diary) -> None:
    """Carry out trials of a kind until so many were tried."""
    while True:
        part, number = diary.sum_up(kind)
        if part.tried >= wanted:
            return
        begun, outcomes, last = time.monotonic(), Counter[str](), number + min(PIECES[kind], wanted - part.tried) - 1
        for each in range(number, last + 1):
            outcomes.update(trial(each))
        diary.add(kind, last, outcomes, time.monotonic() - begun)
        click.echo(f"{kind}: {diary.sum_up(kind)[0].tried} of {wanted}, {diary.sum_up(kind)[0].faults} faults", err=True)


@click.command(help=__doc__)
@click.option("--kills", type=click.IntRange(min=0), default=GOALS["kills"], show_default=True)
@click.option("--recipes", type=click.IntRange(min=0), default=GOALS["recipes"], show_default=True)
@click.option("--artefacts", type=click.IntRange(min=0), default=GOALS["artefacts"], show_default=True)
@click.option("--sabotages", type=click.IntRange(min=0), default=GOALS["sabotages"], show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for runs and the diary.")
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, help="Folder for the results; default: with ours.")
def main(*, kills: int, recipes: int, artefacts: int, sabotages: int, seed: int, work: Path, out: Path) -> None:
    """Carry out the study."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import_everything()
    work = work.resolve()
    place = work / str(os.getpid())  # what a stopped study left is not in the way
    diary, trials = Diary(work / "diary.jsonl"), make_trials(place, seed)
    wanted: dict[Kind, int] = {"recipes": recipes, "artefacts": artefacts, "sabotages": sabotages, "kills": kills}
    for kind, trial in trials.items():
        carry_out(kind, trial, wanted[kind], diary)
    parts = tuple(diary.sum_up(kind)[0] for kind in get_args(Kind))
    command = shlex.join(["python", "-m", "benchmarks.studies.torture", "--work", "WORK"])
    report.write(Torture(command=command, seed=seed, parts=parts, environment=read_environment()), out)
    sys.exit(1 if any(part.faults for part in parts) else 0)


if __name__ == "__main__":
    main()
