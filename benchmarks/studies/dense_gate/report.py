"""`dense_gate.json` and `report.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.studies.dense_gate.records import Damaged, DenseGate, GoodFile, Judged, Segmenter
from compress.records import save
from compress.system.files import write_whole
from compress.text import format_number, quantify
from exporters.verification.rule import BOUNDS, DENSE_AGREEMENT, DENSE_RMS

RESULT, REPORT = "dense_gate.json", "report.md"

READING = """\
*Agreement* is the mean IoU of the file's maps with the network's, *relative RMS* that of all differences of logits over that of
the network's logits, *largest* the largest difference of a logit in the same unit, *drop* the loss of mIoU in points with its
paired 95 % interval over images. All are of images that no training has seen. The verdict is that of `compress run` with its
defaults: the bounds below, and a budget of 1 point."""


def write(result: DenseGate, folder: Path) -> None:
    """Write both files into a folder.

    Raises:
        Unreachable: It cannot be written.
    """
    save(folder / RESULT, result)
    with write_whole(folder / REPORT) as temporary:
        temporary.write_text(render(result), encoding="utf-8")


def render(result: DenseGate) -> str:
    """Return the report in Markdown."""
    head = (
        f"{quantify(len(result.segmenters), 'segmenter')}, each trained on {result.images['train']} scenes of digits of "
        f"{result.size} × {result.size} pixels (`digit_scenes`, one digit each), judged on {result.images['test']} others."
    )
    parts = [
        "# The gate of maps", "", head, "", READING, "", *_list_bounds(), "", "## Networks", "", *_list_networks(result), "",
        "## Good files", "", *_list_good(result), "", "## Damaged files", "", *_list_damaged(result), "",
        f"Command: `{result.command}`; {result.environment.cpu}, {result.environment.platform}.",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _list_bounds() -> Iterator[str]:
    yield "| precision | least agreement | largest relative RMS | largest difference of a logit |"
    yield "|---|--:|--:|--:|"
    for precision, least in DENSE_AGREEMENT.items():
        yield f"| {precision} | {100 * least:g} % | {DENSE_RMS[precision]:g} | {BOUNDS[precision]:g} |"


def _list_networks(result: DenseGate) -> Iterator[str]:
    yield "| network | model | parameters | epochs | mIoU % | training, CPU s |"
    yield "|---|---|--:|--:|--:|--:|"
    for each in result.segmenters:
        figures = f"{each.parameters:,} | {each.epochs} | {each.miou_percent:.1f} | {each.training_seconds:.0f}"
        yield f"| {each.name} | `{each.model}` | {figures} |"


def _list_good(result: DenseGate) -> Iterator[str]:
    """Yield a row for each file, and below them the farthest of each precision."""
    yield "| network | format | precision | rung | agreement % | relative RMS | largest | drop | gate |"
    yield "|---|---|---|---|--:|--:|--:|---|---|"
    for network in result.segmenters:
        for file in network.good:
            place = f"{network.name} | {file.format} | {file.precision} | {file.rung or '–'}"
            yield f"| {place} | {_format(file.judged)} | {_word(file.judged)} |"
    yield ""
    files = [file for network in result.segmenters for file in network.good]
    for precision in dict.fromkeys(file.precision for file in files):
        yield _summarise(precision, [file for file in files if file.precision == precision])


def _summarise(precision: str, files: Sequence[GoodFile]) -> str:
    agreement = min(file.judged.agreement_percent or 0.0 for file in files)
    rms, largest = (max(getattr(file.judged, name) or 0.0 for file in files) for name in ("relative_rms", "largest"))
    drop = max(file.judged.drop_points or 0.0 for file in files)
    passed = sum(file.judged.status == "passed" for file in files)
    return (
        f"{precision}: agreement {agreement:.2f} % or more, relative RMS up to {rms:.2g}, largest difference up to "
        f"{largest:.2g}, drop up to {drop:.2f} points; {passed} of {len(files)} pass.\n"
    )


def _word(judged: Judged) -> str:
    return judged.status if judged.status == "passed" else f"{judged.status}: {judged.reason}"


def _format(judged: Judged) -> str:
    low, high = judged.drop_ci95 or (None, None)
    interval = f" ({format_number(low, 2)} to {format_number(high, 2)})" if low is not None else ""
    rms = "–" if judged.relative_rms is None else f"{judged.relative_rms:.2g}"
    largest = "–" if judged.largest is None else f"{judged.largest:.2g}"
    agreement = "–" if judged.agreement_percent is None else f"{judged.agreement_percent:.2f}"
    drop = "–" if judged.drop_points is None else f"{judged.drop_points:.2f}{interval}"
    return f"{agreement} | {rms} | {largest} | {drop}"


def _list_damaged(result: DenseGate) -> Iterator[str]:
    """Yield a row for each damage and precision over all networks and formats, and the cases that passed."""
    cases = [(network, each) for network in result.segmenters for each in network.damaged]
    yield "| damage | precision | caught | least relative RMS | highest agreement % | least drop |"
    yield "|---|---|--:|--:|--:|--:|"
    for damage, precision in dict.fromkeys((each.damage, each.precision) for _, each in cases):
        found = [each for _, each in cases if (each.damage, each.precision) == (damage, precision)]
        caught = sum(each.judged.status != "passed" for each in found)
        yield f"| {damage} | {precision} | {caught} of {len(found)} | {_format_mildest(found)} |"
    yield ""
    passed = [(network, each) for network, each in cases if each.judged.status == "passed"]
    yield f"{len(cases) - len(passed)} of {len(cases)} damaged files are refused."
    for network, each in passed:
        yield f"\nNot refused: {_name_case(network, each)} ({_format(each.judged)})."


def _format_mildest(found: Sequence[Damaged]) -> str:
    judged = [each.judged for each in found if each.judged.relative_rms is not None]
    if not judged:
        return "– | – | –"
    rms = min(each.relative_rms for each in judged if each.relative_rms is not None)
    agreement = max(each.agreement_percent or 0.0 for each in judged)
    drop = min(each.drop_points or 0.0 for each in judged)
    return f"{rms:.2g} | {agreement:.1f} | {drop:.2f}"


def _name_case(network: Segmenter, each: Damaged) -> str:
    return f"{network.name}, {each.format} {each.precision}: {each.damage}"
