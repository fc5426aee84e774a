"""Programs of runtimes that a user names: what they print is read, and they run in rounds, here and over a shell alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.devices._remote import Remote
from benchmarks.devices.qemu import Qemu
from benchmarks.native import TOOLS, NativeFile, find_runtime, read_figure, time_files
from compress.cli.tables import draw_native
from compress.errors import CompressError, Unreachable

LITERT = """INFO: count=74 first=14850 curr=13315 min=13105 max=15765 avg=13520.2 std=470

INFO: Inference timings in us: Init: 12750, First inference: 14744, Warmup (avg): 13764.3, Inference (avg): 13520.2
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE
"""
LITERT_OLD = "Average inference timings in us: Warmup: 76605.9, Init: 9933, no stats: 66767.6\n"
OPENVINO = "[ INFO ] Latency:\n[ INFO ]    Median:        89.52 us\n[ INFO ]    Average:       90.10 us\n"
ONNXRUNTIME = (
    "Average time cost: 58.8053 ms\nMin Latency is 0.0559777 sec\nP50 Latency is 0.0587108 sec\nP999 Latency is 0.06 sec\n"
)
ONNXRUNTIME_NEW = "Average inference time cost total: 0.1 ms\nP50 Latency: 0.000105 s\nP90 Latency: 0.000119 s\n"


@pytest.mark.parametrize(
    ("runtime", "printed", "milliseconds"),
    [
        pytest.param("litert", LITERT, 13.5202, id="benchmark_model"),
        pytest.param("litert", LITERT_OLD, 66.7676, id="an older benchmark_model"),
        pytest.param("openvino", OPENVINO, 0.08952, id="benchmark_app"),
        pytest.param("onnxruntime", ONNXRUNTIME, 58.7108, id="onnxruntime_perf_test"),
        pytest.param("onnxruntime", ONNXRUNTIME_NEW, 0.105, id="a newer onnxruntime_perf_test"),
    ],
)
def test_what_programs_print_is_read_in_milliseconds(runtime: str, printed: str, milliseconds: float) -> None:
    """As users of them reported it, steady calls and not the first ones or those of warm-up."""
    assert read_figure(TOOLS[runtime], printed) == pytest.approx(milliseconds)


def test_a_program_is_known_by_its_name_and_told_the_shape_that_a_file_leaves_open() -> None:
    """Wherever it lies; one of another name is taken for that of the first file's runtime."""
    assert find_runtime("/data/local/tmp/benchmark_model_plus_flex") == "litert"
    assert find_runtime("my_tool") is None
    assert TOOLS["openvino"].make_shape((1, 3, 6, 8)) == ["-shape", "[1,3,6,8]"]


def test_what_is_no_such_program_is_refused() -> None:
    """With the end of what it printed, which commands no terminal."""
    with pytest.raises(CompressError, match=r"benchmark_model: printed no mean latency \(.*\\x1b.*\)"):
        read_figure(TOOLS["litert"], "hello \x1b[2J\n")


class Shell:
    """A transport to this machine's own shell, as adb or ssh give one, in a home of its own."""

    where = "shell"

    def __init__(self, home: Path) -> None:
        self.home = home

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep nothing."""
        yield

    def command(self, script: str) -> list[str]:
        """Return the command that runs a script."""
        return ["env", f"TMPDIR={self.home}", "sh", "-c", script]

    def explain(self, status: int, said: str) -> Unreachable | None:  # noqa: ARG002 (the contract)
        """Return why a command did not run: never."""
        return None


@pytest.fixture
def program(tmp_path: Path) -> str:
    """A program that prints what `benchmark_model` prints: as many microseconds as the file has bytes."""
    path = tmp_path / "benchmark_model"
    path.write_text(
        '#!/bin/sh\nfor a in "$@"; do case $a in --graph=*) n=$(wc -c <"${a#--graph=}");; esac; done\n'
        'echo "Inference timings in us: Init: 9, First inference: 9, Warmup (avg): 9, Inference (avg): $n"\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> list[NativeFile]:
    """Two files, of which the second takes half the time."""
    made = []
    for name, size in (("big", 2000), ("small", 1000)):
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(bytes(size))
        made.append(NativeFile(name, path, "litert", [path]))
    return made


@pytest.mark.parametrize("where", ["here", "there"])
def test_files_are_timed_in_rounds_with_the_users_program(
    where: str, program: str, files: list[NativeFile], tmp_path: Path
) -> None:
    """Over a shell that has nothing of ours, too; what was sent there is gone afterwards; rows say that latency is all."""
    (tmp_path / "board").mkdir()
    board = Remote(Shell(tmp_path / "board"), "shell://", "board") if where == "there" else None
    found = time_files(files, program, seconds=1, device=board)
    assert {name: each.p50 for name, each in found.items()} == {"big": 2.0, "small": 1.0}
    ratio = found["small"].ratio
    assert ratio is not None
    assert (ratio.speedup, ratio.verdict, len(found["big"].rounds)) == (2.0, "faster", 6)
    assert draw_native(found).row_count == 2
    assert list((tmp_path / "board").iterdir()) == []


def test_what_cannot_be_run_is_one_line(program: str, files: list[NativeFile], tmp_path: Path) -> None:
    """A program that is not there, here and on a board; one that fails; files of two runtimes; an emulated device."""
    (tmp_path / "board").mkdir()
    board = Remote(Shell(tmp_path / "board"), "shell://", "board")
    with pytest.raises(Unreachable, match="/no/such/tool: cannot be run"):
        time_files(files, "/no/such/tool", seconds=1)
    with pytest.raises(Unreachable, match=r"board: /no/such/tool: ended with status 127 \(.*not found\)"):
        time_files(files, "/no/such/tool", seconds=1, device=board)
    with pytest.raises(Unreachable, match=r"/bin/false: ended with status 1 \(it said nothing\)"):
        time_files(files, "/bin/false", seconds=1)
    with pytest.raises(CompressError, match="give those of one runtime, of: benchmark_model"):
        time_files([*files, NativeFile("other", tmp_path / "a.onnx", "onnxruntime", [])], program)
    with pytest.raises(CompressError, match="runs no programs of others"):
        time_files(files, program, device=Qemu(at="qemu:aarch64"))
