"""Compute results ahead of their use, in threads or processes, and group values in batches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")


def map_ahead(
    pool: Executor, function: Callable[[Value], Result], values: Iterable[Value], ahead: int
) -> Iterator[Result]:
    """Results of a function in the order of its values, of which some are computed ahead."""
    waiting: deque[Future[Result]] = deque()
    for value in values:
        waiting.append(pool.submit(function, value))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def batched(values: Iterable[Value], size: int) -> Iterator[list[Value]]:
    """Values in lists of a size; the last may be shorter."""
    batch: list[Value] = []
    for value in values:
        batch.append(value)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
