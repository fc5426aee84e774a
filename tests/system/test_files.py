"""A file that somebody names is read only if it is one, and no larger than it can be meant to be."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from compress.errors import CompressError, Unreachable
from compress.system.files import hash_file, read_bounded


def _read(path: Path) -> bytes:
    return read_bounded(path, limit_bytes=1000, what="a recipe")


def test_a_file_of_the_right_size_is_read(tmp_path: Path) -> None:
    """Up to the limit nothing is in the way."""
    (tmp_path / "x").write_bytes(b"a" * 1000)
    assert _read(tmp_path / "x") == b"a" * 1000


def test_a_giant_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A sparse file of 30 GiB costs neither time nor memory."""
    with (tmp_path / "x").open("wb") as file:
        file.truncate(30 << 30)
    with pytest.raises(CompressError, match=r"holds 30.0 GiB, and a recipe has at most 1000 B; give the right file") as caught:
        _read(tmp_path / "x")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["zero", "null", "urandom"])
def test_a_device_is_refused(name: str) -> None:
    """A device that never ends is not read until memory does."""
    for read in (_read, hash_file):
        with pytest.raises(CompressError, match="is a device, not a file"):
            read(Path("/dev") / name)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """A pipe into which nobody writes does not hang the command, also behind a link."""
    os.mkfifo(tmp_path / "x")
    (tmp_path / "y").symlink_to(tmp_path / "x")
    for read in (_read, hash_file):
        with pytest.raises(CompressError, match="is a pipe, not a file"):
            read(tmp_path / "y")


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket is named as one."""
    monkeypatch.chdir(tmp_path)  # its whole path may be too long for a socket
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("x")
        with pytest.raises(CompressError, match="is a socket, not a file"):
            _read(Path("x"))


def test_a_folder_and_nothing_are_unreachable(tmp_path: Path) -> None:
    """What is not there, or is a folder, has the exit code for that."""
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(Unreachable, match="cannot be read"):
            _read(path)


def test_a_file_that_claims_to_be_empty_is_bounded_too() -> None:
    """Files of the kernel say that they hold nothing and go on all the same."""
    with pytest.raises(CompressError, match="has at most 10 B"):
        read_bounded(Path("/proc/self/smaps"), limit_bytes=10, what="a list")
