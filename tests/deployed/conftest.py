"""A bundle of a tiny real network, and pictures for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.deployed.brightness import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with its bundle: both formats of one real network."""
    return write_bundle(tmp_path_factory.mktemp("run") / "bundle")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """A dark and a bright picture of another size than the network's, and a text that claims to be one."""
    paths = [tmp_path / "[dark].png", tmp_path / "bright.png", tmp_path / "broken.png"]
    Image.new("L", (30, 20), 10).save(paths[0])
    Image.new("RGB", (5, 9), (250, 240, 250)).save(paths[1])
    paths[2].write_text("no picture")
    return paths
