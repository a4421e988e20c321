"""Every async test runs on each kind of loop: asyncio, uvloop, and, from Python 3.12 on, with eager tasks."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
from collections.abc import Callable, Mapping

import pytest
import uvloop
from hypothesis import HealthCheck, settings

import asyncmachine as am
from asyncmachine import actor

# No example is too slow: how long one takes is the computer's affair.
settings.register_profile(
    "common", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True, max_examples=100
)
# The same examples each time, so that a change fails for what it changes, and covers what it covered.
settings.register_profile("ci", settings.get_profile("common"), derandomize=True)
# Others each time; those that failed are kept in `.hypothesis`, and tried first.
settings.register_profile("nightly", settings.get_profile("common"), max_examples=10_000)
settings.load_profile("ci")


def pytest_collection_finish() -> None:
    """Keep the tests themselves, a million objects, out of every `gc.collect()` in them."""
    gc.collect()
    gc.freeze()


def eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop,
        "uvloop": uvloop.new_event_loop,
    }
    if sys.version_info >= (3, 12):
        factories["eager"] = eager_loop
    return factories


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have machines take the time they need: a loaded computer is no fault. Tests of a limit give their own."""
    defaults = am.Machine.__init__.__kwdefaults__
    assert (defaults["handler_timeout"], defaults["dispose_timeout"], actor.BUDGET) == (0.1, 1.0, 0.005)
    monkeypatch.setitem(defaults, "handler_timeout", None)
    monkeypatch.setitem(defaults, "dispose_timeout", 3600)
    monkeypatch.setattr(actor, "BUDGET", math.inf)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the budget of a drain spent by any mutation, so that each but the first is left to a turn of the loop."""
    monkeypatch.setattr(actor, "BUDGET", -1)


async def turns(count: int = 5) -> None:
    """Let the loop turn, so that what is ready to run runs. Nothing in it takes time."""
    for _ in range(count):
        await asyncio.sleep(0)
