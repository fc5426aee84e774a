"""What is said of a machine that was disturbed while it timed files."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import conditions

STATE: dict[str, Any] = {"throttled_bits": None, "throttle_count": {}, "cooling_state": {}, "cgroup_cpu": {}}


def launch(*, before: dict[str, Any] | None = None, after: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a launch with some of its states told."""
    return {"before": STATE | (before or {}), "after": STATE | (after or {}), "clock_khz": [], "rounds": 1, "wanted": 1}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        pytest.param({}, {}, "", id="nothing told"),
        pytest.param({"throttled_bits": 0x50000}, {"throttled_bits": 0x50000}, "", id="Pi, long ago"),
        pytest.param({"throttled_bits": 0}, {"throttled_bits": 0x50000}, "throttled, under-voltage", id="Pi, meanwhile"),
        pytest.param({"throttled_bits": 4}, {"throttled_bits": 4}, "throttled: throttled", id="Pi, all the time"),
        pytest.param({"throttle_count": {"a": "3", "b": "0"}}, {"throttle_count": {"a": "3", "b": "1"}}, "counted", id="Intel"),
        pytest.param({"throttle_count": {"a": "3"}}, {"throttle_count": {"a": "3"}}, "", id="Intel, before"),
        pytest.param({}, {"cooling_state": {"a": "0", "b": "2"}}, "cooled by slowing down", id="Arm"),
        pytest.param(
            {"cgroup_cpu": {"x": "nr_throttled 4"}}, {"cgroup_cpu": {"x": "nr_periods 9\nnr_throttled 6"}}, "quota", id="quota"
        ),
    ],
)  # fmt: skip
def test_signs_of_throttling_are_known(before: dict[str, Any], after: dict[str, Any], said: str) -> None:
    """What happened while files were timed is a cause, what happened long before is none."""
    found = conditions.explain_throttling([launch(before=before, after=after)])
    assert said in found
    assert bool(found) is bool(said)


def test_a_falling_clock_is_told_with_both_clocks() -> None:
    """A clock that falls by more than 3 % from the first to the last third is a cause; a rise, or none told, is not."""
    assert conditions.explain_clock([1800e3] * 5 + [1500e3] * 5) == "the clock fell from 1800 to 1500 MHz"
    for quiet in ([1800e3] * 5 + [1780e3] * 5, [1500e3] * 5 + [1800e3] * 5, [None] * 9, [1800e3, 900e3], []):
        assert conditions.explain_clock(quiet) == ""


def test_other_work_is_told_by_how_much_and_how_often() -> None:
    """Only rounds that waited for more than 5 % are disturbed, and what is not known is no disturbance."""
    said = conditions.explain_disturbance([0.01, 0.6, None, 0.66])
    assert said.startswith("disturbed: it waited for a core 63 % of the time in 2 of 4 rounds")
    assert conditions.explain_disturbance([0.05, None, 0.0]) == ""


def test_pages_from_disk_in_several_rounds_are_swapping() -> None:
    """One round is a file that is touched for the first time."""
    assert conditions.explain_swapping([0, 7, 0]) == conditions.explain_swapping([None, None]) == ""
    assert conditions.explain_swapping([3, 7, 0]) == "swapping: it waited for 10 pages from disk in 2 of 3 rounds"


def test_undisturbed_rounds_count_and_then_the_least_disturbed() -> None:
    """Each launch gives the rounds that were wanted of it, for all files the same ones, in order."""
    waited = [[0.0, 0.9, 0.0, 0.2, 0.0, 0.0], [0.0, 0.0, 0.0, 0.1, 0.3, 0.0]]
    launches = [{"rounds": 4, "wanted": 2}, {"rounds": 2, "wanted": 2}]
    assert conditions.choose_rounds(waited, launches) == [[0, 2], [4, 5]]
    assert conditions.choose_rounds([[0.5, 0.9, 0.7, 0.0]], [{"rounds": 4, "wanted": 2}]) == [[0, 3]]
    assert conditions.choose_rounds([[None] * 3], [{"rounds": 3, "wanted": 3}]) == [[0, 1, 2]]


def test_what_no_kernel_told_is_unavailable() -> None:
    """Nothing is said to be fine that could not be seen."""
    told = conditions.describe_conditions([launch()], [{"waited": [None], "major_faults": [None]}])
    assert set(told.values()) == {"unavailable"}
    fine = launch(before={"throttle_count": {"a": "0"}}) | {"clock_khz": [1e6] * 3}
    seen = conditions.describe_conditions([fine], [{"waited": [0.012], "major_faults": [0]}])
    assert list(seen.values()) == ["none", "did not fall", "0 pages from disk", "1.2 % of the time"]
