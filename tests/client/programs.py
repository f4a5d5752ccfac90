"""`tradechat-cli` as a program: run to its end, held by pipes, or at a pseudo-terminal."""

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pexpect

import client

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", client.__name__)
DEADLINE_S = 60.0
PASSWORD = "correct horse"  # noqa: S105 - of the tests' users


def environment(port: int, **changes: str | None) -> dict[str, str]:
    """Variables for the program: none of ours from outside, the server's port, PASSWORD; then
    `changes`, where None takes one away.
    """
    made: dict[str, str | None] = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TRADECHAT_")},
        "TRADECHAT_PORT": str(port),
        "TRADECHAT_PASSWORD": PASSWORD,
        "XDG_CONFIG_HOME": "/dev/null/none",  # nobody's own settings
        "NO_COLOR": "1",
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",  # a pseudo-terminal does not answer where its cursor is
        **changes,
    }
    return {name: value for name, value in made.items() if value is not None}


class Ended(NamedTuple):
    """What became of a program."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def run(port: int, *arguments: str, text: str = "", **changes: str | None) -> Ended:
    """Run tradechat-cli to its end, `text` on its standard input; it has no terminal."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(port, **changes),
        input=text.encode(errors="surrogateescape"),
        capture_output=True,
        timeout=DEADLINE_S,
        start_new_session=True,  # else /dev/tty would be that of whoever runs the tests
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


class Piped:
    """tradechat-cli held by pipes; what it writes, on both outputs, is seen in one stream."""

    def __init__(self, port: int, *arguments: str, **changes: str | None) -> None:
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=ROOT,
            env=environment(port, **changes),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )
        self.written = ""
        self._passed = 0

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def expect(self, text: str) -> None:
        """Wait until it has written this text, after what was expected before."""
        deadline = time.monotonic() + DEADLINE_S
        start = self._passed
        while (found := self.written.find(text, start)) < 0:
            start = max(self._passed, len(self.written) - len(text) + 1)
            assert self._read(deadline), f"{text!r} is not in {self.written[self._passed :]!r}"
        self._passed = found + len(text)

    def expect_all(self, *texts: str) -> None:
        """Wait until it has written each of these, in any order."""
        start, ends = self._passed, []
        for text in texts:
            self._passed = start
            self.expect(text)
            ends.append(self._passed)
        self._passed = max(ends)

    def _read(self, deadline: float) -> bool:
        assert self._process.stdout is not None
        ready, _, _ = select.select(
            [self._process.stdout], [], [], max(0.0, deadline - time.monotonic())
        )
        data = os.read(self._process.stdout.fileno(), 65536) if ready else b""
        self.written += data.decode()  # the tests' texts are of ASCII: no letter is cut
        return bool(data)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def close_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> int:
        """Read until it has ended; its exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read(deadline):
            pass
        return self._process.wait(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> "Piped":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()


class Terminal:
    """tradechat-cli at a pseudo-terminal of its own."""

    def __init__(self, port: int, *arguments: str, **changes: str | None) -> None:
        self._state = tempfile.TemporaryDirectory()  # nothing that another chat has kept
        changes = {"XDG_STATE_HOME": self._state.name, **changes}
        self._child = pexpect.spawn(
            COMMAND[0],
            [*COMMAND[1:], *arguments],
            cwd=str(ROOT),
            env=environment(port, **changes),
            timeout=DEADLINE_S,
            encoding="utf-8",
            dimensions=(40, 200),
            echo=True,
        )
        self._child.delaybeforesend = None
        self.rest = ""
        """What it wrote last, after what was expected; there once it has ended."""

    def press(self, keys: str) -> None:
        """Press these keys."""
        self._child.send(keys)

    def press_bytes(self, keys: bytes) -> None:
        """The same with bytes that are not UTF-8."""
        os.write(self._child.child_fd, keys)

    def say(self, line: str) -> None:
        """Type a line and press Enter."""
        self.press(f"{line}\r")

    def expect(self, text: str) -> str:
        """Wait until this text has come; what came before it, since the last."""
        self._child.expect_exact(text)
        return str(self._child.before)

    def end(self) -> int:
        """Wait until the program has ended; its exit code."""
        self._child.expect(pexpect.EOF)
        self.rest = str(self._child.before)
        self._child.close()
        return int(self._child.exitstatus)

    def signal(self, number: signal.Signals) -> None:
        self._child.kill(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.close(force=True)
        self._state.cleanup()
