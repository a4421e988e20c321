"""The laws of work: it lives as long as its state, no more of it runs than may, and none of it outlives the machine.

Random schemas with random `async` handlers, on a loop of their own. A tracer counts activations; what runs, once all
has come to rest, must be just what follows from them.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import anyio
import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from test_properties import Boom, Case, Op, numbers, ops, relations, tuples

import asyncmachine as am

LASTING = {"waits", "lingers"}
TURNS = 300
"""More turns of the loop than anything here takes to come to rest."""


class Spec(NamedTuple):
    """An `async def FooState` of some states: how it ends, after how many turns, and how many may run at once."""

    states: tuple[int, ...]
    ending: str
    turns: int
    op: Op
    limit: int | None


specs = st.builds(
    Spec,
    st.lists(numbers, min_size=1, max_size=4, unique=True).map(tuple),
    st.sampled_from(["waits", "returns", "raises", "mutates", "lingers"]),
    st.integers(0, 2),
    ops,
    st.sampled_from([None, None, 1, 2]),
)
cases = st.builds(
    Case,
    size=st.integers(3, 5),
    edges=tuples(relations, 4, 10),
    auto=tuples(numbers, 1, 4).map(frozenset),
    multi=tuples(numbers, 2, 4).map(frozenset),
    handlers=st.just(()),
    queue_limit=st.just(1000),
    raise_errors=st.just(False),
    exception_at=st.none(),
)


loops = st.sampled_from(["asyncio", "uvloop", "eager"])


class Activations(am.Tracer):
    """Counts how often each state was activated since it last flipped, and in all, and how often it was left."""

    def __init__(self) -> None:
        self.since_flip = Counter[str]()
        self.in_all = Counter[str]()
        self.exits = Counter[str]()

    def transition_end(self, transition: am.Transition[Any]) -> None:
        ticked = transition.time_after.diff_since(transition.time_before).to_index(transition.machine.state_names)
        for name in ticked.non_zero_states():
            if ticked.is1(name):
                self.since_flip[name] = 0
        if transition.is_accepted and not transition.mutation.is_check:
            self.since_flip.update(transition.enters)
            self.in_all.update(transition.enters)
            self.exits.update(transition.exits)


class WorkLaws(RuleBasedStateMachine):
    """A machine at work."""

    @initialize(case=cases, specs=st.lists(specs, max_size=6), ends=tuples(numbers, 1, 4), loop=loops)
    def build(self, case: Case, specs: list[Spec], ends: tuple[int, ...], loop: str) -> None:
        logging.getLogger("asyncmachine").setLevel(logging.CRITICAL + 1)
        self.loop = uvloop.new_event_loop() if loop == "uvloop" else asyncio.new_event_loop()
        if loop == "eager" and sys.version_info >= (3, 12):
            self.loop.set_task_factory(asyncio.eager_task_factory)
        self.seen = Activations()
        self.mach = mach = am.Machine(case.schema(), id="work", tracers=[self.seen], handler_timeout=None)
        self.running, self.most, self.begun, self.ended = (Counter[str]() for _ in range(4))
        self.errors = 0
        self.mutations_left = 30
        self.specs: dict[str, Spec] = {}
        for spec in specs:
            for name in self.named(spec.states):
                if name not in self.specs and (name, spec.ending) != (am.EXCEPTION, "raises"):
                    self.specs[name] = spec
                    mach.on.state(name, limit=spec.limit)(self.work(name, spec))
        self.ending = dict.fromkeys(self.named(ends))
        for name in self.ending:
            mach.on.end(name)(self.end(name))

    def named(self, states: tuple[int, ...]) -> list[str]:
        names = self.mach.state_names
        return [names[i % len(names)] for i in states]

    def work(self, name: str, spec: Spec) -> Callable[[am.Event], Awaitable[None]]:
        async def work(e: am.Event) -> None:
            self.begun[name] += 1
            self.running[name] += 1
            self.most[name] = max(self.most[name], self.running[name])
            try:
                for _ in range(spec.turns):
                    await asyncio.sleep(0)
                match spec.ending:
                    case "waits":
                        await asyncio.Event().wait()
                    case "lingers":
                        await self.linger()
                    case "raises":
                        self.errors += 1
                        raise Boom(name)
                    case "mutates" if self.mutations_left:
                        self.mutations_left -= 1
                        self.ask(spec.op)
            finally:
                self.running[name] -= 1

        return work

    async def linger(self) -> None:
        """Wait, and take another turn when that is cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0)

    def end(self, name: str) -> Callable[[am.Event], Awaitable[None]]:
        async def end(e: am.Event) -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.ended[name] += 1

        return end

    def ask(self, op: Op) -> None:
        states = self.named(op.states)
        if op.kind == "add_err":
            self.mach.add_err(Boom("by hand"))
        elif op.kind == "add_err_state":
            self.mach.add_err_state(states[0] if states else am.EXCEPTION, Boom("by hand"))
        else:
            getattr(self.mach, op.kind)(states)

    @rule(asked=st.lists(ops, min_size=1, max_size=6), turns=st.integers(0, 3))
    def mutate(self, asked: list[Op], turns: int) -> None:
        async def ask() -> None:
            for op in asked:
                self.ask(op)
                for _ in range(turns):
                    await asyncio.sleep(0)
            for _ in range(TURNS):
                await asyncio.sleep(0)

        self.loop.run_until_complete(ask())

    @invariant()
    def just_that_runs_which_should(self) -> None:
        if not hasattr(self, "mach"):
            return
        lasting = 0
        for name, spec in self.specs.items():
            wanted = self.seen.since_flip[name] if self.mach.is1(name) and spec.ending in LASTING else 0
            lasting += wanted
            assert self.running[name] == (wanted if spec.limit is None else min(wanted, spec.limit))
            assert self.begun[name] <= self.seen.in_all[name]
            assert spec.limit is None or self.most[name] <= spec.limit
        assert self.mach.statistics().work == lasting
        assert len(asyncio.all_tasks(self.loop)) == lasting
        # What a state's end starts, runs to its own end, whatever becomes of the state.
        assert all(self.ended[name] == self.seen.exits[name] for name in self.ending)
        assert self.mach.is_idle
        assert self.errors == 0 or self.mach.err is not None

    def teardown(self) -> None:
        if not hasattr(self, "mach"):
            return

        async def dispose() -> int:
            await self.mach.dispose()
            await asyncio.sleep(0)
            return len(asyncio.all_tasks())

        try:
            assert self.loop.run_until_complete(dispose()) == 1
        finally:
            self.loop.close()
            logging.getLogger("asyncmachine").setLevel(logging.NOTSET)
        assert not any(self.running.values())
        assert self.mach.statistics().work == 0


TestWorkLaws = WorkLaws.TestCase
TestWorkLaws.settings = settings(stateful_step_count=25)
