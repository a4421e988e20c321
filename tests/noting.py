"""Handlers and tracers that note what happens, for the tests of what carries mutations out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from typing_extensions import override

import asyncmachine as am

Handlers = dict[str, Callable[[am.Event], object]]


class Boom(Exception):  # noqa: N818 - what a handler raises here
    """Raised by handlers on purpose."""


def noting(
    calls: list[str], *names: str, veto: Iterable[str] = (), fail: Iterable[str] = (), err: type[BaseException] = Boom
) -> Handlers:
    """Give handlers that note that they were called; some then veto, some raise."""
    vetoing, failing = set(veto), set(fail)

    def make(name: str) -> Callable[[am.Event], object]:
        def handler(e: am.Event) -> object:
            calls.append(name)
            if name in failing:
                raise err(f"boom {name}")
            return False if name in vetoing else None

        return handler

    return {name: make(name) for name in names}


def nothing(e: am.Event) -> None:
    """Do nothing."""


class Noting:
    """A base for handlers that note their calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def note(self, e: am.Event) -> None:
        self.calls.append(e.name)


class Ends(am.Tracer):
    """Keeps the transitions that ended."""

    def __init__(self) -> None:
        self.seen: list[am.Transition[Any]] = []

    @override
    def transition_end(self, transition: am.Transition[Any]) -> None:
        self.seen.append(transition)

    def accepted(self) -> list[tuple[tuple[str, ...], bool]]:
        return [(transition.called_states, transition.is_accepted) for transition in self.seen]
