"""What do many machines cost?

Machines of eight states on one schema, which exclude each other in pairs: the time to build one, the bytes it holds (as
`tracemalloc` counts them), and what a toggle costs while the others idle. The rivals' machines have eight states and
eight transitions in a ring; of transitions, one machine is shared by many models, as its documentation recommends for
many.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from itertools import repeat
from time import perf_counter
from typing import Any, Protocol

from _harness import FLOOR_PLAIN, Case, Goal, Lab, Mark, Question, Sample, is_installed, timed
from _ours import plain_floor, toggling
from _report import main

import asyncmachine as am

NAMES = [f"S{i}" for i in range(8)]
SCHEMA = am.Schema({name: am.State(remove=[NAMES[i ^ 1]]) for i, name in enumerate(NAMES)})
MOST = "each of 10,000 machines"
Build = Callable[[], object]


def ours() -> object:
    return am.Machine(SCHEMA)


def ours_used() -> object:
    """Give a machine that has been in each of its states."""
    mach = am.Machine(SCHEMA)
    for name in NAMES:
        mach.add1(name)
    return mach


def rivals() -> dict[str, Build]:
    """Give what builds one more machine of each rival, all that is shared being there."""
    found: dict[str, Build] = {}
    if is_installed("transitions"):
        found["transitions"] = transitions()
    if is_installed("statemachine"):
        found["python-statemachine"] = statemachine()
    if is_installed("automat"):
        found["Automat, typed"] = automat()
    return found


def transitions() -> Build:
    from transitions import Machine  # noqa: PLC0415 - rivals may be missing

    class Model:
        pass

    ring = [{"trigger": "go", "source": name, "dest": NAMES[i - 7]} for i, name in enumerate(NAMES)]
    shared = Machine(model=None, states=NAMES, initial="S0", transitions=ring)

    def build() -> object:
        model = Model()
        shared.add_model(model)
        # The shared machine is not to hold it: the caller does, and lets it go.
        shared.models.clear()
        return model

    return build


def statemachine() -> Build:
    from statemachine import State, StateChart  # noqa: PLC0415 - rivals may be missing

    class Ring(StateChart[Any]):
        S0 = State(initial=True)
        S1, S2, S3, S4, S5, S6, S7 = (State() for _ in range(7))
        go = S0.to(S1) | S1.to(S2) | S2.to(S3) | S3.to(S4) | S4.to(S5) | S5.to(S6) | S6.to(S7) | S7.to(S0)

    return Ring


class Goes(Protocol):
    """The inputs of the machine, as Automat wants them."""

    def go(self) -> None:
        """Go to the next state."""


def automat() -> Build:
    from automat import TypeMachineBuilder  # noqa: PLC0415 - rivals may be missing

    builder = TypeMachineBuilder(Goes, object)
    states = [builder.state(name) for name in NAMES]
    for i, state in enumerate(states):
        state.upon(Goes.go).to(states[i - 7]).returns(None)
    make = builder.build()
    return lambda: make(object())


def building(build: Build) -> Sample:
    """Give what measures the building of so many, all of which stay until the last is there."""

    def sample(count: int) -> float:
        start = perf_counter()
        machines = [build() for _ in repeat(None, count)]
        took = perf_counter() - start
        del machines
        return took

    return sample


def weighing(build: Build) -> Sample:
    """Give what counts the bytes of so many."""

    def sample(count: int) -> float:
        build()
        gc.collect()
        tracemalloc.start()
        try:
            machines = [build() for _ in repeat(None, count)]
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
            del machines

    return sample


def built(lab: Lab) -> list[Case]:
    row, scale = "building a machine of 8 states", "the floor, toggled once"
    goal = Goal(must=25e-6 / FLOOR_PLAIN, aim=10e-6 / FLOOR_PLAIN)
    shown = Mark(row, "asyncmachine")
    cases = [
        Case("the only machine", building(ours), count=1),
        Case("each of 100 machines", building(ours), count=lab.size(100)),
        Case(MOST, building(ours), scale, goal, count=lab.size(10_000), mark=shown),
        Case(scale, timed(plain_floor())),
    ]
    for name, build in rivals().items():
        sample, shown = building(build), Mark(row, name)
        cases.append(Case(f"each of 1,000 of {name}", sample, MOST, count=lab.size(1_000), mark=shown))
    return cases


def weighed(lab: Lab) -> list[Case]:
    new, used, count = "each of 1,000 machines", "the same, after it was in all its states", lab.size(1_000)
    cases = [
        Case(new, weighing(ours), goal=Goal(must=6_000, aim=3_000), count=count),
        Case(used, weighing(ours_used), new, count=count),
    ]
    for name, build in rivals().items():
        cases.append(Case(f"each of 1,000 of {name}", weighing(build), new, count=count))
    return cases


def beside(idle: int) -> Sample:
    """Give what toggles a machine beside so many, which are there for no longer than that."""
    toggle = toggling(am.Machine(SCHEMA), "S0", "S1")

    def sample(count: int) -> float:
        others = [am.Machine(SCHEMA) for _ in repeat(None, idle)]
        start = perf_counter()
        toggle(count)
        took = perf_counter() - start
        del others
        return took

    return sample


def in_turn(count: int) -> float:
    """Measure a toggle of each of so many machines, of which each has seen it before."""
    machines = [am.Machine(SCHEMA) for _ in repeat(None, count)]
    took = 0.0
    for state in ("S0", "S1", "S0", "S1"):
        start = perf_counter()
        for mach in machines:
            mach.add1(state)
        took = perf_counter() - start
    return took


def beside_others(lab: Lab) -> list[Case]:
    most, alone, row = lab.size(10_000), "the only machine", "toggle each of 10,000 machines"
    return [
        Case(alone, beside(0), count=10_000),
        Case("one beside 10,000 idle ones", beside(most), alone, count=10_000),
        Case("each of 10,000, one after the other", in_turn, alone, count=most, mark=Mark(row, "asyncmachine")),
    ]


QUESTIONS = [
    Question("How long does it take to build a machine of 8 states?", built),
    Question("How many bytes does a machine of 8 states hold?", weighed, unit="B"),
    Question("How long does a toggle take with 10,000 machines?", beside_others),
]

if __name__ == "__main__":
    main(QUESTIONS)
