"""Rooms that are opened by name: what they are, and who may do what in them."""

from libproto.codec import RESPONSE
from libproto.errors import Status
from libproto.messages import Flag, Opcode, RoomAccess, RoomRole
from server.region.layout import NAME_MAX
from server.region.records import TEXT_MAX
from server.worker.connection import Connection
from server.worker.refusal import Refused, check_text
from server.worker.requests import Handler
from server.worker.services import Services

_open_response = RESPONSE[Opcode.ROOM_OPEN].frame
_info_response = RESPONSE[Opcode.ROOM_INFO].frame
_set_response = RESPONSE[Opcode.ROOM_SET].frame
_role_response = RESPONSE[Opcode.ROOM_ROLE].frame
_block_response = RESPONSE[Opcode.BLOCK].frame
_FLAGGED = int(Flag.POSSIBLE_DUPLICATE)


def room_open(
    services: Services, connection: Connection, req_id: int, flags: int, name: str
) -> bytes | None:
    check_text("name of a room", name, 1, NAME_MAX)
    session = connection.live_session()
    retention_us = int(services.settings.room_retention * 1e6)
    done = services.state.changes.open_room(
        session, name, req_id, flags, connection.now, retention_us
    )
    services.subscriptions.wake(done.touched)
    answer = _open_response(req_id, _FLAGGED * done.recorded, done.room, int(done.created))
    return services.durable.when_shown(connection, done.event, answer, done.txn)


def room_info(
    services: Services, connection: Connection, req_id: int, flags: int, room: int
) -> bytes | None:
    del flags
    session = connection.live_session()
    state = services.state
    info = state.rights.info(room, session.user)
    answer = _info_response(req_id, 0, *info)
    return services.durable.when_shown(connection, state.events.newest(room), answer)


def room_set(
    services: Services, connection: Connection, req_id: int, flags: int, room: int, topic: str,
    access: int,
) -> bytes | None:  # fmt: skip
    check_text("topic", topic, 0, TEXT_MAX)
    if access not in tuple(RoomAccess):
        raise Refused(Status.ERR_BAD_PACKET, f"there is no access {access}")
    session = connection.live_session()
    done = services.state.changes.set_room(
        session, room, topic, access, req_id, flags, connection.now
    )
    services.subscriptions.wake(done.touched)
    answer = _set_response(req_id, _FLAGGED * done.recorded, done.seq)
    return services.durable.when_shown(connection, done.event, answer, done.txn)


def room_role(
    services: Services, connection: Connection, req_id: int, flags: int, room: int, user: int,
    role: int, seconds: int,
) -> bytes | None:  # fmt: skip
    session = connection.live_session()
    if role not in tuple(RoomRole):
        raise Refused(Status.ERR_BAD_PACKET, f"there is no role {role}")
    if user == session.user:
        raise Refused(Status.ERR_BAD_PACKET, "nobody sets their own role")
    done = services.state.changes.set_role(
        session, room, user, role, seconds, req_id, flags, connection.now
    )
    services.subscriptions.wake(done.touched)
    answer = _role_response(req_id, _FLAGGED * done.recorded, done.seq)
    return services.durable.when_shown(connection, done.event, answer, done.txn)


def block(
    services: Services, connection: Connection, req_id: int, flags: int, user: int, on: int
) -> bytes | None:
    del flags
    session = connection.live_session()
    if on > 1:
        raise Refused(Status.ERR_BAD_PACKET, "on is 0 or 1")
    if user == session.user:
        raise Refused(Status.ERR_BAD_PACKET, "nobody blocks oneself")
    state = services.state
    state.blocks.set(session, user, bool(on), connection.now)
    # What was so already is durable when the log's head is.
    return services.durable.when_durable(connection, state.log.head(), _block_response(req_id, 0))


HANDLERS: dict[Opcode, Handler] = {
    Opcode.ROOM_OPEN: room_open,
    Opcode.ROOM_INFO: room_info,
    Opcode.ROOM_SET: room_set,
    Opcode.ROOM_ROLE: room_role,
    Opcode.BLOCK: block,
}
