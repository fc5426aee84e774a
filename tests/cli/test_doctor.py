"""What the doctor says of runtimes that nobody must have; the rest of it is tested on the command line."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from compress import plugins
from compress.cli import doctor
from compress.errors import Unreachable


@pytest.mark.parametrize(
    ("package", "program", "status", "found"),
    [
        ("no-such-package-of-anybody", "raise SystemExit(1)", "absent", "no-such-package-of-anybody is not installed"),
        ("pytest", "print('chatter')\nprint('1.0 CPU')", "ok", "1.0 CPU"),
        (
            "pytest",
            "import sys\nprint('chatter', file=sys.stderr)\nraise RuntimeError('unknown instruction')",
            "warning",
            "RuntimeError: unknown instruction",
        ),
        ("pytest", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "warning", "killed by signal 9"),
    ],
    ids=["lacking", "working", "broken", "crashing"],
)
def test_a_runtime_of_an_extra_is_tried_and_never_an_error(package: str, program: str, status: str, found: str) -> None:
    """Not installed names the extra; installed means one inference; neither stops who does not need the format."""
    finding = doctor.try_runtime("litert", package, program)
    assert (finding.what, finding.status, finding.found) == ("runtime litert", status, found)
    remedy = {"ok": "", "absent": "pip install 'edge-compress[litert]'", "warning": "--force-reinstall 'edge-compress[litert]'"}
    assert remedy[status] in finding.remedy
    assert bool(remedy[status]) == bool(finding.remedy)
    doctor.refuse_broken([finding])


def test_a_needed_runtime_that_fails_is_an_error() -> None:
    """What every run needs must work; the message names how it is installed anew."""
    finding = doctor.try_runtime("onnxruntime", "onnxruntime", "raise RuntimeError('unknown instruction')")
    assert finding.status == "failed"
    with pytest.raises(Unreachable, match="runtime onnxruntime: RuntimeError: unknown instruction; pip install"):
        doctor.refuse_broken([finding])


def test_every_runtime_is_a_line_of_the_examination(tmp_path: Path) -> None:
    """Every runtime plug-in is a line of the table, whether its package is there or not; the needed ones work."""
    found = {each.what: each.status for each in doctor.examine(tmp_path)}
    assert {f"runtime {name}" for name in plugins.list_names("runtimes")} <= found.keys()
    assert {found[f"runtime {name}"] for name in ("torch", "onnxruntime", "openvino")} == {"ok"}


@pytest.mark.parametrize(
    ("bounds", "status"),
    [(">=2.0", "ok"), (">=2,<2.0.0.1", "failed"), (">=999", "failed"), ("!=1.0", "ok"), ("~=1.0", "failed")],
)
def test_a_package_of_another_version_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, bounds: str, status: str
) -> None:
    """A version beyond any kind of bounds is told with the command that mends it; a local label is no other version."""
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "2.13.0+cpu")
    finding = doctor._check_package(Requirement(f"torch{bounds}"))
    assert finding.status == status
    if status == "failed":
        assert finding.found.startswith("2.13.0+cpu is not ")
        assert finding.remedy == f"pip install 'torch{Requirement(f'torch{bounds}').specifier}'"


@pytest.mark.parametrize(
    ("found", "processors", "status"),
    [("6.84, 5.10, 3.20", 2, "warning"), ("0.30, 5.10, 3.20", 2, "ok"), ("6.84, 0, 0", 64, "ok"), ("1.10, 0, 0", 1, "warning")],
)
def test_a_busy_machine_is_not_ok(found: str, processors: int, status: str) -> None:
    """A load that leaves no processor alone with a measurement is a warning that says what to do."""
    finding = doctor.check_load(found, processors)
    assert finding.status == status
    assert f"on {processors} processor" in finding.found
    assert ("stop what else runs" in finding.remedy) == (status == "warning")
    doctor.refuse_broken([finding])
