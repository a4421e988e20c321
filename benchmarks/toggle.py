"""How long does a plain toggle take, without handlers?

Two states exclude each other, and each mutation activates the other one. Nobody listens.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from _floor import Floor
from _harness import FLOOR_PLAIN, Case, Goal, Lab, Mark, Question, mark, timed
from _ours import machine, toggling
from _report import main
from _rivals import ASYNC, SYNC, installed

ROW = "toggle, awaited"


def plain(lab: Lab) -> list[Case]:
    row = "toggle"
    goal = Goal(must=3.0e-6 / FLOOR_PLAIN, aim=2.3e-6 / FLOOR_PLAIN)
    return [
        Case("asyncmachine", timed(toggling(machine())), "the floor", goal, mark=Mark(row, "asyncmachine")),
        Case("the floor", timed(toggling(Floor())), mark=Mark(row, "the floor")),
        *(
            Case(rival.name, timed(rival.make(None)), "asyncmachine", mark=Mark(row, rival.series))
            for rival in installed(SYNC)
        ),
    ]


def plain_async(lab: Lab) -> list[Case]:
    cases = []
    for loop in lab.loops:
        ours = f"asyncmachine on {loop}"
        cases.append(Case(ours, lab.on(loop, awaited()), mark=mark(ROW, "asyncmachine", loop)))
        for rival in installed(ASYNC):
            name, sample = f"{rival.name} on {loop}", lab.on(loop, rival.make(None))
            cases.append(Case(name, sample, ours, mark=mark(ROW, rival.series, loop)))
    return cases


def awaited(handlers: object = None) -> Callable[[int], Awaitable[None]]:
    """Give what adds one state and then the other, and awaits each result."""
    mach = machine(handlers)

    async def run(count: int) -> None:
        add1 = mach.add1
        for _ in range(count // 2):
            await add1("A")
            await add1("B")

    return run


QUESTIONS = [
    Question("How long does a toggle take, without handlers?", plain),
    Question("How long does an awaited toggle take, without handlers?", plain_async),
]

if __name__ == "__main__":
    main(QUESTIONS)
