"""Futures that know what they wait for."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from typing_extensions import override

from asyncmachine.clock import Clock, Time
from asyncmachine.mutation import Mutation
from asyncmachine.plans import Live, Plan
from asyncmachine.queue import Queue
from asyncmachine.waiting import ArgsMatch

__all__ = ["ArgsWaiter", "ErrorWaiter", "PlainWaiter", "QueryWaiter", "StateWaiter", "TicksWaiter", "Waiter"]


class Host(Protocol):
    """The machine, seen from those who wait for its errors."""

    @property
    def err(self) -> BaseException | None: ...


class Waiter(asyncio.Future[Any]):
    """A future that knows what it waits for, and leaves its buckets when it is cancelled."""

    __slots__ = ("buckets", "number")

    number: int
    """Its place in the order of registration."""
    buckets: tuple[dict[Any, None], ...]
    """Where it is registered."""

    def leave(self) -> None:
        """Leave the registry."""
        for bucket in self.buckets:
            bucket.pop(self, None)
        self.buckets = ()

    @override
    def cancel(self, msg: Any | None = None) -> bool:
        self.leave()
        return super().cancel(msg)

    def settle(self, value: Any = None, err: Exception | None = None) -> None:
        """Leave the registry, and be done with a value or an error, unless someone else was first."""
        for bucket in self.buckets:
            bucket.pop(self, None)
        self.buckets = ()
        if self.done():  # not by us: cancelled by the predicate of one before it, say
            return
        try:
            if err is None:
                self.set_result(value)
            else:
                self.set_exception(err)
        except RuntimeError:
            # It is done all the same: on a loop that is closed nobody can be told, and no machine is to stop for that.
            return

    @abstractmethod
    def check(self, plan: Plan | None, mutation: Mutation | None) -> None:
        """Be done if the time has come: now, if nothing is given, or after a plan was carried out."""


class StateWaiter(Waiter):
    """Waits for one state to be active, or to be inactive; gives its tick."""

    __slots__ = ("parity", "state", "ticks")

    state: int
    ticks: list[int]
    parity: int

    @override
    def check(self, plan: Plan | None, mutation: Mutation | None) -> None:
        tick = self.ticks[self.state]
        if tick % 2 == self.parity:
            self.settle(tick)


class TicksWaiter(Waiter):
    """Waits for states to be active, inactive, or at a tick; gives their ticks."""

    __slots__ = ("goals", "parity", "single", "states", "ticks")

    states: tuple[int, ...]
    ticks: list[int]
    single: bool
    parity: int | None
    goals: tuple[int, ...]

    @override
    def check(self, plan: Plan | None, mutation: Mutation | None) -> None:
        ticks, parity = [self.ticks[i] for i in self.states], self.parity
        if parity is not None and not all([tick % 2 == parity for tick in ticks]):
            return
        # Without goals, any ticks will do.
        if not self.goals or all([tick >= goal for tick, goal in zip(ticks, self.goals, strict=True)]):
            self.settle(ticks[0] if self.single else Time(ticks))


class ArgsWaiter(Waiter):
    """Waits for a state to enter with args that match; gives the args."""

    __slots__ = ("match", "state", "ticks")

    state: int
    match: ArgsMatch
    ticks: list[int]

    @override
    def check(self, plan: Plan | None, mutation: Mutation | None) -> None:
        if self.done():  # cancelled by the predicate of one before it, say: nobody is to be asked on its behalf
            self.leave()
            return
        if plan is None or mutation is None or self.state not in plan.enters or not self.ticks[self.state] % 2:
            return
        args = mutation.args
        if self.match(args) if callable(self.match) else _has(args, self.match):
            self.settle(args)


def _has(args: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(name in args and args[name] == value for name, value in wanted.items())


class QueryWaiter(Waiter):
    """Waits for a predicate of the clock; gives the clock."""

    __slots__ = ("live", "predicate")

    predicate: Callable[[Clock], bool]
    live: Live

    @override
    def check(self, plan: Plan | None, mutation: Mutation | None) -> None:
        if self.done():  # as above
            self.leave()
            return
        clock = Clock(zip(self.live.schema.names, self.live.ticks, strict=True))
        if self.predicate(clock):
            self.settle(clock)


class ErrorWaiter(Waiter):
    """Waits for `Exception` to be active; gives the error."""

    __slots__ = ("host", "state", "ticks")

    state: int
    host: Host
    ticks: list[int]

    @override
    def check(self, plan: Plan | None, mutation: Mutation | None) -> None:
        if self.ticks[self.state] % 2:
            # Only a mutation made by hand can activate the state without an error.
            self.settle(self.host.err or RuntimeError("Exception was added without an error; use add_err"))


class PlainWaiter(Waiter):
    """Waits for a tick of the queue, the end of the queue, or the machine's disposal."""

    __slots__ = ("goal", "queue")

    goal: int
    queue: Queue | None

    @override
    def check(self, plan: Plan | None, mutation: Mutation | None) -> None:
        if self.goal <= (0 if self.queue is None else self.queue.tick):
            self.wake()

    def wake(self) -> None:
        """Be done."""
        self.settle(None if self.queue is None else self.queue.tick)
