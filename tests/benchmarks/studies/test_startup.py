"""The start-up benchmark, on commands that are cheap."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.studies import startup
from compress.errors import CompressError

pytestmark = pytest.mark.slow


def test_each_command_is_summarised_over_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minimum, median and maximum are ordered, and the first command is nothing over itself."""
    found = startup.time_startup({"empty": ["-c", "pass"], "json": ["-c", "import json"]}, runs=3)
    assert list(found) == ["empty", "json"]
    assert found["empty"]["median_over_empty_ms"] == 0
    for figures in found.values():
        assert 0 < figures["min_ms"] <= figures["median_ms"] <= figures["max_ms"]


def test_a_command_that_fails_has_no_time() -> None:
    """A crash that is fast is an error, and its last line is shown."""
    with pytest.raises(CompressError, match="ended with status 1: ZeroDivisionError"):
        startup.time_command(["-c", "1/0"])


def test_people_get_a_table_and_machines_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--json` prints one document, `--out` writes it, and without them there is a table."""
    monkeypatch.setattr(startup, "COMMANDS", {startup.EMPTY: ["-c", "pass"]})
    out = tmp_path / "startup.json"
    printed = CliRunner().invoke(startup.main, ["--runs", "1", "--json", "--out", str(out)]).stdout
    assert json.loads(printed) == json.loads(out.read_text())
    assert json.loads(printed)["python"] == sys.version.split()[0]
    table = CliRunner().invoke(startup.main, ["--runs", "1"]).stdout.splitlines()
    assert table[0].split() == ["milliseconds", "min", "median", "max", "over", "empty"]
    assert table[1].startswith(startup.EMPTY)
