"""Running a program: `am.run` is `anyio.run`, on uvloop where it is installed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import TypeVar, TypeVarTuple

import anyio

from asyncmachine.errors import no_function

__all__ = ["run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def run(
    main: Callable[[*Ts], Awaitable[T]],
    *args: *Ts,
    use_uvloop: bool | None = None,
    debug: bool = False,
) -> T:
    """Run a coroutine function on an event loop of its own, and give what it returns.

    Args:
        main: the coroutine function.
        args: what it is called with.
        use_uvloop: run on uvloop; if None, where it is installed.
        debug: run the loop in asyncio's debug mode.

    Raises:
        TypeError: `main` is no function, but what one returned, as in `am.run(main())`.

    >>> async def main(name):
    ...     return f"hello {name}"
    >>> am.run(main, "world")
    'hello world'
    """
    if not callable(main):
        raise TypeError(no_function(main, "run takes a function and what it is called with, am.run(main, *args)"))
    if use_uvloop is None:
        use_uvloop = find_spec("uvloop") is not None
    return anyio.run(main, *args, backend="asyncio", backend_options={"use_uvloop": use_uvloop, "debug": debug})
