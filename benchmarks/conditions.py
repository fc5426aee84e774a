"""What a machine did while files were timed: whether it throttled, changed its clock, swapped, or had other work.

Pure functions of what the runner read on the machine. Each gives words, for they stand in reports and messages; what the kernel
did not tell is `unavailable`, and is then no cause of anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.machine import THROTTLED_NOW, UNAVAILABLE
from benchmarks.timer import DISTURBED_SHARE

CLOCK_FELL = 0.03
"""The clock fell if the mean of the last third of the rounds lies more than this share below that of the first."""
THROTTLING_KEYS = ("throttle_count", "throttled_bits", "cooling_state")
"""What a state tells of throttling, where the kernel tells anything."""
ROUNDS_WITH_FAULTS = 2
"""One round with a page from disk is a file that was touched for the first time; several are swapping."""


def choose_rounds(waited: Sequence[Sequence[float | None]], launches: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Return the numbers of the rounds that count, for each launch, in order.

    Those without a disturbance count; where they are too few, the least disturbed of the others, too.

    Args:
        waited: Of each subject, the share of each round in which it waited for a core, [subjects][rounds].
        launches: Of each launch, how many rounds it made and how many were wanted.
    """
    begin, chosen = 0, []
    for launch in launches:
        numbers = range(begin, begin + launch["rounds"])
        begin += launch["rounds"]
        worst = {number: max((series[number] or 0.0 for series in waited), default=0.0) for number in numbers}
        quiet = [number for number in numbers if worst[number] <= DISTURBED_SHARE]
        others = sorted((number for number in numbers if worst[number] > DISTURBED_SHARE), key=lambda number: worst[number])
        chosen.append(sorted((quiet + others)[: launch["wanted"]]))
    return chosen


def explain_disturbance(waited: Sequence[float | None]) -> str:
    """Return that other work held the core in rounds that count, or nothing."""
    disturbed = [share for share in waited if share is not None and share > DISTURBED_SHARE]
    if not disturbed:
        return ""
    return (
        f"disturbed: it waited for a core {100 * statistics.fmean(disturbed):.0f} % of the time in {len(disturbed)} of "
        f"{len(waited)} rounds, for other work ran"
    )


def explain_swapping(faults: Sequence[int | None]) -> str:
    """Return that pages came from disk in several rounds, or nothing."""
    found = [count for count in faults if count]
    if len(found) < ROUNDS_WITH_FAULTS:
        return ""
    return f"swapping: it waited for {sum(found)} pages from disk in {len(found)} of {len(faults)} rounds"


def explain_throttling(launches: Sequence[Mapping[str, Any]]) -> str:
    """Return by which signs the machine throttled while files were timed, or nothing."""
    signs = {sign for launch in launches for sign in _find_signs(launch["before"], launch["after"])}
    return f"throttled: {', '.join(sorted(signs))}" if signs else ""


def _find_signs(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    signs = [
        name
        for bit, name in THROTTLED_NOW.items()
        if _has_bit(after, bit) or (_has_bit(after, 16 + bit) and not _has_bit(before, 16 + bit))
    ]
    if _add_up(after.get("throttle_count")) > _add_up(before.get("throttle_count")):
        signs.append("the processor counted a throttling")
    if _add_up(after.get("cooling_state")) > 0:
        signs.append("it is cooled by slowing down")
    if _read_quota_stops(after) > _read_quota_stops(before):
        signs.append("its CPU quota stopped it")
    return signs


def _has_bit(state: Mapping[str, Any], bit: int) -> bool:
    bits = state.get("throttled_bits")
    return isinstance(bits, int) and bool(bits >> bit & 1)


def _add_up(counts: object) -> int:
    return sum(int(text) for text in counts.values() if str(text).isdigit()) if isinstance(counts, Mapping) else 0


def _read_quota_stops(state: Mapping[str, Any]) -> int:
    """Return how often a container's quota stopped what runs in it."""
    texts = state.get("cgroup_cpu") or {}
    words = [line.split() for text in texts.values() for line in str(text).splitlines()]
    return sum(int(line[1]) for line in words if len(line) == 2 and line[0] == "nr_throttled" and line[1].isdigit())


def explain_clock(clock_khz: Sequence[float | None]) -> str:
    """Return that the clock fell from the first to the last third of the rounds, or nothing."""
    known = [value for value in clock_khz if value]
    third = len(known) // 3
    if third == 0:
        return ""
    first, last = statistics.fmean(known[:third]), statistics.fmean(known[-third:])
    return f"the clock fell from {first / 1000:.0f} to {last / 1000:.0f} MHz" if last < (1 - CLOCK_FELL) * first else ""


def describe_conditions(launches: Sequence[Mapping[str, Any]], subjects: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what is said of the machine while it timed: throttling, clock, swapping and other work, each in words."""
    clocks = [clock for launch in launches for clock in launch["clock_khz"]]
    waited = [share for each in subjects for share in each["waited"]]
    faults = [count for each in subjects for count in each["major_faults"]]
    states = [state for launch in launches for state in (launch["before"], launch["after"])]
    tells = any(state.get(key) not in (None, {}) for state in states for key in THROTTLING_KEYS)
    pages = UNAVAILABLE if None in faults or not faults else f"{sum(filter(None, faults))} pages from disk"
    shares = [share for share in waited if share is not None]
    return {
        "throttling_while_timing": explain_throttling(launches) or ("none" if tells else UNAVAILABLE),
        "clock_while_timing": explain_clock(clocks) or ("did not fall" if any(clocks) else UNAVAILABLE),
        "swapping_while_timing": pages,
        "waited_for_a_core_while_timing": f"{100 * statistics.fmean(shares):.1f} % of the time" if shares else UNAVAILABLE,
    }
