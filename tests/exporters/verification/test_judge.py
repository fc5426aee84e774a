"""What is said of a file that could not be run, and whose fault that is."""

from __future__ import annotations

import pytest

from compress.errors import CompressError, Interrupted, RuntimeCrashed, Unreachable, Unwritable
from exporters.verification.judge import explain_unusable


@pytest.mark.parametrize("error", [CompressError("no such operator"), RuntimeCrashed("SIGSEGV")])
def test_what_its_runtime_refuses_or_crashes_on_has_failed(error: CompressError) -> None:
    """Both are faults of the file, as far as anybody can tell, and the verdict says which runtime it was."""
    verdict = explain_unusable(error, "onnxruntime")
    assert (verdict.status, verdict.samples) == ("failed", 0)
    assert verdict.reason == f"onnxruntime cannot run it: {error}"


def test_a_killed_runner_or_a_missing_package_is_no_verdict() -> None:
    """The file is not judged, and will be the next time."""
    verdict = explain_unusable(Unreachable("the runner was killed"), "onnxruntime")
    assert (verdict.status, verdict.reason, verdict.samples) == ("skipped", "the runner was killed", 0)


@pytest.mark.parametrize("error", [Unwritable("the disk is full"), Interrupted("stopped")])
def test_a_full_disk_and_an_interruption_go_on(error: CompressError) -> None:
    """Whatever else could go on without this file, they end the work."""
    with pytest.raises(type(error)):
        explain_unusable(error, "onnxruntime")
