"""Rooms, direct messages, and who is there."""

from struct import Struct
from typing import Any

from libproto import words
from libproto.codec import RESPONSE
from libproto.errors import Status
from libproto.framing import Decoder, assemble
from libproto.messages import LIST_MAX, USERNAME_PATTERN, Flag, Opcode
from libproto.texts import may_be_shown
from server.archive.protocol import INBOX, Kind, unpack_events
from server.core.deletions import entry_of, sender_of, seq_of, without_text
from server.core.errors import NoSuchText, NotJoined
from server.worker.connection import ANSWER_LEN, Connection
from server.worker.refusal import RETRY_READ_MS, Refused
from server.worker.requests import Decode, Handler, Hot, Request
from server.worker.services import Services

_join_response = RESPONSE[Opcode.JOIN_ROOM].frame
_leave_response = RESPONSE[Opcode.LEAVE_ROOM].frame
_list_response = RESPONSE[Opcode.ROOM_LIST].frame
_members_response = RESPONSE[Opcode.ROOM_MEMBERS].frame
_direct_response = RESPONSE[Opcode.DIRECT_SEND].frame
_delete_response = RESPONSE[Opcode.CHAT_DELETE].frame
_lookup_response = RESPONSE[Opcode.USER_LOOKUP].frame
_name_response = RESPONSE[Opcode.USER_NAME].frame

# A ROOM_HISTORY answer is made of bodies that stand in the ring: only what precedes them is packed.
_HISTORY = Struct(">IQQH")
_INBOX = Struct(">QQH")
_INBOX_SEQ = Struct(">Q")  # a DIRECT_MESSAGE body begins with it
_RESPONSE = int(Flag.RESPONSE)
_CHAT_SEND, _MESSAGE_AT = int(Opcode.CHAT_SEND), words.MESSAGE_AT
_FLAGGED = int(Flag.POSSIBLE_DUPLICATE)


def _check_message(services: Services, message: str) -> None:
    if not 0 < len(message.encode()) <= services.settings.max_message:
        raise Refused(
            Status.ERR_BAD_PACKET,
            f"a message is 1 to {services.settings.max_message} bytes",
        )
    if not may_be_shown(message, lines=True):
        raise Refused(
            Status.ERR_BAD_PACKET,
            "a message has no control characters, and closes what turns the direction of its lines",
        )


def _when_shown(
    services: Services, connection: Connection, answer: bytes, *rooms: int
) -> bytes | None:
    """An answer that may show any event; rooms: of which it shows something that was read without
    a lock."""
    return services.durable.when_shown(connection, services.state.events.newest(*rooms), answer)


def join_room(
    services: Services, connection: Connection, req_id: int, flags: int, room: int
) -> bytes | None:
    del flags
    connection.live_session()
    services.state.rooms.check_known(room)
    most = services.settings.session_rooms
    if most and services.subscriptions.rooms_of(connection, but=room) >= most:
        raise Refused(Status.ERR_LIMIT, f"a session may be in {most} rooms: leave one")
    last, members, shown = services.subscriptions.join(connection, room, connection.now)
    answer = _join_response(req_id, 0, room, last, members, services.state.rooms.epoch(room))
    return services.durable.when_shown(connection, shown, answer)


def leave_room(
    services: Services, connection: Connection, req_id: int, flags: int, room: int
) -> bytes | None:
    del flags
    connection.live_session()
    if not services.subscriptions.is_member(connection, room):
        services.state.rooms.check_there(room)
        raise Refused(Status.ERR_NOT_FOUND, "the room is not joined")
    services.subscriptions.leave(connection, room, connection.now)
    return _when_shown(services, connection, _leave_response(req_id, 0, room))


class ChatSend(Request):
    """CHAT_SEND."""

    __slots__ = ("_chat", "_durable", "_max_message", "_rated", "_services", "_subscriptions")

    def __init__(self, record: int, decode: Decode, services: Services) -> None:
        Request.__init__(self, record, decode)
        self._services = services
        self._chat = services.state.chat
        self._durable = services.durable
        self._subscriptions = services.subscriptions
        self._max_message = services.settings.max_message
        self._rated = services.settings.chat_rate > 0

    def serve(self, connection: Any, frame: Decoder) -> bytes | None:
        buf, at, end = frame.buf, frame.start, frame.end
        room = words.chat_send(buf, at, end)
        encoded = buf[at + _MESSAGE_AT : end]
        try:
            message = encoded.decode()
        except UnicodeDecodeError:
            return Request.serve(self, connection, frame)  # which says what is wrong
        return self._execute(connection, frame.req_id, frame.flags, room, message, encoded)

    def execute(
        self, connection: Any, req_id: int, flags: int, fields: tuple[Any, ...]
    ) -> bytes | None:
        room, message = fields
        return self._execute(connection, req_id, flags, room, message, message.encode())

    def _execute(
        self, connection: Connection, req_id: int, flags: int, room: int, message: str,
        encoded: bytes,
    ) -> bytes | None:  # fmt: skip
        if not 0 < len(encoded) <= self._max_message or not message.isprintable():
            _check_message(self._services, message)
        session = connection.session
        assert session is not None, "the table of states lets nobody else come here"
        if self._rated:
            self._services.rates.check_chat(session.user, room, 0)
        try:
            sent = self._chat.send_encoded(session, room, encoded, connection.now, req_id, flags)
        except NotJoined:
            self._services.state.rooms.check_known(room)
            raise
        seq, time, event, recorded, touched = sent
        self._subscriptions.wake(touched)
        flag = _FLAGGED if recorded else 0
        answer = words.pair(_CHAT_SEND, req_id, flag, seq, time)
        return self._durable.when_shown(connection, event, answer)


def room_history(
    services: Services,
    connection: Connection,
    req_id: int,
    flags: int,
    room: int,
    after_seq: int,
    limit: int,
) -> bytes | None:
    del flags
    session, state = connection.live_session(), services.state
    joined = services.subscriptions.is_member(connection, room)
    state.rights.check_reader(room, session.user, joined=joined)
    limit, space = min(limit, LIST_MAX), ANSWER_LEN - _HISTORY.size
    events, reached = state.events, services.reached()
    epoch, first = state.rooms.epoch(room), state.rooms.first_seq(room)
    hidden = state.deletions.hidden(room)
    # What was said before it was opened under its name is of another room.
    after_seq = max(after_seq, first - 1)

    def answer(oldest: int, bodies: list[bytes]) -> bytes | None:
        oldest, bodies = max(oldest, first), state.deletions.shown(room, bodies, hidden)
        body = _HISTORY.pack(room, epoch, oldest, len(bodies)) + b"".join(bodies)
        frame = assemble(Opcode.ROOM_HISTORY, req_id, _RESPONSE, Status.OK, body)
        return _when_shown(services, connection, frame, room)

    def answer_older(data: bytes) -> bytes | None:
        kept, bodies = unpack_events(data)
        if bodies:
            return answer(kept, bodies)
        # It has nothing above after_seq: what there is, is in the ring.
        oldest, bodies = events.history(room, after_seq, limit, space)
        _check_no_hole(services, reached)
        reaches = kept and oldest <= after_seq + 1
        return answer(kept if reaches else oldest, bodies)

    kept = events.kept(room)
    oldest, bodies = events.history(room, after_seq, limit, space)
    if services.archive is not None and oldest > after_seq + 1:
        fields = (room, after_seq, limit, space)
        return connection.resume_when_answered(
            Kind.EVENTS, fields, Opcode.ROOM_HISTORY, req_id, answer_older
        )
    return answer(min(kept, oldest) if kept else oldest, bodies)


def chat_delete(
    services: Services, connection: Connection, req_id: int, flags: int, room: int, seq: int
) -> bytes | None:
    del flags
    connection.live_session()
    state = services.state
    state.rooms.check_there(room)
    if not max(1, state.rooms.first_seq(room)) <= seq <= state.events.last_seq(room):
        raise NoSuchText

    def delete(bodies: list[bytes]) -> bytes | None:
        body = bodies[0] if bodies else b""
        if not body or seq_of(body) != seq or without_text(body) == body:
            raise NoSuchText
        live = connection.live_session()
        done = state.changes.delete_text(
            live, room, seq, sender_of(body), entry_of(body), req_id, connection.now
        )
        services.subscriptions.wake(done.touched)
        answer = _delete_response(req_id, 0, done.seq)
        return services.durable.when_shown(connection, done.event, answer, done.txn)

    def delete_older(data: bytes) -> bytes | None:
        return delete(unpack_events(data)[1])

    space = ANSWER_LEN
    _, bodies = state.events.history(room, seq - 1, 1, space)
    if services.archive is None or (bodies and seq_of(bodies[0]) == seq):
        return delete(bodies)
    fields = (room, seq - 1, 1, space)
    return connection.resume_when_answered(
        Kind.EVENTS, fields, Opcode.CHAT_DELETE, req_id, delete_older
    )


def _check_no_hole(services: Services, reached: int) -> None:
    """Nothing was between what the archive had and what the ring has, which was read just now.
    reached: of the archive, before it was asked. Refused."""
    if services.state.events.oldest() > reached + 1:
        raise Refused(Status.ERR_SERVER_BUSY, "the history is being read", RETRY_READ_MS)


def room_list(
    services: Services, connection: Connection, req_id: int, flags: int, after_room: int
) -> bytes | None:
    del flags
    connection.live_session()
    rooms = services.state.memberships.listing(after_room, LIST_MAX)
    answer = _list_response(req_id, 0, rooms)
    return _when_shown(services, connection, answer, *(room for room, _, _ in rooms))


def room_members(
    services: Services, connection: Connection, req_id: int, flags: int, room: int, after_user: int
) -> bytes | None:
    del flags
    connection.live_session()
    state = services.state
    state.rooms.check_there(room)
    users = state.memberships.member_ids(room, after_user)[:LIST_MAX]
    names = [(user, state.users.name(user)) for user in users]
    return _when_shown(services, connection, _members_response(req_id, 0, names), room)


def direct_send(
    services: Services, connection: Connection, req_id: int, flags: int, to_user: int, message: str
) -> bytes | None:
    _check_message(services, message)
    session = connection.live_session()
    services.rates.check_chat(session.user, 0, to_user)
    sent = services.state.chat.direct(session, to_user, message, connection.now, req_id, flags)
    services.subscriptions.wake(sent.touched)
    answer = _direct_response(req_id, _FLAGGED * sent.recorded, sent.time)
    return services.durable.when_shown(connection, sent.event, answer)


def inbox_history(
    services: Services, connection: Connection, req_id: int, flags: int, after_seq: int, limit: int
) -> bytes | None:
    del flags
    user = connection.live_session().user
    limit, space = min(limit, LIST_MAX), ANSWER_LEN - _INBOX.size
    events, reached = services.state.events, services.reached()

    def answer(oldest: int, bodies: list[bytes]) -> bytes | None:
        oldest = oldest or (_INBOX_SEQ.unpack_from(bodies[0])[0] if bodies else 1)
        body = _INBOX.pack(services.rooms_epoch, oldest, len(bodies)) + b"".join(bodies)
        frame = assemble(Opcode.INBOX_HISTORY, req_id, _RESPONSE, Status.OK, body)
        return _when_shown(services, connection, frame)

    def answer_older(data: bytes) -> bytes | None:
        kept, bodies = unpack_events(data)
        if not bodies:  # what there is above after_seq, is in the ring
            bodies = events.inbox(user, after_seq, limit, space)
            _check_no_hole(services, reached)
        return answer(kept, bodies)

    if services.archive is None:
        return answer(0, events.inbox(user, after_seq, limit, space))
    fields = (INBOX | user, after_seq, limit, space)
    return connection.resume_when_answered(
        Kind.EVENTS, fields, Opcode.INBOX_HISTORY, req_id, answer_older
    )


def user_lookup(
    services: Services, connection: Connection, req_id: int, flags: int, username: str
) -> bytes | None:
    del flags
    connection.live_session()
    users = services.state.users
    user = users.find(username) if USERNAME_PATTERN.match(username) else 0
    if not user or not users.is_there(user):
        raise Refused(Status.ERR_NOT_FOUND, "no such user")
    answer = _lookup_response(req_id, 0, user, username, *users.presence(user, connection.now))
    return services.durable.when_durable(connection, services.state.log.head(), answer)


def user_name(
    services: Services, connection: Connection, req_id: int, flags: int, user: int
) -> bytes | None:
    del flags
    connection.live_session()
    users = services.state.users
    if not users.exists(user):
        raise Refused(Status.ERR_NOT_FOUND, "no such user")
    answer = _name_response(
        req_id, 0, user, users.name(user), *users.presence(user, connection.now)
    )
    return services.durable.when_durable(connection, services.state.log.head(), answer)


HANDLERS: dict[Opcode, Handler] = {
    Opcode.JOIN_ROOM: join_room,
    Opcode.LEAVE_ROOM: leave_room,
    Opcode.ROOM_HISTORY: room_history,
    Opcode.CHAT_DELETE: chat_delete,
    Opcode.ROOM_LIST: room_list,
    Opcode.ROOM_MEMBERS: room_members,
    Opcode.DIRECT_SEND: direct_send,
    Opcode.INBOX_HISTORY: inbox_history,
    Opcode.USER_LOOKUP: user_lookup,
    Opcode.USER_NAME: user_name,
}
HOT: dict[Opcode, Hot] = {Opcode.CHAT_SEND: ChatSend}
