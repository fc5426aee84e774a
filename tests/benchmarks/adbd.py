"""A board that speaks adb: Debian 13's own adbd, Python, NumPy and ONNX Runtime 1.21 in a network namespace of this machine.

python -m tests.benchmarks.adbd     unpacks it into the user's cache, once: 77 MB from Debian's mirror, 261 MB on disk

Debian's packages are unpacked and nothing is installed. It takes root: for the namespace, without which adbd would listen on
every address of this machine, and for a root of its own. What the board keeps lies in another folder, so each begins empty.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.devices._sysroot import _run, _write_apt_settings, find_sysroot
from compress.system.files import write_whole

PACKAGES = (
    "adbd", "base-files", "coreutils", "dash", "libpython3-stdlib", "python3-minimal", "python3-numpy", "python3-onnxruntime",
)  # fmt: skip
LIBRARIES = Path("usr", "lib", "x86_64-linux-gnu")
HERE, THERE = "198.51.100.1", "198.51.100.2"
"""Of a net that is kept for examples (RFC 5737)."""
SERIAL = f"{THERE}:5555"
SECONDS = 20
SCRIPT = """
set -e
mount --make-rprivate /
mount -t proc proc {root}/proc
mount --rbind /dev {root}/dev
mount --bind {home} {root}/data
mount --bind {home}/tmp {root}/tmp
mount --bind {home}/boot_id {root}/proc/sys/kernel/random/boot_id
while :; do
  chroot {root} /usr/bin/env -i PATH=/usr/bin:/bin HOME=/data /usr/sbin/adbd >{home}/adbd.log 2>&1 || sleep 0.2
done
"""


def find_root() -> Path:
    """Return where the root of the board lies, or will lie."""
    return find_sysroot("aarch64").folder.with_name("adbd") / "root"


def explain_missing() -> str:
    """Return why there can be no such board here; empty where there can."""
    missing = [name for name in ("adb", "ip", "unshare") if shutil.which(name) is None]
    if missing:
        return f"there is no {' and no '.join(missing)} on this machine (Debian: adb, iproute2, util-linux)"
    if os.getuid() != 0:
        return "a network namespace for adbd takes root"
    return "" if find_root().exists() else "there is no adbd: python -m tests.benchmarks.adbd"


def make_root() -> None:
    """Download Debian's packages and unpack them, unless they are there."""
    if find_root().exists():
        return
    with write_whole(find_root().parent) as folder:
        root, packed = folder / "root", folder / "packed"
        root.mkdir(parents=True)
        packed.mkdir()
        apt = ["apt-get", "-c", str(_write_apt_settings(packed, ["amd64"])), "--quiet"]
        _run([*apt, "update"], "Debian's packages", "is its mirror within reach?")
        _run([*apt, "--yes", "--download-only", "install", *PACKAGES], "Debian's packages", "is its mirror within reach?")
        for package in sorted((packed / "cache" / "archives").glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(root)], package.name, "free space, or try again")
        for library in ("blas", "lapack"):  # installing would choose one of several
            (root / LIBRARIES / f"lib{library}.so.3").symlink_to(f"{library}/lib{library}.so.3")
        for name in ("data", "dev", "proc", "tmp"):
            (root / name).mkdir(exist_ok=True)
        shutil.rmtree(packed)


class AdbBoard:
    """A running adbd, and what becomes of it.

    Args:
        root: Its root, as `make_root` makes it.
        home: What the board keeps when it restarts, as `/data` there.
    """

    def __init__(self, root: Path, home: Path) -> None:
        self.home, self._root = home, root
        self._space, self._link = f"adbd-{os.getpid()}", f"ea{os.getpid() % 10**9}"
        (home / "tmp").mkdir()
        self.boot()

    def boot(self) -> None:
        """Start it anew: no process of before is left, what it keeps is, and it names another boot."""
        (self.home / "boot_id").write_text(f"{uuid.uuid4()}\n")
        for command in (
            f"netns add {self._space}",
            f"link add {self._link} type veth peer name {self._link}p netns {self._space}",
            f"addr add {HERE}/30 dev {self._link}",
            f"link set {self._link} up",
            f"-n {self._space} addr add {THERE}/30 dev {self._link}p",
            f"-n {self._space} link set {self._link}p up",
        ):
            self._ip(command)
        script = SCRIPT.format(root=self._root, home=self.home)
        inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]
        self._process = subprocess.Popen(["ip", "netns", "exec", self._space, *inside], stdin=subprocess.DEVNULL)

    def halt(self) -> None:
        """Take its power."""
        self._process.kill()
        self._process.wait()
        self._ip(f"link del {self._link}", check=False)
        self._ip(f"netns del {self._space}", check=False)

    def restart(self) -> None:
        """Take its power and give it again; the client does not know until it is told."""
        self.halt()
        self.boot()
        self.connect()

    def set_link(self, state: str) -> None:
        """Plug its network out (`down`) or in (`up`); nobody is told."""
        self._ip(f"link set {self._link} {state}")

    def kill_daemon(self) -> None:
        """Kill adbd, which is started again; what it started lives on, unless it reads or writes to it."""
        for process in find_children(self._process.pid):
            with suppress(OSError):  # ended meanwhile
                if Path(f"/proc/{process}/comm").read_text() == "adbd\n":
                    os.kill(process, signal.SIGKILL)

    def connect(self) -> None:
        """Let the client know it, as its user does once."""
        deadline = time.monotonic() + SECONDS
        adb("disconnect", SERIAL)  # of an earlier boot the client may still believe that it is there
        while "connected" not in adb("connect", SERIAL) or adb("-s", SERIAL, "get-state") != "device\n":
            assert time.monotonic() < deadline, (self.home / "adbd.log").read_text()
            time.sleep(0.2)

    @staticmethod
    def _ip(command: str, *, check: bool = True) -> None:
        subprocess.run(["ip", *command.split()], check=check, capture_output=not check)


def adb(*arguments: str) -> str:
    """Return what the client prints."""
    return subprocess.run(["adb", *arguments], check=False, capture_output=True, text=True, timeout=SECONDS).stdout


def find_children(process: int) -> Iterator[int]:
    """Yield what a process started, and what that did."""
    with suppress(OSError):  # ended meanwhile
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            yield int(child)
            yield from find_children(int(child))


@contextmanager
def run_board(root: Path, home: Path) -> Iterator[AdbBoard]:
    """Give a board that the client knows; the client's server must be one of our own."""
    board = AdbBoard(root, home)
    try:
        board.connect()
        yield board
    finally:
        board.halt()
        adb("kill-server")


if __name__ == "__main__":
    make_root()
