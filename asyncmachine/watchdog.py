"""A tracer that shows where a handler is stuck while it is stuck."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from typing import Any

from typing_extensions import override

from asyncmachine.api import Tracer
from asyncmachine.transition import Transition

__all__ = ["Watchdog"]


class Watchdog(Tracer):
    """Reports handlers that block their loop, with the stack they are stuck in, while they still are.

    Without it a machine reports a slow handler when it returns. This one watches from a daemon thread, which starts
    with the first handler it sees and samples the stack of the handler's thread once the handler overruns. Machines
    built with a watched one as their parent are watched, too. Bind it while you look for a stall; it costs a little
    for each handler call.

    Args:
        timeout: seconds a handler may take.

    >>> watched = am.Machine({"Foo": {}}, tracers=[am.Watchdog(timeout=0.5)])
    """

    def __init__(self, timeout: float = 0.1) -> None:
        if timeout <= 0:
            raise ValueError(f"timeout is in seconds and above 0, not {timeout}")
        self.timeout = timeout
        self._changed = threading.Condition()
        self._running: dict[int, list[_Call]] = {}
        self._thread: threading.Thread | None = None

    @override
    def inheritable(self) -> bool:
        return True

    @override
    def handler_start(self, transition: Transition[Any], binding: str, handler: str) -> None:
        call = _Call(f"{handler} of {binding}", transition.machine.id, time.monotonic() + self.timeout)
        with self._changed:
            self._running.setdefault(threading.get_ident(), []).append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="asyncmachine-watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()

    @override
    def handler_end(self, transition: Transition[Any], binding: str, handler: str) -> None:
        ident = threading.get_ident()
        with self._changed:
            calls = self._running[ident]
            calls.pop()
            if not calls:
                del self._running[ident]

    def _watch(self) -> None:
        while True:
            with self._changed:
                stuck, due = self._look()
                if not stuck:
                    self._changed.wait(None if due is None else max(due - time.monotonic(), 0.001))
            # Not under the lock, which a handler called within a log handler would wait for.
            for call, stack in stuck:
                logger = logging.getLogger(f"asyncmachine.{call.machine}")
                message = "[handler:stuck] %s blocks the loop for more than %s s:\n%s"
                logger.warning(message, call.handler, self.timeout, stack)

    def _look(self) -> tuple[list[tuple[_Call, str]], float | None]:
        """Give the calls that overrun, each once, with their stacks; and the time the next one is due."""
        now, due = time.monotonic(), None
        stuck: list[tuple[_Call, str]] = []
        for ident, calls in self._running.items():
            for call in calls:
                if call.reported:
                    continue
                if call.due <= now:
                    call.reported = True
                    frame = sys._current_frames().get(ident)  # pyright: ignore[reportPrivateUsage] - the documented way to see a thread's stack
                    stuck.append((call, "".join(traceback.format_stack(frame))))
                else:
                    due = call.due if due is None else min(due, call.due)
        return stuck, due


class _Call:
    """One handler that runs."""

    __slots__ = ("due", "handler", "machine", "reported")

    def __init__(self, handler: str, machine: str, due: float) -> None:
        self.handler = handler
        self.machine = machine
        self.due = due
        self.reported = False
