"""Mutations, the requests a machine takes: what is asked, with which args, by whom, and what came of it."""

from __future__ import annotations

import builtins
import dataclasses
import traceback as tb
from collections.abc import Callable, Generator, Iterable, Mapping
from contextvars import Context, ContextVar
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar, cast

from typing_extensions import override

from asyncmachine.errors import ArgsError, UnknownStateError
from asyncmachine.schema import EXCEPTION, HEALTH, Schema

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "Args",
    "Cause",
    "ExceptionArgs",
    "Mutation",
    "MutationType",
    "Request",
    "Requests",
    "Result",
    "Source",
    "check_args",
    "current",
    "new_mutation",
]

T = TypeVar("T")
Class: TypeAlias = type[T]  # within `Mutation`, whose property hides `type`


class DataclassArgs(Protocol):
    """An instance of a dataclass; checkers see those of attrs and msgspec as such, too."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class AttrsArgs(Protocol):
    """An instance of an attrs class."""

    __attrs_attrs__: ClassVar[Any]


class StructArgs(Protocol):
    """An instance of a msgspec struct."""

    __struct_fields__: ClassVar[tuple[str, ...]]


class ModelArgs(Protocol):
    """An instance of a pydantic model."""

    __pydantic_fields__: ClassVar[dict[str, Any]]


Args: TypeAlias = Mapping[str, Any] | DataclassArgs | AttrsArgs | StructArgs | ModelArgs
"""What a mutation carries: a mapping, or one instance of a dataclass, attrs, msgspec or pydantic class."""

EMPTY: Mapping[str, Any] = MappingProxyType({})


class MutationType(StrEnum):
    """What a mutation asks for: to add states, to remove them, or to make them the only active ones."""

    ADD = "add"
    REMOVE = "remove"
    SET = "set"

    # Members are keys on the way of every mutation; Enum's own hash is Python code.
    __hash__ = str.__hash__


ADD, REMOVE, SET = MutationType.ADD, MutationType.REMOVE, MutationType.SET


class Source(NamedTuple):
    """The transition that caused a mutation.

    Args:
        machine_id: the machine the transition ran on.
        transition_id: its id there.
        machine_time: the sum of that machine's ticks before the transition.
    """

    machine_id: str
    transition_id: str
    machine_time: int


class Cause(Protocol):
    """What travels in `current`: something that can say where it comes from."""

    machine: Any
    depth: int
    is_completed: bool

    @property
    def called_states(self) -> tuple[str, ...]: ...

    @property
    def states_before(self) -> tuple[str, ...]: ...

    def as_source(self) -> Source: ...


current: ContextVar[Cause | None] = ContextVar("asyncmachine_current", default=None)
"""The transition whose handlers, or whose handlers' work, run in this context; mutations read their source from it."""


@dataclasses.dataclass(frozen=True, slots=True)
class ExceptionArgs:
    """The typed args of every mutation that adds `Exception`.

    Args:
        err: the error.
        handler: the name of the handler or function that raised it, None for an error that was added by hand.
        called: the states called by the mutation in which the handler failed.
        states_before: the states active before that mutation.

    >>> mach.add_err(ValueError("no fuel"))
    Result.EXECUTED
    >>> mach.err
    ValueError('no fuel')
    """

    err: BaseException
    handler: str | None = None
    called: tuple[str, ...] = ()
    states_before: tuple[str, ...] = ()

    @property
    def traceback(self) -> str:
        """The traceback of the error as text, formatted when asked for."""
        return "".join(tb.format_exception(self.err))


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


class Mutation:
    """A request to change a machine's states, made by a call such as `Machine.add`."""

    __slots__ = (
        "context",
        "error",
        "is_auto",
        "is_check",
        "on_done",
        "outcome",
        "payload",
        "queue_tick",
        "request",
        "source",
    )

    # `Machine` makes most of them, and sets their fields itself, as `new_mutation` does: an `__init__` would double
    # the cost.
    request: Request
    payload: Args | None
    source: Source | None
    """The transition this was made from, or None."""
    is_auto: bool
    """True for the addition of auto states that follows a transition."""
    is_check: bool
    """True for `can_add` and `can_remove`, which change nothing."""
    queue_tick: int
    """The queue tick at which it runs; 0 for one that was prepended."""
    error: ExceptionArgs | None
    context: Context | None
    outcome: Result | None
    on_done: list[Callable[[Result], object]] | None

    @property
    def type(self) -> MutationType:
        """What is asked for: add, remove, or set."""
        return self.request.type

    @property
    def called(self) -> tuple[str, ...]:
        """The names of the states that were asked for, once each."""
        return self.request.names

    @property
    def args(self) -> Mapping[str, Any]:
        """The args as a mapping; empty without args."""
        given = as_mapping(self.payload)
        if self.error is None:
            return given
        return {**given, **{field: getattr(self.error, field) for field in ("err", "handler", "called")}}

    def arg(self, kind: builtins.type[T]) -> T:
        """Give the typed args of this class.

        Raises:
            ArgsError: the mutation carries no instance of it.

        >>> @mach.on.state("Exception")
        ... def tell(e: am.Event) -> None:
        ...     print(repr(e.mutation.arg(am.ExceptionArgs).err))
        >>> mach.add_err(ValueError("no fuel"))
        ValueError('no fuel')
        Result.EXECUTED
        """
        for given in (self.payload, self.error):
            if isinstance(given, kind):
                return given
        has = f"a mapping with {sorted(self.args)}" if isinstance(self.payload, Mapping) else repr(self.payload)
        raise ArgsError(
            f"this mutation carries no {kind.__name__}, but {has}; "
            f"pass it along: mach.{self.type}({list(self.called)}, {kind.__name__}(...))"
        )

    def finish(self, result: Result) -> None:
        """Keep the final result and tell whoever waits for it."""
        self.outcome = result
        if self.on_done is not None:
            callbacks, self.on_done = self.on_done, None
            for callback in callbacks:
                callback(result)

    def when_done(self, callback: Callable[[Result], object]) -> None:
        """Have the final result told to `callback` once it is known."""
        if self.on_done is None:
            self.on_done = []
        self.on_done.append(callback)

    @override
    def __repr__(self) -> str:
        flags = f"{':auto' if self.is_auto else ''}{':check' if self.is_check else ''}"
        return f"<Mutation [{self.type}{flags}] {' '.join(self.called)}>"


def new_mutation(
    request: Request,
    payload: Args | None = None,
    source: Source | None = None,
    *,
    is_auto: bool = False,
) -> Mutation:
    """Make a mutation that is no check."""
    mutation = Mutation()
    mutation.request, mutation.payload, mutation.source = request, payload, source
    mutation.is_auto, mutation.is_check, mutation.queue_tick = is_auto, False, 0
    mutation.error = mutation.context = mutation.outcome = mutation.on_done = None
    return mutation


class Futures(Protocol):
    """Makes futures on the loop a machine is bound to."""

    def new_future(self) -> asyncio.Future[Any]: ...


class Result:
    """What came of a mutation: executed, canceled (with a reason), or queued (to run at a tick of the queue).

    Results compare by kind, queued ones by their tick, so that `match` works. `int()` gives 0, 1 or the tick; `bool()`
    is False for canceled alone. Awaiting a result gives the final one, at once where it is known.

    >>> result = mach.remove1("Foo")
    >>> match result:
    ...     case am.Result.EXECUTED:
    ...         print("gone")
    ...     case am.Result.CANCELED:
    ...         print(result.reason)
    gone
    """

    __slots__ = ("_futures", "_mutation", "_reason", "_tick")

    EXECUTED: ClassVar[Result]
    CANCELED: ClassVar[Result]

    def __init__(
        self,
        tick: int,
        reason: str | Callable[[], str] | None = None,
        mutation: Mutation | None = None,
        futures: Futures | None = None,
    ) -> None:
        self._tick = tick
        self._reason = reason
        self._mutation = mutation
        self._futures = futures

    @property
    def executed(self) -> bool:
        """True if the mutation did what was asked."""
        return self._tick == 0

    @property
    def canceled(self) -> bool:
        """True if relations, a handler or the machine refused it; `reason` says why."""
        return self._tick == 1

    @property
    def queued(self) -> bool:
        """True if it waits in the queue; `await` the result for the final one."""
        return self._tick > 1

    @property
    def tick(self) -> int:
        """The queue tick at which a queued mutation runs (2 or more), else 0."""
        return self._tick if self._tick > 1 else 0

    @property
    def reason(self) -> str | None:
        """Why it was canceled, in words; None unless canceled.

        >>> am.Machine({"Bar": {"require": ["Foo"]}, "Foo": {}}).add1("Bar").reason
        'Bar requires Foo'
        """
        if callable(self._reason):
            self._reason = self._reason()
        return self._reason

    @property
    def mutation(self) -> Mutation | None:
        """The mutation a queued result stands for, else None."""
        return self._mutation

    def __await__(self) -> Generator[Any, None, Result]:
        """Give the final result; waits only while the mutation is queued."""
        mutation = self._mutation
        if mutation is None or self._futures is None:
            return self
        if mutation.outcome is not None:
            return mutation.outcome
        future: asyncio.Future[Result] = self._futures.new_future()
        mutation.when_done(partial(_tell, future))
        return (yield from future)

    @override
    def __eq__(self, other: object) -> bool:
        return self._tick == other._tick if isinstance(other, Result) else NotImplemented

    @override
    def __hash__(self) -> int:
        return hash(self._tick)

    def __bool__(self) -> bool:
        return self._tick != 1

    def __int__(self) -> int:
        return self._tick

    @override
    def __repr__(self) -> str:
        if self._tick > 1:
            return f"<Result queued at {self._tick}>"
        if self._tick == 0:
            return "Result.EXECUTED"
        return f"<Result canceled: {self.reason}>" if self._reason else "Result.CANCELED"

    @override
    def __str__(self) -> str:
        if self._tick > 1:
            return f"queued at {self._tick}"
        if self._tick == 0:
            return "executed"
        return f"canceled: {self.reason}" if self._reason else "canceled"


def _tell(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)


Result.EXECUTED = EXECUTED = Result(0)
Result.CANCELED = Result(1)


def field_names(kind: type) -> Iterable[str] | None:
    """Give the names of the fields of a dataclass, attrs, msgspec or pydantic class, or None for any other."""
    if hasattr(kind, "__dataclass_fields__"):
        # Class variables and what is for `__init__` alone are no fields.
        return [field.name for field in dataclasses.fields(cast("Any", kind))]
    for attribute in ("__struct_fields__", "model_fields"):
        found: Iterable[str] | None = getattr(kind, attribute, None)
        if found is not None:
            return tuple(found)
    attrs: Iterable[Any] | None = getattr(kind, "__attrs_attrs__", None)
    return None if attrs is None else [attribute.name for attribute in attrs]


def as_mapping(payload: Args | None) -> Mapping[str, Any]:
    """Give args as a mapping: as they are, or the fields of a typed instance."""
    if payload is None:
        return EMPTY
    if isinstance(payload, Mapping):
        return payload
    return {name: getattr(payload, name) for name in field_names(type(payload)) or ()}


def check_args(payload: Args | None) -> Args | None:
    """Give args that can be passed, None for empty ones.

    Raises:
        ArgsError: they are neither a mapping nor an instance of a class with fields.
    """
    if isinstance(payload, Mapping):
        return payload or None
    if payload is None or (not isinstance(payload, type) and field_names(type(payload)) is not None):
        return payload
    raise ArgsError(
        f"args are a mapping or one instance of a dataclass, attrs, msgspec or pydantic class, not {payload!r}; "
        'write {"name": value}'
    )
