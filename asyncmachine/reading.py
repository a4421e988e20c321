"""What can be read from a machine, local or remote: states, ticks, queue. Safe from any thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

from typing_extensions import override

from asyncmachine.clock import Clock, Time
from asyncmachine.errors import UnknownStateError
from asyncmachine.mutation import Mutation
from asyncmachine.plans import Live
from asyncmachine.queue import Position, Queue
from asyncmachine.requests import ADD, REMOVE, SET, MutationType
from asyncmachine.schema import EXCEPTION, Schema

__all__ = ["ReadApi", "flatten"]


def flatten(states: Iterable[str | Iterable[str]]) -> Iterator[str]:
    """Give names that come as one list or as several names, one by one."""
    for state in states:
        if isinstance(state, str):
            yield state
        else:
            yield from state


class ReadApi(ABC):
    """Checks and getters. A disposed machine answers every check with False and keeps its last ticks.

    Checks take names as one list or one by one, and raise `UnknownStateError` for a name the machine does not have.
    """

    _live: Live
    _queue: Queue

    @property
    @abstractmethod
    def err(self) -> BaseException | None:
        """The last error, also after `Exception` was removed; None if there was none."""

    def is_(self, *states: str | Iterable[str]) -> bool:
        """Tell whether all of the states are active.

        >>> mach.add1("Foo"), mach.is_("Foo"), mach.is_(["Foo", "Bar"])
        (Result.EXECUTED, True, False)
        """
        ticks = self._live.ticks
        return not self._live.closed and all([ticks[i] % 2 == 1 for i in self.index(*states)])

    def is1(self, state: str) -> bool:
        """Tell whether a state is active.

        >>> mach.is1("Foo")
        False
        """
        live = self._live
        position = live.index.get(state)
        if position is None:
            position = self.index1(state)
        return live.ticks[position] % 2 == 1 and not live.closed

    def not_(self, *states: str | Iterable[str]) -> bool:
        """Tell whether none of the states is active.

        >>> mach.add1("Foo"), mach.not_("Bar", "Baz"), mach.not_("Foo", "Bar")
        (Result.EXECUTED, True, False)
        """
        ticks = self._live.ticks
        return not self._live.closed and not any([ticks[i] % 2 == 1 for i in self.index(*states)])

    def not1(self, state: str) -> bool:
        """Tell whether a state is inactive.

        >>> mach.not1("Foo")
        True
        """
        live = self._live
        return not live.closed and live.ticks[self.index1(state)] % 2 == 0

    def any(self, *groups: str | Iterable[str]) -> bool:
        """Tell whether all states of at least one of the groups are active; a bare name is a group of one.

        >>> mach.add1("Foo"), mach.any(["Foo", "Bar"], ["Foo"])
        (Result.EXECUTED, True)
        """
        return any(self.is_(group) for group in groups)

    def any1(self, *states: str) -> bool:
        """Tell whether at least one of the states is active.

        >>> mach.add1("Foo"), mach.any1("Foo", "Bar")
        (Result.EXECUTED, True)
        """
        return any(self.is1(state) for state in states)

    def has(self, *states: str | Iterable[str]) -> bool:
        """Tell whether the machine has all of these states, active or not.

        >>> mach.has("Foo", "Nope")
        False
        """
        return not self._live.closed and all(state in self._live.index for state in flatten(states))

    def has1(self, state: str) -> bool:
        """Tell whether the machine has this state, active or not.

        >>> mach.has1("Foo")
        True
        """
        return self.has(state)

    @property
    def is_err(self) -> bool:
        """True while `Exception` is active."""
        return self.is1(EXCEPTION)

    def is_time(self, time: Sequence[int], states: Iterable[str] | None = None) -> bool:
        """Tell whether the ticks of the states, or of all, are just these: nothing happened since.

        >>> before = mach.time()
        >>> mach.is_time(before), mach.add1("Foo"), mach.is_time(before)
        (True, Result.EXECUTED, False)
        """
        return not self._live.closed and self.time(states).equal(time, strict=False)

    def was_time(self, time: Sequence[int], states: Iterable[str] | None = None) -> bool:
        """Tell whether the ticks of the states, or of all, have been reached.

        >>> mach.add1("Foo"), mach.was_time([1], ["Foo"])
        (Result.EXECUTED, True)
        """
        return not self._live.closed and self.time(states).after(time, or_equal=True)

    def is_clock(self, clock: Mapping[str, int]) -> bool:
        """Tell whether the ticks of the named states are just these.

        >>> mach.is_clock({"Foo": 0})
        True
        """
        return not self._live.closed and all(self.tick(state) == tick for state, tick in clock.items())

    def was_clock(self, clock: Mapping[str, int]) -> bool:
        """Tell whether the ticks of the named states have been reached.

        >>> mach.was_clock({"Foo": 1})
        False
        """
        return not self._live.closed and all(self.tick(state) >= tick for state, tick in clock.items())

    def will_be(self, *states: str | Iterable[str], position: Position | None = None) -> bool:
        """Tell whether a queued mutation calls for all of the states to be active.

        Args:
            states: names of states.
            position: look only at the mutation that runs "first" or "last".

        >>> mach.will_be("Foo")
        False
        """
        names = tuple(flatten(states))
        return any(self.is_queued(kind, names, position=position) is not None for kind in (ADD, SET))

    def will_be1(self, state: str, *, position: Position | None = None) -> bool:
        """Tell whether a queued mutation calls for a state to be active; see `will_be`.

        >>> mach.will_be1("Foo")
        False
        """
        return self.will_be(state, position=position)

    def will_be_removed(self, *states: str | Iterable[str], position: Position | None = None) -> bool:
        """Tell whether a queued mutation calls for all of the states to be removed; see `will_be`.

        >>> mach.will_be_removed("Foo")
        False
        """
        return self.is_queued(REMOVE, tuple(flatten(states)), position=position) is not None

    def will_be_removed1(self, state: str, *, position: Position | None = None) -> bool:
        """Tell whether a queued mutation calls for a state to be removed; see `will_be`.

        >>> mach.will_be_removed1("Foo")
        False
        """
        return self.will_be_removed(state, position=position)

    def is_queued(
        self,
        type_: MutationType | str,
        states: str | Iterable[str],
        *,
        without_args: bool = False,
        strict: bool = False,
        min_tick: int = 0,
        check: bool = False,
        position: Position | None = None,
    ) -> Mutation | None:
        """Find the first queued mutation of a type that calls all of the states.

        Args:
            type_: "add", "remove" or "set".
            states: names of states.
            without_args: only a mutation without args.
            strict: only one that calls no other states.
            min_tick: only one that runs at this queue tick or later.
            check: a check instead of a mutation.
            position: look only at the one that runs "first" or "last".

        >>> mach.is_queued("add", "Foo") is None
        True
        """
        found = self._queue.find(
            MutationType(type_),
            self._mask(states),
            without_args=without_args,
            strict=strict,
            min_tick=min_tick,
            check=check,
            position=position,
        )
        return next(found, None)

    def is_queued_above(
        self,
        threshold: int,
        type_: MutationType | str,
        states: str | Iterable[str],
        *,
        without_args: bool = False,
        strict: bool = False,
        min_tick: int = 0,
    ) -> bool:
        """Tell whether at least `threshold` such mutations are queued, to hold back; see `is_queued`.

        >>> mach.is_queued_above(1, "add", "Foo")
        False
        """
        found = self._queue.find(
            MutationType(type_), self._mask(states), without_args=without_args, strict=strict, min_tick=min_tick
        )
        return sum(1 for _ in found) >= threshold

    def _mask(self, states: str | Iterable[str]) -> int:
        return sum(1 << i for i in set(self.index(states)))

    @property
    def schema(self) -> Schema:
        """The states and their relations."""
        return self._live.schema

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of all states, in the order of the schema."""
        return self._live.schema.names

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """The groups the schema names."""
        return self._live.schema.groups

    def active_states(self, states: Iterable[str] | None = None) -> tuple[str, ...]:
        """Give the active states in the machine's order, or those out of `states` in theirs.

        >>> mach.add(["Bar", "Foo"]), mach.active_states()
        (Result.EXECUTED, ('Bar', 'Foo'))
        """
        live = self._live
        if live.closed:
            return ()
        if states is not None:
            return tuple([state for state in flatten((states,)) if self.is1(state)])
        return tuple([live.schema.names[i] for i in live.standing.states])

    def tick(self, state: str) -> int:
        """Give the tick of a state: odd while it is active.

        >>> mach.tick("Foo")
        0
        """
        return self._live.ticks[self.index1(state)]

    def clock(self, states: Iterable[str] | None = None) -> Clock:
        """Give the ticks of all states, or of these, by name.

        >>> mach.clock(["Foo"])
        Clock({'Foo': 0})
        """
        names = self.state_names if states is None else flatten((states,))
        return Clock((state, self.tick(state)) for state in names)

    def time(self, states: Iterable[str] | None = None) -> Time:
        """Give the ticks of all states in the order of the schema, or of these in theirs.

        >>> mach.time(["Foo", "Bar"])
        Time(0, 0)
        """
        return Time(self._live.ticks if states is None else [self.tick(state) for state in flatten((states,))])

    @property
    def queue_tick(self) -> int:
        """The queue's clock: 1 at first, one more for each mutation taken off the queue."""
        return self._queue.tick

    @property
    def queue_len(self) -> int:
        """How many mutations wait in the queue."""
        return len(self._queue)

    def switch(self, *groups: str | Iterable[str]) -> str | None:
        """Give the first active state out of the groups, None without one; made for `match`.

        >>> mach.add1("Bar"), mach.switch(["Foo", "Bar"])
        (Result.EXECUTED, 'Bar')
        """
        return next((state for state in flatten(groups) if self.is1(state)), None)

    def index(self, *states: str | Iterable[str]) -> tuple[int, ...]:
        """Give the positions of states in the order of the schema.

        >>> mach.index("Bar", "Foo")
        (1, 0)
        """
        return tuple([self.index1(state) for state in flatten(states)])

    def index1(self, state: str) -> int:
        """Give the position of a state in the order of the schema.

        >>> mach.index1("Bar")
        1
        """
        try:
            return self._live.index[state]
        except KeyError:
            raise UnknownStateError(state, self._live.schema.names) from None

    @override
    def __str__(self) -> str:
        """Give the active states with their ticks, such as `(Foo:1 Bar:3)`."""
        ticks, names = self._live.ticks, self.state_names
        return f"({' '.join(f'{name}:{tick}' for name, tick in zip(names, ticks, strict=True) if tick % 2)})"

    def string_all(self) -> str:
        """Give all states with their ticks, active ones first.

        >>> am.Machine({"Foo": {}}).string_all()
        '() [Foo:0 Exception:0]'
        """
        ticks, names = self._live.ticks, self.state_names
        inactive = (f"{name}:{tick}" for name, tick in zip(names, ticks, strict=True) if not tick % 2)
        return f"{self} [{' '.join(inactive)}]"

    def inspect(self, states: Iterable[str] | None = None) -> str:
        """Give states with their ticks, properties and relations, one a line.

        >>> print(mach.inspect(["Foo"]))
        0 Foo
            |Tick     0
        """
        lines: list[str] = []
        for name in self.state_names if states is None else flatten((states,)):
            tick = self.tick(name)
            lines += [f"{tick % 2} {name}", f"    |Tick     {tick}"]
            for key, value in self.schema[name].to_dict().items():
                shown = "true" if value is True else str(value) if "timeout" in key else " ".join(value)
                lines.append(f"    |{key.capitalize():<8} {shown}")
        return "\n".join(lines)
