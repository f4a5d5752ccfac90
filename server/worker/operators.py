"""What an operator asks for over the admin socket: acts on users and their money.

The master hands the connection over; the act is one message of JSON and its answer another. It is
executed as a user's request is, by `server/core/operators.py`, and answered once it is durable.
"""

import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final

import liblog
from libproto.messages import KEY_LEN, MIN_ITERATIONS, SALT_LEN, URL_MAX, USERNAME_PATTERN
from libproto.scram import Verifier
from libproto.texts import may_be_registered, may_be_shown
from server import control
from server.control import ACT_MAX
from server.core.audience import Touched
from server.core.errors import NoSuchUser, OtherRequest, StateRefusal
from server.files.channel import Kind
from server.region.layout import NOTE_MAX
from server.region.records import RecordKind, UserRole, UserState
from server.worker.refusal import Refused
from server.worker.services import Services

WAIT_S: Final = 10.0  # for the act, once the connection is there
PAGE: Final = 100  # users of a list in one answer
KEY_BYTES: Final = 8
_TOLD: Final = ("user", "role", "amount", "note", "pay_out")  # of an act, in the audit log

log = liblog.get("worker")
Fields = dict[str, Any]


class BadActError(ValueError):
    """The message is no act; the text says why."""


def key_number(key: str) -> int:
    """What a key is kept as."""
    return int.from_bytes(blake2b(key.encode(), digest_size=KEY_BYTES).digest()) or 1


class OperatorDesk:
    """Such connections of one worker."""

    def __init__(self, services: Services) -> None:
        self._services, self._loop = services, services.loop
        self._operators, self._users = services.state.operators, services.state.users
        self._acts: Final[dict[str, Callable[[Fields], Fields]]] = {
            "about": self._about,
            "add": self._add,
            "passwd": self._passwd,
            "disable": lambda act: self._set(act, state=UserState.DISABLED),
            "enable": lambda act: self._set(act, state=UserState.ACTIVE),
            "delete": self._delete,
            "role": lambda act: self._set(act, role=_named(UserRole, act.get("role"))),
            "kick": self._kick,
            "show": self._show,
            "list": self._list,
            "deposit": lambda act: self._move(act, RecordKind.PAID_IN),
            "withdraw": lambda act: self._move(act, RecordKind.PAID_OUT),
            "invalidate": self._invalidate,
        }

    # ---- the connection

    def serve(self, sock: socket.socket) -> None:
        """One that the master has handed over."""
        sock.setblocking(False)
        fd = sock.fileno()
        timer = self._loop.call_later(WAIT_S, self._drop, sock)

        def ready() -> None:
            try:
                data = sock.recv(ACT_MAX)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            timer.cancel()
            self._loop.remove_reader(fd)
            self._take(sock, data)

        self._loop.add_reader(fd, ready)

    def _drop(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())
        sock.close()

    def _take(self, sock: socket.socket, data: bytes) -> None:
        if not data:
            sock.close()
            return
        try:
            peer = control.peer(sock)
            if peer.uid not in (0, os.geteuid()):
                raise BadActError("only the server's own user and root may ask for it")
            answer = self._execute(data, peer.uid)
        except OtherRequest:
            text = "this --key was used for another command: nothing was done; take another one"
            answer = {"done": False, "text": text}
        except (BadActError, StateRefusal, Refused) as error:
            text = error.detail if isinstance(error, Refused) else str(error)
            answer = {"done": False, "text": text}
        self._note(sock, data, answer)
        # What it shows must be durable, too.
        head = self._services.state.log.head()
        self._services.durable.do_when_durable(head, lambda: _send(sock, answer))

    def _note(self, sock: socket.socket, data: bytes, answer: Fields) -> None:
        """What changes something goes into the audit log, without what is secret in it."""
        try:
            act = json.loads(data)
            name = str(act["act"])
        except (ValueError, KeyError, TypeError):
            return
        if name in ("about", "show", "list"):
            return
        told = {field: act[field] for field in _TOLD if field in act}
        found: Fields = {
            field: answer[field] for field in ("txn_id", "recorded") if field in answer
        }
        with suppress(OSError):
            found["uid"] = control.peer(sock).uid
        result = "done" if answer["done"] else str(answer.get("text"))
        self._services.audit.write(f"operator_{name}", result, **told | found)

    def _execute(self, data: bytes, uid: int) -> Fields:
        """The answer to an act. BadActError, StateRefusal, Refused."""
        try:
            act = json.loads(data)
            name = act["act"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadActError("the act cannot be read") from error
        if name not in self._acts:
            raise BadActError(f"this server knows no act {name!r}")
        if self._services.connections.draining:
            raise BadActError("the server is stopping")
        del uid
        return {"done": True} | self._acts[name](act)

    # ---- the acts

    def _user(self, act: Fields) -> int:
        """The user that an act names. NoSuchUser."""
        name = act.get("user")
        is_name = isinstance(name, str) and USERNAME_PATTERN.match(name) is not None
        user = self._users.find(str(name)) if is_name else 0
        if not user:
            raise NoSuchUser
        return user

    def _about(self, _: Fields) -> Fields:
        return {"iterations": self._services.settings.scram_iterations}

    def _add(self, act: Fields) -> Fields:
        name, role = act.get("user"), _named(UserRole, act.get("role", UserRole.USER.name))
        if not isinstance(name, str) or not may_be_registered(name):
            raise BadActError("the username is not valid, or reserved")
        now = self._services.now()
        user = self._users.register(name, _verifier(act), now)
        if role != UserRole.USER:
            self._operators.set_user(user, now, role=role)
        return {"user_id": user}

    def _passwd(self, act: Fields) -> Fields:
        done = self._operators.set_verifier(self._user(act), _verifier(act), self._services.now())
        return self._changed(done.txn, done.touched)

    def _set(
        self, act: Fields, *, role: UserRole | None = None, state: UserState | None = None
    ) -> Fields:
        done = self._operators.set_user(
            self._user(act), self._services.now(), role=role, state=state
        )
        return self._changed(done.txn, done.touched)

    def _changed(self, txn: int, touched: Touched) -> Fields:
        self._services.subscriptions.wake(touched)
        return {"txn_id": txn, "changed": bool(txn)}

    def _invalidate(self, act: Fields) -> Fields:
        """A link is to be fetched anew, or what workers keep of files to be read anew."""
        what, files = act.get("what"), self._services.files
        if not isinstance(what, str) or not 0 < len(what.encode()) <= URL_MAX:
            raise BadActError("neither a file_id nor a URL")
        is_id = what.isascii() and what.isdigit() and int(what[:20]) < 2**64
        number, url = (int(what), b"") if is_id else (0, what.encode())
        if files is None or not files.tell(Kind.INVALIDATE, 0, number, url):
            raise BadActError("no files process runs just now: try again in a moment")
        return {}

    def _delete(self, act: Fields) -> Fields:
        paid = self._move(act, RecordKind.PAID_OUT) if act.get("pay_out") else {}
        return paid | self._set(act, state=UserState.DELETED)

    def _kick(self, act: Fields) -> Fields:
        user = self._user(act)
        count = len(self._sessions(user))
        self._services.subscriptions.wake(self._operators.kick(user, self._services.now()))
        return {"sessions": count}

    def _move(self, act: Fields, kind: RecordKind) -> Fields:
        user, amount = self._user(act), act.get("amount", 0)
        note, key = act.get("note", ""), act.get("key")
        if not isinstance(amount, int) or not 0 <= amount < 2**64:
            raise BadActError("the amount is not a valid amount")
        if not amount and not act.get("pay_out"):
            raise BadActError("the amount is 0")
        if not isinstance(note, str) or len(note.encode()) > NOTE_MAX or not may_be_shown(note):
            raise BadActError(f"the note is above {NOTE_MAX} bytes, or not a text to be shown")
        if not isinstance(key, str) or not key:
            raise BadActError("the command has no key")
        if act.get("pay_out") and not self._balance(user):
            recorded = self._operators.outcome(key_number(key))
            if recorded is None:
                return {}  # there is nothing to be paid out
        paid = self._operators.move(user, kind, amount, note, key_number(key), self._services.now())
        return {"txn_id": paid.txn, "balance": paid.balance, "recorded": paid.recorded}

    def _balance(self, user: int) -> int:
        return self._services.state.region.words[self._services.state.ledger.account_of(user)]

    def _sessions(self, user: int) -> list[int]:
        marks = self._services.state.region.column("sessions", "mark")
        owners = self._services.state.region.column("sessions", "user")
        return [slot for slot, _ in self._services.state.sessions.live()
                if owners[slot] == user and not marks[slot]]  # fmt: skip

    def _shown(self, user: int) -> Fields:
        users, now = self._users, self._services.now()
        online, last_seen = users.presence(user, now)
        return {
            "user_id": user,
            "name": users.name(user),
            "role": UserRole(users.role(user)).name.lower(),
            "state": UserState(users.state(user)).name.lower(),
            "balance": self._balance(user),
            "online": online,
            "last_seen": last_seen,
        }

    def _show(self, act: Fields) -> Fields:
        user = self._user(act)
        verifier, _ = self._users.verifier(user)
        more = {"sessions": len(self._sessions(user)), "iterations": verifier.iterations}
        return {"user": self._shown(user) | more}

    def _list(self, act: Fields) -> Fields:
        after, count = act.get("after", 0), self._services.state.region.registry.users
        if not isinstance(after, int):
            raise BadActError("the place to go on from is not a number")
        last = min(count, max(0, after) + PAGE)
        return {"users": [self._shown(user) for user in range(max(0, after) + 1, last + 1)]}


def _named(kind: type[UserRole], name: object) -> UserRole:
    """BadActError."""
    try:
        return kind[str(name).upper()]
    except KeyError:
        raise BadActError(f"there is no role {name!r}") from None


def _verifier(act: Fields) -> Verifier:
    """BadActError."""
    try:
        salt, stored, server = (
            bytes.fromhex(act[name]) for name in ("salt", "stored_key", "server_key")
        )
        iterations = int(act["iterations"])
    except (KeyError, ValueError, TypeError):
        raise BadActError("the verifier cannot be read") from None
    if (len(salt), len(stored), len(server)) != (SALT_LEN, KEY_LEN, KEY_LEN) or (
        not MIN_ITERATIONS <= iterations < 2**32
    ):
        raise BadActError("the verifier has the wrong lengths, or too few iterations")
    return Verifier(salt, iterations, stored, server)


def _send(sock: socket.socket, answer: Fields) -> None:
    with suppress(OSError):  # it has gone, and it is done all the same
        sock.send(json.dumps(answer).encode())
    sock.close()
