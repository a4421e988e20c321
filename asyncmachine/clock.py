"""Logical clocks: a state's tick is odd while the state is active, even while it is not.

`Time` is a tuple of ticks in the order of a schema's states, `Clock` the same by name, and `TimeIndex` a `Time` that
knows the names of its states.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

from typing_extensions import override

__all__ = [
    "Clock",
    "Time",
    "TimeIndex",
    "is_active_tick",
    "next_active",
    "next_active_in",
    "next_inactive",
    "next_inactive_in",
]


def is_active_tick(tick: int) -> bool:
    """Tell whether a state with this tick is active.

    >>> am.is_active_tick(3), am.is_active_tick(4)
    (True, False)
    """
    return tick % 2 == 1


def next_active(tick: int) -> int:
    """Give the tick at which a state becomes active next, the present activation not counted.

    >>> am.next_active(0), am.next_active(1)
    (1, 3)
    """
    return tick + next_active_in(tick)


def next_inactive(tick: int) -> int:
    """Give the tick at which a state becomes inactive next, the present inactivity not counted.

    >>> am.next_inactive(0), am.next_inactive(1)
    (2, 2)
    """
    return tick + next_inactive_in(tick)


def next_active_in(tick: int) -> int:
    """Give the number of ticks until a state becomes active (again): 1 or 2.

    >>> am.next_active_in(0), am.next_active_in(1)
    (1, 2)
    """
    return 2 if tick % 2 else 1


def next_inactive_in(tick: int) -> int:
    """Give the number of ticks until a state becomes inactive (again): 1 or 2.

    >>> am.next_inactive_in(0), am.next_inactive_in(1)
    (2, 1)
    """
    return 1 if tick % 2 else 2


class Clock(dict[str, int]):
    """The ticks of states by name.

    >>> mach.add1("Foo")
    Result.EXECUTED
    >>> mach.clock()["Foo"]
    1
    """

    __slots__ = ()

    @override
    def __repr__(self) -> str:
        return f"Clock({super().__repr__()})"


class Time(tuple[int, ...]):
    """Machine time: the tick of every state, in the order of the schema's states.

    States are named by their position. Positions beyond the end have tick 0.

    >>> am.Time([1, 0, 3]).active_states()
    (0, 2)
    """

    __slots__ = ()

    @classmethod
    def of_active(cls, length: int, active: Iterable[int]) -> Self:
        """Make a time of `length` states in which just those at the positions `active` are active, at tick 1.

        >>> am.Time.of_active(3, [1])
        Time(0, 1, 0)
        """
        ticks = [0] * length
        for position in active:
            ticks[position] = 1
        return cls(ticks)

    def increment(self, position: int) -> Time:
        """Give the time in which the state at `position` has one tick more.

        >>> am.Time([1, 0]).increment(1)
        Time(1, 1)
        """
        return Time(tick + (i == position) for i, tick in enumerate(self))

    def add(self, other: Sequence[int]) -> Time:
        """Give the sum of two times, state by state, as long as this one.

        >>> am.Time([1, 0]).add(am.Time([1, 1]))
        Time(2, 1)
        """
        then = Time(other)
        return Time(tick + then.tick(i) for i, tick in enumerate(self))

    def diff_since(self, before: Sequence[int]) -> Time:
        """Give how many ticks each state went on since `before`; states `before` lacks count from 0.

        >>> am.Time([3, 1]).diff_since(am.Time([1, 1]))
        Time(2, 0)
        """
        then = Time(before)
        return Time(tick - then.tick(i) for i, tick in enumerate(self))

    def filter(self, positions: Iterable[int]) -> Time:
        """Give the ticks of the states at `positions` alone, in that order.

        >>> am.Time([3, 1, 2]).filter([2, 0])
        Time(2, 3)
        """
        return Time(self.tick(i) for i in positions)

    def sum(self, positions: Iterable[int] | None = None) -> int:
        """Give the sum of all ticks, or of those at `positions`.

        >>> am.Time([3, 1, 2]).sum()
        6
        """
        return sum(self if positions is None else self.filter(positions))

    def tick(self, position: int) -> int:
        """Give the tick of the state at `position`, 0 beyond the end.

        >>> am.Time([3]).tick(7)
        0
        """
        return self[position] if 0 <= position < len(self) else 0

    def non_zero_states(self) -> tuple[int, ...]:
        """Give the positions of states with a tick other than 0.

        >>> am.Time([2, 0, 1]).non_zero_states()
        (0, 2)
        """
        return tuple(i for i, tick in enumerate(self) if tick)

    def active_states(self, positions: Iterable[int] | None = None) -> tuple[int, ...]:
        """Give the positions of active states, of all or out of `positions`.

        >>> am.Time([1, 3, 2]).active_states([1, 2])
        (1,)
        """
        return tuple(i for i in (range(len(self)) if positions is None else positions) if self.is1(i))

    def is_(self, positions: Iterable[int]) -> bool:
        """Tell whether all of the states at `positions` are active.

        >>> am.Time([1, 2]).is_([0, 1])
        False
        """
        return all(self.is1(i) for i in positions)

    def is1(self, position: int) -> bool:
        """Tell whether the state at `position` is active.

        >>> am.Time([1, 2]).is1(0)
        True
        """
        return self.tick(position) % 2 == 1

    def not_(self, positions: Iterable[int]) -> bool:
        """Tell whether none of the states at `positions` is active.

        >>> am.Time([1, 2]).not_([1])
        True
        """
        return not any(self.is1(i) for i in positions)

    def not1(self, position: int) -> bool:
        """Tell whether the state at `position` is inactive.

        >>> am.Time([1, 2]).not1(1)
        True
        """
        return not self.is1(position)

    def any(self, *groups: Iterable[int]) -> bool:
        """Tell whether all states of at least one of the groups of positions are active.

        >>> am.Time([1, 2]).any([0, 1], [0])
        True
        """
        return any(self.is_(group) for group in groups)

    def any1(self, *positions: int) -> bool:
        """Tell whether at least one of the states at `positions` is active.

        >>> am.Time([1, 2]).any1(0, 1)
        True
        """
        return any(self.is1(i) for i in positions)

    def after(self, other: Sequence[int], *, or_equal: bool = False) -> bool:
        """Tell whether every tick is later than that of `other` (or the same, with `or_equal`).

        States that only one of the two has are not compared.

        >>> am.Time([2, 1]).after(am.Time([1, 1])), am.Time([2, 1]).after(am.Time([1, 1]), or_equal=True)
        (False, True)
        """
        return all(mine > theirs or (or_equal and mine == theirs) for mine, theirs in zip(self, other, strict=False))

    def before(self, other: Sequence[int], *, or_equal: bool = False) -> bool:
        """Tell whether every tick is earlier than that of `other` (or the same, with `or_equal`).

        >>> am.Time([0, 0]).before(am.Time([1, 1]))
        True
        """
        return all(mine < theirs or (or_equal and mine == theirs) for mine, theirs in zip(self, other, strict=False))

    def equal(self, other: Sequence[int], *, strict: bool = True) -> bool:
        """Tell whether all ticks are the same; without `strict`, of the states both have.

        >>> am.Time([1, 2]).equal([1, 2, 0]), am.Time([1, 2]).equal([1, 2, 0], strict=False)
        (False, True)
        """
        same = all(mine == theirs for mine, theirs in zip(self, other, strict=False))
        return same and (not strict or len(self) == len(other))

    def to_index(self, names: Iterable[str]) -> TimeIndex:
        """Give the time together with the names of its states.

        >>> am.Time([1, 0]).to_index(["Foo", "Bar"]).is1("Foo")
        True
        """
        return TimeIndex(names, self)

    @override
    def __repr__(self) -> str:
        return f"Time({', '.join(map(str, self))})"

    @override
    def __str__(self) -> str:
        return " ".join(map(str, self))


class TimeIndex:
    """A `Time` and the names of its states. Unknown names count as inactive, with tick 0.

    >>> index = am.TimeIndex(["Foo", "Bar"], [3, 2])
    >>> index.is1("Foo"), index.not1("Bar"), str(index)
    (True, True, 'Foo')
    """

    __slots__ = ("_position", "names", "time")

    def __init__(self, names: Iterable[str], time: Iterable[int]) -> None:
        self.names: tuple[str, ...] = tuple(names)
        self.time: Time = time if isinstance(time, Time) else Time(time)
        self._position = {name: i for i, name in enumerate(self.names)}

    @classmethod
    def of_active(cls, names: Iterable[str], active: Iterable[str]) -> Self:
        """Make an index in which just the states `active` are active, at tick 1.

        >>> am.TimeIndex.of_active(["Foo", "Bar"], ["Bar"]).active_states()
        ('Bar',)
        """
        names, chosen = tuple(names), set(active)
        return cls(names, [int(name in chosen) for name in names])

    def state_name(self, position: int) -> str:
        """Give the name of the state at `position`, or an empty one beyond the end.

        >>> am.TimeIndex(["Foo"], [1]).state_name(0)
        'Foo'
        """
        return self.names[position] if 0 <= position < len(self.names) else ""

    def tick(self, state: str) -> int:
        """Give the tick of a state.

        >>> am.TimeIndex(["Foo"], [5]).tick("Foo")
        5
        """
        return self.time.tick(self._position.get(state, -1))

    def sum(self, states: Iterable[str] | None = None) -> int:
        """Give the sum of all ticks, or of those of `states`.

        >>> am.TimeIndex(["Foo", "Bar"], [5, 2]).sum(["Bar"])
        2
        """
        return self.time.sum(None if states is None else self._positions(states))

    def filter(self, states: Iterable[str]) -> TimeIndex:
        """Give the index of `states` alone, in that order.

        >>> am.TimeIndex(["Foo", "Bar"], [5, 2]).filter(["Bar"]).time
        Time(2)
        """
        states = tuple(states)
        return TimeIndex(states, self.time.filter(self._positions(states)))

    def non_zero_states(self) -> tuple[str, ...]:
        """Give the names of states with a tick other than 0.

        >>> am.TimeIndex(["Foo", "Bar"], [0, 2]).non_zero_states()
        ('Bar',)
        """
        return tuple(name for name in self.names if self.tick(name))

    def active_states(self, states: Iterable[str] | None = None) -> tuple[str, ...]:
        """Give the names of active states, of all or out of `states`.

        >>> am.TimeIndex(["Foo", "Bar"], [1, 3]).active_states(["Bar"])
        ('Bar',)
        """
        return tuple(name for name in (self.names if states is None else states) if self.is1(name))

    def is_(self, states: Iterable[str]) -> bool:
        """Tell whether all of `states` are active.

        >>> am.TimeIndex(["Foo", "Bar"], [1, 2]).is_(["Foo", "Bar"])
        False
        """
        return all(self.is1(state) for state in states)

    def is1(self, state: str) -> bool:
        """Tell whether `state` is active.

        >>> am.TimeIndex(["Foo"], [1]).is1("Foo")
        True
        """
        return self.tick(state) % 2 == 1

    def not_(self, states: Iterable[str]) -> bool:
        """Tell whether none of `states` is active.

        >>> am.TimeIndex(["Foo"], [1]).not_(["Foo"])
        False
        """
        return not any(self.is1(state) for state in states)

    def not1(self, state: str) -> bool:
        """Tell whether `state` is inactive.

        >>> am.TimeIndex(["Foo"], [2]).not1("Foo")
        True
        """
        return not self.is1(state)

    def any(self, *groups: Iterable[str]) -> bool:
        """Tell whether all states of at least one of the groups are active.

        >>> am.TimeIndex(["Foo", "Bar"], [1, 2]).any(["Foo", "Bar"], ["Foo"])
        True
        """
        return any(self.is_(group) for group in groups)

    def any1(self, *states: str) -> bool:
        """Tell whether at least one of `states` is active.

        >>> am.TimeIndex(["Foo", "Bar"], [1, 2]).any1("Foo", "Bar")
        True
        """
        return any(self.is1(state) for state in states)

    def _positions(self, states: Iterable[str]) -> list[int]:
        return [self._position.get(state, -1) for state in states]

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TimeIndex):
            return NotImplemented
        return self.names == other.names and self.time == other.time

    @override
    def __hash__(self) -> int:
        return hash((self.names, self.time))

    @override
    def __repr__(self) -> str:
        return f"TimeIndex({', '.join(f'{name}={self.tick(name)}' for name in self.names)})"

    @override
    def __str__(self) -> str:
        return " ".join(self.active_states())
