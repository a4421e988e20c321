"""The futures behind `when_…`: registered by the states they wait for, woken in the order they were registered.

A transition looks only at the waiters of states that ticked. Each waiter is its own future, so cancelling one reaches
no other, and it leaves the registry within its `cancel()`: no callback, no sweep, nothing left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from asyncmachine.clock import Clock, Time
from asyncmachine.errors import MachineDisposedError
from asyncmachine.home import Home
from asyncmachine.mutation import Mutation, Result
from asyncmachine.plans import Live, Plan
from asyncmachine.queue import Queue
from asyncmachine.schema import EXCEPTION
from asyncmachine.waiters import (
    ArgsWaiter,
    ErrorWaiter,
    PlainWaiter,
    QueryWaiter,
    StateWaiter,
    TicksWaiter,
    Waiter,
)
from asyncmachine.waiting import ArgsMatch

__all__ = ["Subscriptions"]


class Host(Protocol):
    """The machine, seen from its subscriptions."""

    home: Home

    @property
    def err(self) -> BaseException | None: ...

    @property
    def is_idle(self) -> bool: ...

    @property
    def id(self) -> str: ...


W = TypeVar("W", bound=Waiter)


class Subscriptions:
    """The registry of a machine's waiters."""

    __slots__ = (
        "_announced",
        "_count",
        "_disposal",
        "_host",
        "_live",
        "_outcomes",
        "_queue",
        "by_state",
        "queries",
        "queue_ends",
        "queue_ticks",
        "waited",
    )

    def __init__(self, host: Host, live: Live, queue: Queue) -> None:
        self._host = host
        self._live = live
        self._queue = queue
        self._count = 0
        self._outcomes: dict[Mutation, dict[PlainWaiter, None]] = {}
        self._disposal: dict[PlainWaiter, None] = {}
        self._announced = False
        """True once the disposal has come to its end, some time after the machine was closed."""
        self.by_state: dict[int, dict[Waiter, None]] = {}
        """Who waits for a state's clock."""
        self.waited: int = 0
        """The states that somebody may wait for, as bits: one look tells that a transition wakes nobody.

        All of them, if somebody waits for any clock.
        """
        self.queries: dict[Waiter, None] = {}
        """Who waits for any clock."""
        self.queue_ticks: dict[PlainWaiter, None] = {}
        """Who waits for a tick of the queue."""
        self.queue_ends: dict[PlainWaiter, None] = {}
        """Who waits for the end of the queue."""

    def __len__(self) -> int:
        """Count the futures that are pending."""
        return len(self._pending()) + len(self._disposal)

    def state(self, state: int, parity: int) -> asyncio.Future[int]:
        """Wait until one state is active (parity 1), or inactive (0)."""
        waiter = StateWaiter(loop=self._host.home.bind_loop())
        waiter.state, waiter.parity, waiter.ticks, waiter.buckets = state, parity, self._live.ticks, ()
        if self._live.closed:
            self._fail(waiter)
        elif (tick := waiter.ticks[state]) % 2 == parity:
            waiter.set_result(tick)
        else:
            bucket = self._bucket(state)
            self._count += 1
            waiter.number = self._count
            waiter.buckets = (bucket,)
            bucket[waiter] = None
        return waiter

    def states(self, states: tuple[int, ...], parity: int) -> asyncio.Future[Time]:
        """Wait until all of the states are active (parity 1), or inactive (0)."""
        return self._for_ticks(states, parity, (), single=False)

    def ticks(self, states: tuple[int, ...], ticks: tuple[int, ...], *, single: bool) -> asyncio.Future[Any]:
        """Wait until each of the states has reached its tick."""
        return self._for_ticks(states, None, ticks, single=single)

    def activation(self, state: int, tick: int) -> asyncio.Future[int]:
        """Wait until a state is active at a tick or later: an activation that was rolled back is none."""
        return self._for_ticks((state,), 1, (tick,), single=True)

    def args(self, state: int, match: ArgsMatch) -> asyncio.Future[Mapping[str, Any]]:
        """Wait until a state enters with args that match."""
        waiter = ArgsWaiter(loop=self._host.home.bind_loop())
        waiter.state, waiter.match, waiter.ticks = state, match, self._live.ticks
        return self._register(waiter, self._bucket(state))

    def query(self, predicate: Callable[[Clock], bool]) -> asyncio.Future[Clock]:
        """Wait until a predicate of the clock holds."""
        waiter = QueryWaiter(loop=self._host.home.bind_loop())
        waiter.predicate, waiter.live = predicate, self._live
        registered = self._register(waiter, self.queries)
        if not registered.done():
            self.waited = -1  # only now: what the predicate does may wake others, and so narrow this down
        return registered

    def error(self) -> asyncio.Future[BaseException]:
        """Wait until `Exception` is active."""
        state = self._live.index[EXCEPTION]
        waiter = ErrorWaiter(loop=self._host.home.bind_loop())
        waiter.state, waiter.host, waiter.ticks = state, self._host, self._live.ticks
        return self._register(waiter, self._bucket(state))

    def queue_tick(self, tick: int) -> asyncio.Future[int]:
        """Wait until the queue has reached a tick and is done with it."""
        waiter = PlainWaiter(loop=self._host.home.bind_loop())
        # While a mutation runs, its tick is reached but not done with.
        waiter.goal, waiter.queue = tick if self._host.is_idle else tick + 1, self._queue
        registered = self._register(waiter, self.queue_ticks)
        waiter.goal = tick
        return registered

    def outcome(self, result: Result) -> asyncio.Future[int]:
        """Wait until the mutation of a result is done."""
        waiter = PlainWaiter(loop=self._host.home.bind_loop())
        waiter.goal, waiter.queue = 0, self._queue
        mutation = result.mutation
        if mutation is None or mutation.outcome is not None:
            return self._register(waiter)
        bucket = self._outcomes.get(mutation)
        if bucket is None:
            # The mutation tells when it is done: the queue's tick cannot, for a prepended one has none.
            bucket = self._outcomes[mutation] = {}
            mutation.when_done(partial(self._outcome_known, mutation))
        self._enter(waiter, bucket)
        return waiter

    def queue_end(self) -> asyncio.Future[None]:
        """Wait until the queue is empty and no transition runs."""
        waiter = PlainWaiter(loop=self._host.home.bind_loop())
        waiter.goal, waiter.queue = int(not self._host.is_idle), None
        return self._register(waiter, self.queue_ends)

    def disposed(self) -> asyncio.Future[None]:
        """Wait until the machine is disposed."""
        waiter = PlainWaiter(loop=self._host.home.bind_loop())
        waiter.queue, waiter.buckets = None, ()
        if self._announced:
            waiter.set_result(None)
        else:
            self._enter(waiter, self._disposal)
        return waiter

    def watch(self, waiter: Waiter, state: int) -> None:
        """Register a waiter of another kind, asked whenever the state has ticked, from now on."""
        waiter.buckets = ()
        if self._live.closed:
            self._fail(waiter)
        else:
            self._enter(waiter, self._bucket(state))

    def notify(self, ticked: Iterable[int], plan: Plan | None, mutation: Mutation | None) -> None:
        """Wake the waiters whose condition has come true, of the states that ticked."""
        waited, asked, several = self.waited, self.queries, False
        for i in ticked:
            if waited >> i & 1:
                bucket = self.by_state.get(i)
                if not bucket:
                    if not self.queries:
                        self.waited &= ~(1 << i)
                elif asked:
                    asked, several = {**asked, **bucket}, True
                else:
                    asked = bucket
        # A bucket is in order of registration; several are put in order together.
        for waiter in sorted(asked, key=attrgetter("number")) if several else list(asked):
            try:
                waiter.check(plan, mutation)
            except Exception as err:  # noqa: BLE001 - a predicate that raises is its own waiter's error
                waiter.settle(err=_raisable(err))

    def notify_queue(self) -> None:
        """Wake those who wait for a tick of the queue, after a mutation has run."""
        for waiter in list(self.queue_ticks):
            waiter.check(None, None)

    def notify_queue_end(self) -> None:
        """Wake those who wait for the end of the queue."""
        for waiter in list(self.queue_ends):
            waiter.wake()

    def dispose(self) -> None:
        """Fail every waiter but those who wait for just this."""
        for waiter in sorted(self._pending(), key=attrgetter("number")):
            self._fail(waiter)

    def announce_disposal(self) -> None:
        """Tell those who wait for the machine's disposal."""
        self._announced = True
        for waiter in list(self._disposal):
            waiter.wake()

    def _pending(self) -> set[Waiter]:
        return {
            *chain(*self.by_state.values()),
            *self.queries,
            *self.queue_ticks,
            *self.queue_ends,
            *chain(*self._outcomes.values()),
        }

    def _outcome_known(self, mutation: Mutation, _: Result) -> None:
        for waiter in list(self._outcomes.pop(mutation)):
            # Disposal ends what is still queued, too, without running it.
            if self._live.closed:
                self._fail(waiter)
            else:
                waiter.wake()

    def _bucket(self, state: int) -> dict[Waiter, None]:
        """Give the bucket of those who wait for a state's clock."""
        self.waited |= 1 << state
        bucket = self.by_state.get(state)
        if bucket is None:
            bucket = self.by_state[state] = {}
        return bucket

    def _for_ticks(
        self, states: tuple[int, ...], parity: int | None, goals: tuple[int, ...], *, single: bool
    ) -> asyncio.Future[Any]:
        waiter = TicksWaiter(loop=self._host.home.bind_loop())
        waiter.ticks = self._live.ticks
        waiter.states = states
        waiter.single = single
        waiter.parity = parity
        waiter.goals = goals
        return self._register(waiter, *[self._bucket(i) for i in states])

    def _register(self, waiter: W, *buckets: dict[Any, None]) -> W:
        """Register a waiter, unless what it waits for holds already, or never will."""
        waiter.buckets = ()
        if self._live.closed:
            self._fail(waiter)
            return waiter
        try:
            waiter.check(None, None)
        except Exception as err:  # noqa: BLE001 - handed on to whoever waits
            waiter.settle(err=_raisable(err))
        if not waiter.done():
            self._enter(waiter, *buckets)
        return waiter

    def _enter(self, waiter: Waiter, *buckets: dict[Any, None]) -> None:
        self._count += 1
        waiter.number = self._count
        waiter.buckets = buckets
        for bucket in buckets:
            bucket[waiter] = None

    def _fail(self, waiter: Waiter) -> None:
        waiter.settle(err=MachineDisposedError(f"the machine {self._host.id} was disposed"))
        # Read once, so that the loop makes no noise about waits that nobody looks at any more.
        waiter.exception()


def _raisable(err: Exception) -> Exception:
    """Give an error as one that a future can hold: all but `StopIteration`, which would end whatever awaits it."""
    if not isinstance(err, StopIteration):
        return err
    instead = RuntimeError("the predicate raised StopIteration")
    instead.__cause__ = err
    return instead
