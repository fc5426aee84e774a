"""Write what was measured into README.md and docs: `python -m benchmarks.studies.readme` (`--check` only compares).

The numbers are those of `benchmarks/results/*/report.json`, which `compress run` made of the recipes of the same names, and of
`benchmarks/results/int8/int8.json`, which `benchmarks.studies.int8` made of such runs; nothing in tables and pictures is typed
by hand, and a test runs `--check`. Takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import click

from benchmarks.report.report import draw_picture
from benchmarks.studies import methods_table
from benchmarks.studies.int8.records import Int8
from benchmarks.studies.int8.report import RESULT, make_readme_table
from benchmarks.studies.methods.plan import HYPOTHESES
from benchmarks.studies.methods.records import Study
from benchmarks.studies.methods.report import RESULT as STUDY_RESULT
from benchmarks.studies.methods.report import compare, judge
from benchmarks.studies.run_table import make_run_tables
from benchmarks.studies.support import make_support_table
from benchmarks.studies.which_method import make_choice_table
from compress.errors import CompressError
from compress.records import Paired, Report, Variant, read
from compress.text import format_signed, quantify

ROOT = Path(__file__).parents[2]
SPEED = "onnxruntime, 1 thread"
STUDY = ("cifar10_resnet8", "cifar10_resnet20")
FEW_LABELS = "digits_three_seeds"
"""The demo over several seeds; folders that go on after this name hold the same where numbers round otherwise."""
PHOTOGRAPHS = "photographs"
DENSE = {"digit_scenes": "digit_scenes", "digit_boxes": "digit_boxes"}
"""Recipes of maps and boxes, each with the folder of its files; a run of several seeds is in the folder with this ending."""
SEEDS = "_three_seeds"
CHANGES = {
    "digit_scenes": " --set 'baselines=[supervised,cwd]' --set 'exports=[]'",
    "digit_boxes": " --set 'baselines=[supervised]' --set 'exports=[]'",
}
"""What the latter changes."""
PROVED = ("digits", PHOTOGRAPHS, *DENSE.values())
"""Runs whose files count in the table of what was proved where, beside the study of int8."""
COMPARED = ("digits_all_labels", *STUDY, "cifar10_resnet8_longer", PHOTOGRAPHS)
"""Studies of `docs/concepts/which_method.md`."""
INT8 = ROOT / "benchmarks" / "results" / "int8" / RESULT
DEFAULTS = ROOT / "benchmarks" / "results" / "study_defaults" / STUDY_RESULT
PICTURES = {"docs/_static/digits.svg": False, "docs/_static/digits_narrow.svg": True}
"""By their paths, whether they are for a phone."""


@click.command(help="Write the measured tables into README.md and docs.")
@click.option("--check", is_flag=True, help="Write nothing; fail when a page is not up to date.")
def main(check: bool) -> None:
    """Write or compare tables and picture.

    Raises:
        ClickException: A page is not what the committed results say.
    """
    texts = {name: fill_page(ROOT / name, tables) for name, tables in list_pages().items()}
    texts |= {name: draw_picture(_read_report("digits"), narrow=narrow) for name, narrow in PICTURES.items()}
    for name, text in texts.items():
        path = ROOT / name
        if check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            raise click.ClickException(
                f"{name} is not what the committed result says; run: python -m benchmarks.studies.readme"
            )
        if not check:
            path.write_text(text, encoding="utf-8")


def list_pages() -> Mapping[str, Mapping[str, Callable[[], Iterable[str]]]]:
    """Return for each page the tables that it has, by the name of their markers."""
    return {
        "README.md": {
            "demo": lambda: make_short_table(_read_report("digits")),
            "seeds": make_seeds_sentence,
            "support": make_support,
        },
        "docs/results.md": {
            "demo": lambda: make_demo_table(_read_report("digits")),
            "seeds": make_seeds_sentence,
            "study": lambda: methods_table.make_table({name: _read_report(name) for name in STUDY}),
            "photographs": lambda: make_recipe_tables(PHOTOGRAPHS, PHOTOGRAPHS, PHOTOGRAPHS),
            **{
                name: partial(make_recipe_tables, name, f"{name}{SEEDS}", files, CHANGES[name]) for name, files in DENSE.items()
            },
            "int8": lambda: make_readme_table(read(INT8, Int8)),
        },
        "docs/concepts/which_method.md": {
            "which": lambda: make_choice_table({name: _read_report(name) for name in COMPARED}),
            "defaults": lambda: make_hypotheses_list(read(DEFAULTS, Study)),
        },
        "docs/study.md": {"verdicts": lambda: make_hypotheses_list(read(DEFAULTS, Study))},
    }


def fill_page(path: Path, tables: Mapping[str, Callable[[], Iterable[str]]]) -> str:
    """Return the text of a page with its tables made anew.

    Raises:
        CompressError: A marker is missing.
    """
    text = path.read_text(encoding="utf-8")
    for name, make in tables.items():
        text = replace_table(text, name, make())
    return text


def _read_report(name: str) -> Report:
    return read(ROOT / "benchmarks" / "results" / name / "report.json", Report)


def replace_table(text: str, name: str, table: Iterable[str]) -> str:
    """Return the text with what stands between the two markers of this name replaced.

    Raises:
        CompressError: A marker is missing.
    """
    begin, end = f"<!-- {name}:", f"<!-- /{name} -->"
    if begin not in text or end not in text:
        raise CompressError(f"the page has no {begin} ... {end}; put the markers back")
    head, rest = text.split(begin, 1)
    comment, body = rest.split("\n", 1)
    return "".join([head, begin, comment, "\n", *(f"{line}\n" for line in table), end, body.split(end, 1)[1]])


def make_demo_table(report: Report) -> Iterator[str]:
    """Yield the table of a report in Markdown, with what one must know to judge it."""
    yield f"| | method | parameters | file | top-1 on the test split | {SPEED} | gate |"
    yield "|---|---|---|---|---|---|---|"
    for row in report.variants:
        if row.format == "onnx" or row.status == "skipped":
            cells = (
                row.network,
                row.method,
                f"{row.parameters:,}",
                _format_size(row),
                _format_accuracy(row),
                _format_speed(row),
                _format_gate(row),
            )
            yield f"| {' | '.join(cells)} |"
    machine = report.environment
    yield ""
    cores = f"{machine.cores_logical} cores ({machine.cpu})"
    yield (
        f"Real digits, {report.images['test']} test images, one seed; intervals are 95 %. `compress run recipes/digits.yaml`: "
        f"{report.seconds / 60:.1f} minutes of training, export, proof and measurement on {cores}."
        f"{_describe_labels(report)}{_explain_speed(report)} {_warn_of_overlap(report)}"
    )


def make_short_table(report: Report) -> Iterator[str]:
    """Yield four rows of the table in Markdown: teacher, student in float32 and int8, and the student trained plainly."""
    yield f"| | parameters | file | top-1 on the test split | {SPEED} |"
    yield "|---|---|---|---|---|"
    for row in report.variants:
        chosen = (row.network, row.format, row.precision)
        if chosen in {("teacher", "onnx", "fp32"), ("student", "onnx", "fp32"), ("student", "onnx", "int8")} or (
            row.network == "supervised"
        ):
            name = "the student, trained plainly" if row.network == "supervised" else f"{row.network}, {row.precision}"
            cells = (name, f"{row.parameters:,}", _format_size(row), _format_accuracy(row), _format_speed(row))
            yield f"| {' | '.join(cells)} |"
    machine = report.environment
    yield ""
    yield (
        f"Real digits, {report.images['test']} test images, one seed, 95 % intervals; `compress run recipes/digits.yaml`: "
        f"{report.seconds / 60:.1f} minutes on {machine.cores_logical} cores ({machine.cpu}).{_describe_labels(report)}"
        f"{_explain_speed(report)}"
    )


def make_support() -> Iterator[str]:
    """Yield the table of what was proved where."""
    yield from make_support_table(map(_read_report, PROVED), read(INT8, Int8))


def make_recipe_tables(recipe: str, seeds: str, files: str, changes: str = "") -> Iterator[str]:
    """Yield the tables of a recipe.

    Args:
        recipe: Its name.
        seeds: Folder of the result over seeds.
        files: Folder of the result with files.
        changes: What the latter changes.
    """
    yield from make_run_tables(
        _read_report(seeds), _read_report(files), seeds_name=seeds, files_name=files, recipe=recipe, changes=changes
    )


def make_seeds_sentence() -> Iterator[str]:
    """Yield what the distilled student is worth beside the plain one over several seeds, and where numbers round otherwise."""
    report = _read_report(FEW_LABELS)
    found = _find_pair(report, "supervised")
    repeated = sorted(path.name for path in (ROOT / "benchmarks" / "results").glob(f"{FEW_LABELS}_*"))
    again = ", ".join(_format_pair(_find_pair(_read_report(name), "supervised"), name) for name in repeated)
    yield (
        f"Over {found.seeds} seeds the distilled student is {_format_pair(found, FEW_LABELS)} from the same network trained "
        "plainly on the same labels, in as many steps."
        + (f" With another number of threads, which rounds otherwise and so trains another teacher: {again}." if again else "")
        + f" From plain distillation (`kd`) it is {_format_pair(_find_pair(report, 'kd'))}."
    )


def make_hypotheses_list(study: Study) -> Iterator[str]:
    """Yield the verdict on each hypothesis that was run, and which were not."""
    verdicts = {hypothesis: judge(study, hypothesis) for hypothesis in HYPOTHESES}
    for hypothesis, verdict in verdicts.items():
        found = compare(study, hypothesis, hypothesis.part)
        if found is None or verdict == "not run":
            continue
        piece = next(each for each in study.pieces if each.part == hypothesis.part)
        low, high = map(format_signed, found.ci95)
        yield (
            f"- {hypothesis.name}, {hypothesis.claim}: {verdict}. {hypothesis.this} is {format_signed(found.points)} points "
            f"({low} to {high}) from {hypothesis.other}: {piece.images['train']:,} images, {quantify(piece.steps, 'step')}, "
            f"{piece.optimizer}, {quantify(found.seeds, 'seed')} (`benchmarks/results/{DEFAULTS.parent.name}`)."
        )
    yield f"- Not run: {', '.join(each.name for each, verdict in verdicts.items() if verdict == 'not run')}."


def _find_pair(report: Report, other: str) -> Paired:
    """Return how the student compares with another network."""
    return next(row for row in report.paired if (row.this, row.other) == ("student", other))


def _format_pair(found: Paired, result: str = "") -> str:
    """Return a comparison in words, with the folder of the result if it is given."""
    low, high = map(format_signed, found.ci95)
    where = f"; `benchmarks/results/{result}`" if result else ""
    return f"{format_signed(found.points)} points ({low} to {high}, {found.verdict}{where})"


def _describe_labels(report: Report) -> str:
    """Return who had how many labels; nothing where students had all."""
    labels = report.recipe["data"].get("student_labels")
    if labels is None:
        return ""
    return f" Students had the labels of {labels} of {report.images['train']:,} training pictures, and the teacher all of them."


def _explain_speed(report: Report) -> str:
    """Return what files are compared with, and what the sign of a rough latency means, if there is one."""
    rough = any(row.latency_ms and not row.latency_ms.stable for row in report.variants if row.format == "onnx")
    return " ×: against the teacher's file of the same precision, in the same rounds." + (
        " ≈: unstable, a rough figure; ratios are judged by themselves." if rough else ""
    )


def _warn_of_overlap(report: Report) -> str:
    """Return what a reader must not conclude from the accuracies of the students."""
    found = [row.accuracy.ci95 for row in report.variants if row.accuracy and not row.network.startswith("teacher")]
    if max(low for low, _ in found) < min(high for _, high in found):
        return "The students' intervals overlap: on so few images this shows the chain, not which method is best."
    return "The students' intervals do not all overlap; another seed may order them otherwise."


def _format_size(row: Variant) -> str:
    return "–" if row.size_bytes is None else f"{row.precision}, {row.size_bytes / 1e6:.2f} MB"


def _format_accuracy(row: Variant) -> str:
    found = row.accuracy
    return "–" if found is None else f"{found.top1_percent:.1f} % ({found.ci95[0]:.1f}–{found.ci95[1]:.1f})"


def _format_speed(row: Variant) -> str:
    if row.latency_ms is None:
        return "as the student" if row.status == "skipped" else "–"
    text = f"{'' if row.latency_ms.stable else '≈ '}{row.latency_ms.p50:.2f} ms"
    if row.ratio is None:
        return text
    return f"{text}, {row.ratio.speedup:.1f}× ({row.ratio.ci95[0]:.1f}–{row.ratio.ci95[1]:.1f}) {row.ratio.verdict}"


def _format_gate(row: Variant) -> str:
    return "not exported" if row.status == "skipped" else row.status


if __name__ == "__main__":
    main()
