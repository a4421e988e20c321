"""The surface that a local and a remote machine share, and what watches machines."""

from __future__ import annotations

import inspect
from typing import Any, cast

import pytest

import asyncmachine as am

MUTATIONS = "add add1 remove remove1 set toggle toggle1 add_err add_err_state can_add can_add1 can_remove can_remove1"
CHECKS = "is_ is1 not_ not1 any any1 has has1 is_err err is_time was_time is_clock was_clock"
QUEUE = "will_be will_be1 will_be_removed will_be_removed1 is_queued is_queued_above"
WAITS = (
    "when when1 when_not when_not1 when_args when_time when_time1 when_ticks when_next_active when_query when_err "
    "when_queue when_queue_ends when_disposed expect"
)
GETTERS = (
    "state_names active_states tick clock time queue_tick machine_tick queue_len schema switch groups index index1 "
    "string_all inspect id parent_id tags transition"
)
REST = (
    "state_ctx bind_handlers detach_handlers handlers bind_tracer detach_tracer tracers on_error on_change on_dispose "
    "export add_breakpoint log dispose is_disposed"
)
SHARED = f"{MUTATIONS} {CHECKS} {QUEUE} {WAITS} {GETTERS} {REST}".split()

TRACED = [
    "transition_init",
    "transition_start",
    "transition_finals",
    "transition_end",
    "mutation_queued",
    "handler_start",
    "handler_end",
    "machine_init",
    "machine_dispose",
    "new_submachine",
    "queue_end",
    "schema_change",
    "inheritable",
]


# MachineApi.


@pytest.mark.parametrize("name", SHARED)
def test_every_shared_name_is_in_machine_api_and_documented(name: str) -> None:
    member = getattr(am.MachineApi, name)
    assert isinstance(member, property) or inspect.isfunction(member)
    assert inspect.getdoc(getattr(am.Machine, name))


def test_machine_api_cannot_be_instantiated() -> None:
    with pytest.raises(TypeError, match="abstract class MachineApi"):
        cast("Any", am.MachineApi)()


def make(missing: str | None = None) -> type[am.MachineApi]:
    """Make a class with all of the abstract members but one."""
    members = {name: lambda self: None for name in am.MachineApi.__abstractmethods__ if name != missing}
    return cast("type[am.MachineApi]", type("Remote", (am.MachineApi,), members))


@pytest.mark.parametrize("name", sorted(am.MachineApi.__abstractmethods__))
def test_an_implementation_needs_each_abstract_member(name: str) -> None:
    assert isinstance(make()(), am.MachineApi)
    with pytest.raises(TypeError, match=f"abstract method '?{name}"):
        make(name)()


def test_an_implementation_decides_only_what_is_abstract() -> None:
    asked: list[tuple[Any, ...]] = []

    class Remote(make()):  # type: ignore[misc]
        def _mutate(self, type_: Any, states: Any, args: Any, source: Any, *check: Any) -> am.Result:
            asked.append((str(type_), states, args, source, any(check)))
            return am.Result.EXECUTED

        def is_(self, *states: Any) -> bool:
            return True

    remote = Remote()
    source = am.Source("other", "1.7", 42)
    assert remote.add(["Foo", "Bar"], {"id": 1}, source=source) == am.Result.EXECUTED
    remote.remove1("Foo")
    remote.can_add("Foo", "Bar")
    remote.toggle1("Foo")
    assert asked == [
        ("add", ("Foo", "Bar"), {"id": 1}, source, False),
        ("remove", "Foo", None, None, False),
        ("add", ("Foo", "Bar"), None, None, True),
        ("remove", "Foo", None, None, False),
    ]


def test_a_machine_is_a_machine_api() -> None:
    assert isinstance(am.Machine({"Foo": {}}), am.MachineApi)
    assert not am.Machine.__abstractmethods__


# Tracer.


def test_a_tracer_has_just_the_methods_that_are_told_of_something() -> None:
    assert [name for name in vars(am.Tracer) if not name.startswith("_")] == TRACED


@pytest.mark.parametrize("name", [name for name in TRACED if name != "inheritable"])
def test_a_method_that_is_not_overridden_does_nothing(name: str) -> None:
    method = getattr(am.Tracer(), name)
    details = [object() for _ in inspect.signature(method).parameters]
    assert details
    assert method(*details) is None


def test_a_tracer_is_not_inherited_unless_it_says_so() -> None:
    class Inherited(am.Tracer):
        def inheritable(self) -> bool:
            return True

    assert am.Tracer().inheritable() is False
    plain, inherited = am.Tracer(), Inherited()
    parent = am.Machine({"Foo": {}}, tracers=[plain, inherited])
    assert am.Machine({"Foo": {}}, parent=parent).tracers == (inherited,)


def test_a_plain_tracer_changes_nothing() -> None:
    class Handlers:
        def FooEnter(self, e: am.Event) -> None:
            calls.append(e.name)

        def FooState(self, e: am.Event) -> None:
            calls.append(e.name)
            e.machine.add1("Bar")

    calls: list[str] = []
    machines: list[am.Machine] = []
    for tracers in ([], [am.Tracer(), am.Tracer()]):
        mach = am.Machine({"Foo": {}, "Bar": {}}, handlers=Handlers(), tracers=tracers)
        child = am.Machine({"Foo": {}}, parent=mach)
        mach.add1("Foo")
        mach.set_schema({"Foo": {}, "Bar": {}, "Baz": {}})
        mach.remove1("Foo")
        assert mach.tracers == tuple(tracers)
        machines += [mach, child]
        mach.dispose()
    assert calls == ["FooEnter", "FooState"] * 2
    assert machines[0].time() == machines[2].time() == (2, 1, 0, 0)
    assert all(mach.is_disposed for mach in machines)
