"""The machine of two states that most questions are about, and how it is toggled."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any, Protocol

from _floor import Floor

import asyncmachine as am

SCHEMA = am.Schema({"A": {"remove": ["B"]}, "B": {"remove": ["A"]}})


class Handlers:
    """Four handlers for each toggle, two of which may veto; they take our events as well as the floor's."""

    def AExit(self, e: Any) -> bool:
        return True

    def BExit(self, e: Any) -> bool:
        return True

    def AEnter(self, e: Any) -> bool:
        return True

    def BEnter(self, e: Any) -> bool:
        return True

    def AEnd(self, e: Any) -> None:
        """Act, by doing nothing."""

    def BEnd(self, e: Any) -> None:
        """Act, by doing nothing."""

    def AState(self, e: Any) -> None:
        """Act, by doing nothing."""

    def BState(self, e: Any) -> None:
        """Act, by doing nothing."""


class Adds(Protocol):
    """Our machine, or the floor."""

    def add1(self, state: str, /) -> Any: ...


def machine(handlers: object = None) -> am.Machine:
    """Give a machine of the states A and B."""
    return am.Machine(SCHEMA, handlers=handlers)


def toggling(mach: Adds, first: str = "A", second: str = "B") -> Callable[[int], None]:
    """Give what adds one state and then the other, so many times in all."""

    def run(count: int) -> None:
        add1 = mach.add1
        for _ in repeat(None, count // 2):
            add1(first)
            add1(second)

    return run


def plain_floor() -> Callable[[int], None]:
    """Give the toggling of a floor without handlers: the scale on which times are judged."""
    return toggling(Floor())
