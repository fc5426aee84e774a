"""What the doctor says of runtimes that nobody must have; the rest of it is tested on the command line."""

from __future__ import annotations

import pytest

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
