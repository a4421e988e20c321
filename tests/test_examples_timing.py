"""The examples of timeouts and of streams, in virtual time, and as users run them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from virtual import in_virtual_time

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import an example, which dataclasses want to find among the modules."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


class Said:
    """Notes what an example says, and when."""

    def __init__(self) -> None:
        self.start = asyncio.get_running_loop().time()
        self.lines: list[tuple[float, str]] = []

    def __call__(self, line: str) -> None:
        self.lines.append((round(asyncio.get_running_loop().time() - self.start, 6), line))


@in_virtual_time
async def test_a_feed_is_given_up_tried_again_and_found_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said()
    states = await load("timeouts", monkeypatch).main(said)
    assert said.lines == [
        (0.0, "connecting"),
        (0.3, "Connecting had 0.3 s: StateTimeoutError('Connecting was still active after 0.3 s')"),
        (0.5, "connecting"),
        (0.6, "connected"),
        (0.7, "news: rain"),
        (1.1, "news: more rain"),
        (1.5, "news: sun"),
        (2.0, "nothing new for 0.5 s"),
    ]
    assert states.startswith("() [Start:2 Backoff:2 ErrSlow:2 Connecting:4 Connected:2 News:6 Stale:2 Exception:2]")


@in_virtual_time
async def test_an_audit_misses_nothing_and_a_display_shows_the_latest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = Said()
    await load("streams", monkeypatch).main(said)
    assert [line for _, line in said.lines if line.startswith("audit: ")] == [
        "audit: add Start: done",
        "audit: add Order tea 1: done",
        "audit: add Order tea 2: done",
        "audit: add Order tea 3: done",
        "audit: add Order tea 4: done",
        "audit: add Order tea 5: refused",
        "audit: add Order cake 1: refused",
        "audit: remove Start: done",
    ]
    assert [(when, line) for when, line in said.lines if line.startswith("display: ")] == [
        (0.0, "display: order 2"),
        (0.2, "display: order 3"),
        (0.4, "display: order 4"),
        (0.6, "display: 1 orders were not shown"),
    ]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "[stream] activations('Order') is read too slowly"
    ]


@pytest.mark.parametrize("name", ["timeouts", "streams"])
def test_it_runs_as_a_script(name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    script = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=True)  # noqa: S603 - ours
    assert done.stdout
