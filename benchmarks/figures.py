"""Figures of raw series: medians, percentiles, intervals, ratios, and in words why some are not to be relied on."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import conditions
from benchmarks.job import Job
from benchmarks.timer import DISTURBED_SHARE
from compress.errors import Unreachable, Unstable
from compress.records import Latency, Ratio
from compress.statistics.series import (
    FEWEST_LAUNCHES,
    compute_median_interval,
    compute_paired_ratios,
    count_calls_needed,
    explain_instability,
    find_percentile,
    has_few_independent,
    judge_ratio,
)

TAILS = (90, 99)
"""The percentiles that are reported beside the median."""
USELESS_FACTOR = 10.0
"""Where the middle half of every file's rounds spans this factor, not even the order of magnitude is known."""
OTHER_WAIT_POINTS = 5.0
"""If one of two files waited for a core by so many points more than the other, their ratio is not that of the files alone."""


class Series(NamedTuple):
    """What was measured of one file, with the rounds that count."""

    raw: Mapping[str, Any]
    rounds: Sequence[Sequence[int]]
    """Numbers of the rounds that count, for each launch."""
    causes: Sequence[str]
    """What befell the machine meanwhile."""

    def pick(self, key: str) -> list[Any]:
        """Return the values of the rounds that count, in order."""
        return [self.raw[key][number] for numbers in self.rounds for number in numbers]


def compute_latencies(job: Job, result: Mapping[str, Any]) -> dict[str, Latency]:
    """Return the latency of each file of a raw result.

    Raises:
        Unreachable: The result is not what the runner writes.
        Unstable: The rounds of every file scatter so much that not even the order of magnitude is known.
    """
    try:
        latencies = _compute(job, result)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise Unreachable(f"the device: its result is not what the runner writes ({error!r:.200}); measure again") from error
    middles = {name: statistics.quantiles(one.rounds, n=4, method="inclusive") for name, one in latencies.items()}
    if all(high > USELESS_FACTOR * low for low, _, high in middles.values()):
        shown = ", ".join(f"{name} {low:.3g} to {high:.3g} ms" for name, (low, _, high) in middles.items())
        raise Unstable(f"measure: the rounds scatter too much for any figure ({shown}); stop other work on the machine")
    return latencies


def _compute(job: Job, result: Mapping[str, Any]) -> dict[str, Latency]:
    subjects, launches = result["subjects"], result["launches"]
    made = sum(launch["rounds"] for launch in launches)
    if not made or {len(one["rounds_ns"]) for one in subjects.values()} != {made}:
        raise ValueError(f"{made} rounds")
    rounds = conditions.choose_rounds([one["waited"] for one in subjects.values()], launches)
    clocks = [clock for launch in launches for clock in launch["clock_khz"]]
    causes = [found for found in (conditions.explain_throttling(launches), conditions.explain_clock(clocks)) if found]
    return {name: _summarize(job, Series(one, rounds, causes)) for name, one in subjects.items()}


def _summarize(job: Job, series: Series) -> Latency:
    """Return the figures of one file."""
    series_ns, waited = series.pick("rounds_ns"), series.pick("waited")
    calls = [duration / 1e6 for durations in series_ns for duration in durations]
    rounds = tuple(statistics.median(durations) / 1e6 for durations in series_ns)
    launches = tuple(map(len, series.rounds))
    reasons = list(filter(None, _list_reasons(series, rounds, launches)))
    known = [share for share in waited if share is not None]
    return Latency(
        p50=statistics.median(rounds),
        p90=find_percentile(calls, 90),
        p99=find_percentile(calls, 99),
        mean=statistics.fmean(calls),
        stdev=statistics.stdev(calls),
        ci95=compute_median_interval(rounds, launches),
        samples=len(calls),
        percentiles_missing=_explain_missing(len(calls)),
        rounds=rounds,
        first_call=statistics.median(series.raw["first_call_ns"]) / 1e6,
        load=statistics.median(series.raw["load_ns"]) / 1e6,
        threads=job.threads,
        batch_size=job.batch_size or 1,
        stable=not reasons,
        instability="; ".join(reasons) or None,
        launches=launches,
        cpu=statistics.median(series.pick("cpu_ns")) / 1e6,
        waited_percent=100 * statistics.fmean(known) if known else None,
        disturbed_rounds=sum(share > DISTURBED_SHARE for share in series.raw["waited"] if share is not None) if known else None,
        calls_per_second=job.calls_per_second,
    )


def _list_reasons(series: Series, rounds: Sequence[float], launches: Sequence[int]) -> list[str]:
    """List why the figures of a file are not to be relied on; what befell the machine comes first, for it explains the rest."""
    few = len(launches) < FEWEST_LAUNCHES
    return [
        *series.causes,
        conditions.explain_disturbance(series.pick("waited")),
        conditions.explain_swapping(series.pick("major_faults")),
        "" if series.raw["settled"] else "it was still getting faster when warm-up had to end",
        explain_instability(rounds, launches),
        f"timed in {len(launches)} process{'es' * (len(launches) > 1)} of the {FEWEST_LAUNCHES} that an interval needs"
        if few
        else "",
    ]


def _explain_missing(calls: int) -> str | None:
    """Return why percentiles of so many calls are missing, without their number, so that several files may share the text."""
    needed = {percent: count_calls_needed(percent) for percent in TAILS}
    missing = [f"p{percent} needs at least {least} calls" for percent, least in needed.items() if calls < least]
    return f"{' and '.join(missing)}; measure longer" if missing else None


def compute_ratio(against: str, other: Latency, own: Latency) -> Ratio:
    """Return how many times faster `own` is than `other`, called `against`, from the rounds of one `measure`."""
    ratios = compute_paired_ratios(other.rounds, own.rounds)
    ci95 = compute_median_interval(ratios, own.launches)
    apart = abs((other.waited_percent or 0) - (own.waited_percent or 0)) > OTHER_WAIT_POINTS
    verdict = judge_ratio(ci95, doubtful=apart or has_few_independent(ratios, own.launches))
    return Ratio(against=against, speedup=statistics.median(ratios), ci95=ci95, verdict=verdict)
