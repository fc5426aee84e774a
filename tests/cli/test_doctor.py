"""What the doctor says of runtimes that nobody must have; the rest of it is tested on the command line."""

from __future__ import annotations

import importlib.metadata

import pytest
from packaging.requirements import Requirement

from compress.cli import doctor


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pretend that extras bring these packages with these probes."""
    extras = {
        "lacking": ("edge-compress-has-no-such-package", "raise SystemExit(1)"),
        "working": ("numpy", "print('chatter')\nprint('1.0 CPU')"),
        "broken": ("numpy", "import sys\nprint('chatter', file=sys.stderr)\nraise RuntimeError('unknown instruction')"),
        "crashing": ("numpy", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
    }
    monkeypatch.setattr(doctor, "EXTRAS", extras)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "status", "found", "remedy"),
    [
        ("lacking", "absent", "edge-compress-has-no-such-package is not installed", "pip install 'edge-compress[lacking]'"),
        ("working", "ok", "1.0 CPU", ""),
        ("broken", "warning", "RuntimeError: unknown instruction", "--force-reinstall 'edge-compress[broken]'"),
        ("crashing", "warning", "killed by signal 9", "--force-reinstall 'edge-compress[crashing]'"),
    ],
)
def test_a_runtime_of_an_extra_is_tried_and_never_an_error(
    extra: pytest.MonkeyPatch, name: str, status: str, found: str, remedy: str
) -> None:
    """Not installed names the extra; installed means one inference; neither stops who does not need the format."""
    finding = doctor._extra_runtime(name)
    assert (finding.what, finding.status, finding.found) == (f"runtime {name}", status, found)
    assert remedy in finding.remedy
    assert bool(remedy) == bool(finding.remedy)
    doctor.refuse_broken([finding])


def test_both_extras_have_a_probe_and_the_examination_shows_them(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every optional runtime of this package is a line of the table, whether it is there or not."""
    monkeypatch.setattr(doctor, "PROBES", {})
    assert {f"runtime {name}" for name in ("executorch", "litert")} <= {each.what for each in doctor.examine(tmp_path)}


@pytest.mark.parametrize(
    ("bounds", "status"),
    [(">=2.0", "ok"), (">=2,<2.0.0.1", "failed"), (">=999", "failed"), ("!=1.0", "ok"), ("~=1.0", "failed")],
)
def test_a_package_of_another_version_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, bounds: str, status: str
) -> None:
    """A version beyond any kind of bounds is told with the command that mends it; a local label is no other version."""
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "2.13.0+cpu")
    finding = doctor._package(Requirement(f"torch{bounds}"))
    assert finding.status == status
    if status == "failed":
        assert finding.found.startswith("2.13.0+cpu is not ")
        assert finding.remedy == f"pip install 'torch{Requirement(f'torch{bounds}').specifier}'"
