"""The example of a client and a server that comes and goes: what it tells is what has happened, in order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "examples" / "connected.py"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(  # noqa: S603 - the project's own script
        [sys.executable, *command, str(SCRIPT)], capture_output=True, text=True, env=environ, check=False
    )


def told(done: subprocess.CompletedProcess[str], who: str) -> list[str]:
    """Give what one of the two has told; the two of them need not take turns."""
    return [line.removeprefix(f"{who}: ") for line in done.stdout.splitlines() if line.startswith(f"{who}: ")]


def test_the_client_connects_again_when_the_server_is_back_and_closes_what_it_opened() -> None:
    done = run("-W", "error")
    assert (done.returncode, done.stderr) == (0, "")
    assert told(done, "server") == ["up", "down"] * 2
    client = told(done, "client")
    assert client.count("closed") == 2
    assert [line for line in client if line != "closed"] == [
        *("connecting", "heard 1", "the connection is over"),
        *("connecting", "heard 2", "Connected", "the connection is over"),
    ]
    assert client[-1] == "closed"


def test_without_stamina_it_says_what_to_install() -> None:
    code = "import runpy, sys; sys.modules['stamina'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    done = run("-c", code)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("pip install stamina")
