"""How long does a mutation take among 100 states with relations?

One in ten states is required by its nine neighbours, a third of the states add another one, a fifth remove one. All are
toggled: in an order that repeats; each once on a machine and a schema that are new, so that all is seen for the first
time, the building not measured; and at random, so that hardly anything is seen twice, on one machine for ever.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import cycle, islice, repeat
from time import perf_counter

from _harness import FLOOR_PLAIN, Case, Goal, Lab, Mark, Question, timed
from _ours import plain_floor
from _report import main

import asyncmachine as am

SIZE = 100
FLOOR = "the floor, 2 states"


def schema() -> am.Schema:
    """Give a new schema of the states and their relations, always the same."""
    chance = random.Random(100)  # noqa: S311 - no secrets
    names = [f"S{i}" for i in range(SIZE)]
    adding, removing = set(chance.sample(names, SIZE // 3)), set(chance.sample(names, SIZE // 5))
    states = {}
    for i, name in enumerate(names):
        required = names[i - i % 10]
        add, remove = chance.sample([other for other in names if other not in (name, required)], 2)
        states[name] = am.State(
            require=[required] if required != name else [],
            add=[add] if name in adding else [],
            remove=[remove] if name in removing else [],
        )
    return am.Schema(states)


def order() -> list[str]:
    """Give all states in an order of no meaning, always the same."""
    names = [f"S{i}" for i in range(SIZE)]
    random.Random(1).shuffle(names)  # noqa: S311 - no secrets
    return names


def repeating() -> Callable[[int], None]:
    mach, names = am.Machine(schema()), order()

    def run(count: int) -> None:
        toggle1 = mach.toggle1
        for _ in repeat(None, count // SIZE):
            for name in names:
                toggle1(name)

    # From some time on the machine goes round in a circle: all plans are known before anything is measured.
    run(100 * SIZE)
    return run


def first_time(count: int) -> float:
    names, took = order(), 0.0
    for _ in repeat(None, count // SIZE):
        toggle1 = am.Machine(schema()).toggle1
        start = perf_counter()
        for name in names:
            toggle1(name)
        took += perf_counter() - start
    return took


def random_walk() -> Callable[[int], None]:
    mach, names, chance = am.Machine(schema()), order(), random.Random(2)  # noqa: S311 - no secrets
    steps = cycle(chance.choices(names, k=100_000))

    def run(count: int) -> None:
        toggle1 = mach.toggle1
        for name in islice(steps, count):
            toggle1(name)

    return run


def among_100(lab: Lab) -> list[Case]:
    new = Goal(must=60e-6 / FLOOR_PLAIN, aim=30e-6 / FLOOR_PLAIN)
    known = Goal(must=10e-6 / FLOOR_PLAIN, aim=2e-6 / FLOOR_PLAIN)
    marks = [
        Mark(row, "asyncmachine")
        for row in ("among 100 related states", "among 100, for the first time", "among 100, at random")
    ]
    return [
        Case("in an order that repeats", timed(repeating()), FLOOR, known, step=SIZE, mark=marks[0]),
        Case("each for the first time", first_time, FLOOR, new, step=SIZE, mark=marks[1]),
        Case("at random", timed(random_walk()), FLOOR, new, mark=marks[2]),
        Case(FLOOR, timed(plain_floor())),
    ]


QUESTIONS = [Question("How long does a toggle take among 100 related states?", among_100)]

if __name__ == "__main__":
    main(QUESTIONS)
