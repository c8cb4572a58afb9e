"""Open loop: requests that begin when they are due, whether the ones before have been answered or not.

    for each moment: wait until it is due --> a free client's thread: request --> (due, began, ended, answer)

A thread per client, as many requests under way as clients. When none is free a request begins late, and that is part of
its latency: it counts from `due`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

A = TypeVar("A")
C = TypeVar("C")


class Sent(NamedTuple, Generic[A]):
    """A request: seconds of the monotonic clock, and what it was answered."""

    due: float
    began: float
    ended: float
    answer: A


def send_open_loop(
    clients: Sequence[C], per_s: float, seconds: float, request: Callable[[C, int, float], A]
) -> list[Sent[A]]:
    """What became of `per_s * seconds` requests, in their order. Raises what a request raised.

    request: called in a thread with a client, the request's number and when it is due.
    """
    free: queue.SimpleQueue[C] = queue.SimpleQueue()
    for client in clients:
        free.put(client)
    done: list[Sent[A] | None] = [None] * round(per_s * seconds)
    failed = threading.Event()

    def perform(number: int, due: float) -> None:
        client = free.get()
        began = time.monotonic()
        try:
            answer = request(client, number, due)
        except BaseException:
            failed.set()
            raise
        finally:
            free.put(client)
        done[number] = Sent(due, began, time.monotonic(), answer)

    started = time.monotonic()
    with ThreadPoolExecutor(len(clients)) as pool:
        under_way = []
        for number in range(len(done)):
            due = started + number / per_s
            time.sleep(max(0.0, due - time.monotonic()))
            under_way.append(pool.submit(perform, number, due))
            if failed.is_set():
                break
    for each in under_way:
        each.result()
    return [each for each in done if each is not None]


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p99, p999 and max of values that are there."""
    in_order = sorted(values)
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: in_order[int(share * (len(in_order) - 1))] for name, share in shares.items()}
