"""The actor: whoever drains the queue. Most often that is the call itself; what a call leaves, a task takes up.

A call on an idle machine steps the queue at once until it is empty. Only two things are left to a task: the rest of a
queue that took longer than its budget, so that a machine that feeds itself never freezes the loop, and calls posted
by other threads. The task starts when it is needed and ends when all is done, so an idle machine holds none.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Protocol

from asyncmachine.errors import MachineLoopError
from asyncmachine.faults import Faults
from asyncmachine.mutation import Mutation, Result
from asyncmachine.queue import Queue

__all__ = ["BUDGET", "Actor"]

BUDGET = 0.005
"""Seconds a drain may take before the loop gets its turn."""


class Host(Protocol):
    """The machine, seen from its actor."""

    faults: Faults

    @property
    def id(self) -> str: ...

    def bind_loop(self) -> asyncio.AbstractEventLoop: ...

    def new_future(self) -> asyncio.Future[Any]: ...

    def mutation_queued(self, mutation: Mutation) -> None: ...

    def execute(self, mutation: Mutation) -> Result: ...

    def mutation_done(self, mutation: Mutation, result: Result) -> None: ...

    def queue_ended(self) -> None: ...


class Posted:
    """A call from another thread, on its way to the machine."""

    __slots__ = ("call", "context", "future", "in_order", "ready")

    def __init__(self, call: Callable[[], Any], future: concurrent.futures.Future[Any], *, in_order: bool) -> None:
        self.call = call
        self.future = future
        self.context = copy_context()
        self.in_order = in_order
        """True for one that acts at once, and so has to wait for the mutations posted before it."""
        self.ready = 0
        """The queue tick those have run at."""


class Actor:
    """Drains a queue, one mutation after the other.

    Args:
        host: the machine.
        queue: what is drained.
    """

    __slots__ = ("_after", "_host", "_inbox", "_queue", "_raised", "_signaled", "_task", "busy", "has_caller")

    def __init__(self, host: Host, queue: Queue) -> None:
        self._host = host
        self._queue = queue
        self._inbox: deque[Posted] = deque()
        self._signaled = False
        self._task: asyncio.Task[None] | None = None
        self._raised: list[BaseException] = []
        self._after: list[Callable[[], object]] = []
        self.busy = False
        """True while a mutation is carried out."""
        self.has_caller = False
        """True while that happens within a call, which errors may be raised to."""

    @property
    def is_idle(self) -> bool:
        """True if nothing runs and nothing waits."""
        return not self.busy and not self._queue

    def submit(self, mutation: Mutation, *, prepend: bool = False) -> Result:
        """Queue a mutation, and step the queue if nobody does; give the result so far."""
        queue, task = self._queue, self._task
        waits = self.busy or (task is not None and bool(queue))
        if prepend:
            queue.prepend(mutation)
        else:
            queue.append(mutation)
        self._host.mutation_queued(mutation)
        if not waits:
            self._drain()
        elif task is not None:
            # The task takes it up, in the context it was asked for in.
            mutation.context = copy_context()
        if mutation.outcome is not None:
            return mutation.outcome
        return Result(mutation.queue_tick or queue.tick + 1, mutation=mutation, futures=self._host)

    def raise_later(self, err: BaseException) -> None:
        """Have an error raised to the caller once the queue is drained."""
        self._raised.append(err)

    def after_drain(self, callback: Callable[[], object]) -> None:
        """Have something done once the drain that is under way has ended."""
        self._after.append(callback)

    def cancel_all(self, result: Result) -> None:
        """Take everything off the queue, with this result."""
        while self._queue:
            self._queue.take().finish(result)

    def post(
        self,
        loop: asyncio.AbstractEventLoop,
        call: Callable[[], Any],
        *,
        in_order: bool,
    ) -> concurrent.futures.Future[Any]:
        """Have a call made on the machine's loop, from another thread; safe from any number of threads at once."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._inbox.append(Posted(call, future, in_order=in_order))
        # The flag is lowered before the inbox is looked at, so what was appended while it was up is seen.
        if not self._signaled:
            self._signaled = True
            loop.call_soon_threadsafe(self._start, loop)
        return future

    def _drain(self) -> None:
        """Step the queue within a call, until it is empty or the budget is spent."""
        queue = self._queue
        self.busy = self.has_caller = True
        until = 0.0
        try:
            while queue:
                self._step(queue.take())
                if not queue:
                    break
                now = time.perf_counter()
                if not until:
                    until = now + BUDGET
                elif now > until:
                    if self._hand_over():
                        break
                    until = math.inf
        finally:
            self.busy = self.has_caller = False
            if queue and self._task is None:
                # Something like KeyboardInterrupt came up: it goes on to the caller, the rest runs without it.
                self._hand_over()
        self._rest()
        if self._raised:
            first, *others = self._raised
            self._raised = []
            for err in others:
                self._host.faults.report("another error of the same call", err)
            raise first

    def _step(self, mutation: Mutation) -> None:
        result = Result(1, "interrupted")
        try:
            result = self._host.execute(mutation)
        except Exception as err:  # noqa: BLE001 - raised to the caller when all is drained
            result = Result(1, str(err))
            self._raised.append(err)
        finally:
            mutation.finish(result)
            self._host.mutation_done(mutation, result)

    def _rest(self) -> None:
        """Say that the queue has ended, if it has, and do what waited for that."""
        if not self._queue and not self.busy:
            self._host.queue_ended()
        callbacks, self._after = self._after, []
        for callback in callbacks:
            callback()

    def _hand_over(self) -> bool:
        """Leave the rest of the queue to the task; False if there is no loop it could run on."""
        try:
            loop = self._host.bind_loop()
        except MachineLoopError:
            return False
        context = copy_context()
        for mutation in self._queue:
            if mutation.context is None:
                mutation.context = context
        self._start(loop)
        return True

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._signaled = False
        if self._task is None:
            # Never eager, whatever the loop's factory does, and in no caller's context.
            self._task = asyncio.Task(self._main(), loop=loop, name=f"{self._host.id}.actor", context=Context())

    async def _main(self) -> None:
        try:
            while self._queue or self._inbox:
                self._slice()
                await asyncio.sleep(0)
        finally:
            self._task = None
            while self._inbox:
                err = MachineLoopError(f"the loop of the machine {self._host.id} was stopped before the call was made")
                self._inbox.popleft().future.set_exception(err)

    def _slice(self) -> None:
        """Step the queue from the task, until it is empty or the budget is spent."""
        queue, until = self._queue, time.perf_counter() + BUDGET
        self.busy = True
        try:
            while True:
                self._admit()
                if not queue:
                    break
                mutation = queue.take()
                context, mutation.context = mutation.context, None
                if context is None:
                    self._step(mutation)
                else:
                    context.run(self._step, mutation)
                if time.perf_counter() > until:
                    break
        finally:
            self.busy = False
        for err in self._raised:
            self._host.faults.report("an error that had no caller to be raised to", err)
        self._raised = []
        self._rest()

    def _admit(self) -> None:
        """Make the posted calls, as far as the queue has room: threads are held back, not refused."""
        queue, inbox = self._queue, self._inbox
        while inbox and len(queue) < queue.limit:
            posted = inbox[0]
            if posted.in_order and queue:
                posted.ready = posted.ready or queue.next_tick - 1
                if queue.tick < posted.ready:
                    return
            inbox.popleft()
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
