"""Handle Ctrl-C and SIGTERM: end a run after the step at hand, with its state saved; at once on the second Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from compress.events import Events


@contextmanager
def catch_stop_request(events: Events) -> Iterator[Callable[[], bool]]:
    """Catch Ctrl-C and SIGTERM, and yield a function that returns whether one came, so that the step at hand can end first.

    Outside the main thread, where Python allows no signal handlers, it always returns false.

    Raises:
        KeyboardInterrupt: The user asked a second time.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()

    def handle_signal(_number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        events.say("stopping after this step, the state is saved; Ctrl-C again stops at once")

    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, handle_signal) for number in heeded}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def treat_sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, where nothing else handles it, end a command as Ctrl-C does, with everything tidied up behind it.

    Raises:
        KeyboardInterrupt: SIGTERM came.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def handle_signal(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, handle_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
