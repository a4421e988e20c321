"""Fanning events out to tracers, so that none of them can disturb the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from asyncmachine.api import Tracer

__all__ = ["Tracers"]


class Tracers:
    """The tracers of one machine. A machine nobody watches has none of these, which is what makes tracing free.

    Args:
        report: told of a tracer that raised.
        bound: the tracers, in the order they are told.
    """

    __slots__ = ("_report", "bound")

    def __init__(self, report: Callable[[str, BaseException], None], bound: Iterable[Tracer]) -> None:
        self._report = report
        self.bound: tuple[Tracer, ...] = tuple(bound)

    def inheritable(self) -> list[Tracer]:
        """Give the tracers that also watch machines built with this one as their parent."""
        found: list[Tracer] = []
        for tracer in self.bound:
            try:
                if tracer.inheritable():
                    found.append(tracer)
            except Exception as err:  # noqa: BLE001 - reported; it must not reach the machine
                self._detach(tracer, "inheritable", err)
        return found

    def tell(self, event: str, *details: Any) -> None:
        """Call the method `event` of each tracer; one that raises is logged and detached."""
        for tracer in self.bound:
            try:
                getattr(tracer, event)(*details)
            except Exception as err:  # noqa: BLE001 - reported; it must not reach the machine
                self._detach(tracer, event, err)

    def _detach(self, tracer: Tracer, event: str, err: Exception) -> None:
        self.bound = tuple(other for other in self.bound if other is not tracer)
        self._report(f"the tracer {tracer!r} raised in {event} and was detached", err)
