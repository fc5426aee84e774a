"""A board or phone over adb, through the system's own client, which must be allowed on the device.

Python is needed there, as over SSH; on a phone that is seldom so for the user of adb's shell.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.devices._remote import Remote
from benchmarks.devices._remote.agent import STATUSES
from benchmarks.devices._remote.transport import Lost, clip
from compress.errors import CompressError, Unreachable

_ADDRESS = re.compile(r"adb://(?P<serial>[A-Za-z0-9][A-Za-z0-9._:-]{0,127})/?")


class Adb(Remote):
    """Runs jobs on a board over adb.

    Args:
        at: Where; write adb://SERIAL, as `adb devices` lists it.
        name: How reports call it; default: the serial number.
        folder: Ours on the board.
        python: Of jobs there; `auto` takes what `compress device prepare` made, or else python3.
        store_mib: Room on the board for files that several jobs use, in MiB.
        lost_minutes: A connection that is gone for so long is given up; the job goes on there.
        wait: Whether to wait while another job of ours runs there.
        cpus: The cores there that may be used: `all`, the `big` or `little` ones, or numbers as `0-3,6`.
    """

    name = "adb"

    def __init__(
        self, *, at: str, name: str = "", folder: str = "/data/local/tmp/edge-compress", python: str = "auto",
        store_mib: int = 512, lost_minutes: float = 10.0, wait: bool = True, cpus: str = "all",
    ) -> None:  # fmt: skip
        way = AdbTransport(at)
        super().__init__(
            way, at, name or way.where, folder=folder, python=None if python == "auto" else python, store_mib=store_mib,
            lost_minutes=lost_minutes, wait=wait, cpus=cpus,
        )  # fmt: skip


class AdbTransport:
    """The system's adb client.

    Args:
        address: Of the board, `adb://SERIAL`.

    Raises:
        CompressError: It is no such address.
        Unreachable: There is no adb on this machine.
    """

    def __init__(self, address: str) -> None:
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise CompressError(f"{address}: is no address of a board; write adb://SERIAL, as `adb devices` lists it")
        self.where = found["serial"]
        if shutil.which("adb") is None:
            raise Unreachable("there is no adb on this machine; install it, on Debian: sudo apt install adb")

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep nothing: adb's own server keeps the connection."""
        yield

    def command(self, script: str) -> list[str]:
        """Return the command that runs a script in the shell of the board, with bytes and exit status carried over."""
        return ["adb", "-s", self.where, "shell", "-T", f"exec sh -c {shlex.quote(script)}"]

    def explain(self, status: int, said: str) -> Unreachable | None:
        """Return why adb did not run a command; `Lost` where that may pass. Its own status 1 may be the command's, too."""
        if "unauthorized" in said:
            return Unreachable("does not trust this machine; unlock it and confirm the key that it shows")
        if "more than one device" in said:
            return Unreachable("there are several devices of that name; name one by the serial number of `adb devices`")
        if "not found" in said and "device" in said:
            last = clip(said.splitlines()[-1])
            return Lost(f"is not there ({last}); see `adb devices`, replug it, or over a network: adb connect {self.where}")
        if "offline" in said:
            return Lost("is offline; replug it, or: adb reconnect")
        if status in STATUSES or (status > 0 and said and not said.startswith(("error:", "adb:"))):
            return None
        return Lost(clip(said.splitlines()[-1]) if said else "the connection was closed")
