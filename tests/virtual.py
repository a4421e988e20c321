"""Virtual time: a loop whose clock jumps to the next timer as soon as nothing else is left to do."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from typing_extensions import override


class Jumping(selectors.DefaultSelector):  # type: ignore[misc,valid-type,unused-ignore]
    """A selector that has time pass instead of waiting for it."""

    now = 100.0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # Without a timer there is only something from outside to wait for, such as a thread.
        events: list[tuple[selectors.SelectorKey, int]] = super().select(0 if timeout else timeout)
        if not events and timeout:
            self.now += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop in virtual time, which begins at 100 s."""

    def __init__(self) -> None:
        self._jumping = Jumping()
        super().__init__(self._jumping)

    @override
    def time(self) -> float:
        return self._jumping.now

    def pass_time(self, seconds: float) -> None:
        """Have time pass within a turn of the loop, as it does where something blocks it."""
        self._jumping.now += seconds


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in virtual time."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **fixtures))

    return run
