"""A small service and its tests, as one would write them with the pytest plugin of asyncmachine.

The service uploads files, one at a time, while it is online; what fails is tried again an hour later. The tests need
neither a network nor the hours: they give the service a function in place of the one that sends, and looptime gives
them a clock that jumps.

Run it with pytest, pytest-asyncio, looptime and hypothesis installed: `python examples/testing_a_service.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from hypothesis import settings

import asyncmachine as am
from asyncmachine.testing import Bench, assert_never, assert_states, machine_rules, record, settle

ATTEMPTS = 3
PAUSE = 3600.0


# The service.


class UploadStates(am.States):
    """Uploads, one at a time."""

    Start: str = am.state()
    Online: str = am.state(require=[Start])
    Uploading: str = am.state(require=[Online], remove=["Uploaded"])
    Uploaded: str = am.state(remove=[Uploading])
    Failed: str = am.state(auto=True, require=[am.EXCEPTION], remove=[Uploading])


class Uploader:
    """Handlers of an upload.

    Args:
        send: sends a file.
    """

    def __init__(self, send: Callable[[str], Awaitable[None]]) -> None:
        self.send = send

    def UploadingEnter(self, e: am.Event) -> bool:
        """Refuse what is no file, and a second one."""
        return bool(e.args.get("path")) and e.machine.not1("Uploading")

    async def UploadingState(self, e: am.Event) -> None:
        """Send the file, however often it takes."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self.send(e.args["path"])
                break
            except OSError:
                if attempt == ATTEMPTS:
                    raise
                await anyio.sleep(PAUSE)
        e.machine.add1("Uploaded")


# Its tests.


class Network:
    """Notes what is sent. Breaks down as often as it is told to, and holds on to what is sent if it is told so."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.breakdowns = 0
        self.hold = anyio.Event()
        self.hold.set()

    async def send(self, path: str) -> None:
        """Send a file, or fail."""
        await self.hold.wait()
        if self.breakdowns:
            self.breakdowns -= 1
            raise OSError("line is dead")
        self.sent.append(path)


@pytest.fixture
def network() -> Network:
    """Give a network that works."""
    return Network()


@pytest.fixture
def mach(machine: Bench, network: Network) -> am.Machine:
    """Give the service, online."""
    mach = machine(UploadStates, id="uploads", handlers=Uploader(network.send))
    mach.add("Start", "Online")
    return mach


async def test_a_file_is_sent(mach: am.Machine, network: Network) -> None:
    """The plain case: ask, let it settle, look."""
    rec = record(mach)
    mach.add1("Uploading", {"path": "a.txt"})
    await settle(mach)
    assert network.sent == ["a.txt"]
    rec.assert_equal(
        [
            "add Uploading: +Uploading",
            "add Uploaded: +Uploaded -Uploading",
        ]
    )


async def test_nothing_is_sent_while_offline(mach: am.Machine, network: Network) -> None:
    """Relations are part of the service, and so is the reason they give."""
    mach.remove1("Online")
    assert mach.add1("Uploading", {"path": "a.txt"}).reason == "Uploading requires Online"
    await settle(mach)
    assert network.sent == []


async def test_going_offline_stops_an_upload(mach: am.Machine, network: Network) -> None:
    """What is cancelled is no error."""
    network.hold = anyio.Event()
    with assert_never(mach, "Exception", "Uploaded"):
        mach.add1("Uploading", {"path": "a.txt"})
        await settle(mach)
        mach.remove1("Online")
        network.hold.set()
        await settle(mach)
    assert_states(mach, "Start")
    assert network.sent == []


@pytest.mark.looptime
async def test_what_fails_is_tried_again_an_hour_later(mach: am.Machine, network: Network) -> None:
    """Hours pass at once."""
    network.breakdowns = 2
    mach.add1("Uploading", {"path": "a.txt"})
    await settle(mach)
    assert_states(mach, "Start", "Online", "Uploading")
    await mach.expect("Uploaded", timeout=2 * PAUSE + 1)
    assert network.sent == ["a.txt"]


@pytest.mark.looptime
async def test_what_always_fails_is_given_up(mach: am.Machine, network: Network) -> None:
    """An error that is expected has to be looked at, or the test would fail."""
    network.breakdowns = ATTEMPTS
    mach.add1("Uploading", {"path": "a.txt"})
    with pytest.raises(OSError, match="line is dead"):
        await mach.expect("Uploaded")
    assert_states(mach, "Start", "Online", "Failed", "Exception")


# Whatever anybody asks for, in whatever order.
TestUploads = machine_rules(
    UploadStates,
    handlers=lambda: Uploader(Network().send),
    invariants=[lambda mach: mach.not1("Uploading") or mach.is1("Online")],
).TestCase
TestUploads.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


if __name__ == "__main__":
    # In a process of its own, as pytest wants to be there before what it tests; without the settings of any project.
    options = ["-c", os.devnull, "--rootdir", str(Path(__file__).parent)]
    options += ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
    options += ["-p", "asyncmachine.pytest_plugin", "-p", "looptime_plugin"]
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", __file__, *options, *sys.argv[1:]]))  # noqa: S603
