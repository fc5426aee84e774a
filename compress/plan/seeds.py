"""Several seeds of one recipe: which they are, and what they make of a plan.

A seed is that of the students: their initial weights, those of the method's modules, and the order of the batches. The data,
the validation split, the teachers, and what is trained on teachers alone are the recipe's for all seeds, so that students of
two methods can be compared image by image and seed by seed. The first seed is the one that is exported, gated and timed; to
choose it by its accuracy would flatter it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from compress.errors import CompressError
from compress.plan.plan import Plan, Stage

LIMIT = 100
"""More seeds than this are a seed that was mistaken for their number."""


def parse_seeds(text: str | None, *, base: int) -> tuple[int, ...]:
    """Return the seeds of `3` (that many from `base` on), of `1,5,9` (these), or of nothing (`base` alone).

    Raises:
        CompressError: It is neither, or names no seed, a negative one, one twice, or too many.
    """
    if text is None:
        return (base,)
    if not re.fullmatch(r"-?[0-9]{1,18}(,-?[0-9]{1,18})*", text):
        raise CompressError(
            f"--seeds: {text!r} is neither a number of seeds nor a list of them; give for example 3, or 1,5,9 without spaces"
        )
    numbers = [int(part) for part in text.split(",")]
    if negative := next((number for number in numbers if number < 0), None):
        raise CompressError(
            f"--seeds: {negative} is negative; seeds, and how many there are, are whole numbers from 0 and 1 on"
        )
    if len(numbers) == 1:
        return _first_seeds(numbers[0], base)
    if twice := [number for number in dict.fromkeys(numbers) if numbers.count(number) > 1]:
        raise CompressError(
            f"--seeds: {', '.join(map(str, twice))} is named more than once, and would be the same student; name each seed once"
        )
    if len(numbers) > LIMIT:
        raise CompressError(f"--seeds: names {len(numbers)} seeds; {LIMIT} are the most that one run trains, split the list")
    return tuple(numbers)


def _first_seeds(count: int, base: int) -> tuple[int, ...]:
    if count == 0:
        raise CompressError("--seeds: 0 seeds train no student; give 1 or more")
    if count > LIMIT:
        raise CompressError(
            f"--seeds: {count} would train every student {count} times, and {LIMIT} is the most; for the seed {count} alone, "
            f"use --set seed={count}"
        )
    return tuple(range(base, base + count))


def repeat_students(plan: Plan, seeds: Sequence[int]) -> Plan:
    """Return a plan in which every student is trained with every seed."""
    if len(seeds) < 2:
        return plan
    note = (
        f"seeds {', '.join(map(str, seeds))}: each trains student and baselines anew, on the same data and teachers; "
        f"that of seed {seeds[0]}, the first, is exported, gated and timed"
    )
    stages = tuple(_repeat_stage(stage, len(seeds)) if stage.student else stage for stage in plan.stages)
    return plan.model_copy(update={"stages": stages, "notes": (*plan.notes, note)})


def _repeat_stage(stage: Stage, times: int) -> Stage:
    if stage.work is None:
        return stage
    work = stage.work.model_copy(
        update={"seeds": times, "trained": times * stage.work.trained, "teacher": times * stage.work.teacher}
    )
    return stage.model_copy(update={"work": work})
