"""Hovering a state shows its docstring, and a method its own: asked of pyright's language server, as editors do.

`python tests/typing/hover.py`, which the types session runs, opens this very file in the server. What is shown of the
word before each `# hover: …` must hold that text.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import asyncmachine as am

PATIENCE = 120
"""Seconds after which the server is taken to hang."""


class Doors(am.States):
    """The states that are hovered."""

    Closed: str = am.state(remove=["Open"])
    """The door is shut, but perhaps not locked."""

    Open: str = am.state(remove=[Closed], timeout=30, on_timeout=Closed)
    """Someone may walk in."""

    Passable = am.group(Open)
    """Where to go through."""


class Lifts(Doors):
    """Inherits states, and replaces one."""

    Open: str = am.state(extend=True, timeout=5)
    """Someone may step in, if quick."""


async def hovered(mach: am.Machine, e: am.Event) -> None:
    """Never called."""
    mach.add1(Doors.Open)  # hover: Someone may walk in.
    mach.add1(Doors.Closed)  # hover: The door is shut, but perhaps not locked.
    mach.add1(Lifts.Open)  # hover: Someone may step in, if quick.
    mach.add1(Lifts.Closed)  # hover: The door is shut, but perhaps not locked.
    mach.add(Doors.Passable)  # hover: Where to go through.
    e.arg(am.TimeoutArgs).since  # hover: since: float
    e.arg(am.TimeoutArgs)  # hover: The typed args of the mutation made when a state's time is up
    mach.when1  # hover: Wait until a state is active; gives its tick.
    mach.transitions  # hover: -> Stream[Transition[Machine]]
    mach.activations  # hover: Give a stream of the ticks at which a state is activated


class Server:
    """A language server, spoken to over its input and output.

    Args:
        reads: its output.
        writes: its input.
    """

    def __init__(self, reads: IO[bytes], writes: IO[bytes]) -> None:
        self._reads = reads
        self._writes = writes
        self._count = 0

    def tell(self, method: str, params: object) -> None:
        """Send what has no answer."""
        self._send({"method": method, "params": params})

    def ask(self, method: str, params: object) -> Any:
        """Send a request and give what it is answered with; what the server asks meanwhile is answered, too."""
        self._count += 1
        self._send({"id": self._count, "method": method, "params": params})
        while True:
            message = self._receive()
            if "method" not in message and message.get("id") == self._count:
                return message.get("result")
            if "method" in message and "id" in message:
                self._send({"id": message["id"], "result": self._answer(message)})

    def _answer(self, message: dict[str, Any]) -> object:
        if message["method"] != "workspace/configuration":
            return None
        return [
            {"pythonPath": sys.executable} if of.get("section") == "python" else {} for of in message["params"]["items"]
        ]

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._writes.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._writes.flush()

    def _receive(self) -> dict[str, Any]:
        length = 0
        while line := self._reads.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if not length:
            raise EOFError("the language server has ended, or was killed because it took too long")
        message: dict[str, Any] = json.loads(self._reads.read(length))
        return message


def shown(server: Server, path: Path, line: int, column: int) -> str:
    """Give what an editor shows of the word at a place."""
    place = {"textDocument": {"uri": path.as_uri()}, "position": {"line": line, "character": column}}
    answer = server.ask("textDocument/hover", place)
    return "" if answer is None else str(answer["contents"]["value"])


def missed(server: Server, path: Path) -> list[str]:
    """Open a file, and give the places where hovering does not show what the comment says."""
    root, text = path.parent.parent.parent, path.read_text()
    folders = [{"uri": root.as_uri(), "name": root.name}]
    able = {"workspace": {"configuration": True}}
    server.ask(
        "initialize", {"processId": None, "rootUri": root.as_uri(), "workspaceFolders": folders, "capabilities": able}
    )
    server.tell("initialized", {})
    opened = {"uri": path.as_uri(), "languageId": "python", "version": 1, "text": text}
    server.tell("textDocument/didOpen", {"textDocument": opened})
    expected = [
        (i, found)
        for i, line in enumerate(text.splitlines())
        if (found := re.search(r"(\w+)\W*  # hover: ([-\w].+)", line))
    ]
    misses: list[str] = []
    for line, found in expected:
        text = shown(server, path, line, found.start(1))
        if found[2] not in text:
            misses.append(f"{path.name}:{line + 1}: hovering {found[1]} shows {text!r}, which lacks {found[2]!r}")
    server.ask("shutdown", None)
    server.tell("exit", None)
    return misses or ([] if expected else [f"{path.name} says nowhere what hovering shows"])


def main() -> str | None:
    """Give what was missed, or None."""
    command = shutil.which("pyright-langserver", path=str(Path(sys.executable).parent)) or "pyright-langserver"
    with subprocess.Popen([command, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603 - a tool of the project
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            return "\n".join(missed(Server(process.stdout, process.stdin), Path(__file__).resolve())) or None
        finally:
            watchdog.cancel()
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
