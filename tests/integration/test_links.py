"""LINK_FETCH over the wire, with a real origin that behaves or does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from libproto.errors import Status
from libproto.messages import EventKind, Flag, Opcode
from tests.helpers.server import RunningServer, wait_until
from tests.helpers.wire import Lobby, Wire
from tests.integration.test_files import ROOM, fetch, member
from tests.server.files.bad_origin import BadOrigin, Request, bad_origin

NOT_FOUND, BAD = Status.ERR_NOT_FOUND, Status.ERR_BAD_PACKET


@pytest.fixture
def origin() -> Iterator[BadOrigin]:
    with bad_origin() as made:
        yield made


@pytest.fixture
def lobby(tmp_path: Path, origin: BadOrigin) -> Iterator[Lobby]:
    flags = ("--max-file", "1", "--link-hosts", f"origin.test:{origin.port}=127.0.0.1")
    with RunningServer(tmp_path / "data", *flags) as server, Lobby(server) as made:
        yield made
        assert server.stop() == 0, server.log_text()


def files_told(wire: Wire) -> list[str]:
    events = wire.ok(Opcode.ROOM_HISTORY, ROOM, 0, 256).events
    return [event.message for event in events if event.kind == EventKind.FILE]


def test_a_link_is_fetched_once_and_shared(lobby: Lobby, origin: BadOrigin) -> None:
    body = bytes(range(256)) * 700
    origin.serve = lambda request: request.answer(body, media_type="image/png")
    ann, bob = member(lobby, client_id=4), member(lobby)
    url = origin.url("/a/picture.png")
    first = ann.call(Opcode.LINK_FETCH, ROOM, url, req_id=9)
    assert first.status == Status.OK, first.body
    assert first.body.size == len(body)
    assert fetch(bob, first.body.file_id) == body
    assert files_told(bob) == [f"{first.body.file_id} {len(body)} image/png picture.png"]
    again = ann.call(Opcode.LINK_FETCH, ROOM, url, req_id=9, flags=Flag.POSSIBLE_DUPLICATE)
    assert (again.status, again.body) == (Status.OK, first.body)
    assert again.flags & Flag.POSSIBLE_DUPLICATE
    assert ann.call(Opcode.LINK_FETCH, ROOM, url + "?x", req_id=9).status == BAD, "other contents"
    asked = len(origin.requests)
    second = bob.ok(Opcode.LINK_FETCH, ROOM, url)
    assert second.file_id != first.body.file_id, "another publication"
    assert len(origin.requests) == asked, "it was fetched before"


def test_whatever_is_wrong_is_not_found(lobby: Lobby, origin: BadOrigin) -> None:
    def lies(request: Request) -> None:
        request.answer(b"short", length=100)

    def endless(request: Request) -> None:
        request.answer(length=None)
        while request.method == "GET":
            request.send(bytes(65536))

    ann = member(lobby)
    for serve in (
        lambda request: request.answer(b"", "404 Not Found"),
        lambda request: request.answer(b"x" * ((1 << 20) + 1)),
        lambda request: request.answer(b"", "302 Found", Location="http://127.0.0.1/"),
        lies,
        endless,
    ):
        origin.serve = serve
        answer = ann.call(Opcode.LINK_FETCH, ROOM, origin.url(f"/{len(origin.requests)}"))
        assert (answer.status, answer.body.retry_after_ms) == (NOT_FOUND, 0)
        assert answer.body.detail == "the link cannot be fetched", "nothing is told of the network"
    for url in ("ftp://origin.test/x", "http://elsewhere.test/", "no url", "http://127.0.0.1/x"):
        assert ann.status(Opcode.LINK_FETCH, ROOM, url) == NOT_FOUND, url
    assert ann.status(Opcode.LINK_FETCH, ROOM, "") == BAD
    assert ann.status(Opcode.LINK_FETCH, ROOM, "http://x/" + "x" * 2048) == BAD
    assert ann.status(Opcode.LINK_FETCH, 2, origin.url()) == Status.ERR_UNAUTHORIZED
    assert files_told(ann) == []
    assert '"link_not_fetched"' in lobby.server.log_text()


def test_a_slow_origin_keeps_nobody_waiting(lobby: Lobby, origin: BadOrigin) -> None:
    def waits(request: Request) -> None:
        if request.path == "/slow":
            request.wait_for_the_end()
        else:
            request.answer(b"quick")

    origin.serve = waits
    ann, bob = member(lobby, worker=0), member(lobby, worker=0)
    ann.send(Opcode.LINK_FETCH, ROOM, origin.url("/slow"))
    wait_until(lambda: bool(origin.requests), "it is asked")
    assert ann.ok(Opcode.CHAT_SEND, ROOM, "still here").room_seq
    assert fetch(bob, bob.ok(Opcode.LINK_FETCH, ROOM, origin.url("/quick")).file_id) == b"quick"
    ann.close()  # nobody waits for it any more


def test_a_host_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="did not start") as found:
        RunningServer(tmp_path / "data", "--link-hosts", "a:b:c")
    assert "is not HOST, HOST:PORT" in str(found.value)
