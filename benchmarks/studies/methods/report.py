"""`study.json` and `report.md`: a table for each part, the chosen learning rates, and a verdict on each hypothesis."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.report import paired
from benchmarks.report.spread import compute_spread_over_seeds, format_spread
from benchmarks.studies.methods.plan import HYPOTHESES, MARGIN_POINTS, PARTS, RATES, Hypothesis, choose_rates
from benchmarks.studies.methods.power import POWER, find_detectable_difference
from benchmarks.studies.methods.records import Piece, Student, Study
from compress.records import Paired, save
from compress.system.files import write_whole
from compress.text import format_number, format_signed, quantify

RESULT, REPORT = "study.json", "report.md"
COLUMNS = (
    "method", "learning rate", "top-1, %", "against supervised (95 %)", "against kd (95 %)", "NLL", "ECE, %",
    "parameters shipped", "training, × plain",
)  # fmt: skip
DEVIATION_POINTS = 1.0
"""Standard deviation of a paired difference over seeds that the power is stated for: of the committed comparisons with plain
training (`benchmarks/results/cifar10_resnet8`), whose standard deviations are 0.3 to 1.6 points, about the middle."""


def write(result: Study, folder: Path) -> None:
    """Write both files into a folder.

    Raises:
        Unreachable: It cannot be written.
    """
    save(folder / RESULT, result)
    with write_whole(folder / REPORT) as temporary:
        temporary.write_text(render(result), encoding="utf-8")


def render(result: Study) -> str:
    """Return the report in Markdown."""
    lines = ["# Study of methods", "", "Plan, tuning rule and hypotheses, stated before: docs/study.md.", ""]
    for part in PARTS:
        lines += _render_part(result, part)
    lines += ["## Hypotheses", "", "| | claim | this against other | points (95 %) | verdict |", "|---|---|---|--:|---|"]
    lines += [_judge(result, hypothesis) for hypothesis in HYPOTHESES]
    lines += ["", *_state_power(), "", f"Command: `{result.command}`."]
    return "\n".join(lines) + "\n"


def _render_part(result: Study, part: str) -> Iterator[str]:
    pieces = [piece for piece in result.pieces if piece.part == part]
    default = next((piece for piece in pieces if piece.kind == "default"), None)
    if default is None:
        return
    images = ", ".join(f"{count} {split}" for split, count in default.images.items())
    yield f"## Part {part}: {PARTS[part].recipe}"
    yield ""
    yield f"{images} images, {quantify(default.steps, 'step')}; {PARTS[part].optimizer}."
    yield ""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---|--:|--:|---|---|--:|--:|--:|--:|"
    for piece in (default, *(piece for piece in pieces if piece.kind == "tuned")):
        for student in piece.students:
            yield _line(pieces, piece, student)
    yield ""
    tried = [piece for piece in pieces if piece.kind == "tuning"]
    if len(tried) == len(RATES[PARTS[part].optimizer]):
        yield from _render_tuning(tried, part)


def _render_tuning(tried: Sequence[Piece], part: str) -> Iterator[str]:
    """Yield validation accuracy at each learning rate, and which was chosen."""
    rates = choose_rates(tried, part)
    yield f"| validation top-1, % | {' | '.join(f'lr {piece.lr:g}' for piece in tried)} | chosen |"
    yield f"|---|{'--:|' * (len(tried) + 1)}"
    for label, lr in rates.items():
        found = [_average_validation(piece, label) for piece in tried]
        yield f"| {label} | {' | '.join(f'{value:.1f}' for value in found)} | {lr:g} |"
    yield ""


def _average_validation(piece: Piece, label: str) -> float:
    student = next(each for each in piece.students if each.label == label)
    return statistics.mean(seed.validation.top1_percent for seed in student.scores.seeds)


def find_best(pieces: Sequence[Piece], part: str, label: str, *, tuned: bool) -> Student | None:
    """Return a method's student at the default learning rate, or at its own, which may be the same."""
    kinds = ("tuned", "default") if tuned else ("default",)
    for kind in kinds:
        for piece in pieces:
            if (piece.part, piece.kind) == (part, kind):
                found = next((student for student in piece.students if student.label == label), None)
                if found is not None:
                    return found
    return None


def _line(pieces: Sequence[Piece], piece: Piece, student: Student) -> str:
    """Return the row of a method; one at its own rate is compared with others at theirs."""
    compared = []
    plain = find_best(pieces, piece.part, "supervised", tuned=piece.kind == "tuned")
    for reference in ("supervised", "kd"):
        other = find_best(pieces, piece.part, reference, tuned=piece.kind == "tuned")
        same = other is None or other.label == student.label
        compared.append("" if same or other is None else _format(paired.pair(student.scores, other.scores)))
    known = [seed.calibration for seed in student.scores.seeds if seed.calibration]
    nll = format_number(statistics.mean(each.nll for each in known)) if known else ""
    ece = f"{statistics.mean(each.ece_percent for each in known):.1f}" if known else ""
    cost = f"{student.seconds / plain.seconds:.2f}" if plain is not None and plain.seconds else ""
    top1 = format_spread(compute_spread_over_seeds(student.scores.seeds), 1)
    rate = f"{piece.lr:g}{' (own)' if piece.kind == 'tuned' else ''}"
    cells = (student.label, rate, top1, *compared, nll, ece, f"{student.parameters:,}", cost)
    return f"| {' | '.join(cells)} |"


def _format(found: Paired) -> str:
    low, high = map(format_signed, found.ci95)
    verdict = "–" if found.verdict == "not distinguishable" else found.verdict
    return f"{format_signed(found.points)} ({low} to {high}) {verdict}"


def compare(result: Study, hypothesis: Hypothesis, part: str) -> Paired | None:
    """Return the comparison that a hypothesis is about, each method at its own learning rate; `None` before both were run."""
    this, other = (find_best(result.pieces, part, label, tuned=True) for label in (hypothesis.this, hypothesis.other))
    return None if this is None or other is None else paired.pair(this.scores, other.scores)


def judge(result: Study, hypothesis: Hypothesis) -> str:
    """Return the verdict on a hypothesis: confirmed, refuted, undecided, or not run."""
    found = compare(result, hypothesis, hypothesis.part)
    before = compare(result, hypothesis, "a-maps")
    if found is None or (before is None and hypothesis.expected == "smaller lead than in a-maps"):
        return "not run"
    if hypothesis.expected == "smaller lead than in a-maps" and before is not None:
        confirmed, refuted = found.ci95[1] < before.ci95[0], found.ci95[0] > before.ci95[1]
    elif hypothesis.expected == "not worse":
        lowest = min(found.ci95[0], (found.ci95_over_seeds or found.ci95)[0])
        confirmed, refuted = lowest > -MARGIN_POINTS, found.verdict == "worse"
    else:
        confirmed, refuted = found.verdict == "better", found.verdict == "worse"
    return "refuted" if refuted else "confirmed" if confirmed else "undecided"


def _judge(result: Study, hypothesis: Hypothesis) -> str:
    found = compare(result, hypothesis, hypothesis.part)
    points = "" if found is None else _format(found)
    pair = f"{hypothesis.this} against {hypothesis.other}, part {hypothesis.part}"
    return f"| {hypothesis.name} | {hypothesis.claim} | {pair} | {points} | {judge(result, hypothesis)} |"


def _state_power() -> Iterator[str]:
    """Yield how small a difference the study finds, by the number of seeds."""
    each = ", ".join(
        f"{find_detectable_difference(DEVIATION_POINTS, seeds):.1f} points with {seeds} seeds" for seeds in (3, 5, 8)
    )
    yield (
        f"Power: where a paired difference scatters over seeds by {DEVIATION_POINTS:g} point, the interval over seeds "
        f"excludes 0 in {POWER:.0%} of studies if the true difference is {each}. Smaller ones mostly end as *undecided*. "
        "Nothing is corrected for the number of comparisons."
    )
