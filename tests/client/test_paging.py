"""Iterators over what the server gives in parts."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import (
    AsyncClient,
    BadArgument,
    ChatBroadcast,
    Client,
    DirectMessage,
    ProtocolViolation,
    RetryPolicy,
    RoomGap,
    RoomRestarted,
)
from client.core import paging
from client.core.calls import Call
from libproto.errors import Status
from libproto.messages import (
    LIST_MAX,
    InboxHistoryResponse,
    Member,
    Opcode,
    RoomEntry,
    RoomHistoryResponse,
    Transaction,
    TxnHistoryResponse,
)
from tests.client.peer import PASSWORD, USERNAME, Request, Wire, answer, refuse, serving
from tests.helpers.server import RunningServer

Collect = Callable[..., list[Any]]


def _blocking(
    port: int, name: str, *args: Any, most: int | None = None, **options: Any
) -> list[Any]:
    with (
        Client(port=port, username=USERNAME, password=PASSWORD, **options) as ann,
        closing(getattr(ann, name)(*args)) as items,
    ):
        return list(islice(items, most))


def _asyncio(
    port: int, name: str, *args: Any, most: int | None = None, **options: Any
) -> list[Any]:
    async def main() -> list[Any]:
        async with AsyncClient(port=port, username=USERNAME, password=PASSWORD, **options) as ann:
            found: list[Any] = []
            items = getattr(ann, name)(*args)
            async for item in items:
                found.append(item)
                if len(found) == most:
                    break
            await items.aclose()
            return found

    return asyncio.run(main())


@pytest.fixture(params=[_blocking, _asyncio], ids=["blocking", "asyncio"])
def collect(request: pytest.FixtureRequest) -> Collect:
    """What an iterator of a client of either kind gives."""
    found: Collect = request.param
    return found


# --- a real server


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server where each list is longer than one answer holds."""
    with RunningServer(
        tmp_path_factory.mktemp("full") / "data", "--scram-iterations", "4096"
    ) as made:
        asyncio.run(_fill(made.port))
        yield made
    assert made.process.returncode == 0, made.log_text()


MEMBERS = 300
MESSAGES = 600
ROOMS = 4


async def _fill(port: int) -> None:
    async with AsyncClient(port=port) as ann, AsyncClient(port=port) as bob:
        await ann.register(USERNAME, PASSWORD)
        await bob.register("bob", PASSWORD)
        await ann.login(USERNAME, PASSWORD)
        await bob.login("bob", PASSWORD)
        for room_id in range(1, ROOMS + 1):
            await ann.join(room_id)
        for start in range(0, MESSAGES, 50):
            numbers = range(start, start + 50)
            await asyncio.gather(
                *(ann.send(1, str(number)) for number in numbers),
                *(ann.deposit(number + 1) for number in numbers),
                *(bob.direct(ann.user_id, str(number)) for number in numbers),
            )


def test_transactions(full: RunningServer, collect: Collect) -> None:
    found: list[Transaction] = collect(full.port, "iter_transactions")
    assert [each.amount for each in found] == list(range(MESSAGES, 0, -1))
    assert found[-1].balance == 1
    middle = found[300].txn_id
    assert collect(full.port, "iter_transactions", middle) == found[301:]
    assert collect(full.port, "iter_transactions", most=258) == found[:258]


def test_history(full: RunningServer, collect: Collect) -> None:
    found = collect(full.port, "iter_history", 1)
    said = [e.message for e in found if isinstance(e, ChatBroadcast) and e.kind == 0]
    assert said == [str(number) for number in range(MESSAGES)]
    seqs = [each.room_seq for each in found]
    assert seqs == list(range(1, len(seqs) + 1))
    assert collect(full.port, "iter_history", 1, 500) == found[500:]
    assert collect(full.port, "iter_history", 60) == []


def test_inbox(full: RunningServer, collect: Collect) -> None:
    found = collect(full.port, "iter_inbox")
    kept = [each for each in found if isinstance(each, DirectMessage)]
    gaps = [each for each in found if isinstance(each, RoomGap)]
    assert [each.message for each in kept] == [str(each.seq - 1) for each in kept]
    assert kept[-1].seq == MESSAGES
    # What the server keeps no longer is said, and nothing else is missing.
    lost = kept[0].seq - 1
    assert gaps == ([RoomGap(0, 1, lost)] if lost else [])
    assert len(kept) == MESSAGES - lost


def test_rooms_and_members(full: RunningServer, collect: Collect) -> None:
    rooms: list[RoomEntry] = collect(full.port, "iter_rooms")
    assert [entry.room_id for entry in rooms] == list(range(1, ROOMS + 1))
    assert [entry.room_id for entry in collect(full.port, "iter_rooms", 2)] == [3, 4]
    assert collect(full.port, "iter_members", 1) == []


def test_more_members_than_one_answer_holds(full: RunningServer, collect: Collect) -> None:
    async def main() -> list[Member]:
        clients = [AsyncClient(port=full.port, client_id=0) for _ in range(MEMBERS)]
        try:
            for number, client in enumerate(clients):
                await client.connect()
                await client.register(f"member{number}-{collect.__name__}", PASSWORD)
                await client.login(f"member{number}-{collect.__name__}", PASSWORD)
                await client.join(9)
            found: list[Member] = await asyncio.to_thread(collect, full.port, "iter_members", 9)
            assert [m.user_id for m in found] == sorted(c.user_id for c in clients)
            return found
        finally:
            for client in clients:
                await client.close()

    found = asyncio.run(main())
    assert len(found) > LIST_MAX


# --- lists that a server makes up


@pytest.mark.parametrize("name", ["iter_transactions", "iter_rooms"])
def test_a_connection_that_is_lost_between_two_parts(collect: Collect, name: str) -> None:
    """The client reconnects, and the list goes on where it was."""
    parts: dict[str, list[Any]] = {
        "iter_transactions": [Transaction(n, 1, 1, 0, 7, 1, 1, 0) for n in (9, 8, 4)],
        "iter_rooms": [RoomEntry(n, 1, 1) for n in (4, 8, 9)],
    }
    first, second, third = parts[name]

    def respond(request: Any, *items: Any) -> bytes:
        if name == "iter_transactions":
            return answer(request, 0, tuple(items))
        return answer(request, tuple(items))

    def asked(wire: Wire, *, again: bool = False) -> Request:
        """What the list asks for: not what the client reads by itself after a login, an inbox, and
        the newest transaction, or again all that came since."""
        while True:
            request = wire.any_request()
            if request.opcode == Opcode.INBOX_HISTORY:
                wire.send(answer(request, 1, 1, []))
            elif request.opcode == Opcode.TXN_HISTORY and (
                request.fields[0] == 0 if again else request.fields[1] == 1
            ):
                wire.send(answer(request, 0, []))
            else:
                return request

    def before(wire: Wire) -> None:
        wire.log_in()
        wire.send(respond(asked(wire), first, second))
        asked(wire)  # and the connection ends without its answer

    def after(wire: Wire) -> None:
        wire.log_in()
        request = asked(wire, again=True)
        assert request.fields[0] == second[0]
        wire.send(refuse(request, Status.ERR_SERVER_BUSY, "not read yet", 1))
        request = asked(wire, again=True)
        assert request.fields[0] == second[0]
        wire.send(respond(request, third))
        wire.send(respond(asked(wire, again=True)))
        wire.wait_closed()

    fast = RetryPolicy(pause_s_first=0.001)
    with serving(before, after) as port:
        assert collect(port, name, reconnect=True, retry=fast) == [first, second, third]


def _read(pages: paging.Pages[Any], answers: list[Any]) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """What a reading gives, and what it asks for."""
    items: list[Any] = []
    asked: list[tuple[Any, ...]] = []
    left = iter(answers)
    sent: Any = None
    try:
        while True:
            step = pages.send(sent)
            sent = None
            if isinstance(step, Call):
                asked.append(step.fields)
                sent = next(left)
            else:
                items += step
    except StopIteration:
        assert list(left) == []
    return items, asked


def _event(seq: int) -> ChatBroadcast:
    return ChatBroadcast(7, seq, 0, 0, 1, "ann", str(seq))


def _message(seq: int) -> DirectMessage:
    return DirectMessage(seq, 0, 1, "ann", str(seq))


def test_what_a_history_keeps_no_longer_is_said() -> None:
    answers = [
        RoomHistoryResponse(7, 1, 5, (_event(5), _event(7))),
        RoomHistoryResponse(7, 1, 11, (_event(12),)),  # 8 to 10 were dropped meanwhile
        RoomHistoryResponse(7, 1, 15, ()),  # and all that came since
    ]
    items, asked = _read(paging.iter_history(7, 2), answers)
    assert items == [
        RoomGap(7, 3, 4),
        _event(5),
        _event(7),
        RoomGap(7, 8, 10),
        _event(12),
        RoomGap(7, 13, 14),
    ]
    assert [fields[1] for fields in asked] == [2, 7, 12]


def test_a_history_of_another_epoch_is_read_from_its_beginning() -> None:
    answers = [
        RoomHistoryResponse(7, 2, 1, ()),  # nothing after 90: but it is another room by now
        RoomHistoryResponse(7, 2, 1, (_event(1),)),
        RoomHistoryResponse(7, 3, 1, ()),  # and again
        RoomHistoryResponse(7, 3, 1, (_event(1), _event(2))),
        RoomHistoryResponse(7, 3, 1, ()),
    ]
    items, asked = _read(paging.iter_history(7, 90, 1), answers)
    restarts = [RoomRestarted(7, 2, 0), _event(1), RoomRestarted(7, 3, 0), _event(1), _event(2)]
    assert items == restarts
    assert [fields[1] for fields in asked] == [90, 0, 1, 0, 2]


def test_an_inbox_of_another_epoch_is_read_from_its_beginning() -> None:
    answers = [
        InboxHistoryResponse(2, 1, ()),
        InboxHistoryResponse(2, 4, (_message(4),)),
        InboxHistoryResponse(2, 4, ()),
    ]
    items, asked = _read(paging.iter_inbox(9, 1), answers)
    assert items == [RoomRestarted(0, 2, 0), RoomGap(0, 1, 3), _message(4)]
    assert [fields[0] for fields in asked] == [9, 0, 4]


@pytest.mark.parametrize(
    ("pages", "answered"),
    [
        (paging.iter_rooms(5), (RoomEntry(5, 1, 1),)),
        (paging.iter_rooms(), (RoomEntry(2, 1, 1), RoomEntry(2, 1, 1))),
        (paging.iter_members(1, 5), (Member(4, "x"),)),
        (paging.iter_history(7, 5), RoomHistoryResponse(7, 1, 1, (_event(5),))),
        (paging.iter_inbox(5), InboxHistoryResponse(1, 1, (_message(7), _message(6)))),
        (
            paging.iter_transactions(5),
            TxnHistoryResponse(0, (Transaction(5, 1, 1, 0, 1, 1, 1, 1),)),
        ),
        (
            paging.iter_transactions(),
            TxnHistoryResponse(0, tuple(Transaction(n, 1, 1, 0, 1, 1, 1, 1) for n in (5, 6))),
        ),
    ],
)
def test_a_list_that_does_not_go_on_is_not_read_for_ever(
    pages: paging.Pages[Any], answered: Any
) -> None:
    with pytest.raises(ProtocolViolation, match="not in order"):
        _read(pages, [answered] * 3)


@given(st.data())
def test_any_history_is_read_whole(data: st.DataObject) -> None:
    """Events come, and old ones are dropped, while it is read: each number is given once, is in a
    gap, or was never an event's."""
    used = data.draw(st.sets(st.integers(1, 9), min_size=1))
    newest, oldest, asked_from = max(used), 1, data.draw(st.integers(0, 10))
    items: list[Any] = []
    pages = paging.iter_history(7, asked_from)
    step = next(pages)
    while True:
        try:
            if isinstance(step, Call):
                oldest = max(oldest, data.draw(st.integers(1, newest + 1)))
                limit = data.draw(st.integers(1, 4))
                after = step.fields[1]
                kept = sorted(seq for seq in used if seq > after and seq >= oldest)[:limit]
                step = pages.send(RoomHistoryResponse(7, 1, oldest, tuple(map(_event, kept))))
            else:
                items += step
                step = next(pages)
        except StopIteration:
            break
    seen: list[int] = []
    for item in items:
        if isinstance(item, RoomGap):
            seen += range(item.first_seq, item.last_seq + 1)
        else:
            assert isinstance(item, ChatBroadcast)
            seen.append(item.room_seq)
    assert seen == sorted(set(seen))
    assert {seq for seq in used if seq > asked_from} <= set(seen)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("iter_rooms", (-1,)),
        ("iter_members", ("7",)),
        ("iter_history", (7, -1)),
        ("iter_history", (7, 0, "x")),
        ("iter_inbox", (None,)),
        ("iter_transactions", (1.5,)),
    ],
)
def test_bad_arguments_are_refused_at_once(
    kind: type[Client | AsyncClient], name: str, args: tuple[Any, ...]
) -> None:
    """Where the iterator is made, not where it is used."""
    with pytest.raises(BadArgument):
        getattr(kind(), name)(*args)
    with pytest.raises(BadArgument, match="timeout_s"):
        kind().iter_rooms(timeout_s=-1)
    assert not inspect.iscoroutine(kind().iter_rooms())
