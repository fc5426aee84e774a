"""What a file is called against itself: `python -m benchmarks.studies.equal_files [--network NAME] [--trials 20]`.

An A/A check of the machine that it runs on: each trial times one file under two names, as `compress bench` does, and asks for
the verdict. On a machine that does nothing else 95 of 100 should be "not distinguishable"; in 20 trials two at most may be
called faster or slower, however busy it is. It ends with 4 if there are more. A trial takes about ten seconds. Nothing is
written.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from benchmarks.protocol import Images, Subject, measure
from benchmarks.studies.fidelity.networks import NETWORKS, make_images, write_files
from compress.errors import Unstable
from compress.records import Ratio, Record

MOST_DIFFERENT = 0.1
"""Two of twenty: at most one verdict in twenty is a mistake, and of twenty checks one in four then sees two."""
Trial = Callable[[], Ratio]


class EqualFiles(Record):
    """Verdicts on a file against itself."""

    name: str
    trials: int
    verdicts: dict[str, int]
    """How often each was given."""
    lowest: float
    """Of the ratios, and so is the next."""
    highest: float
    covered: int
    """Trials whose interval holds 1."""

    @property
    def different(self) -> int:
        """Trials in which the file was called faster or slower than itself."""
        return self.verdicts.get("faster", 0) + self.verdicts.get("slower", 0)


def check_file(name: str, trials: int, trial: Trial) -> EqualFiles:
    """Time a file against itself, and count the verdicts.

    Args:
        name: Of the file.
        trials: How often.
        trial: Times it under two names.
    """
    ratios = [trial() for _ in range(trials)]
    return EqualFiles(
        name=name, trials=trials, verdicts=dict(Counter(each.verdict for each in ratios)),
        lowest=min(each.speedup for each in ratios), highest=max(each.speedup for each in ratios),
        covered=sum(each.ci95[0] <= 1 <= each.ci95[1] for each in ratios),
    )  # fmt: skip


def time_twice(path: Path, runtime: str, images: Images, *, seconds: float) -> Ratio:
    """Return the ratio of a file to itself, on images [N, C, H, W], from interleaved rounds.

    Raises:
        CompressError: The file cannot be timed.
    """
    subjects = [Subject(name, path, runtime) for name in ("one", "two")]
    ratio = measure(subjects, images, against="one", seconds=seconds)["two"].ratio
    assert ratio is not None  # noqa: S101 (for `two` is compared with `one`)
    return ratio


def refuse_different(found: Sequence[EqualFiles]) -> None:
    """Refuse a machine on which equal files are too often called different.

    Raises:
        Unstable: They are.
    """
    wrong = [f"{one.name}: {one.different} of {one.trials}" for one in found if one.different > MOST_DIFFERENT * one.trials]
    if wrong:
        raise Unstable(f"equal files were called different too often ({', '.join(wrong)}); trust no ratio near 1 from here")


@click.command()
@click.option("--network", default="digits", show_default=True, type=click.Choice(list(NETWORKS)))
@click.option("--trials", default=20, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=6.0, show_default=True, type=click.FloatRange(min=0.1), help="For both names together.")
def main(network: str, trials: int, seconds: float) -> None:
    """Time the files of a network against themselves, and count the verdicts.

    Raises:
        SystemExit: With 4, where equal files were called different too often.
    """
    found, images = [], make_images(NETWORKS[network])[:16]
    with tempfile.TemporaryDirectory(prefix="edge-compress-") as folder:
        for file in write_files(network, Path(folder)):
            trial = partial(time_twice, file.path, file.runtime, images, seconds=seconds)
            found.append(one := check_file(f"{file.runtime} {file.precision}", trials, trial))
            ratios = f"ratios {one.lowest:.3f} to {one.highest:.3f}, {one.covered} of {trials} intervals hold 1"
            click.echo(f"{one.name}: {one.verdicts}; {ratios}")
    try:
        refuse_different(found)
    except Unstable as error:
        click.echo(str(error), err=True)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
