"""Boards over adb: what its client says, in words with a remedy, and jobs on a board with a real adbd.

The real one is Debian 13's in a network namespace. `python -m tests.benchmarks.adbd` prepares it; where it is not there, or
the tests do not run as root, they are skipped and say so.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.devices._remote import ledger
from benchmarks.devices._remote.agent import NO_AGENT, NO_FOLDER, NO_PYTHON
from benchmarks.devices._remote.transport import Lost
from benchmarks.devices.adb import Adb, AdbTransport
from benchmarks.protocol import Subject, evaluate
from compress.errors import CompressError, Unreachable
from tests.benchmarks.adbd import SERIAL, AdbBoard, adb, explain_missing, find_root, run_board
from tests.benchmarks.boards import make_images, make_job, make_wheel, send_wheels
from tests.benchmarks.tiny import CHANNELS, CLASSES, SIZE, Tiny
from tests.deployed.brightness import invoke

SECONDS = 60
TINY = Tiny(np.ones((CHANNELS, CLASSES), np.float32), np.ones((2, CHANNELS, SIZE, SIZE), np.float32), {})


@contextmanager
def run_server(home: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the client have a server and a home of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
    patch.setenv("HOME", str(home))
    yield
    subprocess.run(["adb", "kill-server"], check=False, capture_output=True)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system's client with a server and a home of its own; skipped where there is none."""
    if shutil.which("adb") is None:
        pytest.skip("there is no adb on this machine (Debian: adb)")
    with run_server(tmp_path, monkeypatch):
        yield


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
        (1, "error: device 'R58M12ABCDE' not found", Lost, "replug it, or over a network: adb connect R58M12ABCDE"),
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


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbBoard]:
    """A real adbd that a client of our own knows; skipped, with the reason, where there can be none."""
    if reason := explain_missing():
        pytest.skip(reason)
    root, folder = find_root(), tmp_path_factory.mktemp("adbd")
    with pytest.MonkeyPatch.context() as patch, run_server(folder, patch), run_board(root, folder) as board:
        yield board


@pytest.fixture
def board(daemon: AdbBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Adb:
    """The daemon's board as a device, with nothing of ours on it."""
    monkeypatch.setenv(ledger.FOLDER, str(tmp_path / "ledger"))
    device = Adb(at=f"adb://{SERIAL}", name="phone")
    device.clean(everything=True)
    return device


def run(board: Adb, job: Path, progress: Callable[..., None] = lambda *_: None) -> None:
    board.run(job, timeout_seconds=SECONDS, progress=progress)


def is_right(job: Path) -> bool:
    return np.array_equal(np.load(job / "logits.npy"), np.load(job / "images.npy").mean(axis=(2, 3)))


@pytest.mark.slow
def test_a_job_over_a_real_adbd_comes_back_and_leaves_nothing(daemon: AdbBoard, board: Adb, tmp_path: Path) -> None:
    """Bytes and statuses pass unharmed; what was sent once is there the second time; all goes when it is to."""
    for name in ("first", "second"):
        job = make_job(tmp_path / name, images=make_images())
        run(board, job)
        assert is_right(job)
    ours = daemon.home / "local" / "tmp" / "edge-compress"
    assert list((ours / "jobs").iterdir()) == []
    assert "Debian GNU/Linux 13" in board.describe()["system"]
    board.clean(everything=True)
    assert not ours.exists()


def unplug(daemon: AdbBoard) -> None:
    daemon.set_link("down")
    threading.Timer(4, daemon.set_link, ["up"]).start()


def forget(_daemon: AdbBoard) -> None:
    adb("disconnect", SERIAL)
    threading.Timer(2, adb, ["connect", SERIAL]).start()


def end_server(daemon: AdbBoard) -> None:
    adb("kill-server")
    threading.Timer(1, daemon.connect).start()


def end_daemon(daemon: AdbBoard) -> None:
    daemon.kill_daemon()
    threading.Timer(1, daemon.connect).start()


@pytest.mark.slow
@pytest.mark.parametrize("fail", [unplug, forget, end_server, end_daemon])
def test_a_connection_over_a_real_adbd_is_taken_up_again(
    fail: Callable[[AdbBoard], None], daemon: AdbBoard, board: Adb, tmp_path: Path
) -> None:
    """Whichever part of it goes in the middle, the job goes on there, runs once, and its result is whole."""
    job, failed, done = make_job(tmp_path / "job", "time.sleep(0.8)", images=make_images()), [], []

    def progress(count: int, _total: int, doing: str) -> None:
        if doing == "culprit":
            done.append(count)
        if count and not failed:
            failed.append(True)
            fail(daemon)

    run(board, job, progress)
    assert is_right(job)
    assert done == list(range(2, 17, 2))


@pytest.mark.slow
def test_a_board_that_restarts_in_the_middle_is_told_from_a_cut(daemon: AdbBoard, board: Adb, tmp_path: Path) -> None:
    """All of its processes are gone, and it names another boot: the job is not waited for; the next one runs."""
    restarted = []

    def progress(count: int, _total: int, _doing: str) -> None:
        if count and not restarted:
            restarted.append(daemon.restart())

    with pytest.raises(Unreachable, match=r"\Aphone: culprit: the board restarted in the middle; start it again\Z") as caught:
        run(board, make_job(tmp_path / "job", "time.sleep(1)", images=make_images()), progress)
    assert caught.value.exit_code == 5
    run(board, make_job(tmp_path / "next"))
    assert board.list_jobs() == []


@pytest.mark.slow
def test_a_board_over_adb_gets_packages_from_here(board: Adb, tmp_path: Path) -> None:
    """It has neither pip nor a way to an index: wheels are sent, and jobs import what was in them."""
    make_wheel(tmp_path / "wheels", "surely_sent")
    send_wheels(board, tmp_path / "wheels", "x")
    run(board, make_job(tmp_path / "job", "import surely_sent"))


@pytest.mark.slow
def test_bench_over_a_real_adbd(board: Adb, tmp_path: Path) -> None:
    """As a user types it, on the board's own ONNX Runtime: timed at once, or left alone, found and fetched."""
    path = TINY.write_onnx(tmp_path / "tiny.onnx")
    options = ("--device", board.address, "--rounds", "5", "--seconds", "0.2", "--launches", "1")
    done = invoke("bench", path, *options, "--json")
    assert done.exit_code in {0, 4}, done.stderr
    found = json.loads(done.stdout)["tiny.onnx"]
    assert found["latency_ms"]["p50"] > 0
    assert found["effective"]["version"].startswith("1.21")
    job = json.loads(invoke("bench", path, *options, "--detach", "--json").stdout)["job"]
    assert job in invoke("device", "jobs", board.address).stdout
    assert invoke("bench", "--attach", job, "--json").exit_code in {0, 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ir", "opset", "message"),
    [(13, 20, "IR version 13, and the runtime reads up to 10"), (10, 26, "ONNX opset 26, and the runtime reads up to 22")],
)
def test_a_runtime_that_is_older_than_the_file_says_what_to_do(
    ir: int, opset: int, message: str, board: Adb, tmp_path: Path
) -> None:
    """The words of a real ONNX Runtime 1.21 become one line with a remedy, and it is not the file that is at fault."""
    path = TINY.write_onnx(tmp_path / "tiny.onnx")
    model = onnx.load(path)
    model.ir_version, model.opset_import[0].version = ir, opset
    onnx.save(model, path)
    with pytest.raises(Unreachable, match=rf"\Aphone: tiny: needs {message}; .*opset") as caught:
        evaluate(Subject("tiny", path, "onnxruntime"), TINY.images, device=board)
    assert caught.value.exit_code == 5
