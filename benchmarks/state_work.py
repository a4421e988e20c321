"""What does the work of a state cost, started and cancelled?

An `async def FooState` is started by activating Foo, waits for ever, and is cancelled by deactivating Foo. Beside it,
the same coroutine in a bare task with a cancel scope of anyio around it, in a task group of anyio that is cancelled
by such a scope, and in a group of asyncio. Ours includes the two mutations; the others have no states.

Once one at a time, with a turn of the loop after each step, and once 100 at a time, where the turns, most of which
is the loop's own, are shared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio
from _harness import Case, Goal, Lab, Question, mark
from _report import main

import asyncmachine as am

Stop: TypeAlias = Callable[[], object]
Start: TypeAlias = Callable[[int], Stop]
"""Starts the work of this number, and gives what stops it."""


class Ended:
    """How many pieces of work were begun and ended: all, or the figures are of something else."""

    begun = ended = 0

    async def work(self) -> None:
        """Wait until cancelled."""
        self.begun += 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.ended += 1

    def check(self, count: int) -> None:
        """Raise an error unless so many ran, and have ended."""
        if (self.begun, self.ended) != (count, count):
            raise RuntimeError(f"{self.begun} began and {self.ended} ended, of {count}")


def ours(ended: Ended, size: int) -> Start:
    """Give what activates a state of a machine of its own."""

    class Working:
        async def FooState(self, e: am.Event) -> None:
            await ended.work()

    schema = am.Schema({"Foo": {}})
    machines = [am.Machine(schema, handlers=Working()) for _ in range(size)]
    stops = [lambda mach=mach: mach.remove1("Foo") for mach in machines]

    def start(i: int) -> Stop:
        machines[i].add1("Foo")
        return stops[i]

    return start


def bare(ended: Ended, size: int) -> Start:
    """Give what starts a bare task, with a cancel scope around the coroutine."""
    running: set[asyncio.Task[None]] = set()

    async def scoped(scope: anyio.CancelScope) -> None:
        with scope:
            await ended.work()

    def start(i: int) -> Stop:
        scope = anyio.CancelScope()
        task = asyncio.get_running_loop().create_task(scoped(scope))
        # Somebody must hold a task as long as it runs.
        running.add(task)
        task.add_done_callback(running.discard)
        return scope.cancel

    return start


async def turned(start: Start, count: int, size: int) -> None:
    """Start and stop so many, `size` of them at a time."""
    for _ in range(count // size):
        stops = [start(i) for i in range(size)]
        await asyncio.sleep(0)
        for stop in stops:
            stop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def alone(make: Callable[[Ended, int], Start], size: int) -> Callable[[int], Awaitable[None]]:
    """Give what measures work that no group holds."""
    ended = Ended()
    start = make(ended, size)

    async def run(count: int) -> None:
        ended.begun = ended.ended = 0
        await turned(start, count, size)
        ended.check(count)

    return run


def anyio_group(size: int) -> Callable[[int], Awaitable[None]]:
    """Give what starts work in a task group of anyio."""

    async def run(count: int) -> None:
        ended = Ended()

        async def scoped(scope: anyio.CancelScope) -> None:
            with scope:
                await ended.work()

        async with anyio.create_task_group() as group:

            def start(i: int) -> Stop:
                scope = anyio.CancelScope()
                group.start_soon(scoped, scope)
                return scope.cancel

            await turned(start, count, size)
        ended.check(count)

    return run


def asyncio_group(size: int) -> Callable[[int], Awaitable[None]]:
    """Give what starts work in a task group of asyncio."""

    async def run(count: int) -> None:
        ended = Ended()
        async with asyncio.TaskGroup() as group:

            def start(i: int) -> Stop:
                return group.create_task(ended.work()).cancel

            await turned(start, count, size)
        ended.check(count)

    return run


def at_a_time(lab: Lab, size: int) -> list[Case]:
    row = "work, start and cancel" if size == 1 else "work, 100 at a time"
    cases = []
    for loop in lab.loops:
        task = f"a task in a cancel scope on {loop}"
        runs = {
            "asyncmachine": (f"asyncmachine on {loop}", alone(ours, size)),
            "a bare task": (task, alone(bare, size)),
            "anyio": (f"anyio, start_soon in a cancel scope, on {loop}", anyio_group(size)),
            "": (f"asyncio.TaskGroup, without a scope, on {loop}", asyncio_group(size)),
        }
        for series, (name, run) in runs.items():
            goal = Goal(must=1.5, aim=1.2) if series == "asyncmachine" else None
            shown = mark(row, series, loop) if series else None
            cases.append(Case(name, lab.on(loop, run), "" if name == task else task, goal, step=size, mark=shown))
    return cases


QUESTIONS = [
    Question("What do starting and cancelling work cost?", lambda lab: at_a_time(lab, 1)),
    Question(
        "What do starting and cancelling work cost, each of 100 at a time?",
        lambda lab: at_a_time(lab, lab.size(100)),
    ),
]

if __name__ == "__main__":
    main(QUESTIONS)
