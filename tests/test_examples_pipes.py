"""The example of three machines in a row: what it prints is what its pipes have passed on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "examples" / "pipes.py"


def test_three_machines_follow_each_other_until_the_middle_one_is_disposed() -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(  # noqa: S603 - the project's own script
        [sys.executable, "-W", "error", str(SCRIPT)], capture_output=True, text=True, env=environ, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "controller: 21 degrees, from sensor",
        "controller: 63 degrees, from sensor",
        "panel: (Fan:1)",
        "panel: ()",
        "controller: the sensor does not answer",
        "panel: (Alarm:1)",
        "closed: [True, True, True]",
        "panel: ()",
        "sensor: (Online:1 Hot:3 Reading:3 Exception:1) panel: ()",
    ]
