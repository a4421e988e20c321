"""Waiting until machines rest: until nothing moves any more by itself."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable
from typing import Any, cast
from weakref import WeakSet

from asyncmachine.machine import Machine

__all__ = ["settle"]

QUIET = 25
"""How many turns of the loop in which no task moved are taken for rest.

One is not enough: what wakes a task may have several turns to go from callback to callback, through a `gather`, say.
"""

_settling: WeakSet[asyncio.Task[Any]] = WeakSet()
"""The tasks that settle now. They move all the time, and must not wait for each other."""


async def settle(*machines: Machine, turns: int = 5000) -> None:
    """Let the loop turn until the machines rest: no mutation waits, and nothing moves without help from outside.

    Whatever runs by itself has run then: queued mutations, async handlers and forks, and all other tasks of the loop
    that these wake, each up to the point where it waits. Help from outside is what only time, the system, another
    thread or the caller can give: a timer (`sleep`, a timeout, `fork(delay=)`), I/O, a worker thread, a future that
    the test itself is to resolve. None of it is waited for, and no time passes: with a virtual clock, it stands still.
    So `settle` is for "all that follows from this has happened"; for what needs help, wait with `mach.expect`.

    It works on any loop of asyncio, uvloop's too, and with eager tasks. A task counts as at rest while it waits for a
    future that is not done.

    Args:
        machines: machines of the running loop; a disposed one is at rest.
        turns: how often the loop may turn before that is an error.

    Raises:
        AssertionError: there is no rest; the text says what still moves.
        MachineLoopError: a machine is bound to another loop.

    >>> from asyncmachine.testing import settle
    >>> async def main():
    ...     @mach.on.state("Foo")
    ...     async def load(e: am.Event) -> None:
    ...         await anyio.sleep(0)
    ...         e.machine.add1("Bar")
    ...     mach.add1("Foo")
    ...     await settle(mach)
    ...     return str(mach)
    >>> am.run(main)
    '(Foo:1 Bar:1)'
    """
    for mach in machines:
        mach.when_queue_ends().cancel()  # refuses another loop than the machine's
    me = cast("asyncio.Task[Any]", asyncio.current_task())
    _settling.add(me)
    try:
        quiet, before = 0, _position(machines)
        for _ in range(turns):
            await asyncio.sleep(0)
            now = _position(machines)
            quiet = quiet + 1 if now == before and not _moving(machines) else 0
            if quiet == QUIET:
                return
            before = now
        moving = _moving(machines) or ["tasks that wake and wait again and again"]
    finally:
        _settling.discard(me)
    raise AssertionError(
        "\n  ".join([f"no rest within {turns} turns of the loop; what still moves by itself:", *moving])
    )


def _waits_for(task: asyncio.Task[Any]) -> Any:
    """Give the future a task waits for; None if it is about to run.

    No public name tells this. anyio looks here, too, when it waits for all tasks to be blocked.
    """
    return getattr(task, "_fut_waiter", task)


def _others() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task not in _settling]


def _position(machines: Iterable[Machine]) -> object:
    """Give what differs from turn to turn as long as anything moves."""
    # Each keeps what it waited for alive until the next turn, so no new future is taken for an old one.
    return {task: _waits_for(task) for task in _others()}, [
        (mach.statistics(), mach.queue_tick, mach.is_disposed) for mach in machines
    ]


def _moving(machines: Iterable[Machine]) -> list[str]:
    """Say what runs, or is about to."""
    found = [f"{mach.id}: {mach.queue_len} mutations wait" for mach in machines if not mach.is_idle]
    for task in _others():
        waiter = _waits_for(task)
        if waiter is None or waiter.done():
            found.append(f"the task {task.get_name()}: {_where(task)}")
    return found


def _where(task: asyncio.Task[Any]) -> str:
    """Tell where a task is, in code that is not asyncio's or anyio's."""
    told = "about to end"
    coro: Any = task.get_coro()
    while inspect.iscoroutine(coro) and (frame := coro.cr_frame) is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in {"asyncio", "anyio"}:
            break
        told = f"in {frame.f_code.co_qualname}, {frame.f_code.co_filename}:{frame.f_lineno}"
        coro = coro.cr_await
    return told
