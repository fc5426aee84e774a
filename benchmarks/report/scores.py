"""Accuracy of each method over its seeds, and paired comparisons of methods, in words and as terminal tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.report import wording
from benchmarks.report.spread import compute_spread_over_seeds, format_spread
from compress.records import McNemar, Paired, Report, Scores
from compress.text import MISSING, format_number, format_signed, quantify

SHOWN = 5
"""Seeds that are listed one by one."""

MCNEMAR_SINGLE = "McNemar's exact test looks at the images that only one of the two gets right."
MCNEMAR_SEVERAL = "McNemar's exact test compares the two networks of one seed, on the images that only one gets right."
SWAP_TEST = (
    "The swap test asks how often the two networks of one seed differ as much when their images are exchanged at random."
)
SINGLE = (
    f"Differences are paired: both networks saw the same images. The interval is bootstrapped over images. {MCNEMAR_SINGLE} "
    "A verdict needs both."
)
SEVERAL = (
    "Differences are paired: both networks saw the same images and, seed by seed, began with the same weights and order of "
    "batches. The first interval is bootstrapped over images and seeds, the second is Student's t over seeds on these images; "
    f"a verdict needs both. {MCNEMAR_SEVERAL}"
)
ONE_SEED_NOTE = (
    "With one seed the verdict is on these two networks and not on their methods, which another seed may order otherwise: run "
    "with --seeds 3."
)
TEACHER_NOTE = "A teacher is one network; against it, the interval over seeds is that of the students."
MULTIPLICITY_NOTE = "Nothing is corrected for many comparisons: of twenty comparisons of equals, one may be called different."

STYLES = {"better": "green", "worse": "red", "not distinguishable": ""}


class MethodLine(NamedTuple):
    """One method."""

    network: str
    method: str
    top1: str
    each: str
    """Of every seed, in order."""
    trained: int
    """How many seeds."""
    trained_with: str
    """How many seeds, and which: `1 seed (0)`."""
    images: int
    validation: str
    """Mean over seeds."""
    nll: str
    """Mean over seeds of the negative log-likelihood of the test labels, in nats."""
    ece: str
    """Mean over seeds of the expected calibration error on the test split, in percent."""


class Contrast(NamedTuple):
    """One method against another."""

    names: tuple[str, str]
    points: str
    ci95: str
    over_seeds: str
    differing: str
    """Images that only this, and only the other, gets right, for each pair, or in all."""
    p_values: str
    pairs: int
    images: int
    pairing: str
    verdict: str


def describe_methods(report: Report) -> list[MethodLine]:
    """Return every method of a report, the teachers first."""
    return [_describe_method(scores) for scores in report.scores]


def _describe_method(scores: Scores) -> MethodLine:
    found = scores.seeds
    validation = sum(score.validation.percent for score in found) / len(found)
    known = [score.calibration for score in found if score.calibration]
    nll = format_number(mean(score.nll for score in known)) if known else MISSING
    ece = f"{mean(score.ece_percent for score in known):.1f}" if known else MISSING
    each = ", ".join(f"{score.accuracy.percent:.1f}" for score in found)
    return MethodLine(
        network=scores.network,
        method=scores.method,
        top1=format_spread(compute_spread_over_seeds(found), 1),
        each=each if 1 < len(found) <= SHOWN else MISSING,
        trained=len(found),
        trained_with=describe_seeds([score.seed for score in found]),
        images=found[0].accuracy.samples,
        validation=f"{validation:.1f}",
        nll=nll,
        ece=ece,
    )


def describe_seeds(seeds: Sequence[int]) -> str:
    """Return how many seeds there are, and which: `1 seed (0)`, `3 seeds (0, 1, 2)`."""
    return f"{quantify(len(seeds), 'seed')} ({', '.join(map(str, seeds))})"


def describe_contrasts(paired: Sequence[Paired]) -> list[Contrast]:
    """Return comparisons as text."""
    return [_describe_contrast(each) for each in paired]


def _describe_contrast(found: Paired) -> Contrast:
    pairing = {"images and seeds": f"images and {found.seeds} seeds", "images": "images", "none": f"unpaired: {found.note}"}
    return Contrast(
        names=(found.this, found.other),
        points=format_signed(found.points, 2),
        ci95=_format_signed_interval(found.ci95),
        over_seeds=_format_signed_interval(found.ci95_over_seeds),
        differing=_format_differing(found.mcnemar),
        p_values=_format_p_values([test.p_value for test in found.mcnemar] or list(found.swap_p_values)),
        pairs=found.seeds,
        images=found.images,
        pairing=pairing[found.pairing],
        verdict=found.verdict,
    )


def _format_signed_interval(bounds: tuple[float, float] | None) -> str:
    return MISSING if bounds is None else " to ".join(format_signed(bound, 2) for bound in bounds)


def _format_differing(tests: Sequence[McNemar]) -> str:
    if len(tests) > SHOWN:
        return f"{sum(test.only_this for test in tests)} : {sum(test.only_other for test in tests)} in all"
    return ", ".join(f"{test.only_this} : {test.only_other}" for test in tests) or MISSING


def _format_p_values(values: Sequence[float]) -> str:
    if len(values) > SHOWN:
        return f"{_format_p_value(min(values))} to {_format_p_value(max(values))}"
    return ", ".join(map(_format_p_value, values)) or MISSING


def _format_p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def explain_contrasts(report: Report) -> list[str]:
    """Return the rules by which the comparisons were judged, and their limits."""
    if not report.paired:
        return []
    several = any(paired.pairing == "images and seeds" for paired in report.paired)
    whole = SEVERAL if several else SINGLE
    if any(each.swap_p_values for each in report.paired):
        whole = whole.replace(MCNEMAR_SINGLE, SWAP_TEST).replace(MCNEMAR_SEVERAL, SWAP_TEST)
    return [whole, TEACHER_NOTE if several else ONE_SEED_NOTE, MULTIPLICITY_NOTE]


def make_score_tables(report: Report) -> list[Table]:
    """Return what the table of files does not show, for 100 columns: accuracies over several seeds, and comparisons."""
    several = any(len(scores.seeds) > 1 for scores in report.scores)
    return [
        *([_make_method_table(report)] if several else []),
        *([make_contrast_table(report.paired)] if report.paired else []),
    ]


def _make_method_table(report: Report) -> Table:
    drawn = _make_empty_table()
    for heading in ("network", "method"):
        drawn.add_column(heading, overflow="fold")
    numbers = ("seeds", "test images", f"{wording.name_metric(report)} %, mean ± std or 95 %", "each seed")
    for heading in numbers:
        drawn.add_column(heading, justify="right", overflow="fold")
    for line in describe_methods(report):
        cells = (line.network, line.method, line.trained_with, str(line.images), line.top1, line.each)
        drawn.add_row(*map(Text, cells))
    return drawn


def make_contrast_table(paired: Sequence[Paired]) -> Table:
    """Return comparisons as a table for a terminal of 100 columns."""
    several = any(each.ci95_over_seeds for each in paired)
    drawn = _make_empty_table()
    drawn.add_column("compared", overflow="fold")
    numbers = ("points\n95 %", *(["95 %\nover seeds"] if several else []), "only this : other\nMcNemar p")
    for heading in numbers:
        drawn.add_column(heading, justify="right", overflow="fold")
    drawn.add_column("verdict\npaired over", overflow="fold")
    for each in describe_contrasts(paired):
        cells = (
            f"{each.names[0]}\nagainst {each.names[1]}",
            f"{each.points}\n{each.ci95}",
            *([each.over_seeds] if several else []),
            f"{each.differing}\n{each.p_values}",
        )
        judged = Text.assemble((each.verdict, STYLES[each.verdict]), f"\n{each.pairing}")
        drawn.add_row(*map(Text, cells), judged)
    rule = "both intervals" if several else "the interval, and p below 0.05"
    drawn.caption = Text(f"better or worse needs {rule}; nothing is corrected for many comparisons", style="dim")
    if any(each.pairing == "images" for each in paired):
        drawn.caption.append(f"\n{ONE_SEED_NOTE}", style="not dim")
    return drawn


def _make_empty_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, caption_justify="left")
