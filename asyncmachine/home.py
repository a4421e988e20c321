"""Where a machine lives: the thread that may use it, and the one loop its futures and tasks belong to."""

from __future__ import annotations

import asyncio
import threading
from asyncio import get_running_loop
from typing import Protocol

from asyncmachine.errors import MachineLoopError, MachineThreadError

__all__ = ["Home"]


class Host(Protocol):
    """The machine, seen from its home: errors name it."""

    @property
    def id(self) -> str: ...


class Home:
    """The thread and the loop of a machine.

    A machine belongs to the thread that built it until it needs a loop. Then it is bound to the one that runs, and to
    its thread, for good.

    Args:
        host: the machine.
    """

    __slots__ = ("_host", "_loop", "thread")

    def __init__(self, host: Host) -> None:
        self._host = host
        self.thread: int = threading.get_ident()
        """The thread that owns the machine."""
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop the machine is bound to, if any."""
        return self._loop

    def check_thread(self) -> None:
        """Refuse a thread that does not own the machine.

        Raises:
            MachineThreadError: this is another thread.
        """
        if threading.get_ident() == self.thread:
            return
        if self._loop is None and _running_loop() is not None:
            # Built in one thread for a loop that runs in another: this is the first loop it meets.
            self.bind_loop()
            return
        if self._is_homeless():
            raise MachineThreadError(f"the machine {self._host.id} belongs to another thread, and {_HOMELESS}")
        raise MachineThreadError(
            f"the machine {self._host.id} belongs to another thread, and machines take no locks; from this thread use "
            "mach.threadsafe, which has the same mutations and returns concurrent futures"
        )

    def bind_loop(self) -> asyncio.AbstractEventLoop:
        """Give the machine's loop; bind it to the running one, if it has none yet.

        Raises:
            MachineLoopError: no loop runs, or another one than the machine's.
        """
        try:
            loop = get_running_loop()
        except RuntimeError:
            raise MachineLoopError(
                f"the machine {self._host.id} needs a running event loop for this (futures of when_…, state contexts, "
                "async work and timeouts live on one); call it from a coroutine, such as one given to am.run(main)"
            ) from None
        if loop is self._loop:
            return loop
        if self._is_homeless():
            raise MachineLoopError(
                f"the machine {self._host.id} is bound to another event loop than the running one, and {_HOMELESS}"
            )
        if self._loop is not None:
            raise MachineLoopError(
                f"the machine {self._host.id} is bound to another event loop than the running one; build a machine for "
                "each loop, or use mach.threadsafe to reach this one"
            )
        self._loop, self.thread = loop, threading.get_ident()
        return loop

    def loop_to_use(self) -> asyncio.AbstractEventLoop | None:
        """Give the loop to do something on that can also be done without one; None where none can be used.

        Raises:
            MachineLoopError: another loop than the machine's runs, and the machine's own is still open.
        """
        if _running_loop() is None or (self._loop is not None and self._loop.is_closed()):
            return None
        return self.bind_loop()

    def _is_homeless(self) -> bool:
        return self._loop is not None and self._loop.is_closed()

    def loop_for_threads(self) -> asyncio.AbstractEventLoop:
        """Give the loop that calls from other threads are posted to.

        Raises:
            MachineLoopError: there is none to be posted to.
        """
        if self._loop is None and threading.get_ident() == self.thread and _running_loop() is not None:
            return self.bind_loop()
        if self._loop is None or self._loop.is_closed():
            state = "has no event loop yet" if self._loop is None else "was bound to a loop that is closed"
            raise MachineLoopError(
                f"the machine {self._host.id} {state}, so nobody would make the call; enter `async with mach` (or read "
                "mach.threadsafe) on its loop's thread first, and keep the loop running"
            )
        return self._loop


_HOMELESS = "its loop is closed; build a machine for each loop, in a coroutine, and not one for a whole module"


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return get_running_loop()
    except RuntimeError:
        return None
