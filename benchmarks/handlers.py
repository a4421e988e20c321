"""How long does a toggle take that calls four handlers?

Ours are one negotiation handler and one final handler for the state that is left, and for the one that is entered. The
rivals have a guard, a callback before, one on exit and one on entry. All do nothing, so what is measured is the way to
them.

On a loop, the rivals' callbacks are coroutine functions, awaited in the transition. Ours never waits in a transition,
so plain handlers are what one writes, and the result is awaited. What an asynchronous callback is for, work that takes
time, is an `async` handler that runs as a task: it is measured as well, started and ended for each toggle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from _floor import Floor
from _harness import Case, Goal, Lab, Mark, Question, mark, timed
from _ours import Handlers, machine, toggling
from _report import main
from _rivals import ASYNC, SYNC, AsyncCallbacks, Callbacks, installed
from toggle import awaited

GOALS = {
    "transitions": Goal(must=3, aim=5, at_least=True),
    "python-statemachine": Goal(must=35, aim=60, at_least=True),
    "Automat, methodical": Goal(must=2.5, aim=4, at_least=True),
}
GOALS_ASYNC = {"transitions": Goal(must=20, aim=35, at_least=True)}


class Tasks:
    """The same, but the handler of the state that was entered is work."""

    AExit, BExit, AEnter, BEnter = Handlers.AExit, Handlers.BExit, Handlers.AEnter, Handlers.BEnter
    AEnd, BEnd = Handlers.AEnd, Handlers.BEnd

    async def AState(self, e: Any) -> None:
        """Act, by doing nothing."""

    async def BState(self, e: Any) -> None:
        """Act, by doing nothing."""


def four(lab: Lab) -> list[Case]:
    row = "toggle with four handlers"
    ours, floor = timed(toggling(machine(Handlers()))), timed(toggling(Floor(handlers=Handlers())))
    cases = [
        Case("asyncmachine", ours, "the floor", Goal(must=2.5, aim=1.8), mark=Mark(row, "asyncmachine")),
        Case("the floor", floor, mark=Mark(row, "the floor")),
    ]
    for rival in installed(SYNC):
        sample, goal = timed(rival.make(Callbacks())), GOALS.get(rival.name)
        cases.append(Case(rival.name, sample, "asyncmachine", goal, mark=Mark(row, rival.series)))
    return cases


def four_async(lab: Lab) -> list[Case]:
    row, cases = "toggle with four handlers, awaited", list[Case]()
    for loop in lab.loops:
        ours = f"asyncmachine on {loop}"
        cases.append(Case(ours, lab.on(loop, awaited(Handlers())), mark=mark(row, "asyncmachine", loop)))
        cases.append(Case(f"asyncmachine, one of them a task, on {loop}", lab.on(loop, with_tasks()), ours))
        for rival in installed(ASYNC):
            sample, goal = lab.on(loop, rival.make(AsyncCallbacks())), GOALS_ASYNC.get(rival.name)
            cases.append(Case(f"{rival.name} on {loop}", sample, ours, goal, mark=mark(row, rival.series, loop)))
    return cases


def with_tasks() -> Callable[[int], Awaitable[None]]:
    """Give what toggles and lets the task of the state that was entered run to its end."""
    mach = machine(Tasks())

    async def run(count: int) -> None:
        add1 = mach.add1
        for _ in range(count // 2):
            add1("A")
            await asyncio.sleep(0)
            add1("B")
            await asyncio.sleep(0)

    return run


QUESTIONS = [
    Question("How long does a toggle with four handlers take?", four),
    Question("How long does an awaited toggle with four handlers take?", four_async),
]

if __name__ == "__main__":
    main(QUESTIONS)
