"""The queue of mutations: first in, first out, with a lane at its head for what is prepended. Pure bookkeeping.

The queue's own clock, `tick`, starts at 1 and counts the appended mutations taken off; an appended mutation knows
the tick it will run at. Prepended ones (checks, auto states, errors of handlers) run next and have no tick.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Literal, TypeAlias

from asyncmachine.mutation import Mutation
from asyncmachine.requests import MutationType, Request

__all__ = ["Position", "Queue"]

Position: TypeAlias = Literal["first", "last"]

NOTHING: deque[Mutation] = deque(maxlen=0)
"""What waits in all queues that never held anything, which are most: a deque takes more room than all else of one."""


class Queue:
    """Mutations that wait, in the order they will run.

    Args:
        limit: how many may wait before more are refused; one that adds `Exception` may wait beyond it.
    """

    __slots__ = ("_bare", "_ticking", "items", "limit", "tick")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.tick: int = 1
        self.items: deque[Mutation] = NOTHING
        """What waits, the next one first."""
        self._ticking = 0
        # How many waiting mutations without args there are of each type and set of states, for `has_equal`.
        self._bare: dict[tuple[MutationType, int], int] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Mutation]:
        return iter(self.items)

    @property
    def next_tick(self) -> int:
        """The tick at which a mutation appended now would run."""
        return self.tick + self._ticking + 1

    def is_full(self, request: Request) -> bool:
        """Tell whether a mutation of this kind must be refused."""
        return len(self.items) >= self.limit + request.calls_exception

    def has_equal(self, request: Request) -> bool:
        """Tell whether a mutation without args, of this type and these states, waits already."""
        return request.key in self._bare

    def append(self, mutation: Mutation) -> None:
        """Put a mutation at the end and give it its tick."""
        mutation.queue_tick = self.next_tick
        self._ticking += 1
        self._own_items().append(mutation)
        self._note(mutation)

    def prepend(self, mutation: Mutation) -> None:
        """Put a mutation at the head; it runs next."""
        self._own_items().appendleft(mutation)
        self._note(mutation)

    def take(self) -> Mutation:
        """Take the mutation off that runs next."""
        mutation = self.items.popleft()
        if mutation.queue_tick:
            self._ticking -= 1
            self.tick += 1
        if mutation.payload is None and mutation.error is None and not mutation.is_check:
            key = mutation.request.key
            left = self._bare[key] - 1
            if left:
                self._bare[key] = left
            else:
                del self._bare[key]
        return mutation

    def find(
        self,
        type_: MutationType,
        mask: int,
        *,
        without_args: bool = False,
        strict: bool = False,
        min_tick: int = 0,
        check: bool = False,
        position: Position | None = None,
    ) -> Iterator[Mutation]:
        """Give the waiting mutations of a type that call all states of `mask`.

        Args:
            type_: what they ask for.
            mask: a set of bits of states.
            without_args: only those without args.
            strict: only those that call no other states.
            min_tick: only those that run at this tick or later.
            check: checks instead of mutations.
            position: only the one that runs "first" or "last".
        """
        items = list(self.items)
        if position is not None:
            items = items[:1] if position == "first" else items[-1:]
        for mutation in items:
            request = mutation.request
            if (
                request.type is type_
                and mutation.is_check == check
                and mutation.queue_tick >= min_tick
                and not (without_args and (mutation.payload is not None or mutation.error is not None))
                and (request.mask == mask if strict else request.mask & mask == mask)
            ):
                yield mutation

    def _own_items(self) -> deque[Mutation]:
        if self.items is NOTHING:
            self.items = deque()
        return self.items

    def _note(self, mutation: Mutation) -> None:
        if mutation.payload is None and mutation.error is None and not mutation.is_check:
            key = mutation.request.key
            self._bare[key] = self._bare.get(key, 0) + 1
