"""Waiting for several things at once, with a timeout in seconds. Works on any awaitable; the `when_…` futures fit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from asyncmachine.clock import Time

__all__ = ["expect", "wait_all", "wait_any"]

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
    futures = [asyncio.ensure_future(when) for when in whens]
    await _wait(futures, timeout, asyncio.FIRST_EXCEPTION)
    return [future.result() for future in futures]


async def wait_any(*whens: Awaitable[Any], timeout: float | None = None) -> int:
    """Wait until one of `whens` is done, and give its position; the first, if several are. The others are cancelled.

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
    futures = [asyncio.ensure_future(when) for when in whens]
    done = await _wait(futures, timeout, asyncio.FIRST_COMPLETED)
    chosen = next(i for i, future in enumerate(futures) if future in done)
    # An awaitable that failed was done first, too: its error is the answer.
    futures[chosen].result()
    return chosen


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


async def _wait(
    futures: Sequence[asyncio.Future[Any]],
    timeout: float | None,
    until: str,
) -> set[asyncio.Future[Any]]:
    """Give those that are done, and leave nothing pending behind, however the wait ends."""
    try:
        if not futures:
            return set()
        done, pending = await asyncio.wait(futures, timeout=timeout, return_when=until)
        failed = [future for future in done if not future.cancelled() and future.exception()]
        if pending and not failed and not (done and until == asyncio.FIRST_COMPLETED):
            raise TimeoutError(f"{len(pending)} of {len(futures)} waits were not done within {timeout} s")
        return done
    finally:
        for future in futures:
            future.cancel()
