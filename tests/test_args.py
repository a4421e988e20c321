"""Args: what may be one, and how it comes to the handlers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest

import asyncmachine as am


@dataclasses.dataclass
class Data:
    addr: str
    port: int = 80
    retry: dataclasses.InitVar[int] = 3
    scheme: ClassVar[str] = "tcp"


@dataclasses.dataclass(frozen=True, slots=True)
class SlottedData:
    addr: str
    port: int = 80


@dataclasses.dataclass
class NeedyData:
    addr: str
    port: dataclasses.InitVar[int]


@attrs.frozen
class Attrs:
    addr: str
    port: int = 80


class Struct(msgspec.Struct):
    addr: str
    port: int = 80


class Model(pydantic.BaseModel):
    addr: str
    port: int = 80


@pydantic.dataclasses.dataclass
class ModelData:
    addr: str
    port: int = 80


class Tupled(NamedTuple):
    addr: str


@dataclasses.dataclass
class Nothing:
    pass


def handled(args: Any) -> am.Event:
    """Give the event of a handler called with these args."""
    events: list[am.Event] = []
    mach = am.Machine({"Foo": {}}, handlers={"FooState": events.append})
    assert mach.add1("Foo", args).executed
    return events[0]


@pytest.mark.parametrize("kind", [Data, SlottedData, Attrs, Struct, Model, ModelData])
def test_typed_args_come_back_as_they_are_and_as_a_mapping(kind: Any) -> None:
    given_args = kind(addr=":5555")
    event = handled(given_args)
    assert event.arg(kind) is given_args
    assert event.args == {"addr": ":5555", "port": 80}
    assert isinstance(event.args, Mapping)


def test_only_the_fields_of_a_dataclass_are_args() -> None:
    assert handled(NeedyData(":5555", port=80)).args == {"addr": ":5555"}


def test_typed_args_without_fields_are_args_too() -> None:
    event = handled(Nothing())
    assert event.arg(Nothing) == Nothing()
    assert event.args == {}


def test_typed_args_are_found_by_their_base_class() -> None:
    class Special(Data):
        pass

    special = Special(":5555")
    assert handled(special).arg(Data) is special


@pytest.mark.parametrize("mapping", [{"addr": 1}, MappingProxyType({"addr": 1})])
def test_a_mapping_comes_as_it_is(mapping: Mapping[str, Any]) -> None:
    assert handled(mapping).args == {"addr": 1}


@pytest.mark.parametrize("empty", [None, {}])
def test_without_args_the_mapping_is_empty(empty: Any) -> None:
    assert handled(empty).args == {}


@pytest.mark.parametrize(
    ("args", "has"),
    [
        (None, "None"),
        ({"b": 1, "a": 2}, "a mapping with ['a', 'b']"),
        (SlottedData(":1"), "SlottedData(addr=':1', port=80)"),
    ],
)
def test_asking_for_typed_args_that_were_not_given_says_what_was(args: Any, has: str) -> None:
    text = f"this mutation carries no Data, but {has}; pass it along: mach.add(['Foo'], Data(...))"
    event = handled(args)
    with pytest.raises(am.ArgsError, match=f"^{re.escape(text)}$"):
        event.arg(Data)


@pytest.mark.parametrize("wrong", [5, "text", [("k", 1)], ("k",), Tupled(":1"), object, Data, Model, b"k", {"k"}])
def test_args_of_other_kinds_are_refused(wrong: Any) -> None:
    mach = am.Machine({"Foo": {}})
    text = (
        "args are a mapping or one instance of a dataclass, attrs, msgspec or pydantic class, "
        f'not {wrong!r}; write {{"name": value}}'
    )
    with pytest.raises(am.ArgsError, match=f"^{re.escape(text)}$"):
        mach.add1("Foo", wrong)
    assert mach.not1("Foo")


def test_args_of_other_kinds_are_refused_with_errors_too() -> None:
    mach = am.Machine({"Foo": {}})
    with pytest.raises(am.ArgsError, match="not 5; write"):
        mach.add_err(ValueError("no fuel"), 5)
    assert not mach.is_err
