"""Boards over adb: what its client says, in words with a remedy. No daemon was there to talk to."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.devices._remote.agent import NO_AGENT, NO_FOLDER, NO_PYTHON
from benchmarks.devices._remote.transport import Lost
from benchmarks.devices.adb import Adb, AdbTransport
from compress.errors import CompressError, Unreachable
from tests.benchmarks.boards import make_job


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system's client with a server and a home of its own; skipped where there is none."""
    if shutil.which("adb") is None:
        pytest.skip("there is no adb on this machine (Debian: adb)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    subprocess.run(["adb", "kill-server"], check=False, capture_output=True)


@pytest.fixture
def way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AdbTransport:
    """A transport on a machine with a client that is never run."""
    (tmp_path / "adb").write_text("#!/bin/sh\n")
    (tmp_path / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return AdbTransport("adb://R58M12ABCDE")


@pytest.mark.slow
def test_a_serial_number_of_nobody_is_one_line(client: None, tmp_path: Path) -> None:
    """The real client's own words, with what to do."""
    with pytest.raises(Unreachable, match=r"\Anobody-1: is not there \(error: device 'nobody-1' not found\)") as caught:
        Adb(at="adb://nobody-1").run(make_job(tmp_path / "job"), timeout_seconds=9, progress=lambda *_: None)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("status", "said", "kind", "message"),
    [
        (1, "error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set", Unreachable, "confirm the key"),
        (1, "error: more than one device/emulator", Unreachable, "name one by the serial number"),
        (1, "error: device 'R58M12ABCDE' not found", Lost, "replug"),
        (1, "error: device offline", Lost, "is offline"),
        (255, "", Lost, "the connection was closed"),
        (1, "error: closed", Lost, "error: closed"),
    ],
)
def test_what_the_client_says_has_a_remedy(way: AdbTransport, status: int, said: str, kind: type, message: str) -> None:
    """What may pass is told from what does not."""
    found = way.explain(status, said)
    assert type(found) is kind
    assert message in str(found)


@pytest.mark.parametrize(
    ("status", "said"), [(NO_AGENT, ""), (NO_FOLDER, "mkdir: Read-only file system"), (NO_PYTHON, ""), (1, "Traceback ...")]
)
def test_what_the_command_says_is_no_failure_of_the_way(way: AdbTransport, status: int, said: str) -> None:
    """The client's own status may be that of the command, whose words then decide."""
    assert way.explain(status, said) is None


@pytest.mark.parametrize("address", ["adb://", "adb://-d", "adb://a b", "adb://a;b", "adb://a/b"])
def test_what_is_no_serial_number_never_reaches_the_client(address: str, way: AdbTransport) -> None:
    """An address cannot hold an option or a command."""
    with pytest.raises(CompressError, match="is no address of a board; write adb://SERIAL"):
        AdbTransport(address)
