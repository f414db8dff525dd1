"""Making things ahead of the loop that needs them."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def prefetched(make: Callable[[int], T], positions: range, *, workers: int = 1, depth: int = 2) -> Generator[T]:
    """Yields `make(position)` for each position in order, made ahead by `workers` threads.

    make: is called by several threads at once, and its results must not depend on which calls came before.
    depth: how many may lie ready, beside one in each worker's hands. An exception is raised where its item would have
    come. Leaving the loop early waits for the items that are being made.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    ahead: deque[Future[T]] = deque()
    remaining = iter(positions)

    def begin(count: int) -> None:
        ahead.extend(pool.submit(make, position) for position in islice(remaining, count))

    try:
        begin(workers + depth)
        while ahead:
            item = ahead.popleft().result()
            begin(1)
            yield item
    finally:
        # Waited for: a thread that is inside torch when Python shuts down aborts the process.
        pool.shutdown(wait=True, cancel_futures=True)
