"""The futures behind `when_…`: registered by the states they wait for, woken in the order they were registered.

A transition looks only at the waiters of states that ticked. Each waiter is its own future, so cancelling one reaches
no other, and it leaves the registry within its `cancel()`: no callback, no sweep, nothing left behind.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from typing_extensions import override

from asyncmachine.clock import Clock, Time
from asyncmachine.errors import MachineDisposedError
from asyncmachine.home import Home
from asyncmachine.mutation import Mutation, Result
from asyncmachine.plans import Live, Plan
from asyncmachine.queue import Queue
from asyncmachine.schema import EXCEPTION
from asyncmachine.waiting import ArgsMatch

__all__ = ["Subscriptions"]


class Host(Protocol):
    """The machine, seen from its subscriptions."""

    id: str
    home: Home

    @property
    def err(self) -> BaseException | None: ...

    @property
    def is_idle(self) -> bool: ...


class Waiter(asyncio.Future[Any]):
    """A future that knows what it waits for, and leaves its buckets when it is cancelled."""

    __slots__ = ("buckets", "number")

    number: int
    """Its place in the order of registration."""
    buckets: tuple[dict[Waiter, None], ...]
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
        self.leave()
        if self.done():
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
    def poll(self, plan: Plan | None, mutation: Mutation | None) -> bool:
        """Tell whether the time has come: now, if nothing is given, or after a plan was carried out."""

    def value(self) -> Any:
        """Give what the future is to give."""


W = TypeVar("W", bound=Waiter)


class TicksWaiter(Waiter):
    """Waits for states to be active, inactive, or at a tick; gives their ticks."""

    __slots__ = ("goals", "live", "parity", "single", "states")

    states: tuple[int, ...]
    live: Live
    single: bool
    parity: int | None
    goals: tuple[int, ...]

    @override
    def poll(self, plan: Plan | None, mutation: Mutation | None) -> bool:
        ticks = self.live.ticks
        if self.parity is not None:
            if self.single:
                if ticks[self.states[0]] % 2 != self.parity:
                    return False
            elif not all([ticks[i] % 2 == self.parity for i in self.states]):
                return False
        # Without goals, any ticks will do.
        return not self.goals or all([ticks[i] >= goal for i, goal in zip(self.states, self.goals, strict=True)])

    @override
    def value(self) -> int | Time:
        ticks = self.live.ticks
        return ticks[self.states[0]] if self.single else Time([ticks[i] for i in self.states])


class ArgsWaiter(Waiter):
    """Waits for a state to enter with args that match; gives the args."""

    __slots__ = ("found", "live", "match", "state")

    state: int
    match: ArgsMatch
    live: Live
    found: Mapping[str, Any]

    @override
    def poll(self, plan: Plan | None, mutation: Mutation | None) -> bool:
        if plan is None or mutation is None or self.state not in plan.enters or not self.live.ticks[self.state] % 2:
            return False
        self.found = mutation.args
        if callable(self.match):
            return bool(self.match(self.found))
        return all(name in self.found and self.found[name] == value for name, value in self.match.items())

    @override
    def value(self) -> Mapping[str, Any]:
        return self.found


class QueryWaiter(Waiter):
    """Waits for a predicate of the clock; gives the clock."""

    __slots__ = ("clock", "live", "predicate")

    predicate: Callable[[Clock], bool]
    live: Live
    clock: Clock

    @override
    def poll(self, plan: Plan | None, mutation: Mutation | None) -> bool:
        self.clock = Clock(zip(self.live.schema.names, self.live.ticks, strict=True))
        return bool(self.predicate(self.clock))

    @override
    def value(self) -> Clock:
        return self.clock


class ErrorWaiter(Waiter):
    """Waits for `Exception` to be active; gives the error."""

    __slots__ = ("host", "live", "state")

    state: int
    host: Host
    live: Live

    @override
    def poll(self, plan: Plan | None, mutation: Mutation | None) -> bool:
        return self.live.ticks[self.state] % 2 == 1

    @override
    def value(self) -> BaseException:
        # Only a mutation made by hand can activate the state without an error.
        return self.host.err or RuntimeError("Exception was added without an error; use add_err")


class PlainWaiter(Waiter):
    """Waits for a tick of the queue, the end of the queue, or the machine's disposal."""

    __slots__ = ("goal", "queue")

    goal: int
    queue: Queue | None

    @override
    def poll(self, plan: Plan | None, mutation: Mutation | None) -> bool:
        return self.goal <= (0 if self.queue is None else self.queue.tick)

    @override
    def value(self) -> int | None:
        return None if self.queue is None else self.queue.tick


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
    )

    def __init__(self, host: Host, live: Live, queue: Queue) -> None:
        self._host = host
        self._live = live
        self._queue = queue
        self._count = 0
        self._outcomes: dict[Mutation, dict[Waiter, None]] = {}
        self._disposal: dict[Waiter, None] = {}
        self._announced = False
        """True once the disposal has come to its end, some time after the machine was closed."""
        self.by_state: dict[int, dict[Waiter, None]] = {}
        """Who waits for a state's clock."""
        self.queries: dict[Waiter, None] = {}
        """Who waits for any clock."""
        self.queue_ticks: dict[Waiter, None] = {}
        """Who waits for a tick of the queue."""
        self.queue_ends: dict[Waiter, None] = {}
        """Who waits for the end of the queue."""

    def __len__(self) -> int:
        """Count the futures that are pending."""
        return len(self._pending()) + len(self._disposal)

    def active(self, states: tuple[int, ...], *, single: bool) -> asyncio.Future[Any]:
        """Wait until all of the states are active."""
        return self._for_ticks(states, 1, (), single=single)

    def inactive(self, states: tuple[int, ...], *, single: bool) -> asyncio.Future[Any]:
        """Wait until all of the states are inactive."""
        return self._for_ticks(states, 0, (), single=single)

    def ticks(self, states: tuple[int, ...], ticks: tuple[int, ...], *, single: bool) -> asyncio.Future[Any]:
        """Wait until each of the states has reached its tick."""
        return self._for_ticks(states, None, ticks, single=single)

    def activation(self, state: int, tick: int) -> asyncio.Future[int]:
        """Wait until a state is active at a tick or later: an activation that was rolled back is none."""
        return self._for_ticks((state,), 1, (tick,), single=True)

    def args(self, state: int, match: ArgsMatch) -> asyncio.Future[Mapping[str, Any]]:
        """Wait until a state enters with args that match."""
        waiter = ArgsWaiter(loop=self._host.home.bind_loop())
        waiter.state, waiter.match, waiter.live = state, match, self._live
        return self._register(waiter, self.by_state.setdefault(state, {}))

    def query(self, predicate: Callable[[Clock], bool]) -> asyncio.Future[Clock]:
        """Wait until a predicate of the clock holds."""
        waiter = QueryWaiter(loop=self._host.home.bind_loop())
        waiter.predicate, waiter.live = predicate, self._live
        return self._register(waiter, self.queries)

    def error(self) -> asyncio.Future[BaseException]:
        """Wait until `Exception` is active."""
        state = self._live.index[EXCEPTION]
        waiter = ErrorWaiter(loop=self._host.home.bind_loop())
        waiter.state, waiter.host, waiter.live = state, self._host, self._live
        return self._register(waiter, self.by_state.setdefault(state, {}))

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

    def notify(self, ticked: Iterable[int], plan: Plan | None, mutation: Mutation | None) -> None:
        """Wake the waiters whose condition has come true, of the states that ticked."""
        buckets = [bucket for i in ticked if (bucket := self.by_state.get(i))]
        if self.queries:
            buckets.append(self.queries)
        if not buckets:
            return
        # A bucket is in order of registration; several are put in order together.
        several = len(buckets) > 1
        asked = sorted({*chain(*buckets)}, key=attrgetter("number")) if several else list(buckets[0])
        for waiter in asked:
            _poll(waiter, plan, mutation)

    def notify_queue(self) -> None:
        """Wake those who wait for a tick of the queue, after a mutation has run."""
        for waiter in list(self.queue_ticks):
            _poll(waiter, None, None)

    def notify_queue_end(self) -> None:
        """Wake those who wait for the end of the queue."""
        for waiter in list(self.queue_ends):
            _wake(waiter)

    def dispose(self) -> None:
        """Fail every waiter but those who wait for just this."""
        for waiter in sorted(self._pending(), key=attrgetter("number")):
            self._fail(waiter)

    def announce_disposal(self) -> None:
        """Tell those who wait for the machine's disposal."""
        self._announced = True
        for waiter in list(self._disposal):
            _wake(waiter)

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
                _wake(waiter)

    def _for_ticks(
        self, states: tuple[int, ...], parity: int | None, goals: tuple[int, ...], *, single: bool
    ) -> asyncio.Future[Any]:
        waiter = TicksWaiter(loop=self._host.home.bind_loop())
        waiter.live = self._live
        waiter.states = states
        waiter.single = single
        waiter.parity = parity
        waiter.goals = goals
        return self._register(waiter, *[self.by_state.setdefault(i, {}) for i in states])

    def _register(self, waiter: W, *buckets: dict[Waiter, None]) -> W:
        """Register a waiter, unless what it waits for holds already, or never will."""
        waiter.buckets = ()
        if self._live.closed:
            self._fail(waiter)
            return waiter
        _poll(waiter, None, None)
        if not waiter.done():
            self._enter(waiter, *buckets)
        return waiter

    def _enter(self, waiter: Waiter, *buckets: dict[Waiter, None]) -> None:
        self._count += 1
        waiter.number = self._count
        waiter.buckets = buckets
        for bucket in buckets:
            bucket[waiter] = None

    def _fail(self, waiter: Waiter) -> None:
        waiter.settle(err=MachineDisposedError(f"the machine {self._host.id} was disposed"))
        # Read once, so that the loop makes no noise about waits that nobody looks at any more.
        waiter.exception()


def _poll(waiter: Waiter, plan: Plan | None, mutation: Mutation | None) -> None:
    """Wake a waiter if its time has come. A predicate that raises is its own waiter's error, nobody else's."""
    if waiter.done():  # not by us: cancelled by the predicate of one before it, say
        waiter.leave()
        return
    try:
        if waiter.poll(plan, mutation):
            _wake(waiter)
    except Exception as err:  # noqa: BLE001 - handed on to whoever waits
        waiter.settle(err=_raisable(err))


def _raisable(err: Exception) -> Exception:
    """Give an error as one that a future can hold: all but `StopIteration`, which would end whatever awaits it."""
    if not isinstance(err, StopIteration):
        return err
    instead = RuntimeError("the predicate raised StopIteration")
    instead.__cause__ = err
    return instead


def _wake(waiter: Waiter) -> None:
    if waiter.done():
        waiter.leave()
    else:
        waiter.settle(waiter.value())
