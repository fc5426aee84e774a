"""A board over SSH, through the system's own client: its configuration, agent, jump hosts and hardware keys are honoured.

No password is ever asked for, no host key is ever accepted, and nothing is forwarded.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.devices._remote import Remote
from benchmarks.devices._remote.transport import Lost, clip
from compress.errors import CompressError, Unreachable

CONFIG = "EDGE_COMPRESS_SSH_CONFIG"
"""Environment variable that names another configuration file for ssh (`ssh -F`)."""
FAILED = 255
"""Status of ssh itself; a command there may end with it too, but then its answer came."""
SOCKET_BYTES = 80
"""A path of a socket may have 108 bytes, of which ssh takes some for a temporary name."""
OPTIONS = (
    "BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=15", "ServerAliveInterval=5", "ServerAliveCountMax=3",
    "ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes", "PermitLocalCommand=no", "RequestTTY=no", "LogLevel=ERROR",
)  # fmt: skip
_ADDRESS = re.compile(
    r"ssh://(?P<at>(?:[^\s@:/\[\]-][^\s@:/\[\]]*@)?(?:[^\s@:/\[\]-][^\s@:/\[\]]*|\[[0-9a-fA-F:.%\w]+\]))(?::(?P<port>\d{1,5}))?/?"
)


class Ssh(Remote):
    """Runs jobs on a board over SSH.

    Args:
        at: Where; write ssh://user@host:port, with a host of your ssh configuration or any that ssh knows.
        name: How reports call it; default: the host.
        folder: Ours on the board, from the home folder there.
        python: Of jobs there; `auto` takes what `compress device prepare` made, or else python3.
        store_mib: Room on the board for files that several jobs use, in MiB.
        lost_minutes: A connection that is gone for so long is given up; the job goes on there.
        wait: Whether to wait while another job of ours runs there.
        cpus: The cores there that may be used: `all`, the `big` or `little` ones, or numbers as `0-3,6`.
        config: Configuration file for ssh; default: the environment variable EDGE_COMPRESS_SSH_CONFIG, or ssh's own.
    """

    name = "ssh"

    def __init__(
        self, *, at: str, name: str = "", folder: str = ".cache/edge-compress", python: str = "auto", store_mib: int = 512,
        lost_minutes: float = 10.0, wait: bool = True, cpus: str = "all", config: str = "",
    ) -> None:  # fmt: skip
        way = SshTransport(at, config or os.environ.get(CONFIG, ""))
        super().__init__(
            way, at, name or way.host, folder=folder, python=None if python == "auto" else python, store_mib=store_mib,
            lost_minutes=lost_minutes, wait=wait, cpus=cpus,
        )  # fmt: skip


class SshTransport:
    """The system's ssh client.

    Args:
        address: Of the board, `ssh://user@host:port`.
        config: Configuration file, or empty.

    Raises:
        CompressError: It is no such address.
        Unreachable: There is no ssh on this machine.
    """

    def __init__(self, address: str, config: str = "") -> None:
        found = _ADDRESS.fullmatch(address)
        if found is None or int(found["port"] or 22) > 65535:
            raise CompressError(f"{address}: is no address of a board; write ssh://user@host or ssh://user@host:port")
        self.where = found["at"].replace("[", "").replace("]", "")
        self.host, self._port, self._config = self.where.rpartition("@")[2], found["port"], config
        self._master: Path | None = None
        self._is_held = False
        if shutil.which("ssh") is None:
            raise Unreachable("there is no ssh on this machine; install OpenSSH's client")

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep one connection for several commands while the context lasts, in a folder that only we can read."""
        if self._is_held:
            yield
            return
        with tempfile.TemporaryDirectory(prefix="ec-", dir=_find_short_folder(), ignore_cleanup_errors=True) as folder:
            path = Path(folder, "m")
            self._is_held = True
            self._master = path if len(os.fsencode(path)) <= SOCKET_BYTES else None
            try:
                yield
            finally:
                if self._master is not None and path.exists():
                    subprocess.run(
                        [*self._client(), "-O", "exit", "--", self.where], check=False, capture_output=True, timeout=30
                    )
                self._master, self._is_held = None, False

    def _client(self) -> list[str]:
        options = [
            *OPTIONS,
            *([f"ControlPath={self._master}", "ControlMaster=auto", "ControlPersist=60"] if self._master else []),
        ]
        command = ["ssh", *(["-F", self._config] if self._config else []), *(["-p", self._port] if self._port else [])]
        return [*command, *(word for option in options for word in ("-o", option))]

    def command(self, script: str) -> list[str]:
        """Return the command that runs a script in the POSIX shell of the board."""
        return [*self._client(), "-T", "--", self.where, f"exec sh -c {shlex.quote(script)}"]

    def explain(self, status: int, said: str) -> Unreachable | None:
        """Return why ssh did not run a command; `Lost` where that may pass."""
        if status != FAILED and status >= 0:
            return None
        by_hand = f"ssh {f'-p {self._port} ' if self._port else ''}{self.where}"
        if "IDENTIFICATION HAS CHANGED" in said:
            known = f"[{self.host}]:{self._port}" if self._port else self.host
            return Unreachable(f"its host key changed; if you reinstalled it: ssh-keygen -R '{known}'; if not, do not connect")
        if "host key is known" in said or "Host key verification failed" in said:
            return Unreachable(f"its host key is not known; connect once by hand and compare it: {by_hand}")
        if "Permission denied" in said:
            port = f"-p {self._port} " if self._port else ""
            return Unreachable(f"lets nobody in with the keys here; give it one: ssh-copy-id {port}{self.where}")
        lines = [line for line in said.splitlines() if line.strip()]
        return Lost(clip(lines[-1]) if lines else "the connection was closed")


def _find_short_folder() -> str | None:
    """Return a folder with a short path for a socket, None for the usual one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    places = [runtime, tempfile.gettempdir(), "/tmp"]  # noqa: S108 (a private folder is made in it)
    return next((each for each in places if each and len(each) < SOCKET_BYTES - 20 and os.access(each, os.W_OK)), None)
