"""Several things at once, each computed by one thread: results can't depend on how many there are."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import torch

T = TypeVar("T")


class Workers:
    """Threads that each compute with one thread, so that a strip's result can't depend on their number."""

    def __init__(self, pool: ThreadPoolExecutor | None) -> None:
        self._pool = pool

    def each(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Return every task's result, in order."""
        if self._pool is None or len(tasks) == 1:
            return [task() for task in tasks]
        return list(self._pool.map(_call, tasks))


def _call(task: Callable[[], T]) -> T:
    with torch.inference_mode():
        return task()


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="flows", initializer=torch.set_num_threads, initargs=(1,))


@contextmanager
def one_thread_each(device: torch.device) -> Iterator[Workers]:
    """Give as many workers as torch has threads, and one thread to every operation until the end."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield Workers(None)
        return
    torch.set_num_threads(1)
    try:
        yield Workers(_pool(threads))
    finally:
        torch.set_num_threads(threads)
