"""What a server counts of its frames: by opcode and status, with their bytes and their latency."""

import time

from libproto.errors import Status
from libproto.framing import assemble
from libproto.messages import HEADER_LEN, Opcode
from server.core.stats import buckets, served
from server.region import status
from server.region.counters import STATUSES
from server.region.layout import WorkerState
from server.region.region import Region
from tests.helpers.server import RunningServer, wait_until
from tests.helpers.wire import Lobby, frozen, request


def since(before: dict[str, list[int]], after: dict[str, list[int]]) -> dict[str, list[int]]:
    return {
        name: [new - old for new, old in zip(after[name], before[name], strict=True)]
        for name in after
    }


def test_requests_and_answers_are_counted_with_their_bytes(lobby: Lobby) -> None:
    """Many in one write of each side."""
    wire, before = lobby.enter(), lobby.served("BALANCE")
    good = [request(Opcode.BALANCE, number) for number in range(1, 31)]
    wire.send_raw(b"".join(good))
    answers = [wire.answer() for _ in good]
    found = since(before, lobby.served("BALANCE"))
    assert found["requests"] == [30]
    assert found["request_bytes"] == [sum(map(len, good))]
    assert found["sent"] == [30] + [0] * (STATUSES - 1)
    assert found["sent_bytes"][Status.OK] == sum(HEADER_LEN + len(each.raw) for each in answers)
    assert sum(found["latency"]) == 30
    assert found["latency_us"] > [0]


def test_refusals_are_counted_by_their_status(lobby: Lobby) -> None:
    wire, before = lobby.enter(), lobby.served("WITHDRAW")
    assert wire.status(Opcode.WITHDRAW, 5) is Status.ERR_INSUFFICIENT_FUNDS
    assert wire.status(Opcode.WITHDRAW, 0) is Status.ERR_BAD_PACKET
    wire.ok(Opcode.DEPOSIT, 7)
    wire.ok(Opcode.WITHDRAW, 5)
    sent = since(before, lobby.served("WITHDRAW"))["sent"]
    assert {Status(at): n for at, n in enumerate(sent) if n} == {
        Status.OK: 1,
        Status.ERR_BAD_PACKET: 1,
        Status.ERR_INSUFFICIENT_FUNDS: 1,
    }


def test_what_is_no_request_is_counted_apart(lobby: Lobby) -> None:
    wire, before, state = lobby.enter(), lobby.served("OTHER"), lobby.served("HELLO")
    for opcode in (0x0777, 0xFFFF, 0):
        wire.send_raw(assemble(opcode, 1, 0, 0, b""))
        assert wire.answer().status == Status.ERR_BAD_PACKET
    found = since(before, lobby.served("OTHER"))
    assert found["sent"][Status.ERR_BAD_PACKET] == 3
    assert found["requests"] == [0], "it is no request"
    wire.send(Opcode.HELLO, 0, "", "ann", bytes(16), b"")  # one that is not allowed in this state
    assert wire.answer().status != Status.OK
    found = since(state, lobby.served("HELLO"))
    assert (found["requests"], sum(found["sent"][1:])) == ([1], 1)


def test_pushes_are_counted_with_their_delay_and_not_as_answers(lobby: Lobby) -> None:
    """Sent by one worker, and seen by members of both."""
    region = Region.attach(lobby.server.name)
    try:
        ann, bob = lobby.enter(worker=0), lobby.enter(worker=1)
        room = 77
        for wire in (ann, bob):
            wire.ok(Opcode.JOIN_ROOM, room)
        joins = [wire.push().body.from_user for wire in (ann, ann, bob)]
        assert joins == [ann.user, bob.user, bob.user]
        before, delays = lobby.served("CHAT_BROADCAST"), buckets(region, "deliveries", "delay")
        ann.ok(Opcode.CHAT_SEND, room, "hello")
        texts = {wire.push().body.message for wire in (ann, bob)}
        assert texts == {"hello"}

        def is_counted() -> bool:
            found = since(before, served(region)["CHAT_BROADCAST"])
            now = buckets(region, "deliveries", "delay")
            return found["sent"][Status.OK] == 2 and sum(now) - sum(delays) == 2

        wait_until(is_counted, "both pushes")
        found = since(before, lobby.served("CHAT_BROADCAST"))
        assert (sum(found["latency"]), found["requests"]) == (0, [0])
    finally:
        region.close()


def test_the_latency_of_an_answer_is_from_the_arrival_of_its_request(server: RunningServer) -> None:
    """Three answers wait for the disk and leave together; their requests came in two reads, one
    well before the other."""
    with Lobby(server) as lobby:
        wire, region = lobby.enter(), Region.attach(server.name)
        before = lobby.served("DEPOSIT")

        def workers() -> list[status.Status]:
            found = status.read_all(region, time.monotonic_ns() // 1000)
            return [each for each in found if each.state is not WorkerState.STOPPED]

        try:
            with frozen(server.journal_pid()):
                wire.send_raw(request(Opcode.DEPOSIT, 1001, 5) + request(Opcode.DEPOSIT, 1002, 5))
                wait_until(lambda: sum(each.waiting for each in workers()) == 2, "two answers wait")
                first = time.monotonic()
                wait_until(
                    lambda: all(each.updated > (first + 1) * 1e6 for each in workers()),
                    "a second has gone by",
                )
                second = time.monotonic()
                wire.send(Opcode.DEPOSIT, 5)
            assert [wire.answer().status for _ in range(3)] == [Status.OK] * 3
        finally:
            region.close()
        found = since(before, lobby.served("DEPOSIT"))
        assert sum(found["latency"]) == 3
        # The two were there at `first`, and left after `second`.
        assert found["latency_us"][0] > 2 * (second - first) * 1e6
        assert sum(found["latency"][bucket_of((second - first) * 1e6) :]) >= 2


def bucket_of(microseconds: float) -> int:
    """The first bucket that may hold so long a time."""
    return max(0, (int(microseconds) - 1 >> 4).bit_length())


def test_batches_of_the_journal_are_counted_by_size_and_time(server: RunningServer) -> None:
    with Lobby(server) as lobby:
        wire, region = lobby.enter(), Region.attach(server.name)
        try:
            for _ in range(5):
                wire.ok(Opcode.DEPOSIT, 5)
            batches, syncs = (buckets(region, "journal", name) for name in ("batches", "syncs"))
            assert sum(batches) == sum(syncs) >= 5
            assert batches[0] >= 4, "each waited for the one before"
            assert region.journal.records >= sum(batches)
            assert region.journal.sync_us > 0
        finally:
            region.close()
