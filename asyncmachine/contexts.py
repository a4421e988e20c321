"""State contexts: cancel scopes tied to the parity of a state's clock."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable

from anyio import CancelScope

__all__ = ["MACHINE", "Contexts"]

MACHINE = -1
"""Stands, in place of a state's position, for the machine itself: a context cancelled by disposal alone."""


class Contexts:
    """The open scopes of each state, cancelled together when it flips.

    Work keeps its scope here until it is done. Scopes handed out by `state_ctx` are held weakly: what becomes of
    them is the caller's affair, and one that was left or never entered must not stay.
    """

    __slots__ = ("_loose", "_work")

    def __init__(self) -> None:
        self._work: dict[int, dict[CancelScope, None]] = {}
        self._loose: dict[int, dict[weakref.ref[CancelScope], None]] = {}

    def __bool__(self) -> bool:
        return bool(self._work or self._loose)

    def __len__(self) -> int:
        """Count the open scopes."""
        return sum(map(len, self._work.values())) + sum(map(len, self._loose.values()))

    def hold(self, state: int, scope: CancelScope) -> None:
        """Tie the scope of work to a state until `release`."""
        self._work.setdefault(state, {})[scope] = None

    def release(self, state: int, scope: CancelScope) -> None:
        """Untie the scope of work that is done."""
        scopes = self._work.get(state)
        if scopes is not None:
            scopes.pop(scope, None)
            if not scopes:
                del self._work[state]

    def lend(self, state: int, scope: CancelScope) -> None:
        """Tie a scope to a state for as long as someone else keeps it."""

        def forget(gone: weakref.ref[CancelScope]) -> None:
            refs = self._loose.get(state)
            if refs is not None:
                refs.pop(gone, None)
                if not refs:
                    del self._loose[state]

        self._loose.setdefault(state, {})[weakref.ref(scope, forget)] = None

    def cancel(self, states: Iterable[int]) -> None:
        """Cancel all scopes of these states, in the order they were opened, work's own first."""
        for state in states:
            scopes = [*self._work.pop(state, ()), *(ref() for ref in self._loose.pop(state, ()))]
            for scope in scopes:
                if scope is not None:
                    # Without a running loop there is no task to tell, but the scope is marked all the same.
                    with contextlib.suppress(RuntimeError):
                        scope.cancel()

    def cancel_states(self) -> None:
        """Cancel the scopes of all states, but not the machine's own."""
        self.cancel([state for state in {**self._work, **self._loose} if state != MACHINE])
