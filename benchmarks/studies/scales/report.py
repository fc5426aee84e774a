"""`scales.json` and `report.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.studies.scales.records import Arm, Scales
from compress.records import save
from compress.system.files import write_whole
from compress.text import format_number, format_signed, quantify

RESULT, REPORT = "scales.json", "report.md"

READING = """\
*Scale*: the norm of the gradient of all terms that teach (those on the labels left out), with respect to the student's weights,
in that of the cross-entropy of its own logits on the same batch; mean over seeds, before the step that is named. *Top-1* is the
mean over seeds, beside it the difference from plain training of the same seeds, for each seed. All have one learning rate for
each optimizer. So small a problem shows scales and what breaks; it does not rank methods, whose differences are some images."""


def write(result: Scales, folder: Path) -> None:
    """Write both files into a folder.

    Raises:
        Unreachable: It cannot be written.
    """
    save(folder / RESULT, result)
    with write_whole(folder / REPORT) as temporary:
        temporary.write_text(render(result), encoding="utf-8")


def render(result: Scales) -> str:
    """Return the report in Markdown."""
    seeds = sorted({arm.seed for arm in result.arms})
    head = (
        f"{result.images['train']} training and {result.images['test']} test images of scikit-learn's digits, 8 × 8 pixels; "
        f"{quantify(result.steps, 'step')}; teacher {result.teacher_top1_percent:.1f} % top-1; "
        f"seeds {', '.join(map(str, seeds))}."
    )
    tables = [line for optimizer in dict.fromkeys(arm.optimizer for arm in result.arms) for line in _table(result, optimizer)]
    command = f"Command: `{result.command}`; {result.environment.cpu}, {result.environment.platform}."
    return "\n".join(["# Scales of losses", "", head, "", READING, "", *tables, command]) + "\n"


def _table(result: Scales, optimizer: str) -> Iterator[str]:
    arms = [arm for arm in result.arms if arm.optimizer == optimizer]
    steps = sorted({step for arm in arms for step in arm.scales})
    plain = {arm.seed: arm.top1_percent for arm in arms if arm.name == "supervised"}
    yield f"## {optimizer}, learning rate {arms[0].lr:g}"
    yield ""
    yield f"| method | {' | '.join(f'step {step}' for step in steps)} | top-1, % | points over plain | NLL | std of logits |"
    yield f"|---|{'--:|' * len(steps)}--:|---|--:|--:|"
    for name in dict.fromkeys(arm.name for arm in arms):
        yield _line([arm for arm in arms if arm.name == name], steps, plain)
    yield ""


def _line(arms: Sequence[Arm], steps: Sequence[int], plain: dict[int, float]) -> str:
    scales = [format_number(_mean_scale(arms, step), 2) for step in steps]
    over = [format_signed(arm.top1_percent - plain[arm.seed]) for arm in arms if arm.seed in plain]
    figures = (
        f"{mean(arm.top1_percent for arm in arms):.1f}", ", ".join(over) if arms[0].name != "supervised" else "",
        format_number(mean(arm.nll for arm in arms), 2), format_number(mean(arm.logit_std for arm in arms), 2),
    )  # fmt: skip
    return f"| {arms[0].name} | {' | '.join((*scales, *figures))} |"


def _mean_scale(arms: Sequence[Arm], step: int) -> float | None:
    known = [arm.scales[step] for arm in arms if step in arm.scales]
    return mean(known) if known and arms[0].name != "supervised" else None
