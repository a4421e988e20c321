"""Requests: looked up once, and not kept without end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import asyncmachine as am
from asyncmachine.requests import Requests


def test_one_list_of_states_is_one_request() -> None:
    requests = Requests(am.Schema({"A": {}, "B": {"multi": True}}))
    add = am.MutationType.ADD
    assert requests.of(add, "A") is requests.of(add, ["A"])
    assert requests.of(add, ["A", "B", "A"]) is requests.of(add, ("A", "B"))
    assert requests.of(add, ["A", "B"]) is not requests.of(add, ["B", "A"])
    assert requests.of(add, "A") is not requests.of(am.MutationType.SET, "A")


def test_requests_are_forgotten_when_they_are_too_many() -> None:
    requests = Requests(am.Schema({"A": {}, "B": {}}), bound=2)
    add = am.MutationType.ADD
    first = requests.of(add, ("A",))
    requests.of(add, ("B",))
    requests.of(add, ("A", "B"))
    assert requests.of(add, ("A",)) is not first
    assert requests.of(add, ("A",)).names == first.names


def test_states_given_by_what_can_be_read_but_once_are_read_but_once() -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}})
    names: Any = iter(["Foo", "Bar"])
    assert mach.add1(names).executed
    assert str(mach) == "(Foo:1 Bar:1)"


def test_an_error_of_what_gives_the_states_is_not_lost() -> None:
    def give() -> Iterator[str]:
        yield "Foo"
        raise TypeError("mine")

    mach = am.Machine({"Foo": {}})
    names: Any = give()
    with pytest.raises(TypeError, match="mine"):
        mach.add1(names)
    assert str(mach) == "()"


@pytest.mark.parametrize("states", [5, None, b"Foo".__len__])
def test_what_names_no_states_is_refused(states: Any) -> None:
    mach = am.Machine({"Foo": {}})
    with pytest.raises(TypeError, match="states are given by name, one or several in a list, not ") as caught:
        mach.add1(states)
    assert caught.value.__suppress_context__


def test_an_unknown_state_is_an_error_of_its_own() -> None:
    with pytest.raises(am.UnknownStateError) as caught:
        am.Machine({"Foo": {}}).add1("Fooo")
    assert caught.value.__suppress_context__
