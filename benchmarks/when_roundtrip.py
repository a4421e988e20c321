"""How long does it take to wait for a state, activate it, and be told?

`when1` gives a future, a mutation resolves it, and it is awaited: it is done by then, so no turn of the loop is needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from _floor import Floor
from _harness import Case, Goal, Lab, Question, mark
from _ours import machine
from _report import main


class Waitable(Protocol):
    """Our machine, or the floor."""

    def add1(self, state: str, /) -> Any: ...

    def when1(self, state: str, /) -> Awaitable[int]: ...


def roundtrip(mach: Waitable) -> Callable[[int], Awaitable[None]]:
    """Give what waits for one state and then for the other, so many times in all."""

    async def run(count: int) -> None:
        for _ in range(count // 2):
            active = mach.when1("A")
            mach.add1("A")
            await active
            active = mach.when1("B")
            mach.add1("B")
            await active

    return run


def when(lab: Lab) -> list[Case]:
    row, goal, cases = "when1, add1, await", Goal(must=1.8, aim=1.4), list[Case]()
    for loop in lab.loops:
        ours, floor = f"asyncmachine on {loop}", f"the floor on {loop}"
        sample = lab.on(loop, roundtrip(machine()))
        cases.append(Case(ours, sample, floor, goal, mark=mark(row, "asyncmachine", loop)))
        cases.append(Case(floor, lab.on(loop, roundtrip(Floor())), mark=mark(row, "the floor", loop)))
    return cases


QUESTIONS = [Question("How long do when1, a mutation and await take together?", when)]

if __name__ == "__main__":
    main(QUESTIONS)
