"""The four answers with which every account of a run begins: speed, loss against the teacher, plain training, ship or not.

Terminal, Markdown, page and model card draw what `compute_headline` finds in the report's record, and `report.json` holds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.report import paired, wording
from benchmarks.report.wording import Row
from compress.errors import CompressError
from compress.records import Accuracy, Answer, Headline, Latency, Paired, Ratio, Report, Scores, SeedScore, Variant
from compress.records.headline import Decision
from compress.text import format_interval, format_number, format_percent, format_signed, quantify

STUDENT, PLAIN = "student", "supervised"
NO_SMALLER = 0.95
"""Share of the bytes of the teacher's file above which a file saves nothing."""
ONE_SEED = "one seed: it is about these two networks, not about the two ways of training (--seeds 3)"


def compute_headline(report: Report, *, student: str = STUDENT) -> Headline:
    """Return the four answers about the fastest file of the student that passed its gate, or else about the fastest.

    Args:
        report: The record.
        student: Name of the network that is to be shipped; a baseline may take the place of the student.
    """
    files = [row for row in wording.judge_rows(report) if wording.may_ship(report, row, student)]
    passed = [row for row in files if row.gate == "passed"]
    best = min(passed or files, key=_rank, default=None)
    shown = best or _find_torch(report, student)
    speed, loss, plain = _answer_speed(report, files, shown), _answer_loss(report, shown), _answer_plain(report, student)
    decision, reason = _decide(report, files, passed, best, loss=loss, plain=plain)
    baseline = _find_plain(report, student)
    instead = f"compress export RUN --student {baseline.network}" if plain.verdict == "bad" and baseline else ""
    name = best.variant.name if best else ""
    parts = [speed.text, loss.text, plain.text, _word_decision(decision, name)]
    if plain.verdict == "bad":
        parts = [plain.text, parts[-1], speed.text, loss.text]
    return Headline(
        line=" · ".join(parts), decision=decision, why=reason[:1].upper() + reason[1:], file=name, instead=instead, speed=speed,
        loss=loss, plain=plain,
    )  # fmt: skip


def _rank(row: Row) -> tuple[bool, bool, float]:
    """Return what orders files by their speed: those that were timed first, settled ones before rough figures."""
    latency = row.variant.latency_ms
    return latency is None, row.unstable, latency.p50 if latency else math.inf


def _find_torch(report: Report, student: str) -> Row | None:
    """Return the student as torch runs it, or else its first file."""
    own = [row for row in wording.judge_rows(report) if row.variant.network == student]
    return min(own, key=lambda row: row.variant.format != "torch", default=None)


def _word_decision(decision: Decision, name: str) -> str:
    return {
        "ship": f"ship {name}",
        "ship if": f"ship {name} only if that loss is acceptable",
        "do not ship": "do not ship",
        "nothing to ship": "nothing to ship",
    }[decision]


def _answer_speed(report: Report, files: Sequence[Row], best: Row | None) -> Answer:
    """Return how many times faster the file is, with its interval; first of all, whether any latency can be trusted."""
    if best is None or best.variant.latency_ms is None:
        return Answer(text="speed-up not measured", verdict="open", detail="no file of the student was timed")
    variant, latency, ratio = best.variant, best.variant.latency_ms, best.variant.ratio
    timed = [row for row in files or [best] if row.variant.latency_ms]
    own = f"{_format_latency(latency)} a call, {quantify(latency.threads, 'thread')}, batch {latency.batch_size}"
    every = "every latency is unstable: " if all(row.unstable for row in timed) else ""
    cause = f"; unstable: {best.instability}" if best.unstable else ""
    detail = f"{variant.name}: {own}{cause}"
    if ratio is None:
        return Answer(text=f"{every}speed-up not measured", verdict="open", detail=detail)
    text = every + _word_speed(report, ratio, f"on {variant.runtime}", rough=best.unstable)
    settled = not best.unstable and ratio.verdict in ("faster", "slower")
    verdict = "open" if not settled else "good" if ratio.verdict == "faster" else "bad"
    detail = f"{detail}; against {ratio.against}"
    return Answer(text=text, detail=detail, verdict=verdict, value=ratio.speedup, ci95=ratio.ci95)


def _format_latency(latency: Latency) -> str:
    return f"{format_number(latency.p50)} ms ({format_interval(latency.ci95)})"


def _word_speed(report: Report, ratio: Ratio, where: str, *, rough: bool) -> str:
    compared = next((each for each in report.variants if each.name == ratio.against), None)
    if compared is not None and not paired.is_teacher(compared.network):
        other, missing = f"its own {compared.format} {compared.precision} file {where}", "; the teacher was not timed"
    else:
        other, missing = f"{wording.name_network(compared.network if compared else ratio.against)} {where}", ""
    times, bounds = ratio.speedup, ratio.ci95
    if rough or ratio.verdict == "unstable":
        return f"roughly {format_number(times, 2)}× the speed of {other} ({format_interval(bounds, 2)}), unstable{missing}"
    if ratio.verdict == "not distinguishable":
        return f"speed not distinguishable from that of {other} ({format_interval(bounds, 2)}×){missing}"
    if ratio.verdict == "slower":
        times, bounds = 1 / times, (1 / bounds[1], 1 / bounds[0])
    return f"{format_number(times, 3)}× {ratio.verdict} than {other} ({format_interval(bounds, 2)}){missing}"


def _answer_loss(report: Report, row: Row | None) -> Answer:
    """Return the points of top-1 that a file loses against the teacher on the test split, paired image by image if possible."""
    teacher, variant = _find_teacher(report), row.variant if row else None
    if variant is None or variant.accuracy is None or teacher is None:
        return Answer(text="loss against the teacher not measured", verdict="open")
    name, accuracy, _ = teacher
    found = _compare(_score_file(report, variant), _score_network(report, name), variant.accuracy, accuracy, task=report.task)
    points, (high, low) = -found.points, (-found.ci95[0], -found.ci95[1])
    other = wording.name_network(name)
    same = found.verdict == "not distinguishable"
    doubt = f", {why}" if (why := paired.explain_doubt(found)) else ""
    bounds = f"({_format_bounds((low, high))}{doubt})"
    text = f"{'loses' if points >= 0 else 'gains'} {format_number(abs(points), 2)} points against {other}"
    if points < 0:
        bounds = f"({_format_bounds((-high, -low))}{doubt})"
    how = "paired image by image" if found.pairing != "none" else f"unpaired, so the interval is wide: {found.note}"
    return Answer(
        text=f"{text} {bounds}{', not distinguishable' if same else ''}", value=points, ci95=(low, high),
        verdict="open" if same else "good" if found.verdict == "better" else "bad",
        detail=f"{format_percent(variant.accuracy.percent)} against {format_percent(accuracy.percent)} "
        f"{wording.name_metric(report)} on {variant.accuracy.samples} test images, {how}"
        f"{_describe_balance(variant.accuracy, accuracy)}",
    )  # fmt: skip


def _describe_balance(own: Accuracy, other: Accuracy) -> str:
    """Return both balanced accuracies where classes are uneven, so that top-1 says little."""
    if not own.is_uneven or own.balanced_percent is None or other.balanced_percent is None:
        return ""
    both = f"{format_percent(own.balanced_percent)} against {format_percent(other.balanced_percent)}"
    return f"; classes are uneven: balanced accuracy {both}"


def _format_bounds(bounds: tuple[float, float]) -> str:
    return " to ".join(format_signed(bound, 1).removeprefix("+") for bound in bounds)


def _find_teacher(report: Report) -> tuple[str, Accuracy, Accuracy | None] | None:
    """Return the name of the teacher, of several the best on validation, and its accuracy on the test and validation split."""
    rows = [each for each in report.variants if paired.is_teacher(each.network) and each.accuracy is not None]
    known: dict[str, tuple[Accuracy, Accuracy | None]] = {}
    for scores in report.scores:
        if paired.is_teacher(scores.network):
            known[scores.network] = scores.seeds[0].accuracy, scores.seeds[0].validation
    for row in sorted(rows, key=lambda row: row.format != "torch"):
        if row.accuracy is not None:
            known.setdefault(row.network, (row.accuracy, row.validation))
    best = max(known, key=lambda name: getattr(known[name][1], "percent", 0.0), default=None)
    return None if best is None else (best, *known[best])


def _score_network(report: Report, network: str) -> SeedScore | None:
    """Return the score of the first network of a name, as torch runs it."""
    return next((scores.seeds[0] for scores in report.scores if scores.network == network), None)


def _score_file(report: Report, variant: Variant) -> SeedScore | None:
    """Return on which test images a file is right; that of its network where it kept none and has the same accuracy."""
    network = _score_network(report, variant.network)
    if (variant.correct or variant.tallies) and variant.accuracy is not None and network is not None:
        kept = {"correct": variant.correct, "tallies": variant.tallies}
        return network.model_copy(update={"accuracy": variant.accuracy, **kept})
    same = network is not None and variant.accuracy == network.accuracy
    return network if same else None


def _compare(this: SeedScore | None, other: SeedScore | None, accuracy: Accuracy, against: Accuracy, *, task: str) -> Paired:
    """Compare two networks image by image where it is known on which each is right, or else by their accuracies."""
    note = "the report does not keep on which images each is right"
    if this is not None and other is not None:
        one, two = (
            Scores(network=name, method="", task=task, seeds=(score,)) for name, score in (("this", this), ("other", other))
        )
        try:
            return paired.pair(one, two)
        except CompressError as error:  # a damaged record; the accuracies beside it can still be compared
            note = str(error)
    found = wording.compute_difference(accuracy, against)
    return Paired(
        this="this", other="other", pairing="none", seeds=1, images=accuracy.samples, points=found.points,
        ci95=(found.low, found.high), verdict=found.verdict, note=note,
    )  # fmt: skip


def _find_plain(report: Report, student: str) -> Variant | None:
    """Return the baseline that is the student trained on the labels alone."""
    others = [each for each in report.variants if each.network != student and not paired.is_teacher(each.network)]
    return next((each for each in others if each.method == PLAIN), None)


def _answer_plain(report: Report, student: str) -> Answer:
    """Return whether the student is better than the same network trained on the labels alone."""
    torch, baseline = _find_torch(report, student), _find_plain(report, student)
    own = torch.variant if torch else None
    if own is not None and own.method == PLAIN:
        return Answer(text="is itself trained plainly", verdict="open", detail="the student learnt from the labels alone")
    if baseline is None:
        return Answer(
            text="not compared with plain training", verdict="open", detail="add `supervised` to the recipe's baselines"
        )
    found = _find_pair(report, student, baseline.network)
    if found is None and own is not None and own.accuracy and baseline.accuracy:
        found = _compare(None, None, own.accuracy, baseline.accuracy, task=report.task)
    if found is None:
        return Answer(text="not compared with plain training", verdict="open", detail="it has no accuracy on the test split")
    points = f"{format_number(abs(found.points), 2)} points"
    doubt = f", {why}" if (why := paired.explain_doubt(found)) else ""
    text = {
        "better": f"{points} better than plain training ({_format_bounds(found.ci95)})",
        "worse": f"{points} worse than plain training ({_format_bounds((-found.ci95[1], -found.ci95[0]))})",
        "not distinguishable": f"not distinguishable from plain training ({_format_bounds(found.ci95)} points{doubt})",
    }[found.verdict]
    seeds = ONE_SEED if found.seeds == 1 else f"over {quantify(found.seeds, 'seed')}"
    verdict = {"better": "good", "worse": "bad"}.get(found.verdict, "open")
    return Answer.model_validate({
        "text": text, "value": found.points, "ci95": found.ci95, "verdict": verdict,
        "detail": f"the same network, both as torch runs them, on {found.images} test images; {seeds}",
    })  # fmt: skip


def _find_pair(report: Report, this: str, other: str) -> Paired | None:
    """Return the comparison of two networks over their seeds: as the report has it, or from their scores."""
    found = next((each for each in report.paired if (each.this, each.other) == (this, other)), None)
    scores = {each.network: each for each in report.scores}
    if found is None and this in scores and other in scores:
        return paired.pair(scores[this], scores[other])
    return found


def _decide(
    report: Report, files: Sequence[Row], passed: Sequence[Row], best: Row | None, *, loss: Answer, plain: Answer
) -> tuple[Decision, str]:
    """Return whether to ship the file, and why; what speaks against it comes before what speaks for it."""
    if best is None:
        return "nothing to ship", "no file was exported and held to the gate; name some under `exports`"
    if against := _find_objection(report, files, passed, best, plain=plain):
        return "do not ship", against
    if loss.verdict == "bad" and _gains_nothing(report, best):
        return (
            "do not ship",
            f"it is less accurate than the teacher, and neither faster nor smaller; {_tell_gate(files, passed)}",
        )
    budget = find_teacher_budget(report)
    if budget is None and loss.verdict == "bad":
        points = f"{format_number(loss.value, 2)} points"
        why = f"{_tell_gate(files, passed)}, but no budget says whether {points} against the teacher are acceptable"
        return "ship if", f"{why} (gate.max_drop_from_teacher_points)"
    held = "" if budget is None else f", and is within the budget of {quantify(budget, 'point')} against the teacher"
    return "ship", f"{_tell_gate(files, passed)}{held}"


def _find_objection(report: Report, files: Sequence[Row], passed: Sequence[Row], best: Row, *, plain: Answer) -> str:
    """Return what speaks against every file, or nothing."""
    if not passed:
        return f"{_count_refused(files, passed)}; {best.variant.name}: {best.problem}"
    if plain.verdict == "bad":
        return f"the same network is better when it is trained on the labels alone; {_tell_gate(files, passed)}"
    if report.warnings:
        return report.warnings[0]
    return "the run failed; see what went wrong below" if report.status == "failed" and len(passed) == len(files) else ""


def _gains_nothing(report: Report, row: Row) -> bool:
    """Return whether a file is neither faster nor clearly smaller than the teacher's that it was timed against."""
    variant, ratio = row.variant, row.variant.ratio
    teacher = next((each for each in report.variants if ratio is not None and each.name == ratio.against), None)
    if ratio is None or teacher is None or not paired.is_teacher(teacher.network):
        return False
    settled = not row.unstable and ratio.verdict in ("slower", "not distinguishable")
    smaller = (variant.size_bytes or 0) <= NO_SMALLER * (teacher.size_bytes or math.inf)
    return settled and not smaller


def find_teacher_budget(report: Report) -> float | None:
    """Return `gate.max_drop_from_teacher_points` of the recipe, in points."""
    value = report.recipe.get("gate", {}).get("max_drop_from_teacher_points")
    return None if value is None else float(value)


def _count_refused(files: Sequence[Row], passed: Sequence[Row]) -> str:
    return f"{len(files) - len(passed)} of {quantify(len(files), 'file')} failed the gate"


def _tell_gate(files: Sequence[Row], passed: Sequence[Row]) -> str:
    if len(passed) == len(files):
        return "it passed its gate" if len(files) == 1 else f"all {len(files)} files passed the gate"
    return f"it passed its gate, though {_count_refused(files, passed)}"
