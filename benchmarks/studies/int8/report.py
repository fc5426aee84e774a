"""Render the comparison of int8: `report.md` beside `int8.json`, and the compact table of the README."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from benchmarks.report import pages, wording
from benchmarks.studies.int8.records import OURS, Int8, Network, Points, Row, Sabotage, Session
from compress.records import Accuracy, Ratio, read, save
from compress.text import MISSING, format_bytes, format_interval, format_number, format_percent, format_signed, quantify

RESULT, SABOTAGE = "int8.json", "sabotage.json"
POINTLESS = frozenset({"slower", "not distinguishable"})
"""Verdicts on the speed of an int8 file with which int8 does not pay."""
COMPARED = {"onnx": ("onnxruntime", "onnxruntime's defaults"), "openvino": ("OpenVINO", "NNCF's defaults")}
"""Formats in the README, which are those with a quantizer to compare with; names of runtime and quantizer for people."""
NAMES = {"executorch": "ExecuTorch", "litert": "LiteRT"}
"""Names of further formats for people."""


class Line(NamedTuple):
    """A row in words."""

    runtime: str
    precision: str
    made_by: str
    gate: str
    top1: str
    drop: str
    gain: str
    agreement: str
    size: str
    latency: str
    speed: str
    rung: str
    seconds: str


def write(result: Int8, folder: Path) -> None:
    """Write `int8.json` and `report.md` into a folder, each whole or not at all.

    Raises:
        CompressError: There is a `sabotage.json` that cannot be read.
        Unreachable: The disk is full or the folder cannot be written.
    """
    save(folder / RESULT, result)
    pages.save(folder / "report.md", render(result, read_sabotage(folder)))


def read_sabotage(folder: Path) -> Sabotage | None:
    """Return the result of `benchmarks.studies.sabotage` in the same folder, if there is one.

    Raises:
        CompressError: It cannot be read.
    """
    path = folder / SABOTAGE
    return read(path, Sabotage) if path.is_file() else None


def render(result: Int8, attempts: Sabotage | None) -> str:
    """Return the result as Markdown."""
    added = dict.fromkeys(list_commands(each) for network in result.networks for each in network.further)
    return pages.render_markdown(
        "report.md.j2", folder=Path(__file__).parent, result=result,
        shown=[(network, [describe_row(row) for row in _list_rows(network)]) for network in result.networks],
        summary=Markup("\n".join(make_table(result))),  # noqa: S704 (numbers, and names that recipes allow)
        further=Markup("\n".join(make_further_table(result))),  # noqa: S704 (as above)
        is_busy=is_busy, commands=tuple(added), sabotage=attempts, columns=Line._fields,
    )  # fmt: skip


def _list_rows(network: Network) -> Iterator[Row]:
    yield from network.rows
    for session in network.further:
        yield from session.rows


def list_commands(session: Session) -> str:
    """Return the commands that make the rows of a further format."""
    name = session.rows[0].format
    wanted = " ".join(f"--to {name}:{row.precision}" for row in session.rows)
    options = f"--rounds {session.rounds} --seconds {session.seconds:g}"
    return f"compress export RUN {wanted}\npython -m benchmarks.studies.int8 RUN --exported {name} {options}"


def describe_row(row: Row) -> Line:
    """Return one file as a row of text."""
    return Line(
        runtime=row.runtime,
        precision=row.precision,
        made_by=row.made_by,
        gate=row.status,
        top1=_format_top1(row.accuracy),
        drop=_format_change(row.to_float),
        gain=_format_change(row.to_defaults),
        agreement=format_percent(row.agreement_percent),
        size=format_bytes(row.size_bytes),
        latency=wording.format_latency(row.latency_ms),
        speed=_format_speed(row.ratio),
        rung=_describe_rung(row),
        seconds=_format_seconds(row),
    )


def _format_top1(found: Accuracy | None) -> str:
    return MISSING if found is None else f"{found.top1_percent:.2f} % ({format_interval(found.ci95, 2)}), n={found.samples}"


def _format_change(found: Points | None) -> str:
    if found is None:
        return MISSING
    if found.only_this == found.only_other == 0:
        return f"{format_signed(found.points, 2)}, right on the same images"  # a bootstrap of no difference has no width
    low, high = (format_signed(bound, 2) for bound in found.ci95)
    return f"{format_signed(found.points, 2)} ({low} to {high}) {found.verdict}"


def _format_speed(found: Ratio | None) -> str:
    if found is None:
        return MISSING
    return f"{format_number(found.speedup)}× ({format_interval(found.ci95, 2)}) {found.verdict}"


def _describe_rung(row: Row) -> str:
    if row.tries == 0:
        return MISSING
    tried = f"{quantify(row.tries, 'file')} tried"
    return f"{row.rung}: {row.detail}; {tried}" if row.rung else f"none met the gate; {tried}"


def _format_seconds(row: Row) -> str:
    if row.ladder_seconds is not None:
        return f"{row.ladder_seconds:.0f}, the ladder"
    return MISSING if row.seconds is None else f"{row.seconds:.1f}"


def make_readme_table(result: Int8) -> Iterator[str]:
    """Yield the README's table in Markdown, with what one must know to judge it."""
    yield from make_table(result)
    yield ""
    yield _make_legend(result.networks)


def make_table(result: Int8) -> Iterator[str]:
    """Yield the compact table: for each network and runtime our int8 file, and that of the defaults."""
    heads = [f"{runtime} int8, ours | {defaults}" for runtime, defaults in COMPARED.values()]
    yield f"| network | top-1, fp32 | {' | '.join(heads)} |"
    yield f"|---|--:|{'---|---|' * len(COMPARED)}"
    for network in result.networks:
        cells = [cell for file_format in COMPARED for cell in _make_cells(network.rows, file_format)]
        yield f"| {network.name} | {_format_float_top1(network)} | {' | '.join(cells)} |"


def make_further_table(result: Int8) -> Iterator[str]:
    """Yield the compact table of the formats that were exported later; nothing where there are none."""
    formats = list(dict.fromkeys(each.rows[0].format for network in result.networks for each in network.further))
    if not formats:
        return
    yield f"| network | {' | '.join(f'{NAMES.get(name, name)} int8, ours' for name in formats)} |"
    yield f"|---|{'---|' * len(formats)}"
    for network in result.networks:
        cells = [_make_further_cell(network, name) for name in formats]
        yield f"| {network.name} | {' | '.join(cells)} |"


def _make_further_cell(network: Network, file_format: str) -> str:
    """Return the cell of our int8 file, with a remark where its latency never settled."""
    rows = [row for row in _list_rows(network) if row.format == file_format]
    shaky = any(row.latency_ms is not None and not row.latency_ms.stable for row in rows)
    return next(_make_cells(rows, file_format)) + ", speed not settled" * shaky


def is_busy(measured: Network | Session) -> bool:
    """Return whether more ran before the measurement than the processor has cores."""
    cores = measured.environment.cores_logical
    load = measured.environment.facts["load_average_1_5_15_min"].partition(",")[0]
    return load.replace(".", "", 1).isdecimal() and float(load) > cores


def _format_float_top1(network: Network) -> str:
    found = next((row.accuracy for row in network.rows if row.precision == "fp32" and row.accuracy), None)
    return MISSING if found is None else f"{found.top1_percent:.1f} %"


def _make_cells(rows: Iterable[Row], file_format: str) -> Iterator[str]:
    """Yield the cell of our int8 file, and that of the file by the defaults."""
    int8 = [row for row in rows if row.format == file_format and row.precision == "int8"]
    ours = next((row for row in int8 if row.made_by == OURS), None)
    others = next((row for row in int8 if row.made_by != OURS), None)
    yield MISSING if ours is None else _make_cell(ours, ours.rung)
    yield MISSING if others is None else _make_cell(others, "")


def _make_cell(row: Row, rung: str) -> str:
    """Return top-1, what it is above float32, the rung, the speed, and whether it failed."""
    if row.accuracy is None or row.to_float is None:
        return "no file that runs"
    pace = "" if row.ratio is None else f"{row.ratio.speedup:.1f}×{' unstable' * (row.ratio.verdict == 'unstable')}"
    failed = "**gate failed**" if row.status == "failed" else ""
    top1 = f"{row.accuracy.top1_percent:.1f} % ({format_signed(round(row.to_float.points, 1) + 0.0)})"  # no −0.0
    return ", ".join(filter(None, [top1, rung, pace, failed]))


def _make_legend(networks: Sequence[Network]) -> str:
    test = ", ".join(f"{count:,}" for count in sorted({each.images["test"] for each in networks}))
    shown = ", ".join(f"{count:,}" for count in sorted({each.calibration_images for each in networks}))
    budgets = ", ".join(f"{points:g}" for points in sorted({each.max_top1_drop_points for each in networks}))
    machines = "; ".join(
        sorted({f"{each.environment.cpu}, {'with' if each.vnni else 'without'} VNNI" for each in networks})
    )  # fmt: skip
    return (
        f"Top-1 on {test} test images and, in brackets, the points above the same network in float32; the rung of the ladder "
        f"(`int8:`) that met the gate's budget of {budgets} points on the validation split; speed on one thread against "
        f"float32 on the same runtime. Defaults: the runtime's own quantizer with the same {shown} calibration images. "
        f"Measured on {machines}, one seed: compare files of one network, not networks. Intervals, sizes, agreement and the "
        "other formats: `benchmarks/results/int8/report.md`."
    )
