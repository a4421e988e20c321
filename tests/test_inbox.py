"""The inbox: in which order calls of other threads are made, and when not yet."""

from __future__ import annotations

import contextvars
from collections.abc import Callable

import pytest

import asyncmachine as am
from asyncmachine.inbox import Inbox
from asyncmachine.mutation import new_mutation
from asyncmachine.queue import Queue
from asyncmachine.requests import Requests

REQUESTS = Requests(am.Schema({"Foo": {}}))


def mutation() -> am.Mutation:
    return new_mutation(REQUESTS.of(am.MutationType.ADD, "Foo"))


class Work:
    """A queue and an inbox whose calls note that they were made; some queue a mutation."""

    def __init__(self, limit: int = 1000) -> None:
        self.queue = Queue(limit)
        self.inbox = Inbox()
        self.made: list[str] = []

    def call(self, name: str, *, queues: bool = False) -> Callable[[], str]:
        def call() -> str:
            self.made.append(name)
            if queues:
                self.queue.append(mutation())
            return name

        return call

    def admit(self) -> list[str]:
        """Give the calls made now."""
        self.made.clear()
        self.inbox.admit(self.queue)
        return list(self.made)


@pytest.fixture
def work() -> Work:
    return Work()


def test_calls_are_made_in_their_order(work: Work) -> None:
    futures = [work.inbox.append(work.call(name), in_order=False) for name in "abc"]
    assert len(work.inbox) == 3
    assert work.admit() == ["a", "b", "c"]
    assert [future.result(0) for future in futures] == ["a", "b", "c"]
    assert not work.inbox


def test_a_call_that_queues_something_holds_back_those_behind_it(work: Work) -> None:
    for name in "abc":
        work.inbox.append(work.call(name, queues=True), in_order=False)
    assert work.admit() == ["a"]
    assert work.admit() == ["b"]
    assert len(work.queue) == 2


@pytest.mark.parametrize(("limit", "waiting"), [(4, 1), (1, 0), (0, 0)])
def test_calls_leave_half_of_the_queue_to_handlers_but_get_one_place(limit: int, waiting: int) -> None:
    work = Work(limit)
    for _ in range(waiting):
        work.queue.append(mutation())
    work.inbox.append(work.call("a", queues=True), in_order=False)
    work.inbox.append(work.call("b", queues=True), in_order=False)
    assert work.admit() == ["a"]
    assert work.admit() == []
    work.queue.take()
    assert work.admit() == ["b"]


def test_a_call_in_order_waits_for_what_was_queued_before_it_and_for_no_more(work: Work) -> None:
    work.queue.append(mutation())
    work.queue.append(mutation())
    work.inbox.append(work.call("a"), in_order=True)
    assert work.admit() == []
    work.queue.append(mutation())
    work.queue.take()
    assert work.admit() == []
    work.queue.take()
    assert work.admit() == ["a"]


def test_a_call_in_order_does_not_come_between_a_mutation_and_its_auto_states(work: Work) -> None:
    work.queue.append(mutation())
    work.inbox.append(work.call("a"), in_order=True)
    assert work.admit() == []
    work.queue.take()
    work.queue.append(mutation())
    work.queue.prepend(mutation())
    assert work.admit() == []
    work.queue.take()
    assert work.admit() == ["a"]


def test_a_call_is_made_in_the_context_it_was_posted_in(work: Work) -> None:
    told = contextvars.ContextVar("told", default="nothing")
    token = told.set("something")
    future = work.inbox.append(told.get, in_order=False)
    told.reset(token)
    work.admit()
    assert future.result(0) == "something"


def test_a_call_nobody_waits_for_any_more_is_not_made(work: Work) -> None:
    first = work.inbox.append(work.call("a"), in_order=False)
    work.inbox.append(work.call("b"), in_order=False)
    assert first.cancel()
    assert work.admit() == ["b"]


@pytest.mark.parametrize("err", [ValueError("odd"), KeyboardInterrupt()])
def test_what_a_call_raises_is_for_its_caller(work: Work, err: BaseException) -> None:
    def fail() -> None:
        raise err

    future = work.inbox.append(fail, in_order=False)
    work.inbox.append(work.call("a"), in_order=False)
    assert work.admit() == ["a"]
    assert future.exception(0) is err


def test_a_queued_result_is_given_when_it_is_final(work: Work) -> None:
    asked = mutation()
    future = work.inbox.append(lambda: am.Result(2, mutation=asked), in_order=False)
    work.admit()
    assert not future.done()
    asked.finish(am.Result.EXECUTED)
    assert future.result(0) is am.Result.EXECUTED


def test_refused_calls_fail_and_are_gone(work: Work) -> None:
    cancelled, *futures = [work.inbox.append(work.call(name), in_order=False) for name in "abc"]
    cancelled.cancel()
    work.inbox.refuse("the loop has ended")
    assert not work.inbox
    for future in futures:
        with pytest.raises(am.MachineLoopError, match="the loop has ended"):
            future.result(0)
