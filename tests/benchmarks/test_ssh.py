"""Jobs over ssh: the system's client against a real sshd on a free port of this machine, with its own keys and configuration.

Nothing of the user's ssh is read or changed: the client gets its configuration by the documented environment variable.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.devices import open_device
from benchmarks.devices._remote import ledger
from benchmarks.devices.ssh import CONFIG, Ssh, SshTransport
from compress.cli.commands import program
from compress.errors import CompressError, Unreachable
from tests.benchmarks.boards import make_images, make_job
from tests.benchmarks.relay import Relay
from tests.benchmarks.tiny import Tiny

pytestmark = pytest.mark.slow
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))
LONG_SECONDS = 60


@dataclass
class Server:
    """A running sshd."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"ssh://{pwd.getpwuid(os.getuid()).pw_name}@127.0.0.1:{self.port}"

    @property
    def ours(self) -> Path:
        return self.folder / "board" / "ours"

    def end_sessions(self) -> None:
        """Kill whatever serves a connection, and not who waits for new ones."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)


SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
PidFile {folder}/pid
AuthorizedKeysFile {folder}/authorized
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
PermitUserEnvironment no
SetEnv PATH={path} HOME={folder}/board
"""

CLIENT = """
IdentityFile {folder}/user
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile {folder}/known
GlobalKnownHostsFile /dev/null

Host pi4
  HostName 127.0.0.1
  Port {port}
  HostKeyAlias [127.0.0.1]:{port}
"""


def find_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An sshd of the current user; skipped where there is none."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("there is no sshd on this machine (Debian: openssh-server)")
    folder, port = tmp_path_factory.mktemp("ssh"), find_port()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "board").mkdir()
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    (folder / "server").write_text(SERVER.format(port=port, folder=folder, path=path))
    (folder / "client").write_text(CLIENT.format(port=port, folder=folder))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd of root puts its unprivileged half
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "server"], stderr=log)
    deadline = time.monotonic() + LONG_SECONDS
    while b"listening" not in (folder / "log").read_bytes():
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield Server(folder, port, process)
    process.kill()
    process.wait()


@pytest.fixture
def board(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ssh:
    """The server as a device, with a folder of its own."""
    monkeypatch.setenv(CONFIG, str(server.folder / "client"))
    monkeypatch.setenv(ledger.FOLDER, str(tmp_path / "ledger"))
    return Ssh(at=server.address, folder=str(tmp_path / "ours"), name="pi")


def test_a_job_runs_there_and_comes_back(board: Ssh, tmp_path: Path) -> None:
    """Results are those of the runner, and neither a connection nor its folder stays open."""
    job = make_job(tmp_path / "job", images=make_images())
    board.run(job, timeout_seconds=LONG_SECONDS, progress=lambda *_: None)
    assert np.array_equal(np.load(job / "logits.npy"), np.load(job / "images.npy").mean(axis=(2, 3)))
    assert list((tmp_path / "ours" / "jobs").iterdir()) == []


def test_a_killed_session_is_taken_up_again(server: Server, board: Ssh, tmp_path: Path) -> None:
    """When all that serves the connection dies in the middle, the job goes on and its result is whole."""
    job, notes, killed = make_job(tmp_path / "job", "time.sleep(0.3)", images=make_images()), [], []

    def progress(done: int, _total: int, doing: str) -> None:
        notes.append(doing)
        if done and not killed:
            killed.append(server.end_sessions())

    board.run(job, timeout_seconds=LONG_SECONDS, progress=progress)
    assert killed
    assert any(note.startswith("lost, reconnecting") for note in notes)
    assert np.array_equal(np.load(job / "logits.npy"), np.load(job / "images.npy").mean(axis=(2, 3)))


@pytest.fixture
def relay(server: Server, board: Ssh) -> Iterator[Relay]:
    """A way to the server that the client knows by another name."""
    way = Relay(server.port)
    client = (server.folder / "client").read_text()
    more = f"\nHost far\n  HostName 127.0.0.1\n  Port {way.port}\n  HostKeyAlias [127.0.0.1]:{server.port}\n"
    (server.folder / "client").write_text(client + more)
    yield way
    way.close()
    (server.folder / "client").write_text(client)


@pytest.mark.parametrize("fail", [Relay.cut, Relay.stall])
def test_a_way_that_breaks_or_stalls_is_taken_up_again(fail: Callable[[Relay], None], relay: Relay, tmp_path: Path) -> None:
    """A connection that is closed, and one over which nothing comes any more, which ssh itself notices after 15 seconds."""
    board = Ssh(at="ssh://far", folder=str(tmp_path / "ours"), name="pi")
    job, notes, failed = make_job(tmp_path / "job", "time.sleep(1)", images=make_images()), [], []

    def progress(done: int, _total: int, doing: str) -> None:
        notes.append(doing)
        if done and not failed:
            failed.append(fail(relay))
        if doing.startswith("lost") and not doing.endswith("(0 s)"):
            relay.mend()

    board.run(job, timeout_seconds=LONG_SECONDS, progress=progress)
    assert any(re.fullmatch(r"lost, reconnecting \([1-9]\d* s\)", note) for note in notes)
    assert np.array_equal(np.load(job / "logits.npy"), np.load(job / "images.npy").mean(axis=(2, 3)))


def test_a_way_that_stays_broken_ends_with_what_fetches_the_job(
    relay: Relay, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `lost_minutes` the message is a command, which, typed once the board is there again, gives the result."""
    monkeypatch.setattr(Ssh.__init__, "__kwdefaults__", Ssh.__init__.__kwdefaults__ | {"lost_minutes": 0.03})
    monkeypatch.setattr(Ssh, "_read_lines", cut_once(relay, Ssh._read_lines))
    path, options = tiny.write_onnx(tmp_path / "tiny.onnx"), ("--rounds", "5", "--seconds", "0.2", "--launches", "1")
    code, _, said = call("bench", path, "--device", "ssh://far", *options)
    assert code == 5
    found = re.search(
        r"no connection for 1\.8 s; the job (\w+) goes on there; fetch it with compress bench --attach (\w+)", said
    )
    assert found, said
    assert "the connection is lost" in said
    assert found[1] == found[2]
    relay.mend()
    code, out, said = call("bench", "--attach", found[1], "--json")
    assert code in {0, 4}, said
    assert json.loads(out)["tiny.onnx"]["latency_ms"]["p50"] > 0


def cut_once(relay: Relay, read: Callable[..., Any]) -> Callable[..., Any]:
    """Return what reads of a board, and cuts the way before it does so for the first time."""
    calls: list[int] = []

    def read_lines(*arguments: Any) -> Any:
        if not calls:
            relay.cut()
        calls.append(1)
        return read(*arguments)

    return read_lines


def test_a_host_of_the_configuration_is_an_address(board: Ssh, tmp_path: Path) -> None:
    """The user's own names, with all that ssh knows of them, are addresses."""
    facts = Ssh(at="ssh://pi4", folder=str(tmp_path / "ours")).agent.ask("open", {})["facts"]
    assert facts["machine"] == os.uname().machine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            ("known", ""), r"host key is not known; connect once by hand and compare it: ssh -p \d+ \w+@127", id="unknown"
        ),
        pytest.param(
            ("known", "other"), r"host key changed; if you reinstalled it: ssh-keygen -R '\[127.0.0.1\]:\d+'", id="changed"
        ),
        pytest.param(
            ("authorized", ""), r"lets nobody in with the keys here; give it one: ssh-copy-id -p \d+ \w+@127", id="no key"
        ),
    ],
)
def test_who_is_not_trusted_is_one_line_with_a_remedy(
    change: tuple[str, str], message: str, server: Server, board: Ssh, tmp_path: Path
) -> None:
    """Nothing is accepted, asked for, or sent."""
    name, content = change
    path = server.folder / name
    before = path.read_text()
    other = f"[127.0.0.1]:{server.port} {(server.folder / 'user.pub').read_text()}"
    path.write_text(other if content else "")
    try:
        with pytest.raises(Unreachable, match=rf"\Api: its {message}|\Api: {message}") as caught:
            board.run(make_job(tmp_path / "job"), timeout_seconds=LONG_SECONDS, progress=lambda *_: None)
        assert "\n" not in str(caught.value)
    finally:
        path.write_text(before)


def test_a_port_where_nobody_is_and_a_name_of_nobody(board: Ssh, tmp_path: Path) -> None:
    """What ssh says is said, with exit code 5, and nothing is tried again."""
    for address, message in (
        (f"ssh://127.0.0.1:{find_port()}", "Connection refused"),
        ("ssh://nobody.invalid", "resolve hostname"),
    ):
        with pytest.raises(Unreachable, match=message) as caught:
            open_device(address).run(make_job(tmp_path / address[-5:]), timeout_seconds=9, progress=lambda *_: None)
        assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    "address",
    [
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://a@-x",
        "ssh://a b",
        "ssh://a:70000",
        "ssh://a:b@c",
        "ssh://a/path",
        "ssh://a\nb",
    ],
)
def test_what_is_no_address_never_reaches_ssh(address: str) -> None:
    """An address cannot hold an option, a password, or a command."""
    with pytest.raises(CompressError, match="is no address of a board; write ssh://user@host") as caught:
        SshTransport(address)
    assert caught.value.exit_code == 2


def test_addresses_of_every_kind() -> None:
    """User, port, an address of version 6, and a name of the configuration."""
    words = {
        address: SshTransport(address).command("true")
        for address in ("ssh://pi@pi4:2022", "ssh://[fe80::1%eth0]:22", "ssh://pi4")
    }
    assert [each[-2] for each in words.values()] == ["pi@pi4", "fe80::1%eth0", "pi4"]
    assert ["-p" in each for each in words.values()] == [True, True, False]
    assert all({"BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no"} <= {*each} for each in words.values())


def call(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(program, [*map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_bench_over_ssh_detached_and_fetched(
    server: Server, board: Ssh, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user types it: a file is timed on the board, at once or left alone and fetched by its number."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tiny.write_onnx(tmp_path / "tiny.onnx")
    options = ("--device", f"{server.address}", "--rounds", "5", "--seconds", "0.2")
    code, out, said = call("bench", path, *options, "--json")
    assert code in {0, 4}, said
    assert json.loads(out)["tiny.onnx"]["latency_ms"]["p50"] > 0
    code, out, said = call("bench", path, *options, "--detach", "--json")
    assert code == 0, said
    job = json.loads(out)["job"]
    code, out, said = call("device", "jobs", server.address)
    assert job in out
    code, out, said = call("bench", "--attach", job, "--json")
    assert code in {0, 4}, said
    assert json.loads(out)["tiny.onnx"]["latency_ms"]["p50"] > 0
    assert call("bench", "--attach", job)[0] == 2
    code, out, said = call("device", "show", server.address, "--json")
    assert os.uname().machine in json.loads(out)["facts"]["processor"]
