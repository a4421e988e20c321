"""Requests: a type of mutation and the states it calls, looked up once for each schema."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from asyncmachine.errors import UnknownStateError
from asyncmachine.schema import EXCEPTION, HEALTH, Schema

__all__ = ["ADD", "REMOVE", "SET", "MutationType", "Request", "Requests", "RequestsOfType"]


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


class RequestsOfType(dict[Any, Request]):
    """The requests of one type made so far, by a name or a tuple of names; one that is missing is made.

    Args:
        type_: the type.
        schema: whose states are asked for.
        bound: how many are kept; beyond it, they are forgotten and collected anew.
    """

    __slots__ = ("_bound", "_schema", "_type")

    def __init__(self, type_: MutationType, schema: Schema, bound: int) -> None:
        self._type = type_
        self._schema = schema
        self._bound = bound

    def __missing__(self, key: str | Iterable[str]) -> Request:
        if not isinstance(key, str | tuple):
            # A frozenset or a generator, say. It is not looked into, for some can be looked into only once.
            raise TypeError("requests are found by a name or a tuple of names")
        names = tuple(dict.fromkeys((key,) if isinstance(key, str) else key))
        for name in names:
            if name not in self._schema.index:
                raise UnknownStateError(name, self._schema.names)
        # A request is its own key to plans, so the same states named in two ways should be one object.
        request = self.get(names) or Request(self._type, names, self._schema)
        if len(self) >= self._bound:
            self.clear()
        self[key] = self[names] = request
        return request


class Requests:
    """The requests made of a schema so far, so that each type and list of states is looked up once.

    Args:
        schema: whose states are asked for.
        bound: how many requests are kept of each type.
    """

    __slots__ = ("known",)

    def __init__(self, schema: Schema, bound: int = 4096) -> None:
        self.known: dict[MutationType, RequestsOfType] = {
            type_: RequestsOfType(type_, schema, bound) for type_ in MutationType
        }
        """By type, and a name or a tuple of names; what else names states may be no key."""

    def of(self, type_: MutationType, states: str | Iterable[str]) -> Request:
        """Give the request for one state or several.

        Raises:
            UnknownStateError: the schema has no such state.
        """
        return self.known[type_][states if isinstance(states, str) else tuple(states)]
