"""Acts on users and their money, as they are asked of a running server over its admin socket."""

import argparse
import json
import time
from pathlib import Path
from typing import Any, Final

from server import control
from server.admin.command import NotDone
from server.admin.control_cli import directory_of
from server.admin.master import connected
from server.control import ACT_MAX, OPERATE, Ask

ANSWER_S: Final = 15.0  # that the server may take, a repair of it included
TRIES: Final = 5  # where a worker ends before it has answered
PAUSE_S: Final = 0.2  # between them

Fields = dict[str, Any]


def ask(options: argparse.Namespace, act: str, *, once: bool = False, **fields: object) -> Fields:
    """What became of an act. once: it is not repeated where nobody answers, as it might be done
    twice. NotDone: it was refused, or nobody knows what became of it."""
    data = directory_of(options)
    message = json.dumps({"act": act, **fields}).encode()
    if len(message) > ACT_MAX:
        raise NotDone("what is asked for is too long")
    tries = 1 if once else TRIES
    for _ in range(tries):
        answer = _ask(data, message)
        if answer is not None:
            if not answer.pop("done", False):
                raise NotDone(str(answer.get("text", "the server refused it")))
            return answer
        time.sleep(PAUSE_S)
    raise NotDone(
        "the server has ended the connection without an answer, and may have done it: "
        "see `tradechat-admin user show`"
    )


def _ask(data: Path, message: bytes) -> Fields | None:
    """None: the connection ended without an answer. NotDone."""
    late = "look at its log; money that is asked for with the same --key moves once"
    try:
        with connected(data, ANSWER_S, late) as sock:
            sock.send(control.encode(Ask(OPERATE)))
            sock.send(message)
            answer = sock.recv(ACT_MAX)
    except OSError:
        return None
    try:
        found = json.loads(answer)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
