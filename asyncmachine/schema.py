"""Schemas: the states a machine has and the relations between them, declared apart from any running machine.

A schema is frozen and checked when it is made; every problem it has is reported in one `SchemaError`. Three notations
lead to the same thing: a `States` class (typed names), a mapping of `State` values, a mapping of plain mappings.
"""

from __future__ import annotations

import json
import sys
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypedDict, cast

from typing_extensions import override

from asyncmachine.errors import SchemaError, did_you_mean

__all__ = ["ANY", "EXCEPTION", "SUFFIXES", "Schema", "SchemaLike", "State", "StateDict"]

ANY = "Any"
"""Stands for every state in the names of the global handlers, `AnyEnter` and `AnyState`."""

EXCEPTION = "Exception"
"""The state every machine has, active after an error nobody cleared."""

SUFFIXES = ("Enter", "Exit", "State", "End")
"""What follows a state's name in the name of a handler."""

HEALTH = frozenset({"Healthcheck", "Heartbeat"})
"""States whose activation alone starts no auto states."""

RELATIONS = ("require", "add", "remove", "after")


class StateDict(TypedDict, total=False):
    """A state as a plain mapping, as JSON has it. Keys left out mean False, no states, or no timeout."""

    auto: bool
    multi: bool
    require: Iterable[str]
    add: Iterable[str]
    remove: Iterable[str]
    after: Iterable[str]
    tags: Iterable[str]
    timeout: float | None
    on_timeout: str | None


@dataclass(frozen=True, slots=True, init=False)
class State:
    """One state of a schema: its properties and its relations to others.

    Args:
        auto: the machine tries to activate it by itself, after every transition that changed something.
        multi: adding it while it is active activates it anew (two ticks), with its handlers.
        require: states that must be active for this one to be active.
        add: states activated along with this one.
        remove: states that may not be active beside this one, and leave when it enters.
        after: states whose handlers are called before this one's.
        tags: words of your own; they mean nothing to the machine.
        timeout: seconds for which the state may be active without being activated anew; None for as long as it likes.
        on_timeout: the state added when the time is up, as an error if it is or requires `Exception`; if None, the
            state itself is removed. See `TimeoutArgs`.

    >>> am.State(auto=True, require=["Foo"]).require
    ('Foo',)
    """

    auto: bool
    multi: bool
    require: tuple[str, ...]
    add: tuple[str, ...]
    remove: tuple[str, ...]
    after: tuple[str, ...]
    tags: tuple[str, ...]
    timeout: float | None
    on_timeout: str | None

    def __init__(
        self,
        *,
        auto: bool = False,
        multi: bool = False,
        require: Iterable[str] = (),
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        after: Iterable[str] = (),
        tags: Iterable[str] = (),
        timeout: float | None = None,
        on_timeout: str | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "auto", bool(auto))
        put(self, "multi", bool(multi))
        put(self, "require", _unique(require))
        put(self, "add", _unique(add))
        put(self, "remove", _unique(remove))
        put(self, "after", _unique(after))
        put(self, "tags", _unique(tags))
        # Checked along with the rest of the schema, which tells all problems at once.
        put(self, "timeout", timeout)
        put(self, "on_timeout", on_timeout)

    def extend(self, other: State) -> State:
        """Give this state with the relations, properties and tags of `other` added to its own.

        A timeout of `other` replaces its own, and so does what follows from it.

        >>> am.State(require=["Foo"]).extend(am.State(require=["Bar"], multi=True))
        State(multi=True, require=['Foo', 'Bar'])
        """
        return State(
            auto=self.auto or other.auto,
            multi=self.multi or other.multi,
            require=self.require + other.require,
            add=self.add + other.add,
            remove=self.remove + other.remove,
            after=self.after + other.after,
            tags=self.tags + other.tags,
            timeout=self.timeout if other.timeout is None else other.timeout,
            on_timeout=self.on_timeout if other.on_timeout is None else other.on_timeout,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the state as a plain mapping without what is empty, as `Schema` and JSON take it.

        >>> am.State(auto=True, add=["Foo"]).to_dict()
        {'auto': True, 'add': ['Foo']}
        """
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        kept = {name: value for name, value in values.items() if value or (value is not None and name in _TIMED)}
        return {name: list(value) if name in _LISTS else value for name, value in kept.items()}

    @override
    def __repr__(self) -> str:
        return f"State({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"


_TIMED = ("timeout", "on_timeout")
_LISTS = (*RELATIONS, "tags")


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    """Give the names in order and once each; one name given bare counts as a list of one."""
    return tuple(dict.fromkeys((names,) if isinstance(names, str) else names))


_DEFAULT_EXCEPTION = State(multi=True)


class Schema(Mapping[str, State]):
    """The states of a machine in order, frozen and checked; a mapping of name to `State`.

    `Exception` is added, last, when it is missing. A state is dropped from its own remove and after lists, and what
    a state adds is dropped from what it removes.

    Args:
        states: name to `State`, or to a mapping with the keys of `State`, in order.
        groups: name to names of states, for `Machine.switch` and for reading.

    Raises:
        SchemaError: with all problems at once.

    >>> schema = am.Schema({"Dry": {"remove": ["Wet"]}, "Wet": {"remove": ["Dry"]}})
    >>> schema.names
    ('Dry', 'Wet', 'Exception')
    """

    __slots__ = ("__weakref__", "_states", "derived", "groups", "index", "names")

    def __init__(
        self,
        states: Mapping[str, State | StateDict],
        groups: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        problems: list[str] = []
        read = {name: _read(name, value, problems) for name, value in states.items()}
        read.setdefault(EXCEPTION, _DEFAULT_EXCEPTION)
        self.groups: Mapping[str, tuple[str, ...]] = {
            name: _read_names(f"the group {name}", of, problems) for name, of in (groups or {}).items()
        }
        self._states = {name: _normal(name, value) for name, value in read.items()}
        self.names: tuple[str, ...] = tuple(self._states)
        self.index: Mapping[str, int] = {name: i for i, name in enumerate(self.names)}
        self.derived: dict[object, object] = {}
        """What others have worked out from the schema alone, kept here so that its machines share it."""
        problems += _problems(self._states, self.groups)
        if problems:
            raise SchemaError(problems)

    @classmethod
    def of(cls, schema: SchemaLike) -> Schema:
        """Read a schema in any of its notations: a `States` class, a `Schema`, or a mapping.

        Raises:
            SchemaError: it is none of them, or it cannot work.

        >>> am.Schema.of({"Foo": {}})["Foo"]
        State()
        """
        if isinstance(schema, Schema):
            return schema
        if isinstance(schema, type) and issubclass(schema, Declaration):
            return schema.schema()
        if isinstance(schema, Mapping):
            return cls(schema)
        raise SchemaError([f"{schema!r} is no schema; write a subclass of am.States, an am.Schema, or a mapping"])

    def merge(self, *others: SchemaLike) -> Schema:
        """Give a schema with the states and groups of the others added; a later state replaces one of its name.

        >>> am.Schema({"Foo": {}}).merge({"Bar": {"require": ["Foo"]}}).names
        ('Foo', 'Exception', 'Bar')
        """
        states: dict[str, State | StateDict] = dict(self._states)
        groups: dict[str, Iterable[str]] = dict(self.groups)
        for other in others:
            if isinstance(other, Schema):
                groups.update(other.groups)
            elif isinstance(other, type):
                groups.update(other.groups())
            more: dict[str, State | StateDict] = dict(other.states() if isinstance(other, type) else other)
            if isinstance(other, Schema) and other[EXCEPTION] == _DEFAULT_EXCEPTION:
                # Every schema has this one; it must not undo what another says about `Exception`.
                more.pop(EXCEPTION)
            states.update(more)
        return Schema(states, groups)

    def filter_by_tag(self, tag: str) -> tuple[str, ...]:
        """Give the names of the states that have `tag`.

        >>> am.Schema({"Foo": {"tags": ["ui"]}, "Bar": {}}).filter_by_tag("ui")
        ('Foo',)
        """
        return tuple(name for name, value in self._states.items() if tag in value.tags)

    def to_json(self) -> str:
        """Give the schema as JSON.

        >>> am.Schema({"Foo": {"auto": True}}).to_json()
        '{"states": {"Foo": {"auto": true}, "Exception": {"multi": true}}, "groups": {}}'
        """
        states = {name: value.to_dict() for name, value in self._states.items()}
        return json.dumps({"states": states, "groups": {name: list(of) for name, of in self.groups.items()}})

    @classmethod
    def from_json(cls, text: str | bytes) -> Schema:
        """Read a schema that `to_json` wrote.

        Raises:
            SchemaError: the text is no schema.

        >>> am.Schema.from_json('{"states": {"Foo": {}}}').names
        ('Foo', 'Exception')
        """
        try:
            data: Any = json.loads(text)
        except ValueError as err:
            raise SchemaError([f"the text is not JSON: {err}"]) from None
        read = cast("Mapping[str, Any]", data if isinstance(data, Mapping) else {})
        states, groups = read.get("states"), read.get("groups", cast("object", {}))
        if not isinstance(states, Mapping):
            raise SchemaError(['the JSON has no "states" object; write schemas with Schema.to_json()'])
        if not isinstance(groups, Mapping):
            raise SchemaError([f'"groups" in the JSON is {groups!r}; write an object of names and lists of states'])
        return cls(cast("Mapping[str, Any]", states), cast("Mapping[str, Any]", groups))

    @override
    def __reduce__(self) -> tuple[type[Schema], tuple[dict[str, State], Mapping[str, tuple[str, ...]]]]:
        return Schema, (self._states, self.groups)

    @override
    def __getitem__(self, name: str) -> State:
        return self._states[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    @override
    def __len__(self) -> int:
        return len(self._states)

    @override
    def __hash__(self) -> int:
        return hash(self.names)

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schema):
            return NotImplemented
        return list(self.items()) == list(other.items()) and self.groups == other.groups

    @override
    def __repr__(self) -> str:
        return f"Schema({', '.join(self.names)})"


def _read(name: str, value: object, problems: list[str]) -> State:
    if isinstance(value, State):
        return value
    if not isinstance(value, Mapping):
        problems.append(f"{name} is {value!r}; write am.State(...) or a mapping such as {{'require': ['Foo']}}")
        return State()
    known, given = [*RELATIONS, "auto", "multi", "tags", *_TIMED], cast("Mapping[str, Any]", value)
    unknown = [key for key in given if key not in known]
    problems += [f"{name} has the unknown property {key!r}{did_you_mean(str(key), known)}" for key in unknown]
    options: dict[str, Any] = {
        key: _read_names(f"{key!r} of {name}", of, problems) if key in _LISTS else of
        for key, of in given.items()
        if key in known
    }
    return State(**options)


def _read_names(what: str, names: Any, problems: list[str]) -> tuple[str, ...]:
    try:
        return _unique(names)
    except TypeError:
        problems.append(f"{what} is {names!r}; write a list of names")
        return ()


def _normal(name: str, value: State) -> State:
    remove = [other for other in value.remove if other != name and other not in value.add]
    after = [other for other in value.after if other != name]
    return replace(value, remove=tuple(remove), after=tuple(after))


_VERBS = {"require": "requires", "add": "adds", "remove": "removes", "after": "comes after"}


def _problems(states: Mapping[str, State], groups: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    for name, value in states.items():
        yield from _problems_of_name(name, states)
        for relation in RELATIONS:
            for other in getattr(value, relation):
                if other not in states:
                    hint = did_you_mean(other, states)
                    yield f"{name} {_VERBS[relation]} {other!r}, which is no state of the schema{hint}"
        for other in value.require:
            if other in value.remove:
                yield f"{name} both requires and removes {other}; it could never be active"
        yield from _problems_of_timeout(name, value, states)
    for name, members in groups.items():
        for other in members:
            if other not in states:
                yield f"the group {name} has {other!r}, which is no state of the schema{did_you_mean(other, states)}"


def _problems_of_name(name: str, states: Mapping[str, State]) -> Iterator[str]:
    if not isinstance(name, str) or not name.isidentifier():
        yield f"{name!r} is no name for a state; handlers are found by name, so it must be an identifier"
        return
    if name == ANY:
        yield f"the name {ANY!r} is reserved for the handlers AnyEnter and AnyState"
    for suffix in SUFFIXES:
        owner = name.removesuffix(suffix)
        if owner != name and (owner in states or owner == ANY):
            yield f"the state {name} reads as the {suffix} handler of {owner}; rename one of the two"


def _problems_of_timeout(name: str, value: State, states: Mapping[str, State]) -> Iterator[str]:
    timeout: object = value.timeout
    on_timeout: object = value.on_timeout
    if timeout is not None and not _is_duration(timeout):
        yield f"the timeout of {name} is {timeout!r}; write a finite number of seconds above 0, such as timeout=2.5"
    if on_timeout is None:
        return
    if timeout is None:
        yield f"{name} has on_timeout={on_timeout!r}, but no timeout; write after how many seconds: timeout=2.5"
    if not isinstance(on_timeout, str):
        yield f"on_timeout of {name} is {on_timeout!r}; write the name of one state"
    elif on_timeout == name:
        yield f"{name} names itself as its on_timeout; name another state, or leave it out to have {name} removed"
    elif on_timeout not in states:
        hint = did_you_mean(on_timeout, states)
        yield f"{name} has on_timeout={on_timeout!r}, which is no state of the schema{hint}"


def _is_duration(value: object) -> bool:
    # True and False are numbers, too, but nobody's seconds; an integer may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value <= sys.float_info.max


class Declaration:
    """What declares states in the body of a class; see `States`."""

    @classmethod
    @abstractmethod
    def states(cls) -> dict[str, State]: ...

    @classmethod
    @abstractmethod
    def groups(cls) -> dict[str, tuple[str, ...]]: ...

    @classmethod
    @abstractmethod
    def schema(cls) -> Schema: ...


SchemaLike: TypeAlias = Schema | type[Declaration] | Mapping[str, State | StateDict]
"""A schema in any of its notations."""
