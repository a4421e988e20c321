"""How do mutations get slower with the number of states?

States exclude each other in pairs, and one of each pair is active. Warm: the same two mutations again and again. Cold:
each mutation is the first of its kind, on a machine and a schema that are new; only the mutation is measured.
"""

from __future__ import annotations

from itertools import repeat
from time import perf_counter

from _harness import Case, Goal, Lab, Mark, Question, Sample, timed
from _ours import plain_floor, toggling
from _report import main

import asyncmachine as am

SIZES = (8, 64, 512, 1024)


def half_active(size: int) -> am.Machine:
    """Give a machine of so many states, of which the even ones are active."""
    mach = am.Machine(am.Schema({f"S{i}": am.State(remove=[f"S{i ^ 1}"]) for i in range(size)}))
    mach.set([f"S{i}" for i in range(0, size, 2)])
    return mach


def first_of_its_kind(size: int) -> Sample:
    """Give what measures up to 32 mutations of each machine, no two alike."""
    names = [f"S{i}" for i in range(1, min(size, 64), 2)]

    def sample(count: int) -> float:
        took = 0.0
        for _ in repeat(None, count // len(names)):
            add1 = half_active(size).add1
            start = perf_counter()
            for name in names:
                add1(name)
            took += perf_counter() - start
        return took

    return sample


def warm(lab: Lab) -> list[Case]:
    cases = [Case("the floor, 2 states", timed(plain_floor()))]
    for size in SIZES:
        sample = timed(toggling(half_active(size), "S1", "S0"))
        goal = Goal(must=1.5, aim=1.1) if size == 512 else None
        shown = Mark("among 512 states", "asyncmachine") if size == 512 else None
        cases.append(Case(f"{size} states", sample, "" if size == 8 else "8 states", goal, mark=shown))
    return cases


def cold(lab: Lab) -> list[Case]:
    floor = "the floor, 2 states"
    cases = [Case(floor, timed(plain_floor()))]
    for size in SIZES:
        steps = min(size, 64) // 2
        shown = Mark("among 512 states, for the first time", "asyncmachine") if size == 512 else None
        cases.append(Case(f"{size} states", first_of_its_kind(size), floor, step=steps, mark=shown))
    return cases


QUESTIONS = [
    Question("How long does a mutation take with many states, when it was seen before?", warm),
    Question("How long does a mutation take with many states, for the first time?", cold),
]

if __name__ == "__main__":
    main(QUESTIONS)
