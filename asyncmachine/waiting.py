"""The subscriptions of a machine, local or remote: every `when_…` is a future that a transition makes come true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from asyncmachine.clock import Clock, Time, next_active
from asyncmachine.errors import ArgsError
from asyncmachine.mutation import Result
from asyncmachine.reading import ReadApi, flatten
from asyncmachine.schema import EXCEPTION
from asyncmachine.waits import settle

__all__ = ["ArgsMatch", "WaitApi", "Waiters"]

T = TypeVar("T")

ArgsMatch = Mapping[str, Any] | Callable[[Mapping[str, Any]], bool]
"""What args are compared with: a subset, by `==`, or a predicate of the whole mapping."""


class Waiters(Protocol):
    """Registers futures and makes them come true. States are positions."""

    def state(self, state: int, parity: int) -> asyncio.Future[int]: ...
    def states(self, states: tuple[int, ...], parity: int) -> asyncio.Future[Time]: ...
    def ticks(self, states: tuple[int, ...], ticks: tuple[int, ...], *, single: bool) -> asyncio.Future[Any]: ...
    def activation(self, state: int, tick: int) -> asyncio.Future[int]: ...
    def args(self, state: int, match: ArgsMatch) -> asyncio.Future[Mapping[str, Any]]: ...
    def query(self, predicate: Callable[[Clock], bool]) -> asyncio.Future[Clock]: ...
    def error(self) -> asyncio.Future[BaseException]: ...
    def queue_tick(self, tick: int) -> asyncio.Future[int]: ...
    def outcome(self, result: Result) -> asyncio.Future[int]: ...
    def queue_end(self) -> asyncio.Future[None]: ...
    def disposed(self) -> asyncio.Future[None]: ...


class WaitApi(ReadApi):
    """Waiting for what a machine will do.

    Each `when_…` registers at the call and returns an `asyncio.Future` of its own, done already if its condition
    holds. A wait costs no task; a cancelled one is forgotten at once. When the machine is disposed, futures still
    pending fail with `MachineDisposedError`. All of them raise `MachineLoopError` when no loop is running, and
    `UnknownStateError` for states the machine does not have.
    """

    _waiters: Waiters

    def when(self, *states: str | Iterable[str]) -> asyncio.Future[Time]:
        """Wait until all of the states are active at once; gives their ticks.

        >>> async def main():
        ...     mach.add(["Foo", "Bar"])
        ...     return await mach.when("Foo", "Bar")
        >>> am.run(main)
        Time(1, 1)
        """
        return self._waiters.states(self.index(*states), 1)

    def when1(self, state: str) -> asyncio.Future[int]:
        """Wait until a state is active; gives its tick.

        >>> async def main():
        ...     active = mach.when1("Foo")
        ...     mach.add1("Foo")
        ...     return await active
        >>> am.run(main)
        1
        """
        position = self._live.index.get(state)
        return self._waiters.state(self.index1(state) if position is None else position, 1)

    def when_not(self, *states: str | Iterable[str]) -> asyncio.Future[Time]:
        """Wait until none of the states is active; gives their ticks.

        >>> async def main():
        ...     return await mach.when_not("Foo", "Bar")
        >>> am.run(main)
        Time(0, 0)
        """
        return self._waiters.states(self.index(*states), 0)

    def when_not1(self, state: str) -> asyncio.Future[int]:
        """Wait until a state is inactive; gives its tick.

        >>> async def main():
        ...     return await mach.when_not1("Foo")
        >>> am.run(main)
        0
        """
        return self._waiters.state(self.index1(state), 0)

    def when_args(self, state: str, match: ArgsMatch | None = None) -> asyncio.Future[Mapping[str, Any]]:
        """Wait until a state enters, or a multi state re-enters, with args that match; gives the args.

        Args:
            state: the state to enter.
            match: what the args must hold, compared by `==`, or a predicate of all of them.

        Raises:
            ArgsError: the match is neither a mapping nor a function.

        >>> async def main():
        ...     loaded = mach.when_args("Foo", {"id": 2})
        ...     mach.add1("Foo", {"id": 1}), mach.remove1("Foo"), mach.add1("Foo", {"id": 2, "by": "me"})
        ...     return await loaded
        >>> am.run(main)
        {'id': 2, 'by': 'me'}
        """
        wanted: ArgsMatch = {} if match is None else match
        if not callable(wanted) and not isinstance(wanted, Mapping):
            raise ArgsError(f'args are matched with a mapping, {{"name": value}}, or a function of them, not {match!r}')
        return self._waiters.args(self.index1(state), wanted)

    def when_time(self, states: Iterable[str], time: Iterable[int]) -> asyncio.Future[Time]:
        """Wait until each of the states has reached its tick; gives their ticks then.

        Args:
            states: names of states.
            time: a tick for each.

        Raises:
            ValueError: there are not as many ticks as states.

        >>> async def main():
        ...     mach.add1("Foo")
        ...     return await mach.when_time(["Foo"], [1])
        >>> am.run(main)
        Time(1)
        """
        positions, ticks = self.index(states), tuple(time)
        if len(positions) != len(ticks):
            raise ValueError(f"{len(positions)} states need as many ticks, not {len(ticks)}")
        return self._waiters.ticks(positions, ticks, single=False)

    def when_time1(self, state: str, tick: int) -> asyncio.Future[int]:
        """Wait until a state has reached a tick; gives its tick then.

        >>> async def main():
        ...     return await mach.when_time1("Foo", 0)
        >>> am.run(main)
        0
        """
        return self._waiters.ticks((self.index1(state),), (tick,), single=True)

    def when_ticks(self, state: str, ticks: int) -> asyncio.Future[int]:
        """Wait until a state has gone on by so many ticks from now; gives its tick then.

        Raises:
            ValueError: the number is negative.

        >>> async def main():
        ...     gone_on = mach.when_ticks("Foo", 2)
        ...     mach.add1("Foo"), mach.remove1("Foo")
        ...     return await gone_on
        >>> am.run(main)
        2
        """
        if ticks < 0:
            raise ValueError(f"a clock never goes back: wait for 0 ticks or more, not {ticks}")
        return self.when_time1(state, self.tick(state) + ticks)

    def when_next_active(self, state: str) -> asyncio.Future[int]:
        """Wait until a state is activated anew; the present activation does not count. Gives its tick then.

        >>> async def main():
        ...     mach.add1("Foo")
        ...     again = mach.when_next_active("Foo")
        ...     mach.remove1("Foo"), mach.add1("Foo")
        ...     return await again
        >>> am.run(main)
        3
        """
        return self._waiters.activation(self.index1(state), next_active(self.tick(state)))

    def when_query(self, predicate: Callable[[Clock], bool]) -> asyncio.Future[Clock]:
        """Wait until a predicate of the whole clock holds; gives that clock. It is asked whenever a state ticked.

        >>> async def main():
        ...     busy = mach.when_query(lambda clock: clock["Foo"] + clock["Bar"] >= 2)
        ...     mach.add(["Foo", "Bar"])
        ...     return (await busy)["Bar"]
        >>> am.run(main)
        1
        """
        return self._waiters.query(predicate)

    def when_err(self) -> asyncio.Future[BaseException]:
        """Wait until `Exception` is active; gives the error.

        >>> async def main():
        ...     mach.add_err(ValueError("no fuel"))
        ...     return await mach.when_err()
        >>> am.run(main)
        ValueError('no fuel')
        """
        return self._waiters.error()

    def when_queue(self, until: Result | int) -> asyncio.Future[int]:
        """Wait until a queued mutation has run, or the queue has reached a tick; gives the queue's tick.

        Args:
            until: what a mutation returned, or a queue tick.

        >>> async def main():
        ...     return await mach.when_queue(mach.add1("Foo"))
        >>> am.run(main)
        2
        """
        if isinstance(until, Result):
            return self._waiters.outcome(until)
        return self._waiters.queue_tick(until)

    def when_queue_ends(self) -> asyncio.Future[None]:
        """Wait until the queue is empty and no transition runs.

        >>> async def main():
        ...     return await mach.when_queue_ends()
        >>> am.run(main)
        """
        return self._waiters.queue_end()

    def when_disposed(self) -> asyncio.Future[None]:
        """Wait until the machine is disposed. This one never fails.

        >>> async def main():
        ...     async with am.Machine({"Foo": {}}) as machine:
        ...         gone = machine.when_disposed()
        ...     await gone
        >>> am.run(main)
        """
        return self._waiters.disposed()

    async def expect(self, *states: str | Iterable[str], timeout: float | None = None) -> Time:
        """Wait until all of the states are active, and give their ticks; raise the machine's error if it comes first.

        An error the machine is in already counts, unless the states hold now or `Exception` is among them.

        Args:
            states: names of states.
            timeout: seconds to wait at most; None waits on.

        Raises:
            TimeoutError: not all were active in time; the text says which, and what was active instead.
            MachineDisposedError: the machine was disposed first.
            BaseException: the machine's error, as it was raised or added.

        >>> async def main():
        ...     mach.add1("Foo")
        ...     return await mach.expect("Foo", timeout=1)
        >>> am.run(main)
        Time(1)
        """
        __tracebackhide__ = True  # a test that fails here is to show its own line
        names = tuple(flatten(states))
        active, error = self.when(names), None if EXCEPTION in names else self.when_err()
        try:
            _, first = await settle([active], timeout, needed=1, error=error)
        except TimeoutError:
            missing = " ".join(name for name in names if not self.is1(name))
            raise TimeoutError(f"{missing} not active within {timeout} s; the machine is at {self}") from None
        if error is not None and first is error:
            raise error.result()
        return active.result()

    async def wait_all(self, *whens: Awaitable[T], timeout: float | None = None) -> list[T]:
        """Wait until all of `whens` are done, as `am.wait_all`; raise the machine's error if it comes first.

        >>> async def main():
        ...     mach.add1("Foo")
        ...     return await mach.wait_all(mach.when1("Foo"), timeout=1)
        >>> am.run(main)
        [1]
        """
        if not whens:
            return []
        error = self.when_err()
        futures, last = await settle(whens, timeout, needed=len(whens), error=error)
        if last is error:
            raise error.result()
        last.result()  # one that failed ends the wait
        return [future.result() for future in futures]

    async def wait_any(self, *whens: Awaitable[Any], timeout: float | None = None) -> int:
        """Wait until one of `whens` is done, as `am.wait_any`; raise the machine's error if it comes first.

        >>> async def main():
        ...     mach.add1("Bar")
        ...     return await mach.wait_any(mach.when1("Foo"), mach.when1("Bar"), timeout=1)
        >>> am.run(main)
        1
        """
        if not whens:
            raise ValueError("wait_any needs at least one awaitable, or it would wait for ever")
        error = self.when_err()
        futures, first = await settle(whens, timeout, needed=1, error=error)
        if first is error:
            raise error.result()
        first.result()  # an awaitable that failed was done first, too: its error is the answer
        return futures.index(first)
