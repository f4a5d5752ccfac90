"""Boards: offers in a room that others can take."""

from struct import Struct

from libproto.codec import RESPONSE
from libproto.errors import Status
from libproto.messages import LIST_MAX, MAX_BALANCE, Flag, Opcode
from server.core.errors import NotJoined
from server.core.ledger import RECORDED
from server.region.records import TEXT_MAX
from server.worker.connection import ANSWER_LEN, Connection
from server.worker.handlers.trading import refuse, tell_payee
from server.worker.refusal import Refused, check_text
from server.worker.requests import Handler
from server.worker.services import Services

_add_response = RESPONSE[Opcode.BOARD_ADD].frame
_list_response = RESPONSE[Opcode.BOARD_LIST].frame
_remove_response = RESPONSE[Opcode.BOARD_REMOVE].frame
_take_response = RESPONSE[Opcode.BOARD_TAKE].frame
_FLAGGED = int(Flag.POSSIBLE_DUPLICATE)
_ENTRY = Struct(">QQIHQH")  # what an entry has beside its texts
_COUNT = 2  # bytes


def board_add(
    services: Services, connection: Connection, req_id: int, flags: int, room: int, price: int,
    text: str,
) -> bytes | None:  # fmt: skip
    check_text("entry", text, 1, TEXT_MAX)
    if price > MAX_BALANCE:
        raise Refused(Status.ERR_LIMIT, "nobody can pay that price")
    session, most = connection.live_session(), services.settings.board_entries
    services.rates.check_chat(session.user, room, 0)
    done = services.state.changes.add_offer(
        session, room, price, text, most, req_id, flags, connection.now
    )
    services.subscriptions.wake(done.touched)
    answer = _add_response(req_id, _FLAGGED * done.recorded, done.txn, done.seq)
    return services.durable.when_shown(connection, done.event, answer, done.txn)


def board_list(
    services: Services, connection: Connection, req_id: int, flags: int, room: int, after: int,
    limit: int, contains: str,
) -> bytes | None:  # fmt: skip
    del flags
    session, state = connection.live_session(), services.state
    state.rooms.check_there(room)
    if not services.subscriptions.is_member(connection, room):
        raise NotJoined
    state.rights.check_reader(room, session.user, joined=True)
    limit, space, wanted = min(limit, LIST_MAX), ANSWER_LEN - _COUNT, contains.casefold()
    found: list[tuple[int, int, int, str, int, str]] = []
    for offer in state.boards.offers(room, after):
        if len(found) == limit:
            break
        text = offer.text.decode()
        if wanted not in text.casefold() or not state.users.is_there(offer.user):
            continue
        name = state.users.name(offer.user)
        space -= _ENTRY.size + len(name) + len(offer.text)
        if space < 0:
            break
        found.append((offer.entry, offer.time, offer.user, name, offer.price, text))
    answer = _list_response(req_id, 0, found)
    return services.durable.when_shown(connection, state.events.newest(room), answer)


def board_remove(
    services: Services, connection: Connection, req_id: int, flags: int, room: int, entry: int
) -> bytes | None:
    session = connection.live_session()
    done = services.state.changes.remove_offer(session, room, entry, req_id, flags, connection.now)
    services.subscriptions.wake(done.touched)
    answer = _remove_response(req_id, _FLAGGED * done.recorded, done.seq)
    return services.durable.when_shown(connection, done.event, answer, done.txn)


def board_take(
    services: Services, connection: Connection, req_id: int, flags: int, room: int, entry: int,
    price: int,
) -> bytes | None:  # fmt: skip
    if not price:
        raise Refused(Status.ERR_BAD_PACKET, "a note cannot be taken: it has no price")
    session, state, now = connection.live_session(), services.state, connection.now
    done = state.changes.take_offer(session, room, entry, price, req_id, flags, now)
    if not done.what:
        services.subscriptions.wake(done.touched)
        if state.audience.watched(done.owner):
            tell_payee(services, session, done.owner, done.txn, price, now)
    elif done.what > RECORDED:
        refuse(services, done.what, done.balance, price)
    flag = _FLAGGED if done.what else 0
    answer = _take_response(req_id, flag, done.txn, done.balance, done.seq)
    return services.durable.when_shown(connection, done.event, answer, done.txn)


HANDLERS: dict[Opcode, Handler] = {
    Opcode.BOARD_ADD: board_add,
    Opcode.BOARD_LIST: board_list,
    Opcode.BOARD_REMOVE: board_remove,
    Opcode.BOARD_TAKE: board_take,
}
