"""What happens to a teacher's exported file, with which others are only compared, is told as loudly as of the student's."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks import job
from benchmarks.job import Subject
from compress import recipe
from compress.errors import CompressError, Unreachable
from compress.events import Events
from compress.records import Report, Variant, read
from compress.run import pipeline
from exporters import About
from exporters.onnx import Onnx

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("time_once")]

DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of runs, so that what is trained is found again."""
    return tmp_path_factory.mktemp("runs")


def run(runs: Path, tiny_recipe: str, name: str) -> tuple[Report, str]:
    """Run the tiny recipe, and return its report with what was said."""
    text = io.StringIO()
    budget = f"gate.max_top1_drop_points={1 + len(name) / 100}"  # so that no test finds the files of another
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", (f"name={name}", budget, "baselines=[]"))
    pipeline.run(parsed, base=runs, runs=runs, events=Events(console=Console(file=text, width=300)))
    return read(runs / name / "report.json", Report), text.getvalue()


def find_row(report: Report, name: str) -> Variant:
    return next(row for row in report.variants if row.name == name)


def test_a_runner_that_is_killed_on_the_teachers_file_leaves_its_row_and_ends_in_5(
    tiny_recipe: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row stays with its reason, the student's file is judged all the same, and the next run makes up for it."""
    add = job._add_file

    def add_deadly(folder: Path, index: int, subject: Subject) -> dict[str, Any]:
        entry = add(folder, index, subject)
        if subject.path.name.startswith("teacher"):  # the real runner, really killed
            (folder / "runtimes" / f"{subject.runtime}.py").write_text(DIES, encoding="utf-8")
        return entry

    with monkeypatch.context() as patched:
        patched.setattr(job, "_add_file", add_deadly)
        with pytest.raises(Unreachable, match=r"teacher-onnx-fp32: .*the runner was killed"):
            run(runs, tiny_recipe, "killed")
    report = read(runs / "killed" / "report.json", Report)
    teacher, student = find_row(report, "teacher-onnx-fp32"), find_row(report, "student-onnx-fp32")
    assert (teacher.status, teacher.accuracy, teacher.latency_ms) == ("skipped", None, None)
    assert "the runner was killed" in str(teacher.reason)
    assert "teacher-onnx-fp32" in (runs / "killed" / "report.md").read_text(encoding="utf-8")
    assert student.accuracy is not None
    assert report.gates["student-onnx-fp32"].status == "passed"
    again, _ = run(runs, tiny_recipe, "killed")
    assert find_row(again, "teacher-onnx-fp32").accuracy is not None


@pytest.mark.parametrize(("error", "status"), [(CompressError, "failed"), (Unreachable, "skipped")])
def test_a_format_that_cannot_hold_a_teacher_is_warned_of(
    error: type[CompressError], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student does not depend on the file: there is a row with the reason, a warning, and the run goes on."""

    def export(*_: object, **__: object) -> None:
        raise error("no form for an operator")

    said: list[str] = []
    run: Any = SimpleNamespace(events=SimpleNamespace(warn=said.append))
    monkeypatch.setattr(pipeline, "export_file", export)
    monkeypatch.setattr(pipeline, "describe_unmade", lambda *_, **row: SimpleNamespace(name="teacher-onnx-fp32", **row))
    teachers, sections, logits = [SimpleNamespace(name="teacher")], [None], {"teacher": None}
    files, unmade = pipeline._export_for_comparison(run, teachers, sections, logits)  # type: ignore[arg-type]
    assert files == []
    assert [row.status for row in unmade] == [status]
    assert said == ["teacher-onnx-fp32: could not be made, so nothing is compared with it: no form for an operator"]


def test_a_disk_that_is_full_under_the_teachers_file_ends_the_run(
    tiny_recipe: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no property of the format or the teacher, and nothing of it is written; with space again the run goes on."""
    honest = Onnx.export

    def export(self: Onnx, module: torch.nn.Module, example: torch.Tensor, path: Path, *, about: About | None = None) -> None:
        honest(self, module, example, path, about=about)
        if path.name.startswith("teacher"):
            path.unlink()
            Path("/dev/full").write_bytes(b"as a disk without space")

    with monkeypatch.context() as patched:
        patched.setattr(Onnx, "export", export)
        with pytest.raises((OSError, Unreachable), match="No space left on device"):
            run(runs, tiny_recipe, "full")
    assert not (runs / "full" / "report.json").exists()
    again, said = run(runs, tiny_recipe, "full")
    assert "damaged" not in said
    assert find_row(again, "teacher-onnx-fp32").status == "passed"
    assert again.status == "passed"
