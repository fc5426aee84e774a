"""Commands in forks of one process that has everything imported, so that a run takes a second and not ten.

The runner, too, is a fork and not a process that imports its runtime anew; whatever touches the disk is the command's own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import runner
from benchmarks.devices._device import Progress
from benchmarks.devices._runner_output import RunnerOutput
from benchmarks.devices.local import Local
from benchmarks.studies.torture.networks import build_tiny
from benchmarks.studies.torture.recipes import TINY
from compress.system.leftovers import make_temporary_folder
from exporters.onnx import Onnx

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn

WRITES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"})
PR_SET_PDEATHSIG = 1


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    """Exit code, or the number of the signal below 0."""
    said: str
    """stderr."""


def import_everything() -> None:
    """Import what a run needs, once for all forks."""
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch

    import compress.cli.tables
    import compress.run.pipeline  # noqa: F401
    from compress import recipe

    torch.set_num_threads(1)
    recipe.parse(TINY.encode(), "recipe.yaml")
    Onnx._convert = _translate_once(Onnx._convert)  # type: ignore[assignment,method-assign]
    _export_once()
    Local.run = _run_in_fork  # type: ignore[assignment,method-assign]


Convert = Callable[["Onnx", "nn.Module", "Tensor"], "ModelProto"]


def _translate_once(translate: Convert) -> Convert:
    """Return a translation of networks into ONNX that is made once for all weights, since it takes most of a run's time.

    Args:
        translate: `Onnx._convert`, which touches no file; its graphs must hold the weights as they are, without batch norm.
    """
    graphs: dict[object, bytes] = {}

    def convert(exporter: Onnx, module: nn.Module, example: Tensor) -> ModelProto:
        from onnx import ModelProto, numpy_helper

        weights = {name: tensor.detach().float().numpy(force=True) for name, tensor in module.state_dict().items()}
        layers = tuple(type(layer) for layer in module.modules())
        key = (layers, tuple(weights), exporter.opset, exporter.batch_size, tuple(example.shape))
        if key not in graphs:
            graphs[key] = translate(exporter, module, example).SerializeToString()
        model = ModelProto.FromString(graphs[key])
        for tensor in model.graph.initializer:
            if tensor.name in weights:
                tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].reshape(tuple(tensor.dims)), tensor.name))
        return model

    return convert


def _export_once() -> None:
    """Write a network in the formats of the tiny run, since what torch collects at its first export takes most of the time."""
    import torch

    from compress.models import wrap_module
    from exporters.torch import Torch

    network = wrap_module(build_tiny(10, 1), torch.zeros(1, 1, 8, 8), name="student")  # as a run exports it
    for exporter in (Onnx(), Torch()):
        with make_temporary_folder() as folder:
            exporter.export(network.eval(), torch.zeros(1, 1, 8, 8), exporter.name_file(folder, "student"))


def run_command(
    arguments: Sequence[str], place: Path, *, kill_at: int | None = None, kill_after_seconds: float | None = None
) -> Ended:
    """Run a command in a fork, with its own temporary folder `place/tmp`.

    Args:
        arguments: Of `compress`.
        place: Where it works, and where its output goes.
        kill_at: Number of the operation on files below `place` before which it kills itself; default: never.
        kill_after_seconds: When it is killed, whatever it does.
    """
    (place / "tmp").mkdir(exist_ok=True)
    process = os.fork()
    if process == 0:
        _become_command(arguments, place, kill_at, kill_after_seconds)
    _, status = os.waitpid(process, 0)
    said = (place / "stderr.txt").read_text(encoding="utf-8", errors="replace")
    return Ended(os.waitstatus_to_exitcode(status), said)


def count_operations(place: Path) -> int:
    """Return how many operations on files the last command counted that came to its end."""
    return int((place / "operations.txt").read_text(encoding="utf-8"))


def _become_command(arguments: Sequence[str], place: Path, kill_at: int | None, kill_after_seconds: float | None) -> None:
    """Carry out a command in this fork, and end it."""
    status = 1
    try:
        for stream, name in ((1, "stdout.txt"), (2, "stderr.txt")):
            os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        tempfile.tempdir = str(place / "tmp")
        os.chdir(place)
        counted = _watch(place, kill_at)
        if kill_after_seconds is not None:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, kill_after_seconds)
        status = _call(arguments)
        (place / "operations.txt").write_text(str(counted()), encoding="utf-8")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _call(arguments: Sequence[str]) -> int:
    from compress.cli.commands import program

    status = 0
    try:
        program.main(args=list(arguments), prog_name="compress")
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:  # noqa: BLE001 (as the interpreter does at the end of a program)
        traceback.print_exc()
        status = 1
    return status


def _watch(place: Path, kill_at: int | None) -> Callable[[], int]:
    """Count operations that change files below a folder, kill this process before one, and return what tells how many."""
    count, root, own = 0, str(place), os.getpid()

    def look(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if os.getpid() != own or not (event in WRITES or (event == "open" and _opens_to_write(arguments))):
            return
        path = arguments[0]
        if isinstance(path, (str, os.PathLike)) and str(path).startswith(root) and not str(path).startswith(f"{root}/std"):
            count += 1
            if count == kill_at:
                os.kill(own, signal.SIGKILL)

    sys.addaudithook(look)
    return lambda: count


def _opens_to_write(arguments: tuple[object, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _run_in_fork(_self: Local, job: Path, *, timeout_seconds: float, progress: Progress) -> None:
    """Run a job folder in a fork that dies with its parent; stands in for `Local.run`."""
    said = job / "stderr.txt"
    process = os.fork()
    if process == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.alarm(int(timeout_seconds) + 1)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.excepthook = runner.report_error
        runner.run_and_exit(job, {})
    _, status = os.waitpid(process, 0)
    output = RunnerOutput()
    for line in said.read_text(encoding="utf-8", errors="replace").splitlines():
        output.read_line(line, progress)
    if ended := os.waitstatus_to_exitcode(status):
        raise output.make_error(ended, None)
