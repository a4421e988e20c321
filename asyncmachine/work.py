"""Work: what `async` handlers and `fork` do, as tasks under the context of a state.

Work runs in plain tasks that the machine holds until they end, not in a task group: a group needs a task that hosts
it for as long as any work lives, while a machine's work is joined in one place only, its disposal. That saves a task
and a turn of the loop for each burst of work; what a group promises is kept: no task outlives the machine, and
no error is lost, because each ends as the state `Exception`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.to_thread
from typing_extensions import override

from asyncmachine.contexts import MACHINE, Contexts
from asyncmachine.errors import HandlerError, no_function
from asyncmachine.faults import Faults
from asyncmachine.handlers import Handler, is_async_callable
from asyncmachine.home import Home

__all__ = ["Work", "Works"]


class Host(Protocol):
    """The machine, seen from its work."""

    faults: Faults
    home: Home

    @property
    def id(self) -> str: ...


class Work:
    """A piece of work that was started: whether it is done, and a way to cancel it.

    >>> async def main():
    ...     async with am.Machine({"Foo": {}}) as machine:
    ...         work = machine.fork(anyio.sleep_forever)
    ...         work.cancel()
    ...     return work.done()
    >>> am.run(main)
    True
    """

    __slots__ = ("_is_done", "limiter", "name", "scope", "state", "task", "to_the_end")

    def __init__(self, name: str, state: int, scope: anyio.CancelScope, *, to_the_end: bool = False) -> None:
        self.name: str = name
        self.state: int = state
        self.to_the_end: bool = to_the_end
        self.scope: anyio.CancelScope = scope
        self.task: asyncio.Task[Any] | None = None
        self.limiter: Limiter | None = None
        self._is_done = False

    @classmethod
    def ended(cls, name: str) -> Work:
        """Give work that never started, because the machine is disposed, or its state was left."""
        work = cls(name, MACHINE, anyio.CancelScope())
        work.cancel()
        work.finish()
        return work

    def done(self) -> bool:
        """Tell whether the work has ended, one way or another.

        >>> async def main():
        ...     work = mach.fork(anyio.sleep, 0)
        ...     before = work.done()
        ...     await mach.dispose()
        ...     return before, work.done()
        >>> am.run(main)
        (False, True)
        """
        # A task cancelled before its first step runs none of its code, not even `finally`.
        return self._is_done or (self.task is not None and self.task.done())

    def cancel(self) -> None:
        """Cancel the work; if it has not had its first step, it never has it.

        >>> async def main():
        ...     async def never() -> None:
        ...         print("this is not printed")
        ...     mach.fork(never).cancel()
        ...     await mach.dispose()
        >>> am.run(main)
        """
        try:
            self.scope.cancel()
        except RuntimeError:
            # The loop stands still: anyio marks the scope but can tell no task, so that is done here, for when it runs.
            if self.task is not None and not self.task.get_loop().is_closed():
                self.task.cancel()

    def finish(self) -> None:
        """Note that the work has ended, and let go of its task and its limiter."""
        self._is_done = True
        self.task = self.limiter = None

    @override
    def __repr__(self) -> str:
        return f"<Work {self.name}{' done' if self._is_done else ''}>"


class Limiter(asyncio.Semaphore):
    """Lets so many pieces of work run at once; the rest wait their turn, first come, first served."""

    def __init__(self, limit: int, key: object) -> None:
        super().__init__(limit)
        self.key = key
        """What is limited together."""
        self.users = 0
        """How many pieces of work run or wait; with the last one the limiter goes."""


class Works:
    """All work of a machine that has not ended.

    Args:
        host: the machine.
        contexts: where the scopes of work are tied to states.
    """

    __slots__ = ("_contexts", "_host", "_limiters", "_running", "_scope")

    def __init__(self, host: Host, contexts: Contexts) -> None:
        self._host = host
        self._contexts = contexts
        self._running: dict[Work, None] = {}
        self._limiters: dict[object, Limiter] = {}
        self._scope: Callable[[], anyio.CancelScope] = self._first_scope

    def __len__(self) -> int:
        self._sweep()
        return len(self._running)

    def __iter__(self) -> Iterator[Work]:
        self._sweep()
        return iter(list(self._running))

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Give the tasks that work runs in."""
        self._sweep()
        return [work.task for work in self._running if work.task is not None]

    def start_handler(self, handler: Handler, event: Any, state: int) -> None:
        """Start an `async` handler, whose turn has come, under the context of a state."""
        self.start(
            handler.name,
            state,
            partial(handler.fn, event),
            limit=handler.limit,
            key=handler,
            to_the_end=state == MACHINE,
        )

    def start(
        self,
        name: str,
        state: int,
        call: Callable[[], Coroutine[Any, Any, object]],
        *,
        delay: float = 0,
        limit: int | None = None,
        key: object = None,
        to_the_end: bool = False,
    ) -> Work:
        """Start work under the context of a state.

        Args:
            name: what it is called in logs and errors.
            state: the position of the state, or `MACHINE`.
            call: makes the coroutine; called in the first step.
            delay: seconds to wait before.
            limit: how many with the same `key` may run at once.
            key: what is limited together.
            to_the_end: disposal lets it end by itself, within its grace period.
        """
        loop = self._host.home.bind_loop()
        work = Work(name, state, self._scope(), to_the_end=to_the_end)
        if limit is not None:
            limiter = work.limiter = self._limiters.setdefault(key, Limiter(limit, key))
            limiter.users += 1
        self._running[work] = None
        self._contexts.hold(state, work)
        task = loop.create_task(self._run(work, call, delay), name=f"{self._host.id}.{name}")
        if not work.done():  # pragma: no branch - only an eager task, from Python 3.12 on, ends within the call
            work.task = task
        return work

    def _first_scope(self) -> anyio.CancelScope:
        """Make a scope. anyio finds out on which kind of loop it is each time; all others are of the same class."""
        scope = anyio.CancelScope()
        self._scope = type(scope)
        return scope

    async def _run(
        self,
        work: Work,
        call: Callable[[], Coroutine[Any, Any, object]],
        delay: float,
    ) -> None:
        try:
            if work.scope.cancel_called:
                return
            # An eager task has its first step before its maker knows it.
            work.task = work.task or asyncio.current_task()
            with work.scope:
                if delay:
                    await anyio.sleep(delay)
                if work.limiter is None:
                    result = await call()
                else:
                    async with work.limiter:
                        result = await call()
                if result is not None:
                    _refuse_coroutine(result, work.name)
        except Exception as err:  # noqa: BLE001 - the machine's error state
            self._host.faults.work_failed(err, work.name)
        finally:
            self._finish(work)

    def _finish(self, work: Work) -> None:
        del self._running[work]
        self._contexts.release(work.state, work)
        if (limiter := work.limiter) is not None:
            limiter.users -= 1
            if not limiter.users:
                del self._limiters[limiter.key]
        work.finish()

    def _sweep(self) -> None:
        """Finish the work whose task was cancelled, by somebody else, before its first step.

        It is looked for when somebody asks: a callback on each task would be a tenth of what work costs.
        """
        for work in [work for work in self._running if work.done()]:
            self._finish(work)


def _refuse_coroutine(result: object, name: str) -> None:
    """Say what is wrong with a plain function that made a coroutine, in its thread, instead of doing the work."""
    if inspect.iscoroutine(result):
        result.close()
        raise HandlerError(f"{name} returned a coroutine, which would never run; fork the `async def` itself")


def as_coroutine_function(fn: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Give a function as a coroutine function: a plain one runs in a worker thread."""
    if is_async_callable(fn):
        return fn
    if not callable(fn):
        raise HandlerError(no_function(fn, "fork takes a function and what it is called with, fork(fn, *args)"))
    return partial(anyio.to_thread.run_sync, fn)


def name_of(fn: object) -> str:
    """Give what work on a function is called."""
    return getattr(fn, "__qualname__", type(fn).__qualname__)


def limit_key(fn: Callable[..., Any]) -> object:
    """Give what a function is limited by: its code, which all methods and closures made of it share."""
    while isinstance(fn, partial):
        fn = fn.func
    return getattr(fn, "__code__", fn)
