"""Declaring the states of a machine in the body of a class, as typed names that are plain strings at run time."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any, ClassVar, Self, cast

from typing_extensions import override

from asyncmachine.errors import SchemaError
from asyncmachine.schema import RELATIONS, Declaration, Schema, State

__all__ = ["States", "group", "state"]


class _Declared:
    """What `state()` leaves in the body of a `States` class until the class is made."""

    __slots__ = ("extend", "name", "options")

    def __init__(self, options: dict[str, Any], *, extend: bool) -> None:
        self.name = ""
        self.options = options
        self.extend = extend

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def build(self) -> State:
        options: dict[str, Any] = {key: _names(of) if key in RELATIONS else of for key, of in self.options.items()}
        on_timeout = options["on_timeout"]
        if isinstance(on_timeout, _Declared):
            options["on_timeout"] = on_timeout.name
        return State(**options)


class _Grouped:
    """What `group()` leaves in the body of a `States` class until the class is made."""

    __slots__ = ("members",)

    def __init__(self, members: tuple[str, ...]) -> None:
        self.members = members

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)


def _names(of: Iterable[str]) -> tuple[str, ...]:
    """Turn the declarations among names, found where a body names a state above it, into their names."""
    listed = cast("Iterable[str | _Declared]", (of,) if isinstance(of, str | _Declared) else of)
    return tuple(item.name if isinstance(item, _Declared) else item for item in listed)


def state(  # noqa: D417 - the others are those of `State`
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
    extend: bool = False,
) -> str:
    """Declare a state in the body of a `States` class; the attribute is the state's name, a plain `str`.

    Relations, and `on_timeout`, name states by string or, where they stand above in the same body, by the name itself.

    The arguments are those of `State`, and one more.

    Args:
        extend: add to the state of the same name that a parent class declares, instead of replacing it.

    >>> class Doors(am.States):
    ...     Closed: str = am.state(remove=["Open"])
    ...     Open: str = am.state(remove=[Closed])
    >>> Doors.Open, Doors.schema()["Open"].remove
    ('Open', ('Closed',))
    """
    relations = {"require": require, "add": add, "remove": remove, "after": after}
    timed = {"timeout": timeout, "on_timeout": on_timeout}
    options = {"auto": auto, "multi": multi, "tags": tags, **relations, **timed}
    return cast("str", _Declared(options, extend=extend))


def group(*states: str) -> tuple[str, ...]:
    """Declare a group of states in the body of a `States` class; the attribute is a tuple of names.

    >>> class Lights(am.States):
    ...     Red: str = am.state()
    ...     Green: str = am.state()
    ...     Signal = am.group(Red, Green)
    >>> Lights.Signal
    ('Red', 'Green')
    """
    return cast("tuple[str, ...]", _Grouped(states))


class States(Declaration):
    """Declares the states of a machine as typed names. Subclass it; the class itself is passed to `Machine`.

    Subclasses inherit states in the order their bases stand, may add, replace, or `extend` them, and may mix several
    declarations. Relations are checked when `schema()` is asked for, so that a mixin may name states it lacks.

    >>> class Base(am.States):
    ...     Start: str = am.state()
    ...     Ready: str = am.state(require=[Start])
    >>> class Worker(Base):
    ...     Connected: str = am.state()
    ...     Ready: str = am.state(extend=True, require=[Connected])
    >>> Worker.schema()["Ready"].require
    ('Start', 'Connected')
    """

    __own: ClassVar[dict[str, _Declared]] = {}
    __own_groups: ClassVar[dict[str, tuple[str, ...]]] = {}

    @override
    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        body = dict(cls.__dict__)
        cls.__own = {name: value for name, value in body.items() if isinstance(value, _Declared)}
        cls.__own_groups = {name: _names(v.members) for name, v in body.items() if isinstance(v, _Grouped)}
        problems = [
            f"{cls.__name__}.{name} hides the method of that name of am.States; call it something else"
            for name in (*cls.__own, *cls.__own_groups)
            if hasattr(States, name)
        ]
        problems += [
            f"{cls.__name__}.{name} is annotated but declares nothing; write `{name}: str = am.state()`"
            for name, kind in inspect.get_annotations(cls).items()
            if kind in {"str", str} and name not in body and not name.startswith("_")
        ]
        if problems:
            raise SchemaError(problems)
        for name in cls.__own:
            setattr(cls, name, name)
        for name, members in cls.__own_groups.items():
            setattr(cls, name, members)

    def __new__(cls) -> Self:
        raise TypeError(f"{cls.__name__} only declares states; pass the class itself: am.Machine({cls.__name__})")

    @classmethod
    @override
    def states(cls) -> dict[str, State]:
        """Give the declared states, inherited ones first, with relations unchecked.

        Raises:
            SchemaError: states extend what no parent declares.

        >>> class Doors(am.States):
        ...     Closed: str = am.state(remove=["Open"])
        ...     Open: str = am.state(remove=[Closed])
        >>> list(Doors.states())
        ['Closed', 'Open']
        """
        problems: list[str] = []
        states = cls.__resolve(problems)
        if problems:
            raise SchemaError(problems)
        return states

    @classmethod
    @override
    def groups(cls) -> dict[str, tuple[str, ...]]:
        """Give the declared groups, inherited ones too.

        >>> class Lights(am.States):
        ...     Red: str = am.state()
        ...     Green: str = am.state()
        ...     Signal = am.group(Red, Green)
        >>> Lights.groups()
        {'Signal': ('Red', 'Green')}
        """
        return {name: of for base in reversed(cls.__lineage()) for name, of in base.__own_groups.items()}

    @classmethod
    @override
    def schema(cls) -> Schema:
        """Give the schema that the class declares; the same object at each call.

        Raises:
            SchemaError: with all problems at once.

        >>> class Doors(am.States):
        ...     Closed: str = am.state(remove=["Open"])
        ...     Open: str = am.state(remove=[Closed])
        >>> Doors.schema().names
        ('Closed', 'Open', 'Exception')
        """
        known: Schema | None = cls.__dict__.get("_schema")
        if known is None:
            problems: list[str] = []
            states = cls.__resolve(problems)
            try:
                known = Schema(states, cls.groups())
            except SchemaError as err:
                problems += err.problems
            if known is None or problems:
                raise SchemaError(problems)
            cls._schema = known
        return known

    _schema: ClassVar[Schema]

    @classmethod
    def __lineage(cls) -> list[type[States]]:
        return [base for base in cls.__mro__ if issubclass(base, States)]

    @classmethod
    def __state_names(cls) -> list[str]:
        inherited = [name for base in cls.__bases__ if issubclass(base, States) for name in base.__state_names()]
        return list(dict.fromkeys([*inherited, *cls.__own]))

    @classmethod
    def __resolve(cls, problems: list[str]) -> dict[str, State]:
        """Find what the method resolution order makes of each state: the first declaration, with those it extends."""
        states: dict[str, State] = {}
        for name in cls.__state_names():
            parts: list[State] = []
            for base in cls.__lineage():
                declared = base.__own.get(name)
                if declared is not None:
                    parts.append(declared.build())
                    if not declared.extend:
                        break
            else:
                problems.append(f"{cls.__name__}.{name} extends a parent's state, but no parent declares {name}")
            states[name] = reduce(State.extend, reversed(parts))
        return states
