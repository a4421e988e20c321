from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from conftest import turns
from hypothesis import given
from hypothesis import strategies as st

import asyncmachine as am

SCHEMA: dict[str, am.StateDict] = {
    "A": {},
    "B": {"require": ["A"]},
    "C": {"remove": ["A"]},
    "D": {"multi": True},
}


def door() -> am.Machine:
    return am.Machine(SCHEMA, id="door")


def snapshot(**changes: Any) -> am.Snapshot:
    """Give a snapshot that fits, but for the changes."""
    mach = door()
    mach.add(["B", "A"])
    return dataclasses.replace(mach.export(), **changes)


@st.composite
def moved(draw: st.DrawFn) -> am.Machine:
    """Make a machine to which something has happened."""
    mach = door()
    for method in draw(st.lists(st.sampled_from(["add", "remove", "set", "toggle"]), max_size=6)):
        getattr(mach, method)(draw(st.lists(st.sampled_from([*SCHEMA, "Exception"]), min_size=1, max_size=3)))
    return mach


def test_a_snapshot_holds_all_there_is_of_a_machine() -> None:
    mach = door()
    mach.add(["D", "B", "A"])
    mach.add1("D")
    assert mach.export() == am.Snapshot(
        id="door",
        states=("A", "B", "C", "D", "Exception"),
        ticks=(1, 1, 0, 3, 0),
        active=mach.active_states(),
        queue_tick=3,
        machine_tick=1,
    )


def test_a_snapshot_is_frozen_and_apart_from_its_machine() -> None:
    mach = door()
    taken = mach.export()
    mach.add1("A")
    assert taken.ticks == (0, 0, 0, 0, 0)
    with pytest.raises(AttributeError):
        taken.id = "window"  # type: ignore[misc]


@given(moved())
def test_a_snapshot_comes_back_from_json(mach: am.Machine) -> None:
    taken = mach.export()
    assert am.Snapshot.from_json(taken.to_json()) == taken
    assert am.Snapshot.from_json(taken.to_json().encode()) == taken
    assert am.Snapshot.from_dict(json.loads(json.dumps(taken.to_dict()))) == taken


@given(moved(), st.booleans())
def test_a_machine_restored_is_the_machine_it_was(mach: am.Machine, as_mapping: bool) -> None:  # noqa: FBT001
    taken = mach.export()
    again = door()
    again.restore(json.loads(taken.to_json()) if as_mapping else taken)
    assert again.time() == mach.time()
    assert again.active_states() == mach.active_states()
    assert again.queue_tick == mach.queue_tick
    assert again.machine_tick == mach.machine_tick + 1
    # And it goes on in the same way.
    assert [again.add1("C"), again.time(), again.active_states()] == [
        mach.add1("C"),
        mach.time(),
        mach.active_states(),
    ]


def test_a_snapshot_is_a_plain_mapping_in_json() -> None:
    assert snapshot().to_dict() == {
        "id": "door",
        "states": ["A", "B", "C", "D", "Exception"],
        "ticks": [1, 1, 0, 0, 0],
        "active": ["A", "B"],
        "queue_tick": 2,
        "machine_tick": 1,
    }
    assert json.loads(snapshot().to_json()) == snapshot().to_dict()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id": "window"}, "it is of the machine 'window', not 'door'; build the machine with id='window'"),
        (
            {"states": ("A", "B")},
            "its states are A B, not A B C D Exception; use the schema it was made with",
        ),
        ({"ticks": (1, 1, 0, 0)}, "its ticks are not one number of 0 or more for each state"),
        ({"ticks": (1, 1, 0, -2, 0)}, "its ticks are not one number of 0 or more for each state"),
        ({"ticks": (1, 1, 0, 0.5, 0)}, "its ticks are not one number of 0 or more for each state"),
        ({"ticks": (1, 1, 0, "0", 0)}, "its ticks are not one number of 0 or more for each state"),
        ({"queue_tick": 0}, "its queue tick is 0 and its machine tick 1; both start at 1"),
        ({"machine_tick": 0}, "its queue tick is 2 and its machine tick 0; both start at 1"),
        ({"active": ("A",)}, "its active states are A, but its ticks say A B"),
        ({"active": ("A", "B", "B")}, "its active states are A B B, but its ticks say A B"),
        ({"ticks": (1, 1, 0, 1, 0)}, "its active states are A B, but its ticks say A B D"),
        ({"ticks": (0, 1, 0, 0, 0), "active": ("B",)}, "B requires A"),
        ({"ticks": (1, 0, 1, 0, 0), "active": ("A", "C")}, "C removes A"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused_and_changes_nothing(changes: dict[str, Any], problem: str) -> None:
    mach = door()
    text = f"this snapshot cannot be restored: {problem}"
    with pytest.raises(am.SnapshotError, match=f"^{re.escape(text)}$"):
        mach.restore(snapshot(**changes))
    assert mach.export() == door().export()


GOOD = snapshot().to_dict()


@pytest.mark.parametrize("missing", list(GOOD))
def test_a_snapshot_lacks_nothing(missing: str) -> None:
    data = {key: value for key, value in GOOD.items() if key != missing}
    text = f"this is no snapshot of a machine (KeyError({missing!r})); make one with mach.export()"
    with pytest.raises(am.SnapshotError, match=f"^{re.escape(text)}$"):
        am.Snapshot.from_dict(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("states", 5),
        ("states", [1, 2]),
        ("ticks", None),
        ("active", [["A"]]),
        ("queue_tick", "soon"),
        ("queue_tick", [1]),
        ("machine_tick", None),
        ("machine_tick", float("inf")),
    ],
)
def test_parts_of_another_kind_are_refused(key: str, value: Any) -> None:
    with pytest.raises(am.SnapshotError, match=r"^this is no snapshot of a machine \(.+\); make one with mach\.export"):
        am.Snapshot.from_dict({**GOOD, key: value})
    with pytest.raises(am.SnapshotError, match=r"^this is no snapshot of a machine"):
        door().restore({**GOOD, key: value})


@pytest.mark.parametrize("data", [[], "text", 5, None])
def test_what_is_no_mapping_is_no_snapshot(data: Any) -> None:
    with pytest.raises(am.SnapshotError, match="this is no snapshot of a machine"):
        am.Snapshot.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["{", b"\xff"])
def test_what_is_no_json_is_no_snapshot(text: str | bytes) -> None:
    with pytest.raises(am.SnapshotError, match=r"^the text is not JSON: "):
        am.Snapshot.from_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["door", *SCHEMA, "Exception"]),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=6,
)


@given(st.data())
def test_any_json_is_restored_or_refused(data: st.DataObject) -> None:
    changed = {key: data.draw(JSON) for key in data.draw(st.sets(st.sampled_from(list(GOOD)), min_size=1, max_size=2))}
    mach = door()
    try:
        mach.restore(json.loads(json.dumps({**GOOD, **changed})))
    except am.SnapshotError:
        assert mach.export() == door().export()
    else:
        assert am.broken_relations(mach.schema, mach.active_states()) == []
        assert mach.add1("D").executed


# Statistics.


def test_statistics_count_what_a_machine_has_done() -> None:
    mach = am.Machine(SCHEMA)
    assert mach.statistics() == am.Statistics(0, 0, 0, 0, 0, 0, 0, 0)
    mach.bind_handlers({"ExceptionState": lambda e: None})
    mach.add1("A")
    mach.can_add1("A")
    mach.add1("C")
    mach.add1("B")
    mach.add_err(ValueError("no fuel"))
    child = am.Machine({"Foo": {}}, parent=mach)
    assert mach.statistics() == am.Statistics(
        queued=0, waiters=0, contexts=0, work=0, children=1, transitions=5, canceled=1, errors=1
    )
    assert child.statistics().children == 0


def test_statistics_count_what_waits_in_the_queue() -> None:
    seen: list[am.Statistics] = []

    def look(e: am.Event) -> None:
        e.machine.add1("B")
        e.machine.add1("D")
        seen.append(e.machine.statistics())

    mach = am.Machine(SCHEMA, handlers={"AState": look})
    mach.add1("A")
    assert [statistics.queued for statistics in seen] == [2]
    assert mach.statistics().queued == 0


def test_statistics_are_frozen() -> None:
    statistics = am.Machine(SCHEMA).statistics()
    with pytest.raises(AttributeError):
        statistics.queued = 5  # type: ignore[misc]


async def test_statistics_count_waiters_contexts_and_work() -> None:
    async def wait_on() -> None:
        await mach.when1("B")

    async with am.Machine(SCHEMA) as mach:
        mach.add1("A")
        waiter = mach.when1("C")
        with mach.state_ctx("A"):
            mach.fork(wait_on)
            await turns()
            statistics = mach.statistics()
        assert (statistics.waiters, statistics.contexts, statistics.work) == (2, 2, 1)
        waiter.cancel()
    assert mach.statistics() == dataclasses.replace(statistics, waiters=0, contexts=0, work=0)
