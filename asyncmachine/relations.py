"""Resolving relations: which states a mutation leads to, and in which order their handlers are called.

Everything here is a pure function of a schema, a mutation and the active states: no machine, no loop, no clock.
States are positions in the order of the schema's names, and sets of them are the bits of an integer, which makes
"does any listed state remove this one" one operation, however many states there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from asyncmachine.mutation import ADD, REMOVE, MutationType
from asyncmachine.schema import Schema

__all__ = ["RelationStep", "RelationsResolver", "Resolver", "broken_relations"]


@dataclass(frozen=True, slots=True)
class RelationStep:
    """One thing a relation did while a mutation was resolved.

    Args:
        relation: "require" (`state` left, because `other` is missing), "remove" (`state` left, because of `other`)
            or "add" (`state` came, because of `other`).
        state, other: positions of states.
    """

    relation: str
    state: int
    other: int


class Resolver(Protocol):
    """Decides what a mutation leads to. `Machine(resolver=...)` takes a callable that makes one from a `Schema`.

    All three methods must be pure: the machine keeps and reuses what they return. States are positions in the order
    of `Schema.names`.
    """

    def resolve(
        self,
        type_: MutationType,
        called: Sequence[int],
        active: Sequence[int],
        *,
        admitted: int | None = None,
        steps: list[RelationStep] | None = None,
    ) -> tuple[int, ...]:
        """Give the target: the states to be active, in order.

        Args:
            type_: what is asked for.
            called: the states asked for.
            active: the active states, in their order.
            admitted: a set of bits; if given, no inactive state outside it may enter.
            steps: if given, what the relations did is appended, to be shown as reason and steps.
        """
        ...

    def order(self, states: Sequence[int]) -> tuple[int, ...]:
        """Give the states in the order their handlers are to be called."""
        ...

    def auto(self, active: Sequence[int]) -> tuple[int, ...]:
        """Give the states to be added by themselves while `active` are active."""
        ...


class RelationsResolver:
    """The resolver every machine has unless told otherwise: Require, Add, Remove and After.

    >>> schema = am.Schema({"Wet": {"require": ["Water"]}, "Water": {"add": ["Wet"]}})
    >>> am.RelationsResolver(schema).resolve(am.MutationType.ADD, [1], [])
    (1, 0)
    """

    def __init__(self, schema: Schema) -> None:
        index = schema.index
        states = list(schema.values())

        def positions(names: Iterable[str]) -> tuple[int, ...]:
            return tuple(index[name] for name in names)

        self._adds = [positions(value.add) for value in states]
        self._requires = [positions(value.require) for value in states]
        self._required_by: list[list[int]] = [[] for _ in states]
        for i, required in enumerate(self._requires):
            for j in required:
                self._required_by[j].append(i)
        self._missing_bits = [_bits(required) for required in self._requires]
        self._removes = [_bits(positions(value.remove)) for value in states]
        self._removed_by = [0] * len(states)
        for i, value in enumerate(states):
            for j in positions(value.remove):
                self._removed_by[j] |= 1 << i
        self._after = [_bits(positions(value.after)) for value in states]
        self._ordered_after = any(self._after)
        self._multi = _bits(i for i, value in enumerate(states) if value.multi)
        self._autos = [i for i, value in enumerate(states) if value.auto]
        self._rank = _require_ranks(self._requires)

    def resolve(
        self,
        type_: MutationType,
        called: Sequence[int],
        active: Sequence[int],
        *,
        admitted: int | None = None,
        steps: list[RelationStep] | None = None,
    ) -> tuple[int, ...]:
        """Give the target of a mutation; see `Resolver.resolve`.

        >>> schema = am.Schema({"Foo": {}, "Bar": {"remove": ["Foo"]}})
        >>> am.RelationsResolver(schema).resolve(am.MutationType.ADD, [1], [0])
        (1,)
        """
        before = _bits(active)
        asked = _bits(called)
        removing = type_ is REMOVE
        if removing:
            listed = [i for i in active if not asked >> i & 1]
        else:
            listed = list(dict.fromkeys([*called, *active] if type_ is ADD else called))
        # States that are active already imply nothing anew, unless they can be activated again.
        implying = ~before | self._multi
        spared = asked if removing else 0
        listed = self._with_implied(listed, implying, spared, steps, deep=False)
        listed = self._with_requires(listed, steps)
        listed = self._without_blocked(listed, steps)
        removed = 0
        for i in listed:
            removed |= self._removes[i]
        listed = self._with_implied(listed, implying, spared | removed, steps, deep=True)
        listed.reverse()
        called_bits = 0 if removing else asked
        listed = self._consistent(self._with_requires(listed, steps), called_bits, steps)
        target = self.order(listed)
        if admitted is None:
            return target
        listed = [i for i in target if (before | admitted) >> i & 1]
        return tuple(self._consistent(self._with_requires(listed, steps), called_bits, steps))

    def order(self, states: Sequence[int]) -> tuple[int, ...]:
        """Give the states sorted by Require, then by After; both sorts are stable.

        >>> schema = am.Schema({"Foo": {"after": ["Bar"]}, "Bar": {}})
        >>> am.RelationsResolver(schema).order([0, 1])
        (1, 0)
        """
        rank = self._rank
        ordered = list(states) if rank is None else sorted(states, key=rank.__getitem__)
        return tuple(self._sorted_after(ordered) if self._ordered_after else ordered)

    def auto(self, active: Sequence[int]) -> tuple[int, ...]:
        """Give the inactive auto states that no active state removes, in schema order.

        >>> schema = am.Schema({"Foo": {"auto": True}, "Bar": {"auto": True}, "Baz": {"remove": ["Bar"]}})
        >>> am.RelationsResolver(schema).auto([2])
        (0,)
        """
        if not self._autos:
            return ()
        now = _bits(active)
        return tuple(i for i in self._autos if not now >> i & 1 and not self._removed_by[i] & now)

    def _with_implied(
        self, listed: list[int], implying: int, spared: int, steps: list[RelationStep] | None, *, deep: bool
    ) -> list[int]:
        """Append what the listed states add; with `deep`, what those add too, and so on."""
        has = _bits(listed)
        grown = list(listed)
        for i in grown if deep else listed:
            if not implying >> i & 1:
                continue
            for j in self._adds[i]:
                if not (has | spared) >> j & 1:
                    has |= 1 << j
                    grown.append(j)
                    if steps is not None:
                        steps.append(RelationStep("add", j, i))
        return grown

    def _with_requires(self, listed: list[int], steps: list[RelationStep] | None) -> list[int]:
        """Drop states with a missing Require until none is left."""
        has = _bits(listed)
        leaving = [i for i in listed if self._missing_bits[i] & ~has]
        if not leaving:
            return listed
        place = {i: at for at, i in enumerate(listed)}
        while leaving:
            if steps is not None:
                for i in leaving:
                    steps += [RelationStep("require", i, j) for j in self._requires[i] if not has >> j & 1]
            has &= ~_bits(leaving)
            # Only those that required one of them can be next, so a long chain falls in one walk along it.
            bereft = {i for j in leaving for i in self._required_by[j] if has >> i & 1}
            leaving = sorted(bereft, key=place.__getitem__)
        return [i for i in listed if has >> i & 1]

    def _without_blocked(self, listed: list[int], steps: list[RelationStep] | None) -> list[int]:
        """Drop, from the end, states removed by one that is not blocked itself; the rest comes in reversed order."""
        blocking = _bits(listed)
        kept: list[int] = []
        for i in reversed(listed):
            by = self._removed_by[i] & blocking
            if not by:
                kept.append(i)
                continue
            blocking &= ~(1 << i)
            if steps is not None:
                steps += [RelationStep("remove", i, j) for j in listed if by >> j & 1]
        return kept

    def _consistent(self, listed: list[int], called: int, steps: list[RelationStep] | None) -> list[int]:
        """Let conflicting states leave until no state of the list removes another; called ones stay if they can."""
        while True:
            has = _bits(listed)
            for i in listed:
                by = self._removed_by[i] & has
                if by:
                    break
            else:
                return listed
            leaving = by if called >> i & 1 and not by & called else 1 << i
            if steps is not None:
                for j in listed:
                    if by >> j & 1:
                        steps.append(RelationStep("remove", *((i, j) if leaving == 1 << i else (j, i))))
            listed = self._with_requires([j for j in listed if not leaving >> j & 1], steps)

    def _sorted_after(self, states: list[int]) -> list[int]:
        """Take, again and again, the first state none of whose After states is still waiting."""
        waiting = _bits(states)
        if not any(self._after[i] & waiting for i in states):
            return states
        rest, ordered = [*states], list[int]()
        while rest:
            chosen = next((i for i in rest if not self._after[i] & waiting), rest[0])
            rest.remove(chosen)
            ordered.append(chosen)
            waiting &= ~(1 << chosen)
        return ordered


def _bits(states: Iterable[int]) -> int:
    bits = 0
    for i in states:
        bits |= 1 << i
    return bits


def _require_ranks(requires: list[tuple[int, ...]]) -> list[int] | None:
    """Rank states so that each comes after its Requires; None if Require has a cycle.

    Depth first, from the states that have a Require, in schema order. States never visited rank before all others.
    The walk keeps its own stack: a chain of Requires may be longer than Python's.
    """
    ranks = [-1] * len(requires)
    entered: set[int] = set()
    rank = 0
    for start, required in enumerate(requires):
        if not required or ranks[start] >= 0:
            continue
        entered.add(start)
        stack = [(start, iter(required))]
        while stack:
            state, pending = stack[-1]
            for other in pending:
                if ranks[other] >= 0:
                    continue
                if other in entered:
                    return None
                entered.add(other)
                stack.append((other, iter(requires[other])))
                break
            else:
                stack.pop()
                ranks[state] = rank
                rank += 1
    return ranks


def broken_relations(schema: Schema, active: Iterable[str]) -> list[str]:
    """Say, for states that are active, which Require is missing and which Remove is not honoured.

    >>> am.broken_relations(am.Schema({"Foo": {}, "Bar": {"require": ["Foo"]}}), ["Bar"])
    ['Bar requires Foo']
    """
    names = set(active)
    listed = [name for name in schema.names if name in names]
    lacking = [f"{name} requires {other}" for name in listed for other in schema[name].require if other not in names]
    return lacking + [f"{name} removes {other}" for name in listed for other in schema[name].remove if other in names]
