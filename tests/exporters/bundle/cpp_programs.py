"""Building and running the C++ program of a bundle, for the tests of every kind of answer."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

MISSING = [tool for tool in ("cmake", "g++", "ninja") if shutil.which(tool) is None]
compiled = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def find_openvino() -> Path:
    spec = find_spec("openvino")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def compile_program(bundle: Path) -> None:
    """Build the program of a bundle beside it, warnings being errors."""
    folder = bundle.parent / "build"
    configure = [
        "cmake", "-S", bundle / "cpp", "-B", folder, "-G", "Ninja", f"-DOpenVINO_DIR={find_openvino() / 'cmake'}",
        "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wconversion -Wno-sign-conversion -Werror",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", folder]):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def run_program(bundle: Path, *pictures: Path, given: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program of a bundle on that bundle, or on the folder that is given instead."""
    command = [bundle.parent / "build" / "example", given or bundle, *pictures]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
