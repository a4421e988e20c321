"""Every example in a docstring does what it says, and everything public has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import asyncmachine as am

PARSER = doctest.DocTestParser()


def modules() -> Iterator[types.ModuleType]:
    yield am
    for info in pkgutil.walk_packages(am.__path__, "asyncmachine."):
        if not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def documented() -> dict[str, Any]:
    """Give all documented objects by name: modules, what they export, and the members of the classes among that.

    Finders that go by `__module__` pass over most of it, for public objects say they come from the package itself.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for module in modules():
        found[module.__name__] = module
        for name in getattr(module, "__all__", ()) if module is not am else ():
            value = getattr(module, name)
            if id(value) in seen or not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            seen.add(id(value))
            found[f"{module.__name__}.{name}"] = value
            found |= {f"{module.__name__}.{name}.{attribute}": of for attribute, of in members(value) if of.__doc__}
    return found


def members(value: Any) -> Iterator[tuple[str, Any]]:
    """Give the public methods and properties that a class itself defines."""
    for name, member in vars(value).items() if inspect.isclass(value) else ():
        if not name.startswith("_") and isinstance(member, property | classmethod | staticmethod | types.FunctionType):
            yield name, member


DOCUMENTED = documented()
EXAMPLES = {name: found for name, value in DOCUMENTED.items() if (found := PARSER.get_examples(value.__doc__ or ""))}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}, "Baz": {}})
    # Whatever an example needs, it says; only these three stand in for a user's own.
    namespace = {"am": am, "anyio": anyio, "mach": mach}
    example = doctest.DocTest(EXAMPLES[name], namespace, name, None, None, DOCUMENTED[name].__doc__)
    told: list[str] = []
    failed, attempted = doctest.DocTestRunner(verbose=False).run(example, out=told.append)
    assert attempted == len(EXAMPLES[name])
    assert not failed, "".join(told)


def test_the_examples_are_found() -> None:
    assert len(EXAMPLES) > 150
    assert {
        "asyncmachine",
        "asyncmachine.clock.Time.of_active",
        "asyncmachine.mutation.Result.reason",
        "asyncmachine.declaring.States.states",
        "asyncmachine.waits.wait_any",
    } <= set(EXAMPLES)


# Whoever implements or overrides these needs no example of a call; the machine makes the calls.
CALLED_BY_THE_MACHINE = {am.Tracer, am.Watchdog, am.Resolver}
PLUMBING = {"Mutation.finish", "Mutation.when_done", "Work.ended", "Work.finish"}


def public() -> Iterator[tuple[str, Any]]:
    """Give the functions, and the methods that classes have or inherit, of the package's own names."""
    for name in am.__all__:
        value = getattr(am, name)
        if inspect.isfunction(value):
            yield name, value
        # What is abstract is shown where it is implemented.
        if not inspect.isclass(value) or value in CALLED_BY_THE_MACHINE or inspect.isabstract(value):
            continue
        own = [base for base in value.__mro__ if base.__module__.startswith("asyncmachine")]
        for attribute in {attribute: None for base in own for attribute, _ in members(base)}:
            method = getattr(value, attribute)
            if inspect.isroutine(method) and f"{name}.{attribute}" not in PLUMBING:
                yield f"{name}.{attribute}", method


def test_what_needs_no_example_is_still_there_and_has_none() -> None:
    for name in PLUMBING:
        owner, method = name.split(".")
        assert not PARSER.get_examples(getattr(getattr(am, owner), method).__doc__)


PUBLIC = {**dict(public()), **{f"on.{name}": getattr(am.on, name) for name, _ in members(type(am.on))}}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_and_method_has_an_example_or_names_one_that_has(name: str) -> None:
    doc = inspect.getdoc(PUBLIC[name]) or ""
    if not PARSER.get_examples(doc):
        named = re.search(r"[Ss]ee `(?:(\w+)\.)?(\w+)`", doc)
        assert named, doc
        owner = named[1] or name.partition(".")[0]
        shown = getattr(getattr(am, owner), named[2])
        assert PARSER.get_examples(inspect.getdoc(shown) or ""), f"{named[0]} has none"
