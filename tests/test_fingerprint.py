"""Fingerprints: what a stored result depends on changes its key, and nothing that should be watched is missed in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress import fingerprint
from compress.errors import Unreachable
from compress.fingerprint import hash_sources, make_key
from compress.run.verify import HARNESS, VERDICT


@pytest.mark.parametrize("pattern", sorted({*fingerprint.TRAINING, *HARNESS, *VERDICT}))
def test_every_pattern_matches_files(pattern: str) -> None:
    """What decides training or timing is there under the name that the key looks for."""
    root = Path(fingerprint.__file__).parents[1]
    assert [path for path in root.glob(pattern) if path.is_file()]


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    """A file that was renamed cannot silently leave the key."""
    with pytest.raises(Unreachable, match=r"compress/nonesuch\.py, which a stored result depends on"):
        hash_sources("compress/losses/*.py", "compress/nonesuch.py")


def test_keys_depend_on_names_and_values_alone() -> None:
    """The same parts in another order give the same key; another value or name gives another."""
    assert make_key(a=1, b=[2]) == make_key(b=[2], a=1)
    assert len({make_key(a=1), make_key(a=2), make_key(b=1)}) == 3


def test_sources_are_told_apart_by_path_and_content() -> None:
    """Two sets of files have two fingerprints, and one set always has the same."""
    assert hash_sources("compress/losses/*.py") == hash_sources("compress/losses/*.py")
    assert hash_sources("compress/losses/*.py") != hash_sources("compress/freezing.py")
