"""What the intervals and verdicts of latencies cover: `python -m benchmarks.studies.coverage [--draws 2000] [--out FOLDER]`.

Simulates rounds whose true median is known: with noise of three shapes and several sizes, independent or resembling the round
before (a first-order autoregression, carried over to the shape), in one process or in several that differ. Asks
`compress.statistics.series` for their interval, whether they are stable, and the verdict on two equal files. Nothing is timed,
so any machine gives the same numbers. Takes five minutes. Writes `coverage.json` and `report.md`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import pages
from compress.records import Document, Record, save
from compress.statistics import series

OUT = Path(__file__).parents[1] / "results" / "coverage"

Shape = Literal["log-normal", "exponential tail", "heavy tails"]
SIZES = (0.01, 0.03, 0.05, 0.08)
"""Standard deviation of a log-normal round over its median; the other shapes are scaled alike."""
ROUNDS = (5, 6, 8, 10, 15, 40)
CORRELATIONS = (0.0, 0.3, 0.6, 0.9)
LAUNCHES = ((3, 5), (5, 3))
"""Processes and rounds of each: what `compress bench` does by itself, and more processes."""
LAUNCH_SIZES = (0.0, 0.01, 0.02)
"""Standard deviation, over the median, by which one process differs from the next."""
NOISE = 0.01
"""Noise of a round where processes are simulated."""
BOOTSTRAP = 400
"""Resamples of the bootstrap over processes that is shown beside."""
FEWEST_STABLE = 0.25
"""Where a smaller share of the measurements is called stable, those are the lucky ones; the table says so."""


class Coverage(Record):
    """Intervals of one kind of rounds."""

    rounds: int
    shape: Shape
    size: float
    """Standard deviation of a round, over its median."""
    correlation: float
    """Of a round with the one before it."""
    draws: int
    covered: float
    """Share of the intervals that hold the true median."""
    stable: float
    """Share of the measurements that are called stable."""
    covered_if_stable: float | None
    """Share of the intervals of those that hold it; `None` where there are fewer than a hundred."""


class LaunchCoverage(Record):
    """Intervals of rounds that several processes made."""

    launches: int
    rounds: int
    """Of each."""
    launch_size: float
    """By how much processes differ."""
    correlation: float
    """Of a round with the one before it."""
    carried: bool
    """Whether the first round of a process resembles the last one of the process before, too."""
    draws: int
    covered: float
    """Share of the intervals that hold the true median."""
    covered_by_rounds: float
    """The same of intervals that take all rounds for those of one process."""
    covered_by_bootstrap: float
    """The same of a percentile bootstrap that draws processes, then rounds of each."""
    stable: float
    covered_if_stable: float | None
    width: float
    """Mean width of the interval over the median."""


class FalseVerdicts(Record):
    """Verdicts on two equal files."""

    launches: int = 1
    """Processes that share the rounds, independent of each other."""
    rounds: int
    correlation: float
    """Of a round with the one before it, in what disturbs each file alone."""
    draws: int
    different: float
    """Share called faster or slower."""
    unstable: float
    """Share called unstable."""


class Study(Document):
    """All that was simulated."""

    seed: int
    coverage: tuple[Coverage, ...]
    launch_coverage: tuple[LaunchCoverage, ...]
    false_verdicts: tuple[FalseVerdicts, ...]


def draw_rounds(
    random: np.random.Generator, rounds: int, *, draws: int, shape: Shape, size: float, correlation: float,
    in_process: int | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """Draw the rounds of many measurements, [draws, rounds]; their true median is 1.

    Args:
        random: Source of chance.
        rounds: In a measurement.
        draws: Measurements.
        shape: Of the noise.
        size: Of the noise.
        correlation: Of a round with the one before it.
        in_process: How many rounds a process makes; the first of each resembles none before. Default: all.
    """
    from scipy.stats import norm, t

    noise = random.standard_normal((draws, rounds))
    for place in range(1, rounds):
        if in_process and place % in_process == 0:
            continue
        noise[:, place] = correlation * noise[:, place - 1] + (1 - correlation**2) ** 0.5 * noise[:, place]
    if shape == "exponential tail":
        noise = -np.log(norm.sf(noise)) - np.log(2)
    if shape == "heavy tails":
        noise = t.ppf(norm.cdf(noise), 3)
    return np.exp(size * noise)


def simulate_coverage(rounds: int, *, shape: Shape, size: float, correlation: float, draws: int, seed: int = 0) -> Coverage:
    """Simulate measurements and count how often their intervals hold the true median."""
    drawn = draw_rounds(
        _make_random(seed, rounds, size, correlation), rounds, draws=draws, shape=shape, size=size, correlation=correlation
    ).tolist()
    bounds = np.array([series.compute_median_interval(each) for each in drawn])  # [draws, 2]
    holds = (bounds[:, 0] <= 1) & (bounds[:, 1] >= 1)
    stable = np.array([not series.explain_instability(each) for each in drawn])
    return Coverage(
        rounds=rounds, shape=shape, size=size, correlation=correlation, draws=draws, covered=float(holds.mean()),
        stable=float(stable.mean()), covered_if_stable=float(holds[stable].mean()) if stable.sum() >= 100 else None,
    )  # fmt: skip


def simulate_launches(
    launches: int, rounds: int, *, launch_size: float, correlation: float, carried: bool, draws: int, seed: int = 0
) -> LaunchCoverage:
    """Simulate measurements by several processes that differ, and count how often three kinds of interval hold the median."""
    random = _make_random(seed, launches * rounds, launch_size, correlation, float(carried))
    drawn = draw_rounds(
        random, launches * rounds, draws=draws, shape="log-normal", size=NOISE, correlation=correlation,
        in_process=None if carried else rounds,
    )  # fmt: skip
    drawn *= np.exp(launch_size * np.repeat(random.standard_normal((draws, launches)), rounds, axis=1))
    made = [rounds] * launches
    bounds = np.array([series.compute_median_interval(each, made) for each in drawn.tolist()])  # [draws, 2]
    pooled = np.array([series.compute_median_interval(each) for each in drawn.tolist()])
    drawn_anew = np.array([bootstrap_launches(each, launches, random) for each in drawn])
    holds, of_rounds, of_bootstrap = ((each[:, 0] <= 1) & (each[:, 1] >= 1) for each in (bounds, pooled, drawn_anew))
    stable = np.array([not series.explain_instability(each, made) for each in drawn.tolist()])
    return LaunchCoverage(
        launches=launches, rounds=rounds, launch_size=launch_size, correlation=correlation, carried=carried, draws=draws,
        covered=float(holds.mean()), covered_by_rounds=float(of_rounds.mean()),
        covered_by_bootstrap=float(of_bootstrap.mean()), stable=float(stable.mean()),
        covered_if_stable=float(holds[stable].mean()) if stable.sum() >= 100 else None,
        width=float(np.diff(bounds).mean()),
    )  # fmt: skip


def bootstrap_launches(rounds: NDArray[np.float64], launches: int, random: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of the median of rounds [launches * rounds]."""
    parts = rounds.reshape(launches, -1)
    of_launches = random.integers(launches, size=(BOOTSTRAP, launches))
    of_rounds = random.integers(parts.shape[1], size=(BOOTSTRAP, *parts.shape))
    medians = np.median(parts[of_launches[..., None], of_rounds].reshape(BOOTSTRAP, -1), axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(high)


def simulate_false_verdicts(
    rounds: int, *, correlation: float, draws: int, launches: int = 1, size: float = 0.03, seed: int = 0
) -> FalseVerdicts:
    """Simulate two equal files, each with a disturbance of its own, and count the verdicts that call them different."""
    random = _make_random(seed, rounds, size, correlation)
    one, two = (
        draw_rounds(
            random, rounds, draws=draws, shape="log-normal", size=size, correlation=correlation, in_process=rounds // launches
        ).tolist()
        for _ in range(2)
    )
    verdicts = [_judge(*pair, [rounds // launches] * launches) for pair in zip(one, two, strict=True)]
    different = sum(verdict in ("faster", "slower") for verdict in verdicts)
    return FalseVerdicts(
        launches=launches, rounds=rounds, correlation=correlation, draws=draws, different=different / draws,
        unstable=verdicts.count("unstable") / draws,
    )  # fmt: skip


def _make_random(seed: int, rounds: int, *shares: float) -> np.random.Generator:
    """Return a source of chance of its own for each kind of rounds."""
    return np.random.default_rng([seed, rounds, *(round(1000 * share) for share in shares)])


def _judge(other: Sequence[float], own: Sequence[float], launches: Sequence[int]) -> series.Verdict:
    ratios = series.compute_paired_ratios(other, own)
    doubtful = series.has_few_independent(ratios, launches)
    return series.judge_ratio(series.compute_median_interval(ratios, launches), doubtful=doubtful)


def simulate_all(*, draws: int, seed: int = 0) -> Study:
    """Simulate every kind of rounds: all shapes and sizes where rounds are independent, one shape where they are not."""
    shapes: tuple[Shape, ...] = get_args(Shape)
    kinds = [(shape, size, 0.0) for shape, size in itertools.product(shapes, SIZES)]
    kinds += [("log-normal", size, correlation) for correlation, size in itertools.product(CORRELATIONS[1:], SIZES[:2])]
    return Study(
        seed=seed,
        coverage=tuple(
            simulate_coverage(rounds, shape=shape, size=size, correlation=correlation, draws=draws, seed=seed)
            for (shape, size, correlation), rounds in itertools.product(kinds, ROUNDS)
        ),
        launch_coverage=tuple(
            simulate_launches(
                *launches, launch_size=size, correlation=correlation, carried=carried, draws=max(100, draws // 2), seed=seed
            )
            for launches, size, carried, correlation in itertools.product(LAUNCHES, LAUNCH_SIZES, (False, True), CORRELATIONS)
            if correlation or not carried
        ),
        false_verdicts=tuple(
            simulate_false_verdicts(rounds, correlation=correlation, launches=launches, draws=draws, seed=seed)
            for correlation, (launches, rounds) in itertools.product(
                CORRELATIONS, [*((1, rounds) for rounds in ROUNDS), *((many, many * few) for many, few in LAUNCHES)]
            )
        ),
    )


def render(study: Study) -> str:
    """Return the tables as Markdown."""
    return pages.render_markdown(
        "coverage.md.j2", folder=Path(__file__).parent, study=study, least=FEWEST_STABLE, noise=NOISE,
        least_covered=find_least_covered(study.launch_coverage),
    )  # fmt: skip


def find_least_covered(found: Sequence[LaunchCoverage]) -> float | None:
    """Return the smallest share of stable intervals that hold the median, of those kinds of which many are stable."""
    often = [each for each in found if each.stable >= FEWEST_STABLE]
    return min((each.covered_if_stable for each in often if each.covered_if_stable is not None), default=None)


@click.command()
@click.option("--draws", default=2000, show_default=True, type=click.IntRange(min=100), help="Measurements of each kind.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=OUT, show_default=True, help="Folder to write."
)
def main(draws: int, out: Path) -> None:
    """Simulate what the intervals of latencies cover."""
    study = simulate_all(draws=draws)
    out.mkdir(parents=True, exist_ok=True)
    save(out / "coverage.json", study)
    pages.save(out / "report.md", render(study))
    click.echo(render(study))


if __name__ == "__main__":
    main()
