"""The actor: whoever drains the queue. Most often that is the call itself; what a call leaves, a task takes up.

A call on an idle machine steps the queue at once until it is empty. Only two things are left to a task: the rest of a
queue that took longer than its budget, so that a machine that feeds itself never freezes the loop, and calls posted
by other threads. The task starts when it is needed and ends when all is done, so an idle machine holds none.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from asyncmachine.errors import MachineLoopError
from asyncmachine.executor import Executor
from asyncmachine.faults import Faults
from asyncmachine.home import Home
from asyncmachine.inbox import Inbox
from asyncmachine.mutation import EXECUTED, Cause, Mutation, Result, current
from asyncmachine.plans import Live
from asyncmachine.queue import Queue
from asyncmachine.requests import REMOVE, Request
from asyncmachine.subscriptions import Subscriptions

__all__ = ["BUDGET", "Actor"]

BUDGET = 0.005
"""Seconds a drain may take before the loop gets its turn."""


_current = current.get


DEPTH = 40
"""How many transitions of as many machines may be nested, each in a handler of the one before; more wait. A level takes
up to ten frames of Python's stack, which holds a thousand."""


_MAKING = threading.Lock()


class Host(Protocol):
    """The machine, seen from its actor."""

    machine: Any
    home: Home

    def new_future(self) -> asyncio.Future[Any]: ...

    def skipped(self, request: Request) -> None: ...

    @property
    def id(self) -> str: ...


def _nesting(cause: Cause | None) -> int:
    """Give in how many transitions one would be nested that is made now.

    Nested it is only while its cause still runs: work that a transition has started has a stack of its own.
    """
    return 0 if cause is None or cause.is_completed else cause.depth + 1


class Actor:
    """Drains a queue, one mutation after the other.

    Args:
        host: the machine.
        live: its clock.
        queue: what is drained.
        executor: carries mutations out.
        subscriptions: told when the queue moves, and when it ends.
        faults: told of errors nobody is there to be raised to.
    """

    __slots__ = (
        "_after",
        "_anchor",
        "_executor",
        "_faults",
        "_host",
        "_in_task",
        "_inbox",
        "_live",
        "_queue",
        "_raised",
        "_signaled",
        "_subscriptions",
        "_task",
        "busy",
    )

    def __init__(
        self, host: Host, live: Live, queue: Queue, executor: Executor, subscriptions: Subscriptions, faults: Faults
    ) -> None:
        self._host = host
        self._live = live
        self._queue = queue
        self._executor = executor
        self._subscriptions = subscriptions
        self._faults = faults
        self._inbox: Inbox | None = None
        self._signaled = False
        self._task: asyncio.Task[None] | None = None
        self._in_task = False
        self._raised: list[BaseException] = []
        self._after: deque[Callable[[], object]] | None = None
        self._anchor: Actor | None = None
        """Whose drain this one waited for, while it is under way."""
        self.busy: bool = False
        """True while a mutation is carried out."""

    @property
    def is_idle(self) -> bool:
        """True if nothing runs and nothing waits."""
        return not self.busy and not self._queue.items

    @property
    def has_caller(self) -> bool:
        """True while a mutation is carried out within a call, which errors may be raised to."""
        return self.busy and not self._in_task

    def ask(self, mutation: Mutation) -> Result:
        """Submit a mutation from outside, unless it need not or cannot be queued. Give the result so far."""
        cause, depth = _current(), 0
        if cause is not None:
            mutation.source = mutation.source or cause.as_source()
            depth = _nesting(cause)
            if depth > DEPTH and self.is_idle and not mutation.is_check:
                return self._ask_from_the_deep(mutation, cause)
        queue, executor = self._queue, self._executor
        if self.busy or queue.items or executor.tracers is not None:
            return self._ask_for_later(mutation)
        if not mutation.is_check:
            # Nothing is before it, and nobody looks on: it takes its tick, and need not pass through the queue.
            queue.tick = mutation.queue_tick = queue.tick + 1
        executor.depth = depth
        self.busy = True
        try:
            result = executor.run(mutation)
        except Exception as err:  # noqa: BLE001 - raised to the caller when all is drained
            self._raised.append(err)
            result = EXECUTED  # not given to anybody
        except BaseException:
            self._interrupted()
            raise
        if queue.items:
            self._step_all()
        self.busy = False
        if self._after or self._raised or self._subscriptions.queue_ends or executor.tracers is not None:
            self._end()
        return result

    def _ask_for_later(self, mutation: Mutation) -> Result:
        """Queue a mutation from outside, unless it need not or cannot be."""
        if self.busy or self._queue.items:
            if not mutation.is_check and self._is_needless(mutation):
                return EXECUTED
            if self._queue.is_full(mutation.request):
                return Result(1, partial("queue full ({})".format, self._queue.limit))
        return self.submit(mutation, prepend=mutation.is_check)

    def _ask_from_the_deep(self, mutation: Mutation, cause: Cause) -> Result:
        """Queue a mutation made by a transition nested in too many others, until the one right above has ended.

        There the stack is as high as it was before, so a chain of machines may be of any length.
        """
        self._queue.append(mutation)
        mutation.context = copy_context()
        self._executor.tell("mutation_queued", self._host.machine, mutation)
        cause.machine._drain_later(self)
        return Result(mutation.queue_tick, mutation=mutation, futures=self._host)

    def drain_later(self, other: Actor) -> None:
        """Have another machine's queue drained when this one's drain has ended."""
        # One that is drained for somebody else passes it on to them: or each would be drained within the one before.
        anchor = self._anchor or self
        anchor.after_drain(partial(other._drain_for, anchor))

    def _drain_for(self, anchor: Actor) -> None:
        if self._queue.items and not self.busy:
            self._anchor = anchor
            try:
                self._drain(DEPTH)
            except Exception as err:  # noqa: BLE001 - raised to the caller, once all that waits has been drained
                anchor.raise_later(err)
            finally:
                self._anchor = None

    def _is_needless(self, mutation: Mutation) -> bool:
        """Tell whether a mutation changes nothing: it removes what is not there, or an equal one waits."""
        request, queue = mutation.request, self._queue
        if request.type is REMOVE and not queue.items and not self._live.standing.mask & request.mask:
            return True
        bare = mutation.payload is None and mutation.error is None and not request.multi
        if bare and queue.has_equal(request):
            self._host.skipped(request)
            return True
        return False

    def submit(self, mutation: Mutation, *, prepend: bool = False) -> Result:
        """Queue a mutation behind (or before) others, and drain them if nobody does. Give the result so far."""
        queue = self._queue
        for_task = self._in_task or (self._task is not None and not self.busy and bool(queue.items))
        if prepend:
            queue.prepend(mutation)
        else:
            queue.append(mutation)
        self._executor.tell("mutation_queued", self._host.machine, mutation)
        if for_task:
            # The task takes it up, in the context it was asked for in.
            mutation.context = copy_context()
        elif not self.busy and queue.items:
            self._drain(_nesting(current.get()))
        if mutation.outcome is not None:
            return mutation.outcome
        return Result(mutation.queue_tick or queue.tick + 1, mutation=mutation, futures=self._host)

    def raise_later(self, err: BaseException) -> None:
        """Have an error raised to the caller once the queue is drained."""
        self._raised.append(err)

    def after_drain(self, callback: Callable[[], object]) -> None:
        """Have something done once the drain that is under way has ended."""
        if self._after is None:
            self._after = deque()
        self._after.append(callback)

    def resume(self) -> None:
        """Have the queue drained that a cancelled task has left."""
        if self._task is None:
            self._hand_over()

    def cancel_all(self, result: Result) -> None:
        """Take everything off the queue, with this result."""
        while self._queue.items:
            self._queue.take().finish(result)

    def post(
        self,
        loop: asyncio.AbstractEventLoop,
        call: Callable[[], Any],
        *,
        in_order: bool,
    ) -> concurrent.futures.Future[Any]:
        """Have a call made on the machine's loop, from another thread; safe from any number of threads at once."""
        if self._inbox is None:
            # Few machines ever need one, and threads must not make two.
            with _MAKING:
                self._inbox = Inbox() if self._inbox is None else self._inbox
        future = self._inbox.append(call, in_order=in_order)
        # The flag is lowered before the inbox is looked at, so what was appended while it was up is seen.
        if not self._signaled or loop.is_closed():
            self._signaled = True
            try:
                loop.call_soon_threadsafe(self._start, loop)
            except RuntimeError:  # the loop is closed
                self._refuse()
        return future

    def _drain(self, depth: int) -> None:
        """Step the queue until it is empty or the budget is spent; once, whatever the budget."""
        self._executor.depth = depth
        self.busy = True
        try:
            self._run_in_context(self._queue.take())
        except BaseException:
            self._interrupted()
            raise
        if self._queue.items:
            self._step_all()
        self.busy = False
        self._end()

    def _end(self) -> None:
        """Do what waited for the end of a drain."""
        self._rest()
        if self._raised:
            self._raise()

    def _interrupted(self) -> None:
        """Leave the rest of the queue to the task, and report what has nobody to be raised to any more.

        What ended the drain is something like KeyboardInterrupt: it goes on to the caller, the rest runs without it.
        """
        self.busy = False
        if self._queue.items and self._task is None:
            self._hand_over()
        self._rest()
        raised, self._raised = self._raised, []
        for err in raised:
            self._faults.report("an error of a call that was interrupted", err)

    def _raise(self) -> None:
        """Raise what was raised meanwhile: the first error; the others are reported."""
        (first, *others), self._raised = self._raised, []
        for err in others:
            self._faults.report("another error of the same call", err)
        raise first

    def _step_all(self) -> None:
        queue, until = self._queue, perf_counter() + BUDGET
        try:
            while queue.items:
                self._run_in_context(queue.take())
                if queue.items and perf_counter() > until:
                    if self._hand_over():
                        return
                    until = math.inf
        except BaseException:
            self._interrupted()
            raise

    def _run_in_context(self, mutation: Mutation) -> None:
        """Carry a mutation out in the context it was asked for in, if that is another one."""
        context, mutation.context = mutation.context, None
        try:
            if context is None:
                self._executor.run(mutation)
            else:
                context.run(self._executor.run, mutation)
        except Exception as err:  # noqa: BLE001 - raised to the caller when all is drained
            self._raised.append(err)

    def _rest(self) -> None:
        """Say that the queue has ended, if it has, and do what waited for that."""
        if not self._queue.items:
            if self._subscriptions.queue_ends:
                self._subscriptions.notify_queue_end()
            self._executor.tell("queue_end", self._host.machine)
        while self._after:
            self._after.popleft()()

    def _hand_over(self) -> bool:
        """Leave the rest of the queue to the task; False if there is no loop it could run on."""
        try:
            loop = self._host.home.bind_loop()
        except MachineLoopError:
            return False
        context = copy_context()
        for mutation in self._queue.items:
            if mutation.context is None:
                mutation.context = context
        self._start(loop)
        return True

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._signaled = False
        if self._task is None:
            # Never eager, whatever the loop's factory does, and in no caller's context.
            self._task = asyncio.Task(self._main(), loop=loop, name=f"{self._host.id}.actor", context=Context())
            self._task.add_done_callback(self._ended)

    async def _main(self) -> None:
        try:
            while self._queue.items or self._inbox:
                self._slice()
                await asyncio.sleep(0)
        finally:
            self._task = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            # Cancelled before its first step, it ran none of its code, not even `finally`.
            self._task = None
        err = None if task.cancelled() else task.exception()
        if err is not None:
            self._faults.report("the actor was stopped", err)
        if self._task is None and (task.cancelled() or err is not None):
            self._refuse()

    def _refuse(self) -> None:
        """Fail the posted calls, which nobody will make."""
        if self._inbox is not None:
            text = "was stopped before the call was made; have threads end before the loop does"
            self._inbox.refuse(f"the loop of the machine {self._host.id} {text}")

    def _slice(self) -> None:
        """Step the queue from the task, until it is empty or the budget is spent."""
        queue, until = self._queue, perf_counter() + BUDGET
        self.busy = self._in_task = True
        self._executor.depth = 0
        try:
            # Once a turn even if the queue is never empty.
            if self._inbox:
                self._inbox.admit(queue)
            while True:
                if self._inbox and not queue.items:
                    self._inbox.admit(queue)
                if not queue.items:
                    break
                self._run_in_context(queue.take())
                if perf_counter() > until:
                    break
        finally:
            self.busy = self._in_task = False
        self._rest()
        raised, self._raised = self._raised, []
        for err in raised:
            self._faults.report("an error that had no caller to be raised to", err)
