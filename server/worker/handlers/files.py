"""Files in rooms: uploads, what they become, and reading them.

What takes its time is done in turn, apart from other requests (turns.py); each request here is a
generator that yields what it waits for.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final

from libproto.codec import PUSH, RESPONSE
from libproto.errors import Status
from libproto.messages import CHUNK_MAX, SHA256_LEN, URL_MAX, Flag, Opcode
from libproto.texts import is_media_type, may_name_a_file
from server.archive.protocol import Kind as QuestionKind
from server.archive.protocol import unpack_events
from server.core.chat import Sent, digest_of_file
from server.core.deletions import seq_of
from server.core.errors import EventsFull, NotJoined, StateRefusal
from server.files.asked import Begin
from server.files.channel import Kind
from server.files.place import is_opened, place_of, room_of
from server.worker.connection import MAX_BODY_LEN, Connection
from server.worker.file_cache import Chunk, Known
from server.worker.file_cache import answer as cached_answer
from server.worker.files import Asked, FilesClient, Reply, busy
from server.worker.refusal import Refused, history_unreadable
from server.worker.requests import Handler
from server.worker.services import Services
from server.worker.turns import Resume, Steps, Wait

_begin_response = RESPONSE[Opcode.FILE_BEGIN].frame
_put_response = RESPONSE[Opcode.FILE_PUT].frame
_end_response = RESPONSE[Opcode.FILE_END].frame
_fetch_response = RESPONSE[Opcode.LINK_FETCH].frame
_broadcast: Final = PUSH[Opcode.CHAT_BROADCAST].decode
_FLAGGED = int(Flag.POSSIBLE_DUPLICATE)
_MIB: Final = 1 << 20

FETCH_S: Final = 120.0
"""The longest that a link may take, whatever its origin does."""

PLACE_S: Final = 1.0  # that an event may wait for a place

Asking = Generator[Wait, Any, Reply]


def _client(services: Services) -> FilesClient:
    if services.files is None:
        raise busy("this server keeps nothing on disk, and no files")
    return services.files


def _asked(services: Services, asked: Asked) -> Asking:
    """Ask the files process. Refused."""
    found = yield _client(services).ask(asked)
    if isinstance(found, Refused):
        raise found
    reply: Reply = found
    return reply


def _check_joined(services: Services, connection: Connection, room: int) -> None:
    """Refused or a refusal of the state, unless the connection is in the room."""
    session, state = connection.live_session(), services.state
    state.rooms.check_known(room)
    if not services.subscriptions.is_member(connection, room):
        raise NotJoined
    state.rights.check_reader(room, session.user, joined=True)


def _check_readable(services: Services, connection: Connection, place: int) -> None:
    """The same, unless the user may read what was said in a place."""
    session, state, room = connection.live_session(), services.state, room_of(place)
    if not is_opened(place, state.rooms.opened(room)):
        raise Refused(Status.ERR_NOT_FOUND, "the room of this file is no more")
    joined = services.subscriptions.is_member(connection, room)
    state.rights.check_reader(room, session.user, joined=joined)


def _may_read(services: Services, connection: Connection, place: int) -> bool:
    try:
        _check_readable(services, connection, place)
    except (Refused, StateRefusal):
        return False
    return True


def file_begin(
    services: Services, connection: Connection, req_id: int, flags: int, room: int, size: int,
    sha256: bytes, media_type: str, name: str,
) -> bytes | None:  # fmt: skip
    del flags
    most = services.settings.max_file * _MIB
    if size > most:
        raise Refused(Status.ERR_BAD_PACKET, f"a file has at most {most} bytes")
    if len(sha256) != SHA256_LEN:
        raise Refused(Status.ERR_BAD_PACKET, f"a SHA-256 has {SHA256_LEN} bytes")
    if not is_media_type(media_type):
        raise Refused(Status.ERR_BAD_PACKET, "a media type is token/token, of at most 64 bytes")
    if not may_name_a_file(name):
        raise Refused(
            Status.ERR_BAD_PACKET,
            "the name of a file has 1 to 128 bytes, no slash, no leading dot, no control "
            "characters, and closes what turns the direction of writing",
        )

    def steps() -> Steps:
        _check_joined(services, connection, room)
        user = connection.live_session().user
        found = yield from _asked(services, Asked(Kind.WHERE, user, size=size, sha256=sha256))
        places = [
            int.from_bytes(found.data[at : at + 8], "little") for at in range(0, len(found.data), 8)
        ]
        readable = any(_may_read(services, connection, place) for place in places)
        _check_joined(services, connection, room)
        place = place_of(room, services.state.rooms.opened(room))
        begin = Begin(place, readable, sha256, media_type, name)
        asked = Asked(Kind.BEGIN, user, size=size, place=place, data=begin.pack())
        begun = yield from _asked(services, asked)
        _note_upload(services, connection, user, begun.file_id)
        answer = _begin_response(req_id, 0, begun.file_id, begun.received)
        return services.durable.when_durable(connection, 0, answer)

    return connection.in_turn(Opcode.FILE_BEGIN, req_id, steps())


def _note_upload(services: Services, connection: Connection, user: int, file_id: int) -> None:
    """It is kept until the connection ends, and once is enough."""
    if connection.uploads is None:
        connection.uploads = set()
    if (user, file_id) in connection.uploads:
        _client(services).tell(Kind.RELEASE, user, file_id)
    connection.uploads.add((user, file_id))


def file_put(
    services: Services, connection: Connection, req_id: int, flags: int, file_id: int, offset: int,
    data: bytes,
) -> bytes | None:  # fmt: skip
    del flags
    if not 0 < len(data) <= CHUNK_MAX:
        raise Refused(Status.ERR_BAD_PACKET, f"FILE_PUT carries 1 to {CHUNK_MAX} bytes")

    def steps() -> Steps:
        user = connection.live_session().user
        asked = Asked(Kind.PUT, user, file_id, offset, data=data)
        put = yield from _asked(services, asked)
        answer = _put_response(req_id, 0, put.received)
        return services.durable.when_durable(connection, 0, answer)

    return connection.in_turn(Opcode.FILE_PUT, req_id, steps())


def file_end(
    services: Services, connection: Connection, req_id: int, flags: int, file_id: int
) -> bytes | None:
    digest = digest_of_file(Opcode.FILE_END, file_id)

    def steps() -> Steps:
        session, chat = connection.live_session(), services.state.chat
        done = chat.published(session, req_id, digest, flags)
        if done is None:
            asked = Asked(Kind.STAT, session.user, file_id)
            about = yield from _asked(services, asked)
            room = room_of(about.place)
            _check_speaker(services, connection, about.place)
            try:
                ended = yield from _asked(services, asked._replace(kind=Kind.END))
                text = f"{file_id} {ended.size} {ended.data.decode()}"
                done = yield from _published(
                    services, connection, room, about.place, text, digest, req_id, flags
                )
            finally:
                if done is None:
                    _client(services).tell(Kind.RETRACT, session.user, file_id)
        if connection.uploads is not None:
            connection.uploads.discard((session.user, file_id))
        services.subscriptions.wake(done.touched)
        answer = _end_response(req_id, _FLAGGED * done.recorded, done.seq)
        return services.durable.when_shown(connection, done.event, answer)

    return connection.in_turn(Opcode.FILE_END, req_id, steps())


def _check_speaker(services: Services, connection: Connection, place: int) -> None:
    """Whether a file may be published there, before anything is done for it."""
    room, session, state = room_of(place), connection.live_session(), services.state
    if not is_opened(place, state.rooms.opened(room)):
        raise NotJoined
    if not services.subscriptions.is_member(connection, room):
        raise NotJoined
    state.rights.check_speaker(room, session.user)


def _published(
    services: Services, connection: Connection, room: int, place: int, text: str, digest: int,
    req_id: int, flags: int,
) -> Generator[Wait, Any, Sent]:  # fmt: skip
    """Publish a file; where its event has no place, as soon as there is one."""
    done: list[Sent] = []

    def publish() -> bytes | None:
        session, now = connection.live_session(), services.now()
        opened = services.state.rooms.opened(room)
        if not is_opened(place, opened):
            raise NotJoined
        chat = services.state.chat
        done.append(chat.publish(session, room, opened, text, digest, now, req_id, flags))
        return None

    until = services.loop.time() + PLACE_S
    execute: Callable[[], bytes | None] = publish
    while True:
        try:
            execute()
            return done[0]
        except EventsFull:
            if services.loop.time() > until:
                raise
        yield partial(_wait_for_place, services)
        execute = partial(services.places.in_turn, publish)


def _wait_for_place(services: Services, resume: Resume) -> None:
    def attempt(late: bool) -> bool:
        resume(late)
        return True

    services.places.wait(attempt, to_leave=False)


def file_get(
    services: Services, connection: Connection, req_id: int, flags: int, file_id: int, offset: int,
    length: int,
) -> bytes | None:  # fmt: skip
    del flags

    def steps() -> Steps:
        user, cache = connection.live_session().user, _client(services).cache
        about = cache.known(file_id)
        if about is not None:
            _check_readable(services, connection, about.place)
            here = cache.chunk(about, offset, length)
            if here is not None:
                answer = cached_answer(req_id, about.size, offset, here)
                return services.durable.when_durable(connection, 0, answer)
        asked = Asked(Kind.GET, user, file_id, offset, min(length, CHUNK_MAX))
        found = yield from _asked(services, asked)
        about, chunk = Known(found.place, found.size, found.sha256), Chunk(found.data, found.crc)
        cache.add(file_id, about, offset, chunk)
        _check_readable(services, connection, found.place)
        answer = cached_answer(req_id, found.size, offset, chunk)
        return services.durable.when_durable(connection, 0, answer)

    return connection.in_turn(Opcode.FILE_GET, req_id, steps())


def link_fetch(
    services: Services, connection: Connection, req_id: int, flags: int, room: int, url: str
) -> bytes | None:
    if not 0 < len(url.encode()) <= URL_MAX:
        raise Refused(Status.ERR_BAD_PACKET, f"a URL has 1 to {URL_MAX} bytes")
    digest = digest_of_file(Opcode.LINK_FETCH, room, url)

    def steps() -> Steps:
        session, chat = connection.live_session(), services.state.chat
        done = chat.published(session, req_id, digest, flags)
        if done is not None:
            file_id, size = yield from _told(services, room, done.seq)
        else:
            _check_joined(services, connection, room)
            place = place_of(room, services.state.rooms.opened(room))
            _check_speaker(services, connection, place)
            asked = Asked(Kind.FETCH, session.user, place=place, data=url.encode(), seconds=FETCH_S)
            got = yield from _asked(services, asked)
            file_id, size = got.file_id, got.size
            text = f"{file_id} {size} {got.data.decode()}"
            done = yield from _published(
                services, connection, room, place, text, digest, req_id, flags
            )
        services.subscriptions.wake(done.touched)
        answer = _fetch_response(req_id, _FLAGGED * done.recorded, file_id, size, done.seq)
        return services.durable.when_shown(connection, done.event, answer)

    return connection.in_turn(Opcode.LINK_FETCH, req_id, steps())


def _told(services: Services, room: int, seq: int) -> Generator[Wait, Any, tuple[int, int]]:
    """The file_id and the size that an event has told. Refused."""
    _, bodies = services.state.events.history(room, seq - 1, 1, MAX_BODY_LEN)
    archive = services.archive
    if archive is not None and not (bodies and seq_of(bodies[0]) == seq):
        fields = (room, seq - 1, 1, MAX_BODY_LEN)

        def ask(resume: Callable[[Any], None]) -> None:
            if not archive.ask(QuestionKind.EVENTS, fields, resume):
                resume(b"")

        data = yield ask
        if not data:
            raise history_unreadable()
        bodies = unpack_events(data)[1]
    if not bodies or seq_of(bodies[0]) != seq:
        raise Refused(Status.ERR_NOT_FOUND, "what was fetched is not kept any more")
    message: str = _broadcast(bodies[0], 0, len(bodies[0]))[-1]
    file_id, size, *_ = message.split(" ")
    return int(file_id), int(size)


HANDLERS: dict[Opcode, Handler] = {
    Opcode.FILE_BEGIN: file_begin,
    Opcode.FILE_PUT: file_put,
    Opcode.FILE_END: file_end,
    Opcode.FILE_GET: file_get,
    Opcode.LINK_FETCH: link_fetch,
}
