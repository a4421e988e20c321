"""The end of a machine: in order, once, whoever asks for it and from wherever, and bounded in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Generator, Iterable
from contextvars import Context
from typing import Any, Protocol

import anyio

from asyncmachine.actor import Actor
from asyncmachine.contexts import MACHINE, Contexts
from asyncmachine.errors import AsyncMachineError
from asyncmachine.faults import Faults
from asyncmachine.home import Home
from asyncmachine.mutation import Result
from asyncmachine.subscriptions import Subscriptions
from asyncmachine.work import Works

__all__ = ["Disposal"]


class Host(Protocol):
    """The machine, seen from its disposal."""

    dispose_timeout: float
    children: dict[Any, None]
    actor: Actor
    faults: Faults
    home: Home

    @property
    def logger(self) -> logging.Logger: ...

    @property
    def is_idle(self) -> bool: ...

    async def announce_end(self) -> None: ...

    def announce_end_now(self) -> None: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...

    def say_goodbye(self) -> None: ...

    @property
    def id(self) -> str: ...


class Done:
    """An awaitable of something that is done, needing no loop."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield  # makes this a generator


class Disposal:
    """Ends a machine.

    Args:
        host: the machine.
        subscriptions: fail.
        contexts: are cancelled.
        works: are waited for.
    """

    __slots__ = ("_contexts", "_host", "_not_awaited", "_subscriptions", "_task", "_under_way", "_works", "finished")

    def __init__(self, host: Host, subscriptions: Subscriptions, contexts: Contexts, works: Works) -> None:
        self._host = host
        self._subscriptions = subscriptions
        self._contexts = contexts
        self._works = works
        self._task: asyncio.Task[None] | None = None
        self._under_way = False
        self.finished: bool = False
        """True when all is done."""
        self._not_awaited: set[asyncio.Task[Any]] = set()
        """Work that asked for the disposal itself: it must not be waited for."""

    def begin(self) -> Awaitable[None]:
        """Start the disposal, if nobody has, and give something to wait for its end."""
        loop = self._host.home.loop_to_use()
        if loop is not None:
            caller = asyncio.current_task()
            if caller in self._works.tasks():
                self._not_awaited.add(caller)
        if self.finished:
            return Done()
        if loop is None and (self._task is None or self._task.get_loop().is_closed()):
            if self._host.actor.busy:
                self._host.actor.after_drain(self._run_now)
            else:
                self._run_now()
            return Done()
        if self._task is None:
            # Never eager, whatever the loop's factory does, and in no caller's context.
            name = f"{self._host.id}.disposal"
            self._task = asyncio.Task(self._run(), loop=loop, name=name, context=Context())
            # Cancelled before its first step, it runs none of its code, not even `finally`.
            self._task.add_done_callback(lambda _: self._finish())
        return asyncio.shield(self._task)

    async def wait(self) -> None:
        """Dispose, and wait for the end even if the caller is cancelled on the way; then that cancellation goes on."""
        self.begin()
        task, cancelled = self._task, None
        with anyio.CancelScope(shield=True):
            while task is not None and not task.done():
                try:
                    await asyncio.wait([task])
                except asyncio.CancelledError as err:
                    cancelled = err
        if cancelled is not None:
            raise cancelled

    async def _run(self) -> None:
        host = self._host
        try:
            known = set(host.children)
            await self._dispose_children(list(host.children))
            await self._announce()
            self._stop()
            if not host.is_idle:
                host.actor.resume()
                await asyncio.wait([self._subscriptions.queue_end()], timeout=host.dispose_timeout)
            # The handlers of the end may have built more.
            late = [child for child in host.children if child not in known]
            known.update(late)
            await self._dispose_children(late)
            host.close()
            # So may work have, meanwhile; from now on the machine is no parent any more.
            await self._dispose_children([child for child in host.children if child not in known])
            self._contexts.cancel_states()
            for work in self._works:
                if not work.to_the_end:
                    work.cancel()
            await self._join(host.dispose_timeout)
            if any([work.to_the_end for work in self._works]):
                # `async def FooEnd` and `AnyState` have had their time, too; what was cancelled before gets no more.
                self._contexts.cancel([MACHINE])
                await self._join(host.dispose_timeout)
        finally:
            self._finish()

    def _run_now(self) -> None:
        """Dispose a machine that has no loop: nothing it started can be running."""
        if self.finished or self._under_way:
            # A handler of the removal of Start may ask for the very disposal that removes it.
            return
        self._under_way = True
        try:
            known = set(self._host.children)
            self._dispose_children_now(list(self._host.children))
            # What an interrupt or the end of a loop has left in the queue might never end.
            self._host.actor.cancel_all(Result(1, "disposed"))
            self._announce_now()
            self._stop()
            # The handlers of the end may have built more.
            self._dispose_children_now([child for child in self._host.children if child not in known])
        finally:
            self._under_way = False
        self._finish()

    def _dispose_children_now(self, children: Iterable[Any]) -> None:
        for child in children:
            try:
                child.dispose()
            except AsyncMachineError as err:
                self._not_disposed(child, err)

    def _announce_now(self) -> None:
        try:
            self._host.announce_end_now()
        except Exception as err:  # noqa: BLE001 - the end of a machine is not stopped by its handlers
            self._host.faults.report("adding Disposing at the end of the machine failed", err)

    async def _announce(self) -> None:
        """Have a machine with the state Disposing do what belongs to it, while it is still whole."""
        host = self._host
        with anyio.move_on_after(host.dispose_timeout) as scope:
            try:
                await host.announce_end()
            except Exception as err:  # noqa: BLE001 - the end of a machine is not stopped by its handlers
                host.faults.report("adding Disposing at the end of the machine failed", err)
        if scope.cancelled_caught:
            host.logger.warning("Disposing is still active after %s s; the disposal goes on", host.dispose_timeout)

    def _stop(self) -> None:
        try:
            self._host.stop()
        except Exception as err:  # noqa: BLE001 - the end of a machine is not stopped by its handlers
            self._host.faults.report("removing Start at the end of the machine failed", err)

    async def _dispose_children(self, children: Iterable[Any]) -> None:
        # All begin at once, in their order: a server may have thousands, and each may take its whole time.
        ends: list[Awaitable[None]] = []
        for child in children:
            try:
                ends.append(child.dispose())
            except AsyncMachineError as err:
                self._not_disposed(child, err)
        for end in ends:
            await end

    def _not_disposed(self, child: Any, err: AsyncMachineError) -> None:
        self._host.faults.report(f"the submachine {child.id} could not be disposed", err)

    async def _join(self, timeout: float) -> None:
        """Wait until all work has ended, but not for the work that waits for this, and not for ever."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while tasks := [task for task in self._works.tasks() if task not in self._not_awaited]:
            left = until - loop.time()
            if left <= 0:
                names = ", ".join(sorted(task.get_name() for task in tasks))
                self._host.logger.warning("disposed, but after %s s this work still runs: %s", timeout, names)
                return
            await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def _finish(self) -> None:
        """Do what is left, however far the disposal came: it is over after this."""
        if self.finished:
            return
        self._host.close()
        self._contexts.cancel_states()
        self._contexts.cancel([MACHINE])
        self.finished = True
        self._subscriptions.dispose()
        self._host.say_goodbye()
        self._subscriptions.announce_disposal()
