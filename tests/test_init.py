"""The public names: complete, in order, importable, and told by where users import them from."""

from __future__ import annotations

import inspect
import pickle
import types
from collections.abc import Iterator
from typing import Any

import pytest

import asyncmachine as am
from asyncmachine import errors

CLASSES_AND_FUNCTIONS = [
    name for name in am.__all__ if inspect.isclass(getattr(am, name)) or inspect.isfunction(getattr(am, name))
]
CLASSES = [name for name in CLASSES_AND_FUNCTIONS if inspect.isclass(getattr(am, name))]


def members() -> Iterator[tuple[str, Any]]:
    """Give all public methods and properties, of our own classes and those they inherit from."""
    for name in CLASSES:
        cls = getattr(am, name)
        for attribute in dir(cls):
            if attribute.startswith("_"):
                continue
            value = inspect.getattr_static(cls, attribute)
            value = getattr(value, "__func__", value)
            owner = next(base for base in cls.__mro__ if attribute in vars(base))
            if owner.__module__.split(".")[0] == "asyncmachine" and isinstance(value, property | types.FunctionType):
                yield f"{name}.{attribute}", value


MEMBERS = dict(members())


def test_all_holds_every_public_name_once_and_nothing_else() -> None:
    public = {name for name, value in vars(am).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert set(am.__all__) == public - {"annotations"}  # that one is of `from __future__`
    assert len(am.__all__) == len(set(am.__all__))


def test_all_is_sorted_constants_first_then_classes_then_functions() -> None:
    def key(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

    assert am.__all__ == sorted(am.__all__, key=key)


@pytest.mark.parametrize("name", am.__all__)
def test_each_public_name_can_be_imported(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"from asyncmachine import {name}", namespace)  # noqa: S102 - just this is what users write
    assert namespace[name] is getattr(am, name)


def test_a_star_imports_just_these() -> None:
    namespace: dict[str, Any] = {}
    exec("from asyncmachine import *", namespace)  # noqa: S102
    assert set(namespace) - {"__builtins__"} == set(am.__all__)


@pytest.mark.parametrize("name", CLASSES_AND_FUNCTIONS)
def test_each_public_name_says_where_it_is_imported_from(name: str) -> None:
    value = getattr(am, name)
    assert value.__module__ == "asyncmachine"
    assert value.__qualname__ == name


def test_public_classes_are_pickled_by_that_name() -> None:
    source = am.Source("door", "1.1", 3)
    pickled = pickle.dumps(source, protocol=4)
    assert b"asyncmachine\x94\x8c\x06Source" in pickled
    assert pickle.loads(pickled) == source  # noqa: S301 - it was pickled here


def test_every_error_is_public_and_of_one_tree() -> None:
    found = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert found == {name for name in am.__all__ if name.endswith("Error")}
    assert all(issubclass(getattr(am, name), am.AsyncMachineError) for name in found)


@pytest.mark.parametrize("name", CLASSES_AND_FUNCTIONS)
def test_each_public_class_and_function_has_a_docstring(name: str) -> None:
    assert getattr(am, name).__doc__


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_each_public_method_and_property_has_a_docstring(name: str) -> None:
    owner, attribute = name.split(".")
    assert inspect.getdoc(getattr(getattr(am, owner), attribute, None)) or MEMBERS[name].__doc__


@pytest.mark.parametrize("name", [*CLASSES_AND_FUNCTIONS, *sorted(MEMBERS)])
def test_each_docstring_begins_with_one_whole_sentence(name: str) -> None:
    value = MEMBERS[name] if name in MEMBERS else getattr(am, name)
    doc = inspect.getdoc(value)
    if doc:  # what is overridden may leave it to what it overrides
        summary = doc.splitlines()[0]
        assert summary[0].isupper() or summary.startswith("`")
        assert summary.endswith(".")


def test_the_package_itself_is_documented() -> None:
    assert am.__doc__ is not None
    assert am.__doc__.splitlines()[0] == "An asyncio-native state machine."
