"""Handlers: found by name on any object, in a mapping, or by the marks of `am.on`, and checked when they are bound."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, partialmethod
from itertools import chain, count
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

from typing_extensions import override

from asyncmachine.errors import HandlerError, did_you_mean
from asyncmachine.mutation import Mutation
from asyncmachine.plans import Call, Lookup
from asyncmachine.schema import ANY, SUFFIXES
from asyncmachine.transition import Transition

__all__ = ["EventOf", "Handler", "HandlerRegistry", "On", "on"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])
N = TypeVar("N", bound=Callable[..., bool | None])

GLOBAL = (f"{ANY}Enter", f"{ANY}State")
NEGOTIATION = ("Enter", "Exit")
_MARK = "__asyncmachine_on__"


class Forking(Protocol):
    """A machine that can start work, seen from its events."""

    def fork(
        self, fn: Callable[..., Any], *args: Any, state: str | None = None, delay: float = 0, limit: int | None = None
    ) -> Any: ...

    @property
    def transition(self) -> Transition[Any] | None: ...


M = TypeVar("M", bound=Forking)


class EventOf(Generic[M]):
    """What a handler is given: which handler it is, on which machine, in which transition, with which args."""

    __slots__ = ("_call", "transition")

    def __init__(self, call: Call, transition: Transition[Any]) -> None:
        self._call = call
        self.transition: Transition[Any] = transition
        """The transition the handler is called in."""

    @property
    def name(self) -> str:
        """The handler's name, such as "FooState"."""
        return self._call.name

    @property
    def state(self) -> str:
        """The state the handler is about; "Any" for the global ones."""
        return self._call.about

    @property
    def machine(self) -> M:
        """The machine."""
        machine: M = self.transition.machine
        return machine

    @property
    def mutation(self) -> Mutation:
        """The mutation that is being carried out."""
        return self.transition.mutation

    @property
    def args(self) -> Mapping[str, Any]:
        """The mutation's args as a mapping; the fields, for typed ones."""
        return self.transition.mutation.args

    def arg(self, kind: type[T]) -> T:
        """Give the typed args of a class.

        Raises:
            ArgsError: the mutation carries no instance of it.

        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Conn:
        ...     addr: str
        >>> @mach.on.state("Foo")
        ... def connect(e: am.Event) -> None:
        ...     print(e.arg(Conn).addr, dict(e.args))
        >>> mach.add1("Foo", Conn(":5555"))
        :5555 {'addr': ':5555'}
        Result.EXECUTED
        """
        return self.transition.mutation.arg(kind)

    @property
    def is_valid(self) -> bool:
        """True while this very transition runs and nothing has canceled it."""
        transition = self.transition
        running = self.machine.transition is transition
        return running and transition.is_accepted and not transition.is_completed

    def fork(self, fn: Callable[..., Any], *args: Any, delay: float = 0, limit: int | None = None) -> Any:
        """Start work under the context of the handler's own state; see `Machine.fork`.

        >>> async def load(machine: am.Machine, path: str) -> None:
        ...     machine.add1("Bar", {"text": await anyio.Path(path).read_text()})
        >>> @mach.on.state("Foo")
        ... def start(e: am.Event) -> None:
        ...     e.fork(load, e.machine, e.args["path"])
        """
        state = None if self.state == ANY else self.state
        return self.machine.fork(fn, *args, state=state, delay=delay, limit=limit)

    @override
    def __repr__(self) -> str:
        return f"<Event {self.name} of {self.transition!r}>"


class Mark(NamedTuple):
    """A handler's names as `am.on` notes them on a function."""

    names: tuple[tuple[str, ...], ...]
    limit: int | None

    def handler_names(self) -> Iterator[str]:
        return ("".join(parts) for parts in self.names)


class On:
    """Marks functions as handlers: `@am.on.state("Foo")` on a method, `@mach.on.state("Foo")` to bind a function.

    Every mark but `both` takes one state or several.

    >>> class Handlers:
    ...     @am.on.enter("Foo", "Bar")
    ...     def check(self, e: am.Event) -> bool:
    ...         return e.machine.not1("Baz")
    >>> mach.bind_handlers(Handlers()), mach.add1("Foo")
    ('Handlers', Result.EXECUTED)
    """

    __slots__ = ("_bind",)

    def __init__(self, bind: Callable[[Mark, Callable[..., object]], object]) -> None:
        self._bind = bind

    def enter(self, *states: str) -> Callable[[N], N]:
        """Mark a negotiation handler asked before the states are activated.

        >>> @mach.on.enter("Foo")
        ... def has_ticket(e: am.Event) -> bool:
        ...     return "ticket" in e.args
        >>> mach.add1("Foo").canceled, mach.add1("Foo", {"ticket": 7}).executed
        (True, True)
        """
        return self._marker([(state, "Enter") for state in states])

    def exit(self, *states: str) -> Callable[[N], N]:
        """Mark a negotiation handler asked before the states are deactivated.

        >>> @mach.on.exit("Foo")
        ... def is_done(e: am.Event) -> bool:
        ...     return e.machine.is1("Bar")
        >>> mach.add1("Foo"), mach.remove1("Foo").canceled
        (Result.EXECUTED, True)
        """
        return self._marker([(state, "Exit") for state in states])

    def state(self, *states: str, limit: int | None = None) -> Callable[[F], F]:
        """Mark a final handler called when the states are activated.

        Args:
            states: names of states, or `Any`.
            limit: how many of an `async` handler's runs may be at work at once; more wait their turn.

        >>> @mach.on.state("Foo")
        ... def greet(e: am.Event) -> None:
        ...     print(f"hello {e.args['name']}")
        >>> mach.add1("Foo", {"name": "world"})
        hello world
        Result.EXECUTED
        """
        if limit is not None and limit < 1:
            raise HandlerError(f"limit is how many may run at once, 1 or more, not {limit}")
        return self._marker([(state, "State") for state in states], limit)

    def end(self, *states: str) -> Callable[[F], F]:
        """Mark a final handler called when the states are deactivated.

        >>> @mach.on.end("Foo", "Bar")
        ... def say(e: am.Event) -> None:
        ...     print(f"{e.state} is over")
        >>> mach.add1("Foo"), mach.set("Baz")
        Foo is over
        (Result.EXECUTED, Result.EXECUTED)
        """
        return self._marker([(state, "End") for state in states])

    def both(self, active: str, target: str) -> Callable[[N], N]:
        """Mark a negotiation handler asked when one state is active and another is to be active; or one, to stay.

        >>> @mach.on.both("Foo", "Bar")
        ... def not_while_foo(e: am.Event) -> bool:
        ...     return False
        >>> mach.add1("Bar").executed, mach.set("Foo").executed, mach.add1("Bar").reason
        (True, True, 'vetoed by FooBar of not_while_foo')
        """
        return self._marker([(active, target)])

    def _marker(self, names: list[tuple[str, ...]], limit: int | None = None) -> Callable[[F], F]:
        if not names or not all(isinstance(name, str) for parts in names for name in parts):
            raise HandlerError('name the states of the handler: @am.on.enter("Foo")')

        def mark(fn: F) -> F:
            self._bind(Mark(tuple(names), limit), fn)
            return fn

        return mark


def _note(mark: Mark, fn: Callable[..., object]) -> None:
    setattr(fn, _MARK, [*getattr(fn, _MARK, []), mark])


on: On = On(_note)
"""Marks methods as handlers; see `On`."""


def is_async_callable(fn: Callable[..., object]) -> bool:
    """Tell whether calling it makes a coroutine: an `async def`, an object whose `__call__` is one, a partial."""
    while isinstance(fn, partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)


class Handler:
    """One bound function."""

    __slots__ = ("binding", "fn", "is_async", "limit", "name")

    def __init__(self, name: str, fn: Callable[[Any], Any], binding: str, limit: int | None) -> None:
        self.name: str = name
        self.fn: Callable[[Any], Any] = fn
        self.binding: str = binding
        self.limit: int | None = limit
        self.is_async: bool = is_async_callable(fn)

    @override
    def __repr__(self) -> str:
        return f"{self.name} of {self.binding}"


@dataclass(frozen=True, slots=True)
class Binding:
    """An object whose handlers are bound, with how to look for them, and those that were found."""

    id: str
    target: object
    prefix: str
    strict: bool
    handlers: tuple[Handler, ...] = ()

    def searched(self, names: Sequence[str]) -> Binding:
        """Give the binding with the handlers it has for these states; those it had already stay the same objects."""
        found = list(_collect(self, {name: i for i, name in enumerate(names)}))
        if not found and self.strict:
            example = f"{names[0]}State(self, e)"
            raise HandlerError(
                f"{self.id} has no handler for any of the states; a handler is a method such as {example}"
            )
        # The limits of work are kept by handler, and must hold on.
        known = ((new, [old for old in self.handlers if old.name == new.name and old.fn == new.fn]) for new in found)
        return replace(self, handlers=tuple(olds[0] if olds else new for new, olds in known))


class HandlerRegistry:
    """All bindings of a machine, and what they come to: handlers by name.

    Args:
        names: the names of the machine's states.
    """

    __slots__ = ("_bindings", "_names", "_pairs", "_table")

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._bindings: dict[str, Binding] = {}
        self._table: dict[str, tuple[tuple[Handler, ...], tuple[Handler, ...]]] = {}
        self._pairs: dict[int, dict[int, str]] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all bindings, in binding order."""
        return tuple(self._bindings)

    def lookup(self, name: str) -> tuple[tuple[Handler, ...], tuple[Handler, ...]] | None:
        """Give the handlers bound to a name, plain and `async` apart, or None."""
        return self._table.get(name)

    def reader(self) -> Lookup:
        """Give a look-up of what is bound now: the tables are made anew, never changed."""
        return self._table.get

    def pairs(self) -> Mapping[int, Mapping[int, str]]:
        """Give the names of bound state-state handlers: active state -> target state -> name."""
        return self._pairs

    def bind(self, target: object, id: str | None, prefix: str, *, strict: bool) -> str:
        """Bind an object's handlers; see `Machine.bind_handlers`."""
        if isinstance(target, type):
            raise HandlerError(f"{target.__name__} is a class; bind an instance: {target.__name__}()")
        if id in self._bindings:
            raise HandlerError(f"handlers are bound under the id {id!r} already; detach them first")
        binding = Binding(id or self._new_id(target), target, prefix, strict).searched(self._names)
        self._rebuild([*self._bindings.values(), binding], self._names)
        return binding.id

    def detach(self, id: str) -> None:
        """Detach a binding; see `Machine.detach_handlers`."""
        if id not in self._bindings:
            raise HandlerError(f"no handlers are bound under the id {id!r}{did_you_mean(id, self._bindings)}")
        self._rebuild([binding for binding in self._bindings.values() if binding.id != id], self._names)

    def rebind(self, names: Iterable[str]) -> None:
        """Look all handlers up again, for a schema that has grown."""
        names = tuple(names)
        self._rebuild([binding.searched(names) for binding in self._bindings.values()], names)

    def _new_id(self, target: object) -> str:
        named = getattr(target.fn, "__name__", "") if isinstance(target, Marked) else type(target).__name__
        ids = chain([named], (f"{named}#{number}" for number in count(2)))
        return next(id for id in ids if id not in self._bindings)

    def _rebuild(self, bindings: list[Binding], names: tuple[str, ...]) -> None:
        """Make the tables anew."""
        found: dict[str, list[Handler]] = {}
        pairs: dict[int, dict[int, str]] = {}
        index = {name: i for i, name in enumerate(names)}
        for handler in chain.from_iterable(binding.handlers for binding in bindings):
            found.setdefault(handler.name, []).append(handler)
            meaning = _meanings(handler.name, index)[0]
            if meaning.target is not None and meaning.target != meaning.state:
                pairs.setdefault(index[meaning.state], {})[index[meaning.target]] = handler.name
        self._names, self._pairs = names, pairs
        self._bindings = {binding.id: binding for binding in bindings}
        self._table = {
            name: (tuple(h for h in hs if not h.is_async), tuple(h for h in hs if h.is_async))
            for name, hs in found.items()
        }


class Marked(NamedTuple):
    """A function bound by `@mach.on…`, as a binding's target."""

    names: tuple[str, ...]
    fn: Callable[..., object]
    limit: int | None


class Meaning(NamedTuple):
    """A way to read a handler's name."""

    state: str
    suffix: str
    target: str | None

    @property
    def is_negotiation(self) -> bool:
        return self.target is not None or self.suffix in NEGOTIATION


def _meanings(name: str, index: Mapping[str, int]) -> list[Meaning]:
    """Give all ways to read a handler's name."""
    found = [
        Meaning(state, suffix, None)
        for suffix in SUFFIXES
        if (state := name.removesuffix(suffix)) != name and (state in index or name in GLOBAL)
    ]
    cuts = ((name[:cut], name[cut:]) for cut in range(1, len(name)))
    return found + [Meaning(state, "", target) for state, target in cuts if state in index and target in index]


def _collect(binding: Binding, index: Mapping[str, int]) -> Iterator[Handler]:
    """Find the handlers of a binding, and check each."""
    target, strict = binding.target, binding.strict
    if isinstance(target, Marked):
        for name in dict.fromkeys(target.names):
            yield _checked(name, target.fn, binding, index, target.limit, marked=True)
    elif isinstance(target, Mapping):
        for key, fn in cast("Mapping[object, object]", target).items():
            if not isinstance(key, str):
                raise HandlerError(f"{key!r} of {binding.id} is no name; name handlers as in {{'FooState': function}}")
            bare = key.removeprefix(binding.prefix)
            if key.startswith(binding.prefix) and (strict or _meanings(bare, index)):
                yield _checked(bare, fn, binding, index, None)
    else:
        for attribute in _attributes(target):
            static = inspect.getattr_static(target, attribute)
            marked = _marked(static)
            for name, limit in marked.items():
                yield _checked(name, getattr(target, attribute), binding, index, limit, marked=True)
            bare = attribute.removeprefix(binding.prefix)
            named = attribute.startswith(binding.prefix) and bare[:1].isupper() and _is_method(static)
            meant = named and (_meanings(bare, index) or (strict and _looks_like_handler(bare, index)))
            if meant and bare not in marked:
                yield _checked(bare, getattr(target, attribute), binding, index, None)


def _attributes(target: object) -> Iterator[str]:
    """Give the names of an object's own and inherited attributes in the order they were defined, base classes first."""
    owners = [*reversed(type(target).__mro__), target]
    names = chain.from_iterable(getattr(owner, "__dict__", ()) for owner in owners)
    return (name for name in dict.fromkeys(names) if not name.startswith("__"))


def _marked(static: object) -> dict[str, int | None]:
    """Give the handler names an attribute is marked with, once each, with their limits."""
    # A mark may stand above or below @staticmethod and @classmethod.
    marks: list[Mark] = [*getattr(getattr(static, "__func__", None), _MARK, ()), *getattr(static, _MARK, ())]
    return {name: mark.limit for mark in marks for name in mark.handler_names()}


def _is_method(static: object) -> bool:
    if isinstance(static, staticmethod | classmethod | partialmethod):
        return True
    return callable(static) and not isinstance(static, type)


def _looks_like_handler(name: str, index: Mapping[str, int]) -> bool:
    """Tell whether a name that fits no state was meant for one."""
    if any(name.endswith(suffix) and name != suffix for suffix in SUFFIXES):
        return True
    return any(name.startswith(state) and name != state for state in (*index, ANY))


def _checked(
    name: str, fn: Any, binding: Binding, index: Mapping[str, int], limit: int | None, *, marked: bool = False
) -> Handler:
    where = f"{name} of {binding.id}"
    meanings = _meanings(name, index)
    if not meanings:
        known = [state + suffix for state in index for suffix in SUFFIXES]
        known += [state + other for state in index if name.startswith(state) for other in index]
        mend = "mark it with names of states" if marked else "rename it, or bind with strict=False"
        hint = did_you_mean(name, [*known, *GLOBAL])
        raise HandlerError(f"{where} is no handler: it fits no state; {mend}{hint}")
    if len(meanings) > 1:
        read = " and as ".join(
            f"the {m.suffix} handler of {m.state}" if m.suffix else f"{m.state}+{m.target}" for m in meanings
        )
        raise HandlerError(f"{where} reads as {read}; rename a state so that only one is left")
    if not callable(fn):
        raise HandlerError(f"{where} must be a function that takes the event, not {fn!r}")
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise HandlerError(f"{where} is a generator and would never run; let it return instead of yield")
    handler = Handler(name, fn, binding.id, limit)
    if handler.is_async and meanings[0].is_negotiation:
        raise HandlerError(
            f"{where} is async, but a negotiation handler must answer at once; make it `def {name}(self, e)`, and do "
            f"the work in `async def {meanings[0].target or meanings[0].state}State`"
        )
    try:
        inspect.signature(fn).bind(None)
    except TypeError as err:
        raise HandlerError(f"{where} must take the event and nothing else, `def {name}(self, e)`: {err}") from None
    except ValueError:
        # Some built-in callables have no signature to look at; they are tried when they are called.
        pass
    return handler
