"""What the intervals and verdicts of latencies cover: `python -m benchmarks.studies.coverage [--draws 2000] [--out FOLDER]`.

Simulates rounds whose true median is known: with noise of three shapes and several sizes, independent or resembling the round
before (a first-order autoregression, carried over to the shape). Asks `compress.statistics.series` for their interval, whether
they are stable, and the verdict on two equal files. Nothing is timed, so any machine gives the same numbers. Takes a minute.
Writes `coverage.json` and `report.md`.
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


class FalseVerdicts(Record):
    """Verdicts on two equal files."""

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
    false_verdicts: tuple[FalseVerdicts, ...]


def draw_rounds(
    random: np.random.Generator, rounds: int, *, draws: int, shape: Shape, size: float, correlation: float
) -> NDArray[np.float64]:
    """Draw the rounds of many measurements, [draws, rounds]; their true median is 1."""
    from scipy.stats import norm, t

    noise = random.standard_normal((draws, rounds))
    for place in range(1, rounds):
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


def simulate_false_verdicts(rounds: int, *, correlation: float, draws: int, size: float = 0.03, seed: int = 0) -> FalseVerdicts:
    """Simulate two equal files, each with a disturbance of its own, and count the verdicts that call them different."""
    random = _make_random(seed, rounds, size, correlation)
    one, two = (
        draw_rounds(random, rounds, draws=draws, shape="log-normal", size=size, correlation=correlation).tolist()
        for _ in range(2)
    )
    verdicts = [_judge(*pair) for pair in zip(one, two, strict=True)]
    different = sum(verdict in ("faster", "slower") for verdict in verdicts)
    return FalseVerdicts(
        rounds=rounds, correlation=correlation, draws=draws, different=different / draws,
        unstable=verdicts.count("unstable") / draws,
    )  # fmt: skip


def _make_random(seed: int, rounds: int, *shares: float) -> np.random.Generator:
    """Return a source of chance of its own for each kind of rounds."""
    return np.random.default_rng([seed, rounds, *(round(1000 * share) for share in shares)])


def _judge(other: Sequence[float], own: Sequence[float]) -> series.Verdict:
    ratios = series.compute_paired_ratios(other, own)
    return series.judge_ratio(series.compute_median_interval(ratios), correlated=series.is_correlated(ratios))


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
        false_verdicts=tuple(
            simulate_false_verdicts(rounds, correlation=correlation, draws=draws, seed=seed)
            for correlation, rounds in itertools.product(CORRELATIONS, ROUNDS)
        ),
    )


def render(study: Study) -> str:
    """Return the tables as Markdown."""
    return pages.render_markdown("coverage.md.j2", folder=Path(__file__).parent, study=study, least=FEWEST_STABLE)


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
