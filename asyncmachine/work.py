"""Work: what `async` handlers and `fork` do, as tasks under the context of a state.

Work runs in plain tasks that the machine holds until they end, not in a task group: a group needs a task that hosts
it for as long as any work lives, while a machine's work is joined in one place only, its disposal. That saves a task
and a turn of the loop for each burst of work; what a group promises is kept: no task outlives the machine, and
no error is lost, because each ends as the state `Exception`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol

import anyio
import anyio.to_thread
from typing_extensions import override

from asyncmachine.contexts import MACHINE, Contexts
from asyncmachine.faults import Faults
from asyncmachine.handlers import is_async_callable

__all__ = ["Work", "Works"]


class Host(Protocol):
    """The machine, seen from its work."""

    id: str
    faults: Faults

    def bind_loop(self) -> asyncio.AbstractEventLoop: ...


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

    __slots__ = ("_is_done", "name", "scope", "state", "task", "to_the_end")

    def __init__(self, name: str, state: int, *, to_the_end: bool = False) -> None:
        self.name = name
        self.state = state
        self.to_the_end = to_the_end
        self.scope = anyio.CancelScope()
        self.task: asyncio.Task[Any] | None = None
        self._is_done = False

    @classmethod
    def ended(cls, name: str) -> Work:
        """Give work that never started, because the machine is disposed."""
        work = cls(name, MACHINE)
        work.cancel()
        work.finish()
        return work

    def done(self) -> bool:
        """Tell whether the work has ended, one way or another."""
        return self._is_done

    def cancel(self) -> None:
        """Cancel the work; if it has not had its first step, it never has it."""
        self.scope.cancel()

    def finish(self) -> None:
        """Note that the work has ended, and let go of its task."""
        self._is_done = True
        self.task = None

    @override
    def __repr__(self) -> str:
        return f"<Work {self.name}{' done' if self._is_done else ''}>"


class Limiter(asyncio.Semaphore):
    """Lets so many pieces of work run at once; the rest wait their turn, first come, first served."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.users = 0
        """How many pieces of work run or wait; with the last one the limiter goes."""


class Works:
    """All work of a machine that has not ended.

    Args:
        host: the machine.
        contexts: where the scopes of work are tied to states.
    """

    __slots__ = ("_contexts", "_host", "_limiters", "_running")

    def __init__(self, host: Host, contexts: Contexts) -> None:
        self._host = host
        self._contexts = contexts
        self._running: dict[Work, None] = {}
        self._limiters: dict[object, Limiter] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Work]:
        return iter(list(self._running))

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Give the tasks that work runs in."""
        return [work.task for work in self._running if work.task is not None]

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
        loop = self._host.bind_loop()
        limiter = None
        if limit is not None:
            limiter = self._limiters.setdefault(key, Limiter(limit))
            limiter.users += 1
        work = Work(name, state, to_the_end=to_the_end)
        self._running[work] = None
        self._contexts.hold(state, work.scope)
        task = loop.create_task(self._run(work, call, delay, limiter, key), name=f"{self._host.id}.{name}")
        if not work.done():  # an eager task may have ended within the call
            work.task = task
            # A task cancelled before its first step runs none of its code, not even `finally`.
            task.add_done_callback(lambda _: self._finish(work))
        return work

    async def _run(
        self,
        work: Work,
        call: Callable[[], Coroutine[Any, Any, object]],
        delay: float,
        limiter: Limiter | None,
        key: object,
    ) -> None:
        try:
            if work.scope.cancel_called:
                return
            work.task = asyncio.current_task()
            with work.scope:
                if delay:
                    await anyio.sleep(delay)
                async with limiter or contextlib.nullcontext():
                    await call()
        except Exception as err:  # noqa: BLE001 - the machine's error state
            self._host.faults.work_failed(err, work.name)
        finally:
            if limiter is not None:
                limiter.users -= 1
                if not limiter.users:
                    self._limiters.pop(key, None)
            self._finish(work)

    def _finish(self, work: Work) -> None:
        if self._running.pop(work, _GONE) is not _GONE:
            self._contexts.release(work.state, work.scope)
            work.finish()


_GONE = object()


def as_coroutine_function(fn: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Give a function as a coroutine function: a plain one runs in a worker thread."""
    if is_async_callable(fn):
        return fn
    return functools.partial(anyio.to_thread.run_sync, fn)


def limit_key(fn: Callable[..., Any]) -> object:
    """Give what a function is limited by: its code, which all methods and closures made of it share."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    return getattr(fn, "__code__", fn)
