"""State contexts: cancel scopes tied to the parity of a state's clock."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable
from typing import Protocol

from anyio import CancelScope

__all__ = ["MACHINE", "Contexts"]

MACHINE = -1
"""Stands, in place of a state's position, for the machine itself: a context cancelled by disposal alone."""


class Cancellable(Protocol):
    """Work, seen from its state's context."""

    def cancel(self) -> None: ...


class Contexts:
    """The open scopes of each state, cancelled together when it flips.

    Work keeps its scope here until it is done. Scopes handed out by `state_ctx` are held weakly: what becomes of
    them is the caller's affair, and one that was left or never entered must not stay.
    """

    __slots__ = ("lent", "work")

    def __init__(self) -> None:
        self.work: dict[int, dict[Cancellable, None]] = {}
        self.lent: dict[int, dict[weakref.ref[CancelScope], None]] = {}

    def __len__(self) -> int:
        """Count the open scopes."""
        return sum(map(len, self.work.values())) + sum(map(len, self.lent.values()))

    def hold(self, state: int, work: Cancellable) -> None:
        """Tie work, which has a scope, to a state until `release`."""
        self.work.setdefault(state, {})[work] = None

    def release(self, state: int, work: Cancellable) -> None:
        """Untie work that is done."""
        held = self.work.get(state)
        if held is not None:
            held.pop(work, None)
            if not held:
                del self.work[state]

    def lend(self, state: int, scope: CancelScope) -> None:
        """Tie a scope to a state for as long as someone else keeps it."""

        def forget(gone: weakref.ref[CancelScope]) -> None:
            refs = self.lent.get(state)
            if refs is not None:
                refs.pop(gone, None)
                if not refs:
                    del self.lent[state]

        self.lent.setdefault(state, {})[weakref.ref(scope, forget)] = None

    def cancel(self, states: Iterable[int]) -> None:
        """Cancel all scopes of these states, in the order they were opened, work's own first."""
        for state in states:
            for work in self.work.pop(state, ()):
                work.cancel()
            for scope in [ref() for ref in self.lent.pop(state, ())]:
                if scope is not None:
                    # Without a running loop there is no task to tell, but the scope is marked all the same.
                    with contextlib.suppress(RuntimeError):
                        scope.cancel()

    def cancel_states(self) -> None:
        """Cancel the scopes of all states, but not the machine's own."""
        self.cancel([state for state in {**self.work, **self.lent} if state != MACHINE])
