"""The study of scales: it runs, continues, and refuses what others made."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.studies.resuming import Resumable, read_earlier
from benchmarks.studies.scales import __main__ as scales
from benchmarks.studies.scales import report
from benchmarks.studies.scales.arms import ARMS, build, first_image
from benchmarks.studies.scales.records import Scales
from compress import plugins
from compress.errors import CompressError
from compress.methods import Combined, Setting
from compress.records import read, save
from tests.tiny import setting

SMALL = ["--seeds", "1", "--images", "100", "--epochs", "1", "--arm", "supervised", "--arm", "dist"]


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(scales.main, [*SMALL, *arguments, "--out", str(folder)])
    return done.exit_code, done.output


def test_it_runs_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both optimizers for every arm; a result that lacks the last arm gets that one alone, and the others stay as they are."""
    monkeypatch.setattr(scales, "train_teacher", lambda data: build("resnet_cifar.resnet8", 0, first_image(data)))
    code, text = run(tmp_path)
    assert code == 0, text
    whole = read(tmp_path / report.RESULT, Scales)
    assert [(arm.name, arm.optimizer) for arm in whole.arms] == [
        ("supervised", "sgd"), ("dist", "sgd"), ("supervised", "adamw"), ("dist", "adamw"),
    ]  # fmt: skip
    assert whole.arms[1].scales[0] > 1
    assert "| dist | " in text
    save(tmp_path / report.RESULT, whole.model_copy(update={"arms": whole.arms[:-1]}))
    trained = []
    monkeypatch.setattr(scales, "run_arm", lambda *given: trained.append(given[:3]) or whole.arms[-1])
    assert run(tmp_path)[0] == 0
    assert trained == [("dist", "adamw", 1)]
    assert read(tmp_path / report.RESULT, Scales).arms == whole.arms
    code, text = run(tmp_path, "--arm", "kd")
    assert code == 2
    assert "give another --out, or remove it to begin anew" in text


@pytest.mark.parametrize(("field", "said"), [("command", "was made by `other`"), ("source", "by other sources of this tool")])
def test_a_result_of_another_command_or_version_is_refused(tmp_path: Path, field: str, said: str) -> None:
    """Numbers of two are never mixed; the message says what to do."""
    path = tmp_path / "result.json"
    assert read_earlier(path, Resumable, command="this", source="abc") is None
    save(path, Resumable(command="this", source="abc").model_copy(update={field: "other"}))
    with pytest.raises(CompressError, match=said):
        read_earlier(path, Resumable, command="this", source="abc")
    assert read_earlier(path, Resumable, **{"command": "this", "source": "abc", field: "other"}) is not None


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_can_be_built(name: str) -> None:
    """Options of the arms are options of the methods, and what is combined may be combined."""
    where: Setting = setting()
    methods = {method: plugins.load("methods", method)(where, **options) for method, options in ARMS[name]}
    assert len(methods) == 1 or Combined(where, methods).stages()
