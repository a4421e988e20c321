"""Tracers: every event in its order, and that none of them can disturb the machine it watches."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from typing_extensions import override

import asyncmachine as am


class Boom(Exception):  # noqa: N818 - what a tracer or a handler raises here
    """Raised on purpose."""


def nothing(e: am.Event) -> None:
    """Do nothing."""


class Recorder(am.Tracer):
    """Writes down every event it is told of."""

    def __init__(self, *, inherited: bool = False) -> None:
        self.events: list[str] = []
        self.inherited = inherited

    @override
    def transition_init(self, transition: am.Transition[Any]) -> None:
        self.events.append(f"init {transition.type} {' '.join(transition.called_states)}")

    @override
    def transition_start(self, transition: am.Transition[Any]) -> None:
        self.events.append("start")

    @override
    def transition_finals(self, transition: am.Transition[Any]) -> None:
        self.events.append(f"finals {transition.machine}")

    @override
    def transition_end(self, transition: am.Transition[Any]) -> None:
        self.events.append(f"end {'accepted' if transition.is_accepted else 'canceled'} {transition.machine}")

    @override
    def mutation_queued(self, machine: am.MachineApi, mutation: am.Mutation) -> None:
        self.events.append(f"queued {mutation!r} on {machine.id}")

    @override
    def handler_start(self, transition: am.Transition[Any], binding: str, handler: str) -> None:
        self.events.append(f"{handler} of {binding} starts")

    @override
    def handler_end(self, transition: am.Transition[Any], binding: str, handler: str) -> None:
        self.events.append(f"{handler} of {binding} ends")

    @override
    def machine_init(self, machine: am.MachineApi) -> None:
        self.events.append(f"built {machine.id}")

    @override
    def machine_dispose(self, machine: am.MachineApi) -> None:
        self.events.append(f"disposed {machine.id}: {machine.is_disposed}")

    @override
    def new_submachine(self, parent: am.MachineApi, machine: am.MachineApi) -> None:
        self.events.append(f"{parent.id} has {machine.id}")

    @override
    def queue_end(self, machine: am.MachineApi) -> None:
        self.events.append("queue ends")

    @override
    def schema_change(self, machine: am.MachineApi, old: am.Schema) -> None:
        self.events.append(f"{' '.join(old.names)} becomes {' '.join(machine.state_names)}")

    @override
    def inheritable(self) -> bool:
        return self.inherited

    def take(self) -> list[str]:
        """Give the events since the last call."""
        taken, self.events = self.events, []
        return taken


# The events, in order.


def test_an_accepted_transition_tells_of_each_of_its_steps() -> None:
    recorder = Recorder()
    mach = am.Machine({"Foo": {}, "Old": {}}, id="mach", tracers=[recorder])
    assert recorder.take() == ["built mach"]
    mach.add1("Old")
    mach.bind_handlers(dict.fromkeys(["FooEnter", "OldEnd", "FooState"], nothing), id="first")
    mach.bind_handlers({"FooEnter": nothing}, id="second")
    recorder.take()
    mach.set(["Foo"])
    assert recorder.take() == [
        "queued <Mutation [set] Foo> on mach",
        "init set Foo",
        "start",
        "FooEnter of first starts",
        "FooEnter of first ends",
        "FooEnter of second starts",
        "FooEnter of second ends",
        "finals (Foo:1)",
        "OldEnd of first starts",
        "OldEnd of first ends",
        "FooState of first starts",
        "FooState of first ends",
        "end accepted (Foo:1)",
        "queue ends",
    ]


def test_a_refused_and_a_vetoed_transition_end_canceled_without_finals() -> None:
    recorder = Recorder()
    mach = am.Machine({"Foo": {}, "Needy": {"require": ["Foo"]}}, id="mach", tracers=[recorder])
    mach.bind_handlers({"FooEnter": lambda e: False}, id="guard")
    recorder.take()
    mach.add1("Needy")
    assert recorder.take() == [
        "queued <Mutation [add] Needy> on mach",
        "init add Needy",
        "start",
        "end canceled ()",
        "queue ends",
    ]
    mach.add1("Foo")
    assert recorder.take() == [
        "queued <Mutation [add] Foo> on mach",
        "init add Foo",
        "start",
        "FooEnter of guard starts",
        "FooEnter of guard ends",
        "end canceled ()",
        "queue ends",
    ]


def test_a_check_is_told_of_without_finals() -> None:
    recorder = Recorder()
    mach = am.Machine({"Foo": {}}, id="mach", tracers=[recorder], handlers={"FooEnter": nothing, "FooState": nothing})
    recorder.take()
    mach.can_add1("Foo")
    assert recorder.take() == [
        "queued <Mutation [add:check] Foo> on mach",
        "init add Foo",
        "start",
        "FooEnter of dict starts",
        "FooEnter of dict ends",
        "end accepted ()",
        "queue ends",
    ]


def test_a_failing_handler_ends_and_its_error_and_the_auto_states_follow() -> None:
    recorder = Recorder()
    mach = am.Machine({"Foo": {}, "Auto": {"auto": True, "require": ["Exception"]}}, id="mach")

    def fail(e: am.Event) -> None:
        raise Boom

    mach.bind_handlers({"FooState": fail}, id="fails")
    mach.bind_tracer(recorder)
    mach.add1("Foo")
    assert recorder.take() == [
        "queued <Mutation [add] Foo> on mach",
        "init add Foo",
        "start",
        "finals (Foo:1)",
        "FooState of fails starts",
        "FooState of fails ends",
        "queued <Mutation [add] Exception> on mach",
        "end canceled ()",
        "init add Exception",
        "start",
        "finals (Exception:1)",
        "queued <Mutation [add:auto] Auto> on mach",
        "end accepted (Exception:1)",
        "init add Auto",
        "start",
        "finals (Auto:1 Exception:1)",
        "end accepted (Auto:1 Exception:1)",
        "queue ends",
    ]


def test_an_interrupted_transition_ends_canceled() -> None:
    recorder = Recorder()
    mach = am.Machine({"Foo": {}}, id="mach")

    def interrupt(e: am.Event) -> None:
        raise KeyboardInterrupt

    mach.bind_handlers({"FooState": interrupt}, id="stops")
    mach.bind_tracer(recorder)
    with pytest.raises(KeyboardInterrupt):
        mach.add1("Foo")
    assert recorder.take()[:7] == [
        "queued <Mutation [add] Foo> on mach",
        "init add Foo",
        "start",
        "finals (Foo:1)",
        "FooState of stops starts",
        "FooState of stops ends",
        "end canceled ()",
    ]


def test_the_queue_ends_once_for_all_that_a_call_led_to() -> None:
    recorder = Recorder()
    mach = am.Machine({"Foo": {}, "Bar": {}}, id="mach", handlers={"FooState": lambda e: e.machine.add1("Bar")})
    mach.bind_tracer(recorder)
    mach.add1("Foo")
    events = recorder.take()
    assert events.count("queue ends") == 1
    assert events[-1] == "queue ends"
    assert "queued <Mutation [add] Bar> on mach" in events


def test_what_needs_no_place_in_the_queue_is_not_told_of() -> None:
    recorder = Recorder()
    mach = am.Machine({"Foo": {}, "Bar": {}, "Baz": {}}, id="mach")

    def foo_state(e: am.Event) -> None:
        e.machine.remove1("Bar")
        e.machine.add1("Baz")
        e.machine.add1("Baz")

    mach.bind_handlers({"FooState": foo_state})
    mach.bind_tracer(recorder)
    mach.add1("Foo")
    queued = [event for event in recorder.take() if event.startswith("queued")]
    assert queued == ["queued <Mutation [add] Foo> on mach", "queued <Mutation [add] Baz> on mach"]


def test_a_submachine_is_told_to_the_tracers_of_its_parent() -> None:
    recorder = Recorder()
    parent = am.Machine({"Foo": {}}, id="parent", tracers=[recorder])
    recorder.take()
    child = am.Machine({"Foo": {}}, id="child", parent=parent)
    child.add1("Foo")
    assert recorder.take() == ["parent has child"]
    assert child.tracers == ()


def test_an_inheritable_tracer_watches_submachines_and_theirs_too() -> None:
    recorder = Recorder(inherited=True)
    plain = Recorder()
    parent = am.Machine({"Foo": {}}, id="parent", tracers=[plain, recorder])
    child = am.Machine({"Foo": {}}, id="child", parent=parent)
    grandchild = am.Machine({"Foo": {}}, id="grandchild", parent=child)
    assert child.tracers == grandchild.tracers == (recorder,)
    assert recorder.take() == [
        "built parent",
        "built child",
        "parent has child",
        "built grandchild",
        "child has grandchild",
    ]
    recorder.take()
    grandchild.add1("Foo")
    assert recorder.take()[0] == "queued <Mutation [add] Foo> on grandchild"
    assert plain.take() == ["built parent", "parent has child"]


def test_an_inherited_tracer_given_again_watches_once() -> None:
    recorder = Recorder(inherited=True)
    parent = am.Machine({"Foo": {}}, id="parent", tracers=[recorder])
    child = am.Machine({"Foo": {}}, id="child", parent=parent, tracers=[recorder])
    assert child.tracers == (recorder,)


def test_a_new_schema_is_told_with_the_one_before() -> None:
    recorder = Recorder()
    mach = am.Machine({"Foo": {}}, tracers=[recorder])
    recorder.take()
    mach.set_schema({"Foo": {}, "Exception": {"multi": True}, "Bar": {}})
    assert recorder.take() == ["Foo Exception becomes Foo Exception Bar"]


def test_the_end_of_a_machine_is_told_once() -> None:
    recorder = Recorder()
    mach = am.Machine({"Foo": {}}, id="mach", tracers=[recorder])
    recorder.take()
    mach.dispose()
    mach.dispose()
    assert recorder.take() == ["disposed mach: True"]


# Binding.


def test_tracers_are_told_in_the_order_they_were_bound() -> None:
    order: list[str] = []

    class Named(am.Tracer):
        def __init__(self, name: str) -> None:
            self.name = name

        @override
        def transition_end(self, transition: am.Transition[Any]) -> None:
            order.append(self.name)

    mach = am.Machine({"Foo": {}}, tracers=[Named("first"), Named("second")])
    mach.bind_tracer(Named("third"))
    mach.add1("Foo")
    assert order == ["first", "second", "third"]


def test_a_detached_tracer_is_told_nothing_more() -> None:
    recorder, stays = Recorder(), Recorder()
    mach = am.Machine({"Foo": {}}, tracers=[recorder, stays])
    mach.detach_tracer(recorder)
    mach.detach_tracer(recorder)  # not bound: no error
    assert mach.tracers == (stays,)
    recorder.take()
    mach.add1("Foo")
    assert recorder.take() == []
    mach.detach_tracer(stays)
    assert mach.tracers == ()
    stays.take()
    mach.remove1("Foo")
    assert stays.take() == []


def test_tracers_are_compared_by_identity() -> None:
    class Equal(Recorder):
        @override
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        __hash__ = None  # type: ignore[assignment]

    class FailingEqual(Equal):
        @override
        def transition_init(self, transition: am.Transition[Any]) -> None:
            raise Boom

    first, second, failing = Equal(), Equal(), FailingEqual()
    mach = am.Machine({"Foo": {}})
    for tracer in (first, second, failing):
        mach.bind_tracer(tracer)
    mach.detach_tracer(second)
    mach.add1("Foo")
    assert second.events == []
    assert failing.events == ["queued <Mutation [add] Foo> on " + mach.id]
    assert first.events[-1] == "queue ends"


def test_the_text_log_is_none_of_the_tracers() -> None:
    recorder = Recorder()
    mach = am.Machine({"Foo": {}}, tracers=[recorder], log_level="everything")
    assert mach.tracers == (recorder,)
    mach.detach_tracer(recorder)
    assert mach.tracers == ()
    assert mach.log_level == am.LogLevel.EVERYTHING


def test_a_tracer_bound_by_a_handler_is_told_of_the_next_transition() -> None:
    recorder = Recorder()
    mach = am.Machine({"Foo": {}, "Bar": {}}, id="mach")
    mach.bind_handlers({"FooEnter": lambda e: mach.bind_tracer(recorder), "FooState": lambda e: mach.add1("Bar")})
    mach.add1("Foo")
    events = recorder.take()
    assert events[events.index("init add Bar") :] == [
        "init add Bar",
        "start",
        "finals (Foo:1 Bar:1)",
        "end accepted (Foo:1 Bar:1)",
        "queue ends",
    ]


def test_a_tracer_bound_by_a_negotiation_handler_is_told_of_the_final_handlers() -> None:
    watcher = Recorder()
    mach = am.Machine({"Foo": {}})
    mach.bind_handlers({"FooEnter": lambda e: mach.bind_tracer(watcher), "FooState": lambda e: None})
    mach.add1("Foo")
    assert watcher.take() == [
        "finals (Foo:1)",
        "FooState of dict starts",
        "FooState of dict ends",
        "end accepted (Foo:1)",
        "queue ends",
    ]


def test_tracers_and_the_callback_for_changes_come_and_go_without_each_other() -> None:
    recorder = Recorder()
    changes: list[am.Time] = []
    mach = am.Machine({"Foo": {}, "Bar": {}})
    mach.bind_tracer(recorder)
    mach.on_change(lambda machine, before, after: changes.append(after))
    mach.on_change(None)
    mach.add1("Foo")
    assert "end accepted (Foo:1)" in recorder.take()
    mach.on_change(lambda machine, before, after: changes.append(after))
    mach.detach_tracer(recorder)
    mach.add1("Bar")
    assert changes == [(1, 1, 0)]
    assert recorder.take() == []


def test_a_tracer_is_told_of_the_ends_of_states_that_fall() -> None:
    def fail(e: am.Event) -> None:
        raise Boom("boom")

    mach = am.Machine({"Base": {"multi": True}, "Top": {"require": ["Base"]}})
    mach.add(["Base", "Top"])
    watcher = Recorder()
    mach.bind_tracer(watcher)
    mach.bind_handlers({"BaseState": fail, "TopEnd": nothing}, id="own")
    mach.add1("Base")
    events = watcher.take()
    assert [event for event in events if " of own " in event] == [
        "BaseState of own starts",
        "BaseState of own ends",
        "TopEnd of own starts",
        "TopEnd of own ends",
    ]


def test_a_tracer_that_does_nothing_is_told_of_everything() -> None:
    tracer = am.Tracer()
    parent = am.Machine({"Foo": {}}, tracers=[tracer], handlers={"FooState": nothing})
    child = am.Machine({"Foo": {}}, parent=parent)
    assert parent.add1("Foo").executed
    assert child.tracers == ()
    parent.set_schema({"Foo": {}, "Exception": {"multi": True}, "Bar": {}})
    parent.dispose()
    assert parent.is_disposed


def test_a_machine_without_tracers_has_none_and_works() -> None:
    mach = am.Machine({"Foo": {}}, handlers={"FooState": nothing})
    assert mach.tracers == ()
    assert mach.add1("Foo").executed


def test_a_mutation_made_by_a_tracer_is_queued() -> None:
    results: list[am.Result] = []

    class Asking(am.Tracer):
        @override
        def transition_end(self, transition: am.Transition[Any]) -> None:
            if not results:
                results.append(transition.machine.add1("Bar"))

    mach = am.Machine({"Foo": {}, "Bar": {}}, tracers=[Asking()])
    mach.add1("Foo")
    assert results[0].queued
    assert str(mach) == "(Foo:1 Bar:1)"


# Tracers that raise.

EVENTS = [name for name in vars(am.Tracer) if not name.startswith("_") and name != "inheritable"]


class Failing(Recorder):
    """Raises when it is told of one event."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self.count = 0
        setattr(self, event, self.fail)

    def fail(self, *details: object) -> None:
        self.count += 1
        raise Boom("tracer")

    @override
    def __repr__(self) -> str:
        return "<Failing>"


def play(*tracers: am.Tracer) -> list[object]:
    """Have everything happen that tracers are told of, and give what came of it."""
    outcome: list[object] = []
    mach = am.Machine({"Foo": {}, "Old": {}}, id="mach", tracers=tracers)
    mach.bind_handlers(dict.fromkeys(["FooEnter", "OldExit", "FooState"], nothing))
    am.Machine({"Foo": {}}, id="child", parent=mach)
    outcome += [int(mach.add1("Old")), int(mach.set(["Foo"])), str(mach), mach.time()]
    mach.set_schema({"Foo": {}, "Old": {}, "Exception": {"multi": True}, "More": {}})
    outcome += [int(mach.add1("More")), str(mach)]
    mach.dispose()
    return [*outcome, mach.is_disposed, mach.err]


def test_all_events_are_played() -> None:
    assert set(EVENTS) == {
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
    }
    assert all(inspect.isfunction(getattr(am.Tracer, event)) for event in EVENTS)


@pytest.mark.parametrize("event", EVENTS)
def test_a_tracer_that_raises_is_logged_and_detached_and_nothing_else(
    event: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, failing, after, alone = Recorder(), Failing(event), Recorder(), Recorder()
    assert play(before, failing, after) == play(alone)
    assert failing.count == 1
    assert before.events == after.events == alone.events
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage() == f"the tracer <Failing> raised in {event} and was detached"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "tracer"


def test_the_last_tracer_that_raises_leaves_a_machine_without_tracers() -> None:
    failing = Failing("transition_start")
    mach = am.Machine({"Foo": {}}, tracers=[failing])
    assert mach.tracers == (failing,)
    assert mach.add1("Foo").executed
    assert mach.tracers == ()
    assert mach.remove1("Foo").executed
    assert failing.count == 1


def test_several_tracers_may_raise_at_once(caplog: pytest.LogCaptureFixture) -> None:
    failing, recorder = [Failing("transition_end"), Failing("transition_end")], Recorder()
    mach = am.Machine({"Foo": {}}, tracers=[failing[0], recorder, failing[1]])
    mach.add1("Foo")
    assert mach.tracers == (recorder,)
    assert len(caplog.records) == 2


def test_a_tracer_that_lacks_a_method_is_detached(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}})
    mach.bind_tracer(object())  # type: ignore[arg-type]
    assert mach.add1("Foo").executed
    assert mach.tracers == ()
    assert "has no attribute 'mutation_queued'" in caplog.text


def test_raise_errors_does_not_raise_errors_of_tracers(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, tracers=[Failing("transition_end")], raise_errors=True)
    assert mach.add1("Foo").executed
    assert mach.err is None
    assert len(caplog.records) == 1


def test_a_tracer_that_raises_when_asked_whether_it_is_inheritable_is_detached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing, recorder = Failing("inheritable"), Recorder(inherited=True)
    parent = am.Machine({"Foo": {}}, tracers=[failing, recorder])
    child = am.Machine({"Foo": {}}, parent=parent)
    assert child.tracers == (recorder,)
    assert parent.tracers == (recorder,)
    assert "the tracer <Failing> raised in inheritable and was detached" in caplog.text


def test_an_interrupt_of_a_tracer_goes_on_and_leaves_the_machine_whole() -> None:
    class Interrupting(am.Tracer):
        @override
        def transition_start(self, transition: am.Transition[Any]) -> None:
            raise KeyboardInterrupt

    tracer = Interrupting()
    mach = am.Machine({"Foo": {}}, tracers=[tracer])
    with pytest.raises(KeyboardInterrupt):
        mach.add1("Foo")
    assert str(mach) == "()"
    assert mach.transition is None
    assert mach.is_idle
    mach.detach_tracer(tracer)
    assert mach.add1("Foo").executed
