"""Give a board what jobs need: packages for its Python, from its own index or from this machine, and proof of it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from benchmarks.devices._device import Say
from benchmarks.devices._remote.agent import AgentFailed, require
from benchmarks.devices._remote.packing import list_files, send_files
from benchmarks.devices._remote.transport import clip
from benchmarks.devices._remote.wheels import RUNTIMES, Packages, choose_packages, make_download_options
from compress.errors import Unreachable
from compress.text import format_bytes

if TYPE_CHECKING:
    from benchmarks.devices._remote.board import Remote

DOWNLOAD_SECONDS = INSTALL_SECONDS = 3600.0
ROOM_BYTES = 600 << 20
"""Room that packages take with what pip needs meanwhile."""
PROVED = ("onnxruntime", "openvino")
"""Runtimes for which a file can be made here that proves them."""


def prepare(board: Remote, say: Say) -> None:
    """Make what jobs need on a board, and prove it.

    Args:
        board: The board.
        say: Told what is done.

    Raises:
        Unreachable: It cannot be reached, or there is nothing for it.
    """
    answer = board.agent.ask("open", {"python": board.python, "modules": ["ensurepip", "venv"], "system": True})
    runner = require(answer, "runner", dict)
    if "failed" in runner:
        raise Unreachable(f"{clip(runner.get('python'))} cannot be run there ({clip(runner['failed'])})")
    numbers = tuple(part for part in require(runner, "version", list)[:2] if isinstance(part, int))
    packages = choose_packages(require(answer, "facts", dict), numbers, read_own_versions())
    say(f"{board.name}: Python {packages.python}, {packages.tags[0]}: {', '.join(packages.lines)}")
    for name, reason in packages.without.items():
        say(f"{board.name}: without {name}, which {reason}")
    if answer.get("prepared") == packages.name:
        say(f"{board.name}: has them already")
    else:
        _refuse_full(answer)
        modules = require(runner, "modules", dict)
        can_install = modules.get("ensurepip") is True and modules.get("venv") is True
        if not can_install or not _install_there(board, packages, say):
            _push_wheels(board, packages, say)
    prove(board, packages, say)


def read_own_versions() -> dict[str, str]:
    """Return the versions of numpy and of the runtimes that this machine has."""
    found = {}
    for name in ("numpy", *RUNTIMES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _refuse_full(answer: dict[str, Any]) -> None:
    free = require(answer, "free_bytes", int)
    if free < ROOM_BYTES:
        raise Unreachable(
            f"{format_bytes(ROOM_BYTES)} are needed for the packages and {format_bytes(free)} are free; free space"
        )


def _install_there(board: Remote, packages: Packages, say: Say) -> bool:
    """Make an environment with the board's own pip; return False where its index is out of reach."""
    say(f"{board.name}: installs them from its own index; this takes minutes")
    try:
        board.agent.ask(
            "install", {"lines": packages.lines, "name": packages.name, "python": board.python}, seconds=INSTALL_SECONDS
        )
    except AgentFailed as error:
        if error.kind != "OfflineError":
            raise
        say(f"{board.name}: reaches no index, so this machine downloads for it")
        return False
    return True


def _push_wheels(board: Remote, packages: Packages, say: Say) -> None:
    """Download the board's wheels here, send those that it lacks, and have them unpacked there."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--dest", folder,
             *make_download_options(packages), *packages.lines],
            check=False, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS,
        )  # fmt: skip
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise Unreachable(f"its packages cannot be downloaded here ({clip(last)})")
        files = list_files(Path(folder))
        missing = cast("list[str]", require(board.agent.ask("open", {"files": files}), "missing", list))
        sizes = {blob.sha256: blob.size_bytes for blob in files.values()}
        say(f"{board.name}: sends {format_bytes(sum(sizes.get(sha, 0) for sha in missing))}")
        request = {"files": files, "name": packages.name, "python": board.python}
        board.agent.ask("unpack", request, partial(send_files, Path(folder), files, missing), seconds=INSTALL_SECONDS)


def prove(board: Remote, packages: Packages, say: Say) -> None:
    """Run a network there that gives back its input, on each runtime for which one can be made here.

    Raises:
        Unreachable: It gives something else.
    """
    from benchmarks.protocol import Subject, evaluate

    images = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_identity(Path(folder))
        for name in PROVED:
            if not any(line.startswith(f"{name}==") for line in packages.lines):
                continue
            found = evaluate(Subject("identity", paths[name], name), images, device=board)
            if not np.array_equal(found.logits, images.reshape(2, -1)):
                raise Unreachable(
                    f"{name} there gives other numbers than it was given; install it anew: compress device clean --all"
                )
            say(f"{board.name}: {name} {clip(found.effective.get('version', ''), 40).partition('-')[0]} works")


def write_identity(folder: Path) -> dict[str, Path]:
    """Write a network that gives back its input, flattened, for each runtime that is proved."""
    from benchmarks.runtimes.openvino import Openvino

    Openvino.prepare()  # without its telemetry
    import onnx
    import openvino
    from onnx import TensorProto, helper

    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 2, 2])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 12])
    graph = helper.make_graph([helper.make_node("Flatten", ["images"], ["logits"])], "identity", [images], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    paths = {"onnxruntime": folder / "identity.onnx", "openvino": folder / "identity.xml"}
    onnx.save(model, paths["onnxruntime"])
    openvino.save_model(openvino.Core().read_model(paths["onnxruntime"]), paths["openvino"])
    return paths
