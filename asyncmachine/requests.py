"""Requests: a type of mutation and the states it calls, looked up once for each schema."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from asyncmachine.errors import UnknownStateError
from asyncmachine.schema import EXCEPTION, HEALTH, Schema

__all__ = ["ADD", "REMOVE", "SET", "MutationType", "Request", "Requests"]


class MutationType(StrEnum):
    """What a mutation asks for: to add states, to remove them, or to make them the only active ones."""

    ADD = "add"
    REMOVE = "remove"
    SET = "set"

    # Members are keys on the way of every mutation; Enum's own hash is Python code.
    __hash__ = str.__hash__


ADD, REMOVE, SET = MutationType.ADD, MutationType.REMOVE, MutationType.SET


class Request:
    """One type of mutation of one list of states, looked up: what resolution and its plans are keyed by.

    Requests are compared by identity: a machine keeps one object for each type and list of states.
    """

    __slots__ = ("calls_exception", "is_health", "key", "mask", "multi", "names", "states", "type")

    def __init__(self, type_: MutationType, names: tuple[str, ...], schema: Schema) -> None:
        self.type: MutationType = type_
        self.names: tuple[str, ...] = names
        self.states: tuple[int, ...] = tuple(schema.index[name] for name in names)
        self.mask: int = sum(1 << i for i in self.states)
        self.key: tuple[MutationType, int] = (type_, self.mask)
        """Equal for requests of the same type and the same set of states."""
        self.multi: bool = any(schema[name].multi for name in names)
        self.is_health: bool = len(names) == 1 and names[0] in HEALTH
        self.calls_exception: bool = EXCEPTION in names


class Requests:
    """The requests made of a schema so far, so that each type and list of states is looked up once.

    Args:
        schema: whose states are asked for.
        bound: how many are kept of each type; beyond it, they are forgotten and collected anew.
    """

    __slots__ = ("_bound", "_schema", "known")

    def __init__(self, schema: Schema, bound: int = 4096) -> None:
        self._schema = schema
        self._bound = bound
        self.known: dict[MutationType, dict[Any, Request]] = {type_: {} for type_ in MutationType}
        """By type, and a name or a tuple of names. What else names states may be no key, or can be read only once."""

    def of(self, type_: MutationType, states: str | Iterable[str]) -> Request:
        """Give the request for one state or several.

        Raises:
            UnknownStateError: the schema has no such state.
            TypeError: these are no names.
        """
        # Errors leave the look-up behind that failed before, if there was one (`from None`).
        if not isinstance(states, Iterable):
            raise TypeError(f"states are given by name, one or several in a list, not {states!r}") from None
        given = states if isinstance(states, str) else tuple(states)
        known = self.known[type_]
        request = known.get(given)
        if request is None:
            names = tuple(dict.fromkeys((given,) if isinstance(given, str) else given))
            for name in names:
                if name not in self._schema.index:
                    raise UnknownStateError(name, self._schema.names) from None
            # A request is its own key to plans, so the same states named in two ways should be one object.
            request = known.get(names) or Request(type_, names, self._schema)
            if len(known) >= self._bound:
                known.clear()
            known[given] = known[names] = request
        return request
