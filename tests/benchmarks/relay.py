"""A way to a server that can be cut and stalled: a relay of TCP in threads of the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Relay:
    """Carries bytes between a port of its own and another one of this machine.

    Args:
        port: Where it leads.
    """

    def __init__(self, port: int) -> None:
        self._target, self._flows, self._open = port, threading.Event(), True
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._flows.set()
        self._start(self._accept)

    def cut(self) -> None:
        """Close every connection, and take no further one."""
        self._open = False
        for end in self._ends:
            shut(end, socket.SHUT_RDWR)

    def stall(self) -> None:
        """Carry nothing any more, and close nothing, as a cable does that is plugged out."""
        self._flows.clear()

    def mend(self) -> None:
        """Be as in the beginning."""
        self._open = True
        self._flows.set()

    def close(self) -> None:
        """End."""
        self._flows.set()
        self.cut()
        shut(self._listener, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (*self._ends, self._listener):
            end.close()

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:  # shut down
                return
            self._ends.append(near)
            if not self._open:
                shut(near, socket.SHUT_RDWR)
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            self._ends.append(far)
            self._start(self._carry, near, far)
            self._start(self._carry, far, near)

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # cut
            while content := source.recv(1 << 16):
                self._flows.wait()
                sink.sendall(content)
        shut(sink, socket.SHUT_WR)


def shut(end: socket.socket, how: int) -> None:
    """Shut a connection down, unless that was done already."""
    with suppress(OSError):
        end.shutdown(how)
