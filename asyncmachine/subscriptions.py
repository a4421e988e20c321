"""The futures behind `when_…`: registered by the states they wait for, woken in the order they were registered.

A transition looks only at the waiters of states that ticked. Each waiter is its own future, so cancelling one reaches
no other, and it leaves the registry within its `cancel()`: no callback, no sweep, nothing left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from typing_extensions import override

from asyncmachine.clock import Clock, Time
from asyncmachine.errors import MachineDisposedError
from asyncmachine.mutation import Result
from asyncmachine.queue import Queue
from asyncmachine.transition import Live, Transition
from asyncmachine.waiting import ArgsMatch

__all__ = ["Subscriptions"]


class Host(Protocol):
    """The machine, seen from its subscriptions."""

    id: str

    @property
    def err(self) -> BaseException | None: ...

    @property
    def is_disposed(self) -> bool: ...

    @property
    def is_idle(self) -> bool: ...

    def bind_loop(self) -> asyncio.AbstractEventLoop: ...


class Waiter(asyncio.Future[Any]):
    """A future that knows what it waits for, and leaves its buckets when it is cancelled."""

    __slots__ = ("buckets", "number")

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int, buckets: Iterable[dict[Waiter, None]]) -> None:
        super().__init__(loop=loop)
        self.number = number
        """Its place in the order of registration."""
        self.buckets = tuple(buckets)
        for bucket in self.buckets:
            bucket[self] = None

    def leave(self) -> None:
        """Leave the registry."""
        for bucket in self.buckets:
            bucket.pop(self, None)
        self.buckets = ()

    @override
    def cancel(self, msg: Any | None = None) -> bool:
        self.leave()
        return super().cancel(msg)

    def poll(self, transition: Transition[Any] | None) -> bool:
        """Tell whether the time has come. Asked after a transition, or None for a restore, that ticked its states."""
        raise NotImplementedError  # pragma: no cover - every kind of waiter has its own

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
    def poll(self, transition: Transition[Any] | None) -> bool:
        ticks = self.live.ticks
        if self.parity is None:
            return all([ticks[i] >= goal for i, goal in zip(self.states, self.goals, strict=True)])
        return all([ticks[i] % 2 == self.parity for i in self.states])

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
    def poll(self, transition: Transition[Any] | None) -> bool:
        if transition is None or self.state not in transition.plan.enters or self.live.ticks[self.state] % 2 == 0:
            return False
        self.found = transition.mutation.args
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
    def poll(self, transition: Transition[Any] | None) -> bool:
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
    def poll(self, transition: Transition[Any] | None) -> bool:
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
    def poll(self, transition: Transition[Any] | None) -> bool:
        return self.queue is None or self.queue.tick >= self.goal

    @override
    def value(self) -> int | None:
        return None if self.queue is None else self.queue.tick


class Subscriptions:
    """The registry of a machine's waiters."""

    __slots__ = ("_by_state", "_count", "_disposal", "_host", "_live", "_queries", "_queue", "_queue_end", "_ticks")

    def __init__(self, host: Host, live: Live, queue: Queue) -> None:
        self._host = host
        self._live = live
        self._queue = queue
        self._count = 0
        self._by_state: dict[int, dict[Waiter, None]] = {}
        self._queries: dict[Waiter, None] = {}
        self._ticks: dict[Waiter, None] = {}
        self._queue_end: dict[Waiter, None] = {}
        self._disposal: dict[Waiter, None] = {}

    def __len__(self) -> int:
        """Count the futures that are pending."""
        return len(self._pending()) + len(self._disposal)

    def active(self, states: tuple[int, ...], *, single: bool) -> asyncio.Future[Any]:
        """Wait until all of the states are active."""
        return self._for_ticks(states, single=single, parity=1)

    def inactive(self, states: tuple[int, ...], *, single: bool) -> asyncio.Future[Any]:
        """Wait until all of the states are inactive."""
        return self._for_ticks(states, single=single, parity=0)

    def ticks(self, states: tuple[int, ...], ticks: tuple[int, ...], *, single: bool) -> asyncio.Future[Any]:
        """Wait until each of the states has reached its tick."""
        return self._for_ticks(states, single=single, goals=ticks)

    def args(self, state: int, match: ArgsMatch) -> asyncio.Future[Mapping[str, Any]]:
        """Wait until a state enters with args that match."""
        waiter = self._new(ArgsWaiter, self._buckets((state,)))
        waiter.state, waiter.match, waiter.live = state, match, self._live
        return self._unless_disposed(waiter)

    def query(self, predicate: Callable[[Clock], bool]) -> asyncio.Future[Clock]:
        """Wait until a predicate of the clock holds."""
        waiter = self._new(QueryWaiter, [self._queries])
        waiter.predicate, waiter.live = predicate, self._live
        return self._unless_holds(waiter)

    def error(self) -> asyncio.Future[BaseException]:
        """Wait until `Exception` is active."""
        state = self._live.index["Exception"]
        waiter = self._new(ErrorWaiter, self._buckets((state,)))
        waiter.state, waiter.host, waiter.live = state, self._host, self._live
        return self._unless_holds(waiter)

    def queue_tick(self, tick: int) -> asyncio.Future[int]:
        """Wait until the queue has reached a tick and is done with it."""
        waiter = self._new(PlainWaiter, [self._ticks])
        waiter.goal, waiter.queue = tick, self._queue
        done = self._queue.tick > tick or (self._queue.tick == tick and self._host.is_idle)
        return self._unless_disposed(waiter, holds=done)

    def outcome(self, result: Result) -> asyncio.Future[int]:
        """Wait until the mutation of a result is done."""
        # The mutation tells when it is done: the queue's tick cannot, for a prepended one has none. Disposal ends what
        # is queued, so this waiter needs no place in the registry.
        waiter = self._new(PlainWaiter, [])
        waiter.goal, waiter.queue = 0, self._queue
        mutation = result.mutation
        if mutation is None or mutation.outcome is not None:
            return self._unless_disposed(waiter, holds=True)
        mutation.when_done(lambda _: _wake(waiter))
        return waiter

    def queue_end(self) -> asyncio.Future[None]:
        """Wait until the queue is empty and no transition runs."""
        waiter = self._new(PlainWaiter, [self._queue_end])
        waiter.queue = None
        return self._unless_disposed(waiter, holds=self._host.is_idle)

    def disposed(self) -> asyncio.Future[None]:
        """Wait until the machine is disposed."""
        waiter = self._new(PlainWaiter, [self._disposal])
        waiter.queue = None
        if self._host.is_disposed:
            _wake(waiter)
        return waiter

    def notify(self, ticked: Iterable[int], transition: Transition[Any] | None) -> None:
        """Wake the waiters whose condition has come true, of the states that ticked."""
        buckets = [bucket for i in ticked if (bucket := self._by_state.get(i))]
        if self._queries:
            buckets.append(self._queries)
        # A bucket is in order of registration; several are put in order together.
        asked: Iterable[Waiter] = [waiter for bucket in buckets for waiter in bucket]
        if len(buckets) > 1:
            asked = sorted(set(asked), key=attrgetter("number"))
        for waiter in asked:
            _poll(waiter, transition)

    def notify_queue(self) -> None:
        """Wake those who wait for a tick of the queue, after a mutation has run."""
        for waiter in list(self._ticks):
            _poll(waiter, None)

    def notify_queue_end(self) -> None:
        """Wake those who wait for the end of the queue."""
        for waiter in list(self._queue_end):
            _wake(waiter)

    @property
    def queue_waiters(self) -> bool:
        """True if someone waits for a tick of the queue."""
        return bool(self._ticks)

    @property
    def state_waiters(self) -> bool:
        """True if someone waits for states."""
        return bool(self._by_state or self._queries)

    def dispose(self) -> None:
        """Fail every waiter but those who wait for just this."""
        for waiter in sorted(self._pending(), key=attrgetter("number")):
            self._fail(waiter)

    def announce_disposal(self) -> None:
        """Tell those who wait for the machine's disposal."""
        for waiter in list(self._disposal):
            _wake(waiter)

    def _pending(self) -> set[Waiter]:
        return {*chain(*self._by_state.values()), *self._queries, *self._ticks, *self._queue_end}

    def _for_ticks(
        self, states: tuple[int, ...], *, single: bool, parity: int | None = None, goals: tuple[int, ...] = ()
    ) -> asyncio.Future[Any]:
        waiter = self._new(TicksWaiter, self._buckets(states))
        waiter.states, waiter.live, waiter.single = states, self._live, single
        waiter.parity, waiter.goals = parity, goals
        return self._unless_holds(waiter)

    def _new(self, kind: type[W], buckets: Iterable[dict[Waiter, None]]) -> W:
        self._count += 1
        return kind(self._host.bind_loop(), self._count, buckets)

    def _buckets(self, states: Iterable[int]) -> list[dict[Waiter, None]]:
        return [self._by_state.setdefault(i, {}) for i in states]

    def _unless_holds(self, waiter: W) -> W:
        if self._host.is_disposed:
            self._fail(waiter)
        else:
            _poll(waiter, None)
        return waiter

    def _unless_disposed(self, waiter: W, *, holds: bool = False) -> W:
        if self._host.is_disposed:
            self._fail(waiter)
        elif holds:
            _wake(waiter)
        return waiter

    def _fail(self, waiter: Waiter) -> None:
        waiter.leave()
        if not waiter.done():
            waiter.set_exception(MachineDisposedError(f"the machine {self._host.id} was disposed"))
            # Read once, so that the loop makes no noise about waits that nobody looks at any more.
            waiter.exception()


def _poll(waiter: Waiter, transition: Transition[Any] | None) -> None:
    """Wake a waiter if its time has come. A predicate that raises is its own waiter's error, nobody else's."""
    try:
        come = waiter.poll(transition)
    except Exception as err:  # noqa: BLE001 - handed on to whoever waits
        waiter.leave()
        waiter.set_exception(err)
    else:
        if come:
            _wake(waiter)


def _wake(waiter: Waiter) -> None:
    waiter.leave()
    if not waiter.done():
        waiter.set_result(waiter.value())
