"""The inbox: calls from other threads, on their way to the machine."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from asyncmachine.errors import MachineLoopError
from asyncmachine.mutation import Result
from asyncmachine.queue import Queue

__all__ = ["Inbox"]


class Posted:
    """One call."""

    __slots__ = ("call", "context", "future", "in_order", "ready")

    def __init__(self, call: Callable[[], Any], future: concurrent.futures.Future[Any], *, in_order: bool) -> None:
        self.call: Callable[[], Any] = call
        self.future: concurrent.futures.Future[Any] = future
        self.context: Context = copy_context()
        self.in_order: bool = in_order
        """True for one that acts at once, and so has to wait for the mutations posted before it."""
        self.ready: int = 0
        """The queue tick those have run at."""


class Inbox:
    """Calls that wait to be made. Any number of threads may append at once; the rest is for the machine's own."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: deque[Posted] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    def append(self, call: Callable[[], Any], *, in_order: bool) -> concurrent.futures.Future[Any]:
        """Have a call made in the context of now.

        Args:
            call: the call.
            in_order: it has to wait for the mutations of the calls before it; other calls queue a mutation themselves.

        Returns:
            A future of what the call returns; of the final result, if that is one of a queued mutation.
        """
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._calls.append(Posted(call, future, in_order=in_order))
        return future

    def admit(self, queue: Queue) -> None:
        """Make calls until one has queued something, if the queue has room: threads are held back, not refused.

        They must not fill the queue, or what handlers ask for would be refused.
        """
        waiting = len(queue.items)
        while self._calls and len(queue.items) <= waiting < max(1, queue.limit // 2):
            posted = self._calls[0]
            if posted.in_order and queue.items:
                posted.ready = posted.ready or queue.next_tick - 1
                follow_up = not next(iter(queue)).queue_tick
                if queue.tick < posted.ready or follow_up:
                    return  # nor between a mutation and the auto states it leads to
            self._calls.popleft()
            if not posted.future.set_running_or_notify_cancel():
                continue
            try:
                result = posted.context.run(posted.call)
            except BaseException as err:  # noqa: BLE001 - the caller is in another thread
                posted.future.set_exception(err)
            else:
                if isinstance(result, Result) and result.mutation is not None:
                    result.mutation.when_done(posted.future.set_result)
                else:
                    posted.future.set_result(result)

    def refuse(self, text: str) -> None:
        """Fail the calls, which nobody will make.

        Args:
            text: why, for the `MachineLoopError` each of them gets.
        """
        with contextlib.suppress(IndexError):  # empty, at the latest when threads do this at once
            while True:
                future = self._calls.popleft().future
                if future.set_running_or_notify_cancel():
                    future.set_exception(MachineLoopError(text))
