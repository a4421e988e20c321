"""Waiting for several things at once, with a timeout in seconds. Works on any awaitable; the `when_…` futures fit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from asyncmachine.clock import Time

__all__ = ["expect", "settle", "wait_all", "wait_any"]

T = TypeVar("T")


async def wait_all(*whens: Awaitable[T], timeout: float | None = None) -> list[T]:
    """Wait until all of `whens` are done, and give what they gave, in their order.

    Whatever is still pending is cancelled when one fails, at the timeout, and when the caller is cancelled.

    Args:
        whens: awaitables, such as the futures of `when_…`.
        timeout: seconds to wait at most; None waits on.

    Raises:
        TimeoutError: not all were done in time.

    >>> async def main():
    ...     mach.add(["Foo", "Bar"])
    ...     return await am.wait_all(mach.when1("Foo"), mach.when1("Bar"), timeout=1)
    >>> am.run(main)
    [1, 1]
    """
    if not whens:
        return []
    futures, last = await settle(whens, timeout, needed=len(whens))
    last.result()  # one that failed ends the wait
    return [future.result() for future in futures]


async def wait_any(*whens: Awaitable[Any], timeout: float | None = None) -> int:
    """Wait until one of `whens` is done, and give its position. The others are cancelled.

    The one that was done first counts, also within a turn of the loop; of those done before the call, the first.

    Args:
        whens: awaitables, such as the futures of `when_…`; at least one.
        timeout: seconds to wait at most; None waits on.

    Raises:
        TimeoutError: none was done in time.
        ValueError: there is nothing to wait for.

    >>> async def main():
    ...     mach.add1("Bar")
    ...     return await am.wait_any(mach.when1("Foo"), mach.when1("Bar"), timeout=1)
    >>> am.run(main)
    1
    """
    if not whens:
        raise ValueError("wait_any needs at least one awaitable, or it would wait for ever")
    futures, first = await settle(whens, timeout, needed=1)
    first.result()  # an awaitable that failed was done first, too: its error is the answer
    return futures.index(first)


class Expecting(Protocol):
    """A machine, seen from `expect`."""

    async def expect(self, *states: str | Iterable[str], timeout: float | None = None) -> Time: ...


async def expect(
    machine: Expecting,
    *states: str | Iterable[str],
    timeout: float | None = None,
) -> Time:
    """Wait until all of `states` are active; raise the machine's error if one comes first. See `Machine.expect`.

    >>> async def main():
    ...     mach.add1("Foo")
    ...     return await am.expect(mach, "Foo", timeout=1)
    >>> am.run(main)
    Time(1)
    """
    return await machine.expect(*states, timeout=timeout)


async def settle(
    whens: Sequence[Awaitable[Any]],
    timeout: float | None,
    *,
    needed: int,
    error: asyncio.Future[BaseException] | None = None,
) -> tuple[list[asyncio.Future[Any]], asyncio.Future[Any]]:
    """Wait until so many of `whens` are done, or one has failed, or `error` is done, and leave nothing pending behind.

    Gives the futures of `whens`, and the one that decided. Callbacks of futures are called in the order in which these
    were done, so it is known which was first even where all of them were done before the caller got its turn.

    Raises:
        TimeoutError: the time was up before.
    """
    decided: asyncio.Future[asyncio.Future[Any]] = asyncio.get_running_loop().create_future()
    futures: list[asyncio.Future[Any]] = []
    watched: list[asyncio.Future[Any]] = [] if error is None else [error]
    left = needed

    def note(future: asyncio.Future[Any]) -> None:
        nonlocal left
        left -= 1
        failed = future.cancelled() or future.exception() is not None
        if not decided.done() and (failed or left <= 0 or future is error):
            decided.set_result(future)

    try:
        futures += map(asyncio.ensure_future, whens)
        watched = [*futures, *watched]
        for future in watched:
            future.add_done_callback(note)
        await asyncio.wait([decided], timeout=timeout)
        if not decided.done():
            pending = sum(not future.done() for future in futures)
            raise TimeoutError(f"{pending} of {len(futures)} waits were not done within {timeout} s")
        return futures, decided.result()
    finally:
        for future in dict.fromkeys([*futures, *watched]):
            # One that fails while it is being cancelled is heard of through the loop, as any that nobody waits for.
            future.remove_done_callback(note)
            future.cancel()
