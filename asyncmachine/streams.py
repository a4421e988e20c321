"""Streams: what a machine does, one thing after the other, for `async for`.

A stream is two objects. Its channel is what the machine knows: it takes items in, whether anybody reads them or not.
The `Stream` is what the reader holds; when it is collected, the channel leaves the machine. So a stream that is dropped
is gone, and one that is waited for is not: the machine holds the channel, that the future its reader waits for, and
that the reader.

Activations are told by the registry of `when_…`, at the ticks of one state, and cost other states nothing. Transitions
are told by a tracer, which has the machine keep a record of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, Self, TypeAlias, TypeVar, get_args

from anyio.lowlevel import checkpoint_if_cancelled
from typing_extensions import override

from asyncmachine.api import Tracer
from asyncmachine.errors import StreamBusyError, StreamOverflowError, did_you_mean
from asyncmachine.home import Home
from asyncmachine.mutation import Mutation
from asyncmachine.plans import Live, Plan
from asyncmachine.reading import ReadApi, flatten
from asyncmachine.subscriptions import Subscriptions
from asyncmachine.transition import Owner, Transition
from asyncmachine.waiters import Waiter

__all__ = ["Overflow", "Stream", "StreamApi", "TransitionTap"]

T = TypeVar("T")
M = TypeVar("M", bound=Owner)

Overflow: TypeAlias = Literal["drop_oldest", "drop_newest", "error"]
"""What becomes of an item that a full stream has no place for."""


class Host(Protocol):
    """The machine, seen from its streams."""

    home: Home
    live: Live
    subscriptions: Subscriptions

    @property
    def id(self) -> str: ...

    @property
    def logger(self) -> logging.Logger: ...

    @property
    def tracers(self) -> tuple[Tracer, ...]: ...

    def set_tracers(self, bound: Iterable[Tracer]) -> None: ...


class Channel(Generic[T]):
    """What a machine knows of a stream: where items go, and who waits for them.

    Args:
        host: the machine.
        loop: its loop.
        name: what the stream is called in texts.
        maxsize: how many items may wait.
        overflow: what happens to more of them.
    """

    __slots__ = (
        "detach",
        "dropped",
        "error",
        "host",
        "is_ended",
        "items",
        "loop",
        "maxsize",
        "name",
        "overflow",
        "reader",
    )

    def __init__(
        self, host: Host, loop: asyncio.AbstractEventLoop, name: str, maxsize: int, overflow: Overflow
    ) -> None:
        if not isinstance(maxsize, int) or isinstance(maxsize, bool) or maxsize < 1:
            raise ValueError(f"maxsize is how many items may wait to be read, 1 or more, not {maxsize!r}")
        policies = get_args(Overflow)
        if overflow not in policies:
            hint = did_you_mean(overflow, policies)
            raise ValueError(f"overflow is one of {', '.join(map(repr, policies))}, not {overflow!r}{hint}")
        self.host: Host = host
        self.loop: asyncio.AbstractEventLoop = loop
        self.name: str = name
        self.maxsize: int = maxsize
        self.overflow: Overflow = overflow
        self.items: deque[T] = deque()
        self.dropped: int = 0
        self.error: Exception | None = None
        """What the reader is to be told at the end."""
        self.is_ended: bool = False
        self.reader: asyncio.Future[None] | None = None
        """What the one who reads waits for."""
        self.detach: Callable[[], object] = lambda: None
        """Has the machine forget the channel."""

    def push(self, item: T) -> None:
        """Take an item in, or do what is to be done when there is no place."""
        if self.is_ended:
            return
        if len(self.items) >= self.maxsize and not self._make_room():
            return
        self.items.append(item)
        self._wake()

    def _make_room(self) -> bool:
        """Drop something and tell whether there is room now, or end the stream."""
        if self.overflow == "error":
            text = f"{self.name} of the machine {self.host.id} was read too slowly: more than {self.maxsize} items wait"
            self.end(StreamOverflowError(f"{text}; read faster, or give a larger maxsize or another overflow"))
            return False
        if not self.dropped:
            which = self.overflow.removeprefix("drop_")
            text = "[stream] %s is read too slowly: more than %d items wait, and the %s are dropped; see Stream.dropped"
            self.host.logger.warning(text, self.name, self.maxsize, which)
        self.dropped += 1
        if self.overflow == "drop_newest":
            return False
        self.items.popleft()
        return True

    def end(self, error: Exception | None = None) -> None:
        """Take no more items. What is there can still be read."""
        if not self.is_ended:
            self.is_ended, self.error = True, error
            self.detach()
            self._wake()

    def _wake(self) -> None:
        if self.reader is not None and not self.reader.done():
            # On a loop that was closed before its reader was done, nobody reads any more.
            with contextlib.suppress(RuntimeError):
                self.reader.set_result(None)


class Stream(AsyncIterator[T]):
    """What a machine does from now on, for `async for`; `Machine.transitions` and `Machine.activations` make one.

    It takes items in from the call that made it, so that nothing is missed before the first iteration. At most
    `maxsize` of them wait for their reader; what becomes of more is its policy. It has one reader at a time. Cancelling
    a reader that waits loses nothing. The stream ends when the machine is disposed, after what waits has been read;
    when it is closed; and when nobody holds it any more.

    >>> async def main():
    ...     async with mach.activations("Foo") as ticks:
    ...         mach.add1("Foo"), mach.remove1("Foo"), mach.add1("Foo")
    ...         async for tick in ticks:
    ...             print(tick)
    ...             if tick == 3:
    ...                 break
    >>> am.run(main)
    1
    3
    """

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel[T]) -> None:
        self._channel = channel

    @property
    def maxsize(self) -> int:
        """How many items may wait to be read."""
        return self._channel.maxsize

    @property
    def buffered(self) -> int:
        """How many items wait to be read."""
        return len(self._channel.items)

    @property
    def dropped(self) -> int:
        """How many items were dropped because the stream was full."""
        return self._channel.dropped

    @property
    def is_ended(self) -> bool:
        """True once no more items come: what waits can still be read."""
        return self._channel.is_ended

    def close(self) -> None:
        """End the stream at once; what waits to be read is dropped. Closing it again is no error.

        >>> async def main():
        ...     ticks = mach.activations("Foo")
        ...     mach.add1("Foo")
        ...     ticks.close()
        ...     return [tick async for tick in ticks]
        >>> am.run(main)
        []
        """
        channel = self._channel
        channel.host.home.check_thread()
        channel.items.clear()
        channel.error = None
        channel.end()

    async def aclose(self) -> None:
        """End the stream at once, as whatever closes generators does it; see `close`."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @override
    def __aiter__(self) -> Self:
        return self

    @override
    async def __anext__(self) -> T:
        channel = self._channel
        # Work whose state was left meanwhile reads no further; otherwise the loop gets no turn between items that wait.
        await checkpoint_if_cancelled()
        if channel.reader is not None:
            raise StreamBusyError(
                f"{channel.name} is being read already, and each item goes to one reader; open a stream for each"
            )
        while not channel.items:
            if channel.is_ended:
                error, channel.error = channel.error, None
                raise StopAsyncIteration if error is None else error
            channel.reader = channel.host.home.bind_loop().create_future()
            try:
                await channel.reader
            finally:
                channel.reader = None
        return channel.items.popleft()

    def __del__(self) -> None:
        channel = self._channel
        if channel.is_ended:
            return
        channel.is_ended = True
        # It may be collected in any thread, in the middle of anything: the machine is told in a turn of its loop.
        try:
            channel.loop.call_soon_threadsafe(channel.detach)
        except RuntimeError:  # the loop is closed
            channel.detach()

    @override
    def __repr__(self) -> str:
        channel = self._channel
        ended = " ended" if channel.is_ended else ""
        return f"<Stream {channel.name} of {channel.host.id}, {len(channel.items)} to read{ended}>"


class ActivationTap(Waiter):
    """A waiter that never comes true: it tells a channel of each activation of a state, and of the machine's end."""

    __slots__ = ("channel", "live", "state")

    channel: Channel[int]
    live: Live
    state: int

    @override
    def check(self, plan: Plan | None, mutation: Mutation | None) -> None:
        # Asked when the state has ticked. One that was activated, but not for good, is at an even tick again.
        tick = self.live.ticks[self.state]
        if tick % 2:
            self.channel.push(tick)

    @override
    def settle(self, value: Any = None, err: Exception | None = None) -> None:
        super().settle(value, err)
        self.channel.end()


class TransitionTap(Tracer):
    """A tracer that tells a channel of completed transitions, and of the machine's end."""

    def __init__(self, channel: Channel[Transition[Any]], mask: int, accepted: bool | None) -> None:  # noqa: FBT001 - one of three
        self._channel = channel
        self._mask = mask
        self._accepted = accepted

    @override
    def transition_end(self, transition: Transition[Any]) -> None:
        if transition.mutation.is_check or self._accepted not in {None, transition.is_accepted}:
            return
        if not self._mask or self._mask & _touched(transition):
            self._channel.push(transition)

    @override
    def machine_dispose(self, machine: object) -> None:
        self._channel.end()


def _touched(transition: Transition[Any]) -> int:
    """Give the set of bits of the states that were called, and of those that ticked."""
    touched = transition.mutation.request.mask
    ticked = (*transition.plan.ticked, *transition.rolled_back) if transition.committed else ()
    for i in ticked:
        touched |= 1 << i
    return touched


class StreamApi(ReadApi, Generic[M]):
    """Streams of what a machine does."""

    @abstractmethod
    def _stream_host(self) -> Host: ...

    def transitions(
        self,
        *states: str | Iterable[str],
        accepted: bool | None = None,
        maxsize: int = 1024,
        overflow: Overflow = "drop_oldest",
    ) -> Stream[Transition[M]]:
        """Give a stream of the transitions that are completed from now on, canceled ones too. Checks are none.

        Args:
            states: only transitions that touch one of these: that call it, or in which it ticks. All, without any.
            accepted: True gives only those that were carried out, False only those that were canceled.
            maxsize: how many may wait to be read.
            overflow: what happens to more. "drop_oldest" and "drop_newest" drop, count (`Stream.dropped`) and, the
                first time, warn; "error" ends the stream: what waits can be read, then `StreamOverflowError` is raised.

        Raises:
            UnknownStateError: the machine has no such state.
            MachineLoopError: no loop is running.
            ValueError: `maxsize` is less than 1, or there is no such `overflow`.

        >>> async def main():
        ...     async with am.Machine({"Foo": {}, "Bar": {"require": ["Foo"]}}) as machine:
        ...         done = machine.transitions()
        ...         machine.add1("Bar"), machine.add1("Foo")
        ...     async for tx in done:
        ...         print(tx.type, *tx.called_states, tx.is_accepted)
        >>> am.run(main)
        add Bar False
        add Foo True
        """
        host, names = self._stream_host(), tuple(flatten(states))
        mask = sum({1 << i for i in self.index(names)})
        loop, name = host.home.bind_loop(), _name("transitions", names)
        channel: Channel[Transition[M]] = Channel(host, loop, name, maxsize, overflow)
        tap = TransitionTap(channel, mask, accepted)
        channel.detach = lambda: host.set_tracers([tracer for tracer in host.tracers if tracer is not tap])
        if host.live.closed:
            channel.end()
        else:
            host.set_tracers([*host.tracers, tap])
        return Stream(channel)

    def activations(self, state: str, *, maxsize: int = 1024, overflow: Overflow = "drop_oldest") -> Stream[int]:
        """Give a stream of the ticks at which a state is activated from now on, multi states anew, too.

        The present activation does not count, nor does one that is rolled back.

        Args:
            state: the name of a state.
            maxsize: how many ticks may wait to be read.
            overflow: what happens to more; see `transitions`.

        Raises:
            UnknownStateError: the machine has no such state.
            MachineLoopError: no loop is running.
            ValueError: `maxsize` is less than 1, or there is no such `overflow`.

        >>> async def main():
        ...     async with am.Machine({"Message": {"multi": True}}) as machine:
        ...         ticks = machine.activations("Message")
        ...         machine.add1("Message"), machine.add1("Message")
        ...     return [tick async for tick in ticks]
        >>> am.run(main)
        [1, 3]
        """
        host, position = self._stream_host(), self.index1(state)
        loop, name = host.home.bind_loop(), _name("activations", [state])
        channel: Channel[int] = Channel(host, loop, name, maxsize, overflow)
        tap = ActivationTap(loop=loop)
        tap.channel, tap.live, tap.state = channel, host.live, position
        channel.detach = tap.leave
        host.subscriptions.watch(tap, position)
        return Stream(channel)


def _name(method: str, states: Iterable[str]) -> str:
    return f"{method}({', '.join(map(repr, states))})"
