"""Breakpoints: finding out who asks for a state."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from asyncmachine.plans import Live
from asyncmachine.requests import REMOVE, Request

__all__ = ["Breakpoint"]


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """Hit by a mutation that calls for certain states, as it is asked for.

    Args:
        added, removed: sets of bits of the states to be added, or to be removed.
        strict: not hit if the states are active (or inactive) already.
        action: called when it is hit.
    """

    added: int
    removed: int
    strict: bool
    action: Callable[[], object] | None

    def is_hit(self, request: Request, live: Live) -> bool:
        """Tell whether a request hits it."""
        active = live.standing.mask
        if request.type is REMOVE:
            asked, idle = self.removed, not active & self.removed
        else:
            asked, idle = self.added, active & self.added == self.added
        return asked != 0 and request.mask & asked == asked and not (self.strict and idle)

    def hit(self, request: Request, logger: logging.Logger) -> None:
        """Log the caller's stack, and call the action."""
        # The last three frames are the machine's own.
        stack = "".join(traceback.format_stack()[:-3])
        logger.warning("[breakpoint] [%s] %s\n%s", request.type, " ".join(request.names), stack)
        if self.action is not None:
            self.action()
