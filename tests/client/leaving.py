"""Scripts of a server that closes one connection of a client, and takes it in on another."""

import threading
from contextlib import suppress

from libproto.messages import Opcode
from tests.client.peer import WAIT_S, Handshake, Script, Wire, answer_all, push

GOING_AWAY = push(Opcode.GOING_AWAY, 0, "restart")


class Sequence:
    """What happened on several connections, in order."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self._changed = threading.Condition()

    def note(self, step: str) -> None:
        with self._changed:
            self.steps.append(step)
            self._changed.notify_all()

    def await_step(self, step: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: step in self.steps, WAIT_S), self.steps


class Old:
    """The connection that goes away: it serves until the client closes it."""

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence

    def __call__(self, wire: Wire) -> None:
        handle = threading.Thread(target=self._serve, args=(Wire(wire.sock.dup()),), name="peer")
        handle.start()
        self._sequence.await_step("old: told")

    def _serve(self, wire: Wire) -> None:
        wire.sock.settimeout(WAIT_S)
        with wire.sock:
            with suppress(EOFError):  # the client has closed
                self.serve(wire)
            wire.wait_closed()
        self._sequence.note("old: closed")

    def serve(self, wire: Wire) -> None:
        """Until the client has been told."""
        wire.log_in()
        self.tell(wire)

    def tell(self, wire: Wire) -> None:
        wire.send(GOING_AWAY)
        self._sequence.note("old: told")


def moved_to(
    sequence: Sequence, script: Script = answer_all, handshake: Handshake | None = None
) -> Script:
    """The other connection: a login while the old one is still there, then the script."""

    door = handshake or Handshake(login={"resumed": 1})

    def run(wire: Wire) -> None:
        wire.send(door.respond(wire.request()))
        login = wire.request()
        assert login.opcode == Opcode.LOGIN
        assert "old: closed" not in sequence.steps
        sequence.note("new: logged in")
        wire.send(door.respond(login))
        with_end(script)(wire)

    return run


def with_end(script: Script) -> Script:
    def run(wire: Wire) -> None:
        with suppress(EOFError):  # the client has closed
            script(wire)

    return run
