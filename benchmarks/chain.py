"""How long does a mutation take that passes through a chain of 100 machines?

A final handler of each machine makes the same mutation on the next one, inside its own transition. So the transitions
are nested. Beyond forty, a machine of ours waits until the stack is lower again; the floor does not, so the limit of
Python's stack is raised while it is measured, for both alike.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from _floor import Floor
from _harness import Case, Lab, Mark, Question, timed
from _ours import Adds, machine, toggling
from _report import main

DEEP = 10_000


class Passes:
    """Passes on what happens to the machine; the last one counts what arrives."""

    def __init__(self, next: Adds | None) -> None:
        self.next = next
        self.passed = 0

    def AState(self, e: Any) -> None:
        self.pass_on("A")

    def BState(self, e: Any) -> None:
        self.pass_on("B")

    def pass_on(self, state: str) -> None:
        if self.next is None:
            self.passed += 1
        else:
            self.next.add1(state)


def chained(make: Callable[[Passes], Adds], length: int) -> Callable[[int], None]:
    """Give what toggles the first machine of a chain, for each so many mutations in all."""
    last = Passes(None)
    head = make(last)
    for _ in range(length - 1):
        head = make(Passes(head))
    toggle = toggling(head)

    def run(count: int) -> None:
        last.passed = 0
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, DEEP))
        try:
            toggle(count // length)
        finally:
            sys.setrecursionlimit(limit)
        if last.passed * length != count:
            raise RuntimeError(f"{last.passed} mutations of {count // length} came to the end of the chain")

    return run


def chain(lab: Lab) -> list[Case]:
    length = lab.size(100)
    row, step = "chain of 100 machines, each", 2 * length
    ours = timed(chained(machine, length))
    floor = timed(chained(lambda handlers: Floor(handlers=handlers), length))
    return [
        Case("asyncmachine", ours, "the floor", step=step, mark=Mark(row, "asyncmachine")),
        Case("the floor", floor, step=step, mark=Mark(row, "the floor")),
    ]


QUESTIONS = [Question("How long does each mutation take in a chain of 100 machines?", chain)]

if __name__ == "__main__":
    main(QUESTIONS)
