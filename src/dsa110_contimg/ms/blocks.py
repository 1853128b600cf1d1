"""Work on a table block by block, on all cores, in order and in bounded memory.

Threads do the arithmetic, which numpy does without Python's lock; reading and writing take turns,
for casacore is not made for several threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["CASACORE", "in_order"]

#: Held by whoever is in casacore.
CASACORE = threading.Lock()

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield what `work` makes of each item, in order; a few are worked on ahead.

    Parameters
    ----------
    work : callable
        Called in threads, one for each processor of this process.
    items : iterable
        What it is called with.
    """
    threads = len(os.sched_getaffinity(0))
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
