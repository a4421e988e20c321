"""Handlers: found by name on any object, in a mapping, or by the marks of `am.on`, and checked when they are bound."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, partialmethod
from itertools import chain, count
from types import FunctionType, MethodType
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

from typing_extensions import override

from asyncmachine.errors import HandlerError, did_you_mean
from asyncmachine.marks import Marked, marks_of
from asyncmachine.plans import NO_HANDLERS, HandlerTable
from asyncmachine.schema import ANY, SUFFIXES, Schema

__all__ = ["Handler", "HandlerRegistry", "is_async_callable"]

GLOBAL = (f"{ANY}Enter", f"{ANY}State")
NEGOTIATION = ("Enter", "Exit")


def is_async_callable(fn: Callable[..., object]) -> bool:
    """Tell whether calling it makes a coroutine: an `async def`, an object whose `__call__` is one, a partial."""
    while isinstance(fn, partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)


class Handler:
    """One bound function."""

    __slots__ = ("binding", "fn", "is_async", "limit", "name")

    def __init__(self, name: str, fn: Callable[[Any], Any], binding: str, limit: int | None, *, is_async: bool) -> None:
        self.name: str = name
        self.fn: Callable[[Any], Any] = fn
        self.binding: str = binding
        self.limit: int | None = limit
        self.is_async: bool = is_async

    @override
    def __repr__(self) -> str:
        return f"{self.name} of {self.binding}"


class Meaning(NamedTuple):
    """A way to read a handler's name."""

    state: str
    suffix: str
    target: str | None

    @property
    def is_negotiation(self) -> bool:
        return self.target is not None or self.suffix in NEGOTIATION


class Vocabulary:
    """The names of a schema's states, and what names of handlers mean among them.

    Args:
        names: the names of the states.
    """

    __slots__ = ("_known", "index", "names")

    def __init__(self, names: Sequence[str]) -> None:
        self.names: tuple[str, ...] = tuple(names)
        self.index: dict[str, int] = {name: i for i, name in enumerate(names)}
        self._known: dict[str, Sequence[Meaning]] = {}

    @classmethod
    def of(cls, schema: Schema) -> Vocabulary:
        """Give the one of a schema, which its machines share: they are asked for the same names again and again."""
        known = schema.derived.get(cls)
        if not isinstance(known, cls):
            known = schema.derived[cls] = cls(schema.names)
        return known

    def meanings(self, name: str) -> Sequence[Meaning]:
        """Give all ways to read a handler's name."""
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = tuple(self._read(name))
        return found

    def _read(self, name: str) -> Iterator[Meaning]:
        for suffix in SUFFIXES:
            state = name.removesuffix(suffix)
            if state != name and (state in self.index or name in GLOBAL):
                yield Meaning(state, suffix, None)
        for cut in range(1, len(name)):
            if name[:cut] in self.index and name[cut:] in self.index:
                yield Meaning(name[:cut], "", name[cut:])

    def looks_like_handler(self, name: str) -> bool:
        """Tell whether a name that fits no state was meant for one."""
        if any(name.endswith(suffix) and name != suffix for suffix in SUFFIXES):
            return True
        return any(name.startswith(state) and name != state for state in (*self.names, ANY))

    def closest(self, name: str) -> str:
        """Give the names of handlers closest to a name, as the end of an error."""
        known = [state + suffix for state in self.names for suffix in SUFFIXES]
        known += [state + other for state in self.names if name.startswith(state) for other in self.names]
        return did_you_mean(name, [*known, *GLOBAL])


class Binding(NamedTuple):
    """An object whose handlers are bound, with how to look for them, and those that were found."""

    id: str
    target: object
    prefix: str
    strict: bool
    handlers: tuple[Handler, ...] = ()

    def searched(self, words: Vocabulary) -> Binding:
        """Give the binding with the handlers it has for these states; those it had already stay the same objects."""
        found = tuple(_collect(self, words))
        if not found and self.strict:
            example = f"{words.names[0]}State(self, e)"
            raise HandlerError(
                f"{self.id} has no handler for any of the states; a handler is a method such as {example}"
            )
        if self.handlers:
            # The limits of work are kept by handler, and must hold on.
            olds = [[old for old in self.handlers if old.name == new.name and old.fn == new.fn] for new in found]
            found = tuple([old[0] if old else new for new, old in zip(found, olds, strict=True)])
        return self._replace(handlers=found)


class HandlerRegistry:
    """All bindings of a machine, and what they come to: handlers by name.

    Args:
        schema: the states of the machine.
    """

    __slots__ = ("_bindings", "_words", "table")

    def __init__(self, schema: Schema) -> None:
        self._words = Vocabulary.of(schema)
        self._bindings: dict[str, Binding] = {}
        self.table: HandlerTable = NO_HANDLERS
        """What is bound now: it is made anew, never changed."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all bindings, in binding order."""
        return tuple(self._bindings)

    def bind(self, target: object, id: str | None, prefix: str, *, strict: bool) -> str:
        """Bind an object's handlers; see `Machine.bind_handlers`."""
        if isinstance(target, type):
            raise HandlerError(f"{target.__name__} is a class; bind an instance: {target.__name__}()")
        if id in self._bindings:
            raise HandlerError(f"handlers are bound under the id {id!r} already; detach them first")
        binding = Binding(id or self._new_id(target), target, prefix, strict).searched(self._words)
        self._rebuild([*self._bindings.values(), binding], self._words)
        return binding.id

    def detach(self, id: str) -> None:
        """Detach a binding; see `Machine.detach_handlers`."""
        if id not in self._bindings:
            raise HandlerError(f"no handlers are bound under the id {id!r}{did_you_mean(id, self._bindings)}")
        self._rebuild([binding for binding in self._bindings.values() if binding.id != id], self._words)

    def rebind(self, schema: Schema) -> None:
        """Look all handlers up again, for a schema that has grown."""
        words = Vocabulary.of(schema)
        self._rebuild([binding.searched(words) for binding in self._bindings.values()], words)

    def _new_id(self, target: object) -> str:
        named = getattr(target.fn, "__name__", "") if isinstance(target, Marked) else type(target).__name__
        ids = chain([named], (f"{named}#{number}" for number in count(2)))
        return next(id for id in ids if id not in self._bindings)

    def _rebuild(self, bindings: Iterable[Binding], words: Vocabulary) -> None:
        """Make the table anew."""
        found: dict[str, list[Handler]] = {}
        pairs: dict[int, dict[int, str]] = {}
        selves, index = 0, words.index
        self._words = words
        self._bindings = {binding.id: binding for binding in bindings}
        for handler in chain.from_iterable([binding.handlers for binding in self._bindings.values()]):
            found.setdefault(handler.name, []).append(handler)
            state, _, target = words.meanings(handler.name)[0]
            if target == state:
                selves |= 1 << index[state]
            elif target is not None:
                pairs.setdefault(index[state], {})[index[target]] = handler.name
        named = {
            name: (tuple([h for h in hs if not h.is_async]), tuple([h for h in hs if h.is_async]))
            for name, hs in found.items()
        }
        self.table = HandlerTable(named, pairs, selves) if named else NO_HANDLERS


def _collect(binding: Binding, words: Vocabulary) -> Iterator[Handler]:
    """Find the handlers of a binding, and check each."""
    target = binding.target
    if isinstance(target, Marked):
        for name in dict.fromkeys(target.names):
            yield _checked(name, target.fn, binding, words, target.limit, marked=True)
    elif isinstance(target, Mapping):
        yield from _collect_named(cast("Mapping[object, object]", target), binding, words)
    else:
        yield from _collect_methods(target, binding, words)


def _collect_named(target: Mapping[object, object], binding: Binding, words: Vocabulary) -> Iterator[Handler]:
    for key, fn in target.items():
        if not isinstance(key, str):
            raise HandlerError(f"{key!r} of {binding.id} is no name; name handlers as in {{'FooState': function}}")
        bare = key.removeprefix(binding.prefix)
        if key.startswith(binding.prefix) and (binding.strict or words.meanings(bare)):
            yield _checked(bare, fn, binding, words, None)


def _collect_methods(target: object, binding: Binding, words: Vocabulary) -> Iterator[Handler]:
    prefix, strict = binding.prefix, binding.strict
    for attribute, static in _attributes(target).items():
        if attribute.startswith("__") or not _is_method(static):
            continue
        marked = marks_of(static)
        for name, limit in marked.items():
            yield _checked(name, getattr(target, attribute), binding, words, limit, marked=True)
        bare = attribute.removeprefix(prefix)
        if bare in marked or not attribute.startswith(prefix):
            continue
        if bare[:1].isupper():
            is_meant = bool(words.meanings(bare)) or (strict and words.looks_like_handler(bare))
        else:  # of the states "set" and "up", `upState` is a handler, but `setup` may well be something else
            is_meant = any([meaning.suffix for meaning in words.meanings(bare)])
        if is_meant:
            yield _checked(bare, getattr(target, attribute), binding, words, None)


def _attributes(target: object) -> dict[str, object]:
    """Give an object's own and inherited attributes in the order they were defined, base classes first.

    They are given as they stand in the classes, for looking at an attribute may run code of the user's.
    """
    found: dict[str, object] = {}
    for owner in (*reversed(type(target).__mro__), target):
        found.update(getattr(owner, "__dict__", ()))
    return found


def _is_method(static: object) -> bool:
    if isinstance(static, FunctionType | staticmethod | classmethod | partialmethod):
        return True
    return callable(static) and not isinstance(static, type)


def _checked(
    name: str, fn: Any, binding: Binding, words: Vocabulary, limit: int | None, *, marked: bool = False
) -> Handler:
    where = f"{name} of {binding.id}"
    meanings = words.meanings(name)
    if not meanings:
        mend = "mark it with names of states" if marked else "rename it, or bind with strict=False"
        raise HandlerError(f"{where} is no handler: it fits no state; {mend}{words.closest(name)}")
    if len(meanings) > 1:
        read = " and as ".join(
            f"the {m.suffix} handler of {m.state}" if m.suffix else f"{m.state}+{m.target}" for m in meanings
        )
        raise HandlerError(f"{where} reads as {read}; rename a state so that only one is left")
    is_async = _checked_function(fn, name, where)
    if is_async and meanings[0].is_negotiation:
        raise HandlerError(
            f"{where} is async, but a negotiation handler must answer at once; make it `def {name}(self, e)`, and do "
            f"the work in `async def {meanings[0].target or meanings[0].state}State`"
        )
    return Handler(name, fn, binding.id, limit, is_async=is_async)


_METHODS: WeakKeyDictionary[FunctionType, bool] = WeakKeyDictionary()
"""Functions that were found good as methods, and whether they are `async`: looking at a signature takes its time, and
a class of handlers is bound to many machines."""


def _checked_function(fn: Any, name: str, where: str) -> bool:
    """Refuse what cannot be called as a handler; tell whether it is `async`."""
    method = fn.__func__ if isinstance(fn, MethodType) and isinstance(fn.__func__, FunctionType) else None
    if method is not None:
        known = _METHODS.get(method)
        if known is not None:
            return known
    if not callable(fn):
        raise HandlerError(f"{where} must be a function that takes the event, not {fn!r}")
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise HandlerError(f"{where} is a generator and would never run; let it return instead of yield")
    is_async = is_async_callable(fn)
    try:
        inspect.signature(fn).bind(None)
    except TypeError as err:
        raise HandlerError(f"{where} must take the event and nothing else, `def {name}(self, e)`: {err}") from None
    except ValueError:
        # Some built-in callables have no signature to look at; they are tried when they are called.
        pass
    if method is not None:
        _METHODS[method] = is_async
    return is_async
