"""State contexts: cancel scopes that end with the state they were taken in, and what becomes of them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from conftest import turns

import asyncmachine as am

SCHEMA: dict[str, Any] = {"Foo": {}, "Bar": {}, "Multi": {"multi": True}, "Top": {"require": ["Multi"]}}


def machine(*active: str, **options: Any) -> am.Machine:
    """Give a machine whose errors are handled, so that they are not logged."""
    mach = am.Machine(SCHEMA, handlers={"ExceptionState": lambda e: None}, **options)
    if active:
        mach.add(active)
    return mach


class Block:
    """A task that waits under a state context, and how that ended."""

    def __init__(self, mach: am.Machine, state: str, inside: Callable[[], Awaitable[Any]] | None = None) -> None:
        self.scope = mach.state_ctx(state)
        self.inside = inside or anyio.sleep_forever
        self.steps: list[str] = []
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        with self.scope:
            self.steps.append("entered")
            await self.inside()
            self.steps.append("stayed")
        self.steps.append("left")


def contexts(mach: am.Machine) -> int:
    gc.collect()
    return mach.statistics().contexts


class TestFlipping:
    @pytest.mark.parametrize("active", [True, False])
    async def test_either_flip_cancels_what_runs_under_the_state_and_no_more(self, *, active: bool) -> None:
        mach = machine("Foo") if active else machine()
        block = Block(mach, "Foo")
        await turns()
        assert block.steps == ["entered"]
        assert not block.scope.cancel_called
        mach.toggle1("Foo")
        assert block.scope.cancel_called
        await block.task
        assert block.steps == ["entered", "left"]
        assert block.scope.cancelled_caught

    async def test_each_call_gives_a_scope_of_its_own(self) -> None:
        mach = machine("Foo")
        first, second = mach.state_ctx("Foo"), mach.state_ctx("Foo")
        assert isinstance(first, anyio.CancelScope)
        assert first is not second
        with first:
            first.cancel()
            await anyio.sleep_forever()
        assert not second.cancel_called

    async def test_a_state_that_stays_cancels_nothing(self) -> None:
        mach = machine("Foo")
        mach.bind_handlers({"FooExit": lambda e: False})
        scope = mach.state_ctx("Foo")
        assert mach.remove1("Foo").canceled
        mach.add1("Foo", {"id": 1})
        mach.can_remove1("Foo")
        mach.add1("Bar")
        mach.set(["Foo"])
        with scope:
            await turns()
        assert not scope.cancel_called

    async def test_a_multi_state_that_is_activated_again_keeps_its_contexts(self) -> None:
        mach = machine("Multi")
        scope = mach.state_ctx("Multi")
        mach.add1("Multi")
        assert mach.tick("Multi") == 3
        assert not scope.cancel_called
        mach.remove1("Multi")
        assert scope.cancel_called

    async def test_all_contexts_of_the_state_are_cancelled_and_none_of_another(self) -> None:
        mach = machine("Foo", "Bar")
        foo, bar = [Block(mach, "Foo") for _ in range(3)], Block(mach, "Bar")
        await turns()
        mach.remove1("Foo")
        await asyncio.gather(*(block.task for block in foo))
        assert [block.scope.cancelled_caught for block in foo] == [True] * 3
        assert not bar.scope.cancel_called
        mach.remove1("Bar")
        await bar.task

    async def test_states_that_flip_together_have_their_contexts_cancelled_together(self) -> None:
        mach = machine("Foo", "Multi")
        scopes = [mach.state_ctx(state) for state in ("Foo", "Bar", "Multi", "Top")]
        mach.set(["Bar", "Foo"])
        assert [scope.cancel_called for scope in scopes] == [False, True, True, False]

    async def test_contexts_are_cancelled_before_any_final_handler_runs(self) -> None:
        mach = machine("Foo")
        scopes = {"FooEnd": mach.state_ctx("Foo"), "BarState": mach.state_ctx("Bar")}
        seen: list[tuple[str, bool, bool]] = []

        def note(event: am.Event) -> None:
            seen.append((event.name, *(scope.cancel_called for scope in scopes.values())))

        mach.bind_handlers(dict.fromkeys(["FooExit", "BarEnter", "FooEnd", "BarState"], note))
        mach.set(["Bar"])
        assert seen == [
            ("FooExit", False, False),
            ("BarEnter", False, False),
            ("FooEnd", True, True),
            ("BarState", True, True),
        ]

    async def test_a_restored_machine_cancels_those_whose_state_is_another_now(self) -> None:
        source = machine("Foo", "Multi", id="door")
        source.add1("Multi")
        mach = machine("Foo", "Bar", "Multi", id="door")
        scopes = [mach.state_ctx(state) for state in ("Foo", "Bar", "Multi", "Top")]
        mach.restore(source.export())
        assert mach.tick("Multi") == 3
        assert [scope.cancel_called for scope in scopes] == [False, True, False, False]

    async def test_contexts_go_on_when_the_schema_grows(self) -> None:
        mach = machine("Foo")
        scope = mach.state_ctx("Foo")
        mach.set_schema({**SCHEMA, "New": {}})
        mach.add1("New")
        assert not scope.cancel_called
        mach.remove1("Foo")
        assert scope.cancel_called


class TestFlippedBefore:
    @pytest.mark.parametrize("flips", [1, 2, 3])
    async def test_a_scope_whose_state_flipped_before_it_was_entered_is_cancelled_at_its_first_await(
        self, flips: int
    ) -> None:
        mach = machine("Foo")
        scope = mach.state_ctx("Foo")
        for _ in range(flips):
            mach.toggle1("Foo")
        steps: list[str] = []
        with scope:
            steps.append("entered")
            await anyio.sleep_forever()
            steps.append("stayed")
        assert steps == ["entered"]
        assert scope.cancelled_caught

    async def test_a_scope_taken_after_the_flip_is_bound_to_the_state_as_it_is_now(self) -> None:
        mach = machine("Foo")
        mach.remove1("Foo")
        scope = mach.state_ctx("Foo")
        with scope:
            await turns()
            assert not scope.cancel_called
            mach.add1("Foo")
            assert scope.cancel_called
            await anyio.sleep_forever()


class TestNesting:
    async def test_the_inner_state_ends_the_inner_block_alone(self) -> None:
        mach = machine("Foo", "Bar")
        steps: list[str] = []
        with mach.state_ctx("Foo") as outer:
            with mach.state_ctx("Bar") as inner:
                mach.remove1("Bar")
                await anyio.sleep_forever()
            await turns()
            steps.append("went on")
        assert steps == ["went on"]
        assert (outer.cancelled_caught, inner.cancelled_caught) == (False, True)

    async def test_the_outer_state_ends_both_blocks(self) -> None:
        mach = machine("Foo", "Bar")
        steps: list[str] = []
        with mach.state_ctx("Foo") as outer:
            with mach.state_ctx("Bar") as inner:
                mach.remove1("Foo")
                await anyio.sleep_forever()
            steps.append("went on")
        assert steps == []
        assert (outer.cancelled_caught, inner.cancelled_caught) == (True, False)

    async def test_one_state_twice_ends_both_blocks(self) -> None:
        mach = machine("Foo")
        steps: list[str] = []
        with mach.state_ctx("Foo") as outer:
            with mach.state_ctx("Foo"):
                mach.remove1("Foo")
                await anyio.sleep_forever()
            await asyncio.sleep(0)
            steps.append("went on")
        assert steps == []
        assert outer.cancelled_caught

    async def test_a_shielded_block_within_ends_first(self) -> None:
        mach = machine("Foo")
        steps: list[str] = []

        async def clean_up() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await turns()
                    steps.append("cleaned up")

        block = Block(mach, "Foo", clean_up)
        await turns()
        mach.remove1("Foo")
        await block.task
        assert steps == ["cleaned up"]
        assert block.steps == ["entered", "left"]

    async def test_a_task_group_within_ends_with_the_state(self) -> None:
        mach = machine("Foo")
        ends: list[int] = []

        async def child(number: int) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ends.append(number)

        async def group() -> None:
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(child, number)

        block = Block(mach, "Foo", group)
        await turns()
        mach.remove1("Foo")
        await block.task
        assert sorted(ends) == [0, 1, 2]
        assert block.scope.cancelled_caught

    async def test_what_cancels_the_task_itself_goes_through(self) -> None:
        mach = machine("Foo")
        block = Block(mach, "Foo")
        await turns()
        block.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await block.task
        assert block.steps == ["entered"]
        assert not block.scope.cancel_called

    async def test_an_error_within_goes_through(self) -> None:
        mach = machine("Foo")
        with pytest.raises(ValueError, match=r"^no fuel$"), mach.state_ctx("Foo"):
            raise ValueError("no fuel")
        assert contexts(mach) == 0


class TestInHandlers:
    async def test_taken_in_a_state_handler_it_ends_with_that_activation(self) -> None:
        mach = machine()
        blocks: list[Block] = []
        mach.bind_handlers({"FooState": lambda e: blocks.append(Block(mach, "Foo"))})
        mach.add1("Foo")
        await turns()
        assert blocks[0].steps == ["entered"]
        mach.remove1("Foo")
        await blocks[0].task
        assert blocks[0].scope.cancelled_caught

    async def test_taken_in_an_enter_handler_it_ends_when_the_state_enters(self) -> None:
        mach = machine()
        scopes: list[anyio.CancelScope] = []

        def take(event: am.Event) -> None:
            scopes.append(mach.state_ctx("Foo"))

        mach.bind_handlers({"FooEnter": take})
        mach.can_add1("Foo")
        mach.add1("Foo")
        # The first was taken by the check, which changed nothing; but then the state entered for them both.
        assert [scope.cancel_called for scope in scopes] == [True, True]

    async def test_a_state_that_is_rolled_back_ends_what_was_taken_in_its_handler(self) -> None:
        mach = machine()
        before = mach.state_ctx("Foo")
        scopes: list[anyio.CancelScope] = []

        def fail(event: am.Event) -> None:
            scopes.append(mach.state_ctx("Foo"))
            assert not scopes[0].cancel_called
            raise ValueError("no fuel")

        mach.bind_handlers({"FooState": fail})
        assert mach.add1("Foo").canceled
        assert isinstance(mach.err, ValueError)
        assert scopes[0].cancel_called
        assert before.cancel_called  # it flipped twice

    async def test_a_state_that_falls_with_its_require_ends_its_contexts(self) -> None:
        mach = machine("Multi", "Top")
        scope = mach.state_ctx("Top")
        mach.bind_handlers({"MultiState": lambda e: 1 / 0})
        assert mach.add1("Multi").canceled
        assert mach.not1("Top")
        assert scope.cancel_called


class TestWhatIsKept:
    async def test_a_scope_that_is_never_entered_is_not_kept(self) -> None:
        mach = machine("Foo")
        kept = mach.state_ctx("Foo")
        gone = weakref.ref(mach.state_ctx("Foo"))
        assert contexts(mach) == 1
        assert gone() is None
        assert not kept.cancel_called

    async def test_a_scope_that_was_left_is_not_kept(self) -> None:
        mach = machine("Foo")

        async def use() -> weakref.ref[anyio.CancelScope]:
            with mach.state_ctx("Foo") as scope:
                await turns()
                assert contexts(mach) == 1
            return weakref.ref(scope)

        gone = await use()
        assert contexts(mach) == 0
        assert gone() is None

    async def test_a_scope_that_was_cancelled_is_not_kept(self) -> None:
        mach = machine("Foo")
        scopes = [mach.state_ctx("Foo"), mach.state_ctx("Foo")]
        assert contexts(mach) == 2
        mach.remove1("Foo")
        assert contexts(mach) == 0
        assert all(scope.cancel_called for scope in scopes)
        scopes.clear()
        mach.add1("Foo")
        assert contexts(mach) == 0

    async def test_an_entered_scope_is_kept_by_its_block(self) -> None:
        mach = machine("Foo")

        async def wait() -> bool:
            scope = mach.state_ctx("Foo")
            with scope:
                await anyio.sleep_forever()
            return scope.cancelled_caught

        task = asyncio.create_task(wait())
        await turns()
        assert contexts(mach) == 1
        mach.remove1("Foo")
        assert await task is True

    async def test_ten_thousand_blocks_leave_nothing(self) -> None:
        mach = machine("Foo")
        for _ in range(10_000):
            with mach.state_ctx("Foo"):
                pass
        assert contexts(mach) == 0

    async def test_a_scope_that_is_being_collected_is_not_in_the_way_of_a_flip(self) -> None:
        class Holder:
            """Garbage only the collector can find, whose callback comes before that of the scope it holds."""

            scope: anyio.CancelScope
            itself: Holder

        mach = machine("Foo")
        gc.collect()
        gc.disable()
        try:
            holder = Holder()
            kept = weakref.ref(holder, lambda _: mach.remove1("Foo"))
            holder.itself, holder.scope = holder, mach.state_ctx("Foo")
            del holder
            gc.collect()
        finally:
            gc.enable()
        assert kept() is None
        assert mach.not1("Foo")
        assert contexts(mach) == 0

    async def test_a_scope_keeps_no_machine(self) -> None:
        mach = machine("Foo")
        scope, gone = mach.state_ctx("Foo"), weakref.ref(mach)
        del mach
        gc.collect()
        assert gone() is None
        with scope:
            await turns()
        assert not scope.cancel_called


class TestWork:
    """Work has a context of its own, which is kept until it is done, whoever else has one."""

    async def test_the_context_of_work_is_kept_until_it_is_done(self) -> None:
        mach, gates = machine("Foo"), [asyncio.Event(), asyncio.Event()]
        for gate in gates:
            mach.fork(gate.wait, state="Foo")
        await turns()
        assert contexts(mach) == 2
        for left, gate in enumerate(reversed(gates)):
            gate.set()
            await turns()
            assert contexts(mach) == 1 - left

    async def test_a_flip_cancels_the_context_of_work_and_those_of_others(self) -> None:
        mach, block = machine("Foo"), asyncio.Event()
        work, other = mach.fork(block.wait, state="Foo"), mach.fork(block.wait)
        taken = mach.state_ctx("Foo")
        await turns()
        assert contexts(mach) == 3
        mach.remove1("Foo")
        assert contexts(mach) == 1
        await turns()
        assert (work.done(), other.done(), taken.cancel_called) == (True, False, True)
        await mach.dispose()
        assert other.done()
        assert contexts(mach) == 0

    async def test_work_and_blocks_of_a_state_that_ends_leave_the_others_as_they_are(self) -> None:
        mach, gate = machine("Foo", "Bar"), asyncio.Event()
        foo, bar = mach.fork(gate.wait, state="Foo"), mach.fork(gate.wait, state="Bar")
        await turns()
        mach.remove1("Foo")
        gate.set()
        await turns()
        assert (foo.done(), bar.done()) == (True, True)
        assert contexts(mach) == 0


class TestTheEnd:
    async def test_disposal_cancels_all_contexts(self) -> None:
        mach = machine("Foo")
        block, never = Block(mach, "Foo"), mach.state_ctx("Bar")
        await turns()
        await mach.dispose()
        await block.task
        assert block.scope.cancelled_caught
        assert never.cancel_called
        assert contexts(mach) == 0

    async def test_the_contexts_of_a_disposed_machine_are_cancelled_at_once(self) -> None:
        mach = machine("Foo")
        await mach.dispose()
        scope = mach.state_ctx("Foo")
        with scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert contexts(mach) == 0

    def test_a_machine_whose_loop_is_closed_marks_its_contexts_all_the_same(self) -> None:
        mach = machine("Foo", "Bar")

        async def take(state: str) -> anyio.CancelScope:
            return mach.state_ctx(state)

        with asyncio.Runner() as runner:
            foo, bar = runner.run(take("Foo")), runner.run(take("Bar"))
        mach.remove1("Foo")
        assert foo.cancel_called
        mach.dispose()
        assert bar.cancel_called


async def test_a_misspelt_state_is_found_at_the_call() -> None:
    with pytest.raises(am.UnknownStateError, match=r"^'Fooo' is no state of this machine; did you mean 'Foo'"):
        machine().state_ctx("Fooo")


def test_without_a_running_loop_a_context_says_what_it_needs() -> None:
    mach = am.Machine(SCHEMA, id="door")
    with pytest.raises(
        am.MachineLoopError,
        match=r"^the machine door needs a running event loop for this \(.*state contexts.*\); call it from a coroutine",
    ):
        mach.state_ctx("Foo")
