"""Resolving relations: which states a mutation leads to, and in which order their handlers are called.

Everything here is a pure function of a schema, a mutation and the active states: no machine, no loop, no clock.
States are positions in the order of the schema's names, and sets of them are the bits of an integer, which makes
"does any listed state remove this one" one operation, however many states there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol

from asyncmachine.requests import ADD, REMOVE, SET, MutationType
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

        self._bit = [1 << i for i in range(len(states))]
        self._adds = [positions(value.add) for value in states]
        self._adding = _bits(i for i, added in enumerate(self._adds) if added)
        self._requires = [positions(value.require) for value in states]
        self._required = [_bits(required) for required in self._requires]
        self._required_by: list[list[int]] = [[] for _ in states]
        for i, required in enumerate(self._requires):
            for j in required:
                self._required_by[j].append(i)
        self._removes = [_bits(positions(value.remove)) for value in states]
        self._removing = _bits(i for i, removed in enumerate(self._removes) if removed)
        self._removed_by = [0] * len(states)
        for i, value in enumerate(states):
            for j in positions(value.remove):
                self._removed_by[j] |= 1 << i
        self._after = [_bits(positions(value.after)) for value in states]
        self._ordered_after = any(self._after)
        self._multi = _bits(i for i, value in enumerate(states) if value.multi)
        self._autos = [i for i, value in enumerate(states) if value.auto]
        self._rank = _require_ranks(self._requires) if any(self._requires) else None

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
        asked = _bits(called)
        before = sum(map(self._bit.__getitem__, active))
        # Lists keep the order; `has` is the set of what is listed. Where relations have nothing to say, which is most
        # often, a step looks at sets alone and leaves the list as it is.
        listed = _asked_for(type_, called, active, before & asked)
        has = before & ~asked if type_ is REMOVE else before | asked if type_ is ADD else asked
        # States that are active already imply nothing anew, unless they can be activated again.
        implying = (~before | self._multi) & self._adding
        spared, insisted = (asked, 0) if type_ is REMOVE else (0, asked)
        if has & implying:
            has = self._imply(listed, has, implying, spared, steps, deep=False)
        listed, has = self._with_requires(listed, has, steps)
        settled = has
        removed = self._removed(has)
        if removed & has:
            listed, has = self._without_blocked(listed, has, steps)
            removed = self._removed(has)
            settled = -1
        else:
            listed.reverse()
        if has & implying:
            has = self._imply(listed, has, implying, spared | removed, steps, deep=True)
        listed.reverse()
        if has != settled:
            # Otherwise nothing came or left since Require and Remove were looked at.
            listed, has = self._with_requires(listed, has, steps)
            listed = self._consistent(listed, has, insisted, steps)
        target = self.order(listed)
        if admitted is None:
            return target
        listed = [i for i in target if (before | admitted) >> i & 1]
        listed, has = self._with_requires(listed, _bits(listed), steps)
        return tuple(self._consistent(listed, has, insisted, steps))

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

    def _imply(
        self, listed: list[int], has: int, implying: int, spared: int, steps: list[RelationStep] | None, *, deep: bool
    ) -> int:
        """Append what the listed states add; with `deep`, what those add too, and so on. Give the set of all."""
        sources = [i for i in listed if implying >> i & 1]
        for i in sources:
            for j in self._adds[i]:
                if not (has | spared) >> j & 1:
                    has |= 1 << j
                    listed.append(j)
                    if deep and implying >> j & 1:
                        sources.append(j)
                    if steps is not None:
                        steps.append(RelationStep("add", j, i))
        return has

    def _removed(self, has: int) -> int:
        """Give the set of all states that the states of a set remove."""
        removed, rest = 0, has & self._removing
        while rest:
            lowest = rest & -rest
            removed |= self._removes[lowest.bit_length() - 1]
            rest ^= lowest
        return removed

    def _with_requires(self, listed: list[int], has: int, steps: list[RelationStep] | None) -> tuple[list[int], int]:
        """Drop states with a missing Require until none is left. Give the list, and the set of what is in it."""
        required = self._required
        leaving = [i for i in listed if required[i] & ~has]
        if not leaving:
            return listed, has
        place = {i: at for at, i in enumerate(listed)}
        while leaving:
            if steps is not None:
                for i in leaving:
                    steps += [RelationStep("require", i, j) for j in self._requires[i] if not has >> j & 1]
            has &= ~_bits(leaving)
            # Only those that required one of them can be next, so a long chain falls in one walk along it.
            bereft = {i for j in leaving for i in self._required_by[j] if has >> i & 1}
            leaving = sorted(bereft, key=place.__getitem__)
        return [i for i in listed if has >> i & 1], has

    def _without_blocked(self, listed: list[int], has: int, steps: list[RelationStep] | None) -> tuple[list[int], int]:
        """Drop, from the end, states removed by one that is not blocked itself; the rest comes in reversed order."""
        kept: list[int] = []
        for i in reversed(listed):
            by = self._removed_by[i] & has
            if not by:
                kept.append(i)
                continue
            has &= ~(1 << i)
            if steps is not None:
                steps += [RelationStep("remove", i, j) for j in listed if by >> j & 1]
        return kept, has

    def _consistent(self, listed: list[int], has: int, insisted: int, steps: list[RelationStep] | None) -> list[int]:
        """Let conflicting states leave until no state of the list removes another; `insisted` ones stay if they can."""
        while conflicts := self._removed(has) & has:
            i = next(i for i in listed if conflicts >> i & 1)
            by = self._removed_by[i] & has
            leaving = by if insisted >> i & 1 and not by & insisted else 1 << i
            if steps is not None:
                for j in listed:
                    if by >> j & 1:
                        steps.append(RelationStep("remove", *((i, j) if leaving == 1 << i else (j, i))))
            has &= ~leaving
            listed, has = self._with_requires([j for j in listed if has >> j & 1], has, steps)
        return listed

    def _sorted_after(self, states: list[int]) -> list[int]:
        """Take, again and again, the first state none of whose After states is still waiting."""
        waiting = _bits(states)
        if not any(self._after[i] & waiting for i in states):
            return states
        place = {state: at for at, state in enumerate(states)}
        before = [[place[other] for other in _listed(self._after[state] & waiting)] for state in states]
        followers: list[list[int]] = [[] for _ in states]
        for at, others in enumerate(before):
            for other in others:
                followers[other].append(at)
        missing = [len(others) for others in before]
        free = [at for at, count in enumerate(missing) if not count]  # in order, so it is a heap already
        rest = iter(range(len(states)))
        done: dict[int, None] = {}
        while len(done) < len(states):
            # In a circle nobody is free; then the first of those that wait goes.
            at = heappop(free) if free else next(at for at in rest if at not in done)
            if at in done:
                continue
            done[at] = None
            for follower in followers[at]:
                missing[follower] -= 1
                if not missing[follower]:
                    heappush(free, follower)
        return [states[at] for at in done]


def _asked_for(type_: MutationType, called: Sequence[int], active: Sequence[int], both: int) -> list[int]:
    """List the states a mutation asks for, before any relation has its say; `both` is what is called and active."""
    if type_ is SET:
        return list(dict.fromkeys(called))
    others = [i for i in active if not both >> i & 1] if both else active
    return list(others) if type_ is REMOVE else [*dict.fromkeys(called), *others]


def _listed(states: int) -> Iterator[int]:
    """Give the states of a set."""
    while states:
        lowest = states & -states
        yield lowest.bit_length() - 1
        states ^= lowest


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
