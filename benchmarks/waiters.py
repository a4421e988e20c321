"""What do many waiters cost?

Idle ones wait for eight states other than the two that are toggled. Woken ones wait for one state. Measured is the
mutation that activates it and so resolves all of their futures; and, with a task behind each of them, the same until
the last of the tasks has run on. Making futures and tasks is not measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter

from _floor import Floor
from _harness import FLOOR_PLAIN, Case, Goal, Lab, Mark, Question, mark, timed
from _ours import SCHEMA as TOGGLED
from _ours import plain_floor, toggling
from _report import main
from when_roundtrip import Waitable

import asyncmachine as am

SCHEMA = TOGGLED.merge({f"Other{i}": {} for i in range(8)})


def watched(waiters: int) -> Callable[[int], Awaitable[None]]:
    """Give what toggles a machine with so many waiters."""
    mach, waiting = am.Machine(SCHEMA), list[object]()
    toggle = toggling(mach)

    async def run(count: int) -> None:
        if len(waiting) < waiters:
            # The first time, when the machine gets to know its loop.
            waiting.extend(mach.when1(f"Other{i % 8}") for i in range(waiters))
        toggle(count)

    return run


def waking(mach: Waitable) -> Callable[[int], Awaitable[float]]:
    """Give what measures one mutation for so many waiters."""

    async def run(count: int) -> float:
        mach.add1("A")
        waiting = [mach.when1("B") for _ in range(count)]
        start = perf_counter()
        mach.add1("B")
        took = perf_counter() - start
        for future in waiting:
            await future
        return took

    return run


def waking_tasks(mach: Waitable) -> Callable[[int], Awaitable[float]]:
    """Give what measures one mutation until so many tasks have run on."""

    async def run(count: int) -> float:
        left, all_ran = count, asyncio.Event()

        async def wait() -> None:
            nonlocal left
            await mach.when1("B")
            left -= 1
            if not left:
                all_ran.set()

        mach.add1("A")
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(wait())
            await asyncio.sleep(0)
            start = perf_counter()
            mach.add1("B")
            await all_ran.wait()
            return perf_counter() - start

    return run


def idle(lab: Lab) -> list[Case]:
    cases = [Case("no waiters", lab.on("asyncio", watched(0)))]
    for wanted in (1, 100, 10_000, 100_000):
        goal, shown = None, None
        if wanted == 100_000:
            goal, shown = Goal(must=1.1, aim=1.02), Mark("toggle beside 100,000 waiters", "asyncmachine")
        sample, name = lab.on("asyncio", watched(lab.size(wanted))), f"{wanted:,} waiter{'s' * (wanted > 1)}"
        cases.append(Case(name, sample, "no waiters", goal, mark=shown))
    return cases


def woken(lab: Lab) -> list[Case]:
    size = lab.size(100_000)
    goal = Goal(must=2.5e-6 / FLOOR_PLAIN, aim=1.5e-6 / FLOOR_PLAIN)
    row, scale = "waking a waiter, of 100,000", "the floor, toggled without waiters"
    cases = [Case(scale, timed(plain_floor()))]
    for loop in lab.loops:
        makes: dict[str, Callable[[], Waitable]] = {"asyncmachine": partial(am.Machine, SCHEMA), "the floor": Floor}
        for who, make in makes.items():
            is_ours = who == "asyncmachine"
            sample, shown = lab.on(loop, waking(make())), mark(row, who, loop)
            cases.append(Case(f"{who} on {loop}", sample, scale, goal if is_ours else None, count=size, mark=shown))
            sample, against = lab.on(loop, waking_tasks(make())), f"the floor, with tasks, on {loop}" if is_ours else ""
            cases.append(Case(f"{who}, with tasks, on {loop}", sample, against, count=size))
    return cases


QUESTIONS = [
    Question("How long does a toggle take while others wait for other states?", idle),
    Question("How long does it take to wake a waiter, each of 100,000?", woken),
]

if __name__ == "__main__":
    main(QUESTIONS)
