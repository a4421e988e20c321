"""The floor: a bare Python loop that does the least a machine with a queue and clocks must do, and not a thing more.

What it does for each mutation: make a mutation object with its fields, append it to a deque, drain the deque, look up
a plan by (type, called, active), call the handlers with an event and look at the answers of those that may veto, move
the clocks, change the active states, resolve the futures of those who wait, and return a result.

What it leaves out is what users pay a library for: it checks no name, thread or loop, resolves no relation (the plans
are made beforehand, for states of which one is active at a time), knows neither sources, args, errors, tracers nor
duplicates, keeps no record of a transition, and starts no work. So nothing written in Python that keeps the promises
can be as fast; how close it comes is the question.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

EXECUTED, CANCELED, QUEUED = "executed", "canceled", "queued"


class Mutation:
    """A request, as it stands in the queue."""

    __slots__ = ("args", "called", "is_auto", "is_check", "queue_tick", "result", "source", "type")

    def __init__(
        self, type: str, called: tuple[str, ...], args: object, source: object, *, is_auto: bool, is_check: bool
    ) -> None:
        self.type = type
        self.called = called
        self.args = args
        self.source = source
        self.is_auto = is_auto
        self.is_check = is_check
        self.queue_tick = 0
        self.result = QUEUED


class Event:
    """What handlers are given."""

    __slots__ = ("machine", "mutation")

    def __init__(self, machine: Floor, mutation: Mutation) -> None:
        self.machine = machine
        self.mutation = mutation


Handler = Callable[[Event], Any]


class Plan(NamedTuple):
    """What follows from a mutation."""

    target: tuple[str, ...]
    changes: tuple[int, ...]
    enters: tuple[str, ...]
    negotiation: tuple[Handler, ...]
    finals: tuple[Handler, ...]


class Floor:
    """A machine of states of which one is active at a time.

    Args:
        states: their names.
        handlers: an object with methods such as `AExit`, `BEnter`, `AEnd` and `BState`.
    """

    def __init__(self, states: Sequence[str] = ("A", "B"), handlers: object = None) -> None:
        self.active: tuple[str, ...] = ()
        self.clock = [0] * len(states)
        self.queue: deque[Mutation] = deque()
        self.plans: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Plan] = {}
        self.waiters: dict[str, list[asyncio.Future[int]]] = {}
        self.is_draining = False
        self.queue_tick = 0
        self.index = {state: i for i, state in enumerate(states)}
        for called in states:
            for active in ((), *((state,) for state in states)):
                self.plans["add", (called,), active] = self._plan(called, active, handlers)

    def _plan(self, called: str, active: tuple[str, ...], handlers: object) -> Plan:
        exits = [state for state in active if state != called]
        enters = [called] if called not in active else []
        negotiation = [*(f"{state}Exit" for state in exits), *(f"{state}Enter" for state in enters)]
        finals = [*(f"{state}End" for state in exits), *(f"{state}State" for state in enters)]
        return Plan(
            (called,),
            tuple(self.index[state] for state in (*exits, *enters)),
            tuple(enters),
            tuple(getattr(handlers, name) for name in negotiation if hasattr(handlers, name)),
            tuple(getattr(handlers, name) for name in finals if hasattr(handlers, name)),
        )

    def add1(self, state: str) -> str:
        """Activate a state in place of the active one."""
        mutation = Mutation("add", (state,), None, None, is_auto=False, is_check=False)
        self.queue.append(mutation)
        if self.is_draining:
            return QUEUED
        self.is_draining = True
        queue = self.queue
        while queue:
            first = queue.popleft()
            self.queue_tick += 1
            first.queue_tick = self.queue_tick
            first.result = self._run(first)
        self.is_draining = False
        return mutation.result

    def toggle1(self, state: str, other: str) -> str:
        """Activate a state, or the other one if it is active."""
        return self.add1(other if self.active == (state,) else state)

    def when1(self, state: str) -> asyncio.Future[int]:
        """Give a future that is resolved with the tick of the state, when it is activated."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiters.setdefault(state, []).append(future)
        return future

    def _run(self, mutation: Mutation) -> str:
        plan = self.plans[mutation.type, mutation.called, self.active]
        if plan.negotiation or plan.finals:
            event = Event(self, mutation)
            for handler in plan.negotiation:
                if handler(event) is False:
                    return CANCELED
        for i in plan.changes:
            self.clock[i] += 1
        self.active = plan.target
        if plan.finals:
            for handler in plan.finals:
                handler(event)
        if self.waiters:
            self._wake(plan)
        return EXECUTED

    def _wake(self, plan: Plan) -> None:
        for state in plan.enters:
            for future in self.waiters.pop(state, ()):
                if not future.done():
                    future.set_result(self.clock[self.index[state]])
