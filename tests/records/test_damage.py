"""No damage to a record is ever used: whatever is read is what was written."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.studies.torture.damage import DAMAGES
from compress.errors import CompressError
from compress.records import EngineTrial, read, save
from compress.records.training import EngineTrials

RECORD = EngineTrials(trials=(EngineTrial(engine="eager", ms_per_batch=12.25, relative_difference=0.0),))


def _read_damaged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(CompressError):
        assert read(path, EngineTrials) == RECORD


def test_no_flipped_bit_is_used(tmp_path: Path) -> None:
    """Every single bit of a record was flipped, one after the other: it is refused, or it says the same."""
    path = tmp_path / "record.json"
    save(path, RECORD)
    right = path.read_bytes()
    for place in range(len(right)):
        for bit in range(8):
            _read_damaged(path, right[:place] + bytes([right[place] ^ 1 << bit]) + right[place + 1 :])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(DAMAGES)), seed=st.integers(0, 1 << 32))
def test_no_damage_is_used(name: str, seed: int, tmp_path: Path) -> None:
    """Cut, emptied, filled with zeros, swapped: it is refused, or it says the same."""
    save(tmp_path / "record.json", RECORD)
    _read_damaged(tmp_path / "record.json", DAMAGES[name]((tmp_path / "record.json").read_bytes(), Random(seed)))


def test_a_changed_number_is_named_as_damage(tmp_path: Path) -> None:
    """A number that was changed by hand, in a file that is otherwise good, is not taken for a measurement."""
    path = tmp_path / "record.json"
    save(path, RECORD)
    document = json.loads(path.read_text())
    document["trials"][0]["ms_per_batch"] = 12.5
    path.write_text(json.dumps(document))
    with pytest.raises(CompressError, match="does not agree with its own checksum, so it was damaged or edited; make it again"):
        read(path, EngineTrials)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(number: str, tmp_path: Path) -> None:
    """Also where no checksum tells."""
    path = tmp_path / "record.json"
    path.write_text(f'{{"trials": [{{"engine": "eager", "ms_per_batch": {number}, "relative_difference": 0}}]}}')
    with pytest.raises(CompressError, match="holds a number that is not finite"):
        read(path, EngineTrials)


def test_a_record_without_a_checksum_is_read(tmp_path: Path) -> None:
    """Results that were committed before records had one stay readable."""
    (tmp_path / "record.json").write_text(RECORD.model_dump_json())
    assert read(tmp_path / "record.json", EngineTrials) == RECORD
