"""Prefetching by threads: calls are made ahead of their reader, and their results handed over in order.

Reading files, decoding pictures and copying arrays let go of Python's lock, so that threads do them at the same time; unlike
processes they need no copies of what they return, start at once, and end with the process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def prefetch(calls: Iterable[Callable[[], T]], *, workers: int, lead: int) -> Iterator[T]:
    """Yield what each call returns, in the order of the calls.

    What a call raises is raised where its result would have been. Calls are taken from the iterable as they are begun; when the
    caller stops early, those that have not begun are dropped.

    Args:
        calls: What is done.
        workers: How many are done at the same time.
        lead: How many are begun or waiting before the first result is asked for.
    """
    upcoming = iter(calls)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    try:
        waiting: deque[Future[T]] = deque(pool.submit(call) for call in islice(upcoming, lead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(call) for call in islice(upcoming, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
