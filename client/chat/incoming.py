"""What others do, as it comes: shown in its place, and what the server had to leave out fetched."""

from contextlib import suppress
from typing import assert_never

from client.chat import board_view, entries
from client.chat.model import Sort
from client.chat.person import Chat
from client.core.gaps import Found
from client.core.pushes import (
    Disconnected,
    LogReplaced,
    OutcomesUnknown,
    PaymentGap,
    Push,
    Reconnected,
    RoomRefused,
    RoomRestarted,
)
from client.errors import CallTimeout, ClientError, ConnectionLost, RequestFailed
from client.terminal.advice import explain
from client.terminal.position import InboxPosition
from libproto.messages import ChatBroadcast, DirectMessage, EventKind, Payment, RoomGap


class Incoming:
    """Shows what comes to a chat: what is pushed, and what becomes of the connection."""

    def __init__(self, chat: Chat, paid: InboxPosition) -> None:
        """paid: up to which payment the person was shown."""
        self._chat, self._paid = chat, paid
        self._began_us = entries.now_us()
        self._is_out = False
        self._missed = 0  # messages that came while the connection was lost
        self._behind: dict[int, int] | None = None  # room -> up to where what was missed goes

    async def follow(self) -> None:
        """Show what others do, until the client is down, which is raised."""
        async for event in self._chat.client.events():
            match event:
                case Disconnected():
                    self._lost()
                case Reconnected():
                    await self._back()
                case _:
                    await self._take(event)
            self._say_back()
        raise ConnectionLost("the connection was closed")

    # -- the connection

    def _lost(self) -> None:
        """The connection was lost; of several times in a row, the first is told."""
        self._chat.model.is_connected = False
        self._behind = None
        if not self._is_out:
            self._is_out, self._missed = True, 0
            self._chat.face.remark("connection lost, reconnecting\u2026")
        self._chat.face.refresh()

    async def _back(self) -> None:
        """There is a connection again. What was missed is being fetched, room by room: where it
        ends is asked for. What has no number is looked for here."""
        chat = self._chat
        chat.model.is_connected = True
        chat.face.refresh()
        self._missed += await chat.inbox.look_again()
        await self._look_for_money()
        if self._is_out:  # else the server asked for another connection, and nobody noticed
            self._behind = await self._ends()

    async def _ends(self) -> dict[int, int]:
        """The number of the last event of each joined room."""
        found: dict[int, int] = {}
        try:
            for room in self._chat.model.rooms:
                listed = await self._chat.client.rooms(room - 1)
                if listed and listed[0].room_id == room:
                    found[room] = listed[0].last_seq
        except ClientError:
            return {}  # then it is not waited for
        return found

    def _say_back(self) -> None:
        """Say that there is a connection again, once what was missed is shown."""
        chat = self._chat
        if self._behind is None or any(
            chat.model.room(room) and chat.seen.get(room, 0) < last
            for room, last in self._behind.items()
        ):
            return
        self._is_out, self._behind = False, None
        count = self._missed
        plural = "" if count == 1 else "s"
        fetched = f", {count} missed message{plural} fetched" if count else ""
        chat.face.remark(f"connected again{fetched}")
        chat.face.refresh()

    async def _look_for_money(self) -> None:
        """The balance, which may have changed meanwhile, where it is shown. What others paid is
        shown as it comes."""
        chat = self._chat
        if chat.model.balance is None:
            return
        with suppress(ClientError):  # the next reconnection looks again
            chat.model.learn_balance(*await chat.client.balance())

    # -- pushes

    async def _take(self, push: Push) -> None:
        chat, face = self._chat, self._chat.face
        match push:
            case ChatBroadcast():
                await chat.learn_names([push])
                self._show(push)
                chat.advance(push.room_id, push.room_seq)
                await board_view.follow(chat, push)
            case RoomGap(room_id=0):
                await chat.inbox.missed(push)
            case RoomGap():
                await self._fill(push)
            case RoomRestarted():
                chat.seen[push.room_id] = 0
                chat.advance(push.room_id, push.last_seq)
                if buffer := chat.model.room(push.room_id):
                    buffer.older = push.last_seq
                    chat.epochs[push.room_id] = push.epoch
                    for entry in buffer.entries:
                        entry.seq = 0
                    await chat.look_at(buffer)
                    await board_view.read_again(chat, push.room_id, is_new=True)
                face.complain(f"room {push.room_id} began anew: what was said before is gone")
            case RoomRefused():
                if buffer := chat.model.room(push.room_id):
                    chat.model.close(buffer)
                face.complain(f"room {push.room_id} is not joined any more: {push.detail}")
            case DirectMessage():
                self._missed += self._is_out
                await chat.inbox.pushed(push)
            case Payment():
                self._show_payment(push)
            case LogReplaced():
                chat.model.balance_txn = 0
                face.complain(
                    "the data of the server was replaced while it was away: balances, "
                    "transactions and messages may be others than were shown here"
                )
            case OutcomesUnknown():
                face.complain(
                    "the server does not know this program's payments of before any more: "
                    "whether those without an answer were carried out is unknown; look with "
                    "/txns before you repeat one"
                )
            case PaymentGap():
                face.complain(
                    "some payments are not shown: they came too fast, or are too many or too old; "
                    "look with /txns"
                )
            case _:
                assert_never(push)

    def _show(self, event: ChatBroadcast | RoomGap) -> None:
        chat = self._chat
        buffer = chat.model.room(event.room_id)
        if buffer is None:  # it was left, and this came before that
            return
        if not chat.is_shown(event):
            return
        entry = entries.of_event(chat.model, event)
        if isinstance(event, ChatBroadcast):
            self._follow_members(event)
            chat.model.changed(event, chat.client.user_id)
            self._missed += self._was_missed(event) and entry.sort is Sort.SAID
            if event.from_name in chat.model.ignored and entry.sort is Sort.SAID:
                return
            chat.people.add(event.from_name)
        chat.model.add(buffer, entry)
        chat.face.shown(buffer, entry)
        chat.log.write(buffer, entry)
        if entry.is_mention:
            chat.face.attract(buffer, entry)

    def _was_missed(self, event: ChatBroadcast) -> bool:
        behind = self._behind
        return self._is_out and (
            behind is None or event.room_seq <= behind.get(event.room_id, event.room_seq)
        )

    def _follow_members(self, event: ChatBroadcast) -> None:
        model = self._chat.model
        if event.kind == EventKind.JOINED:
            model.came(event.room_id, event.from_name)
        elif event.kind == EventKind.LEFT:
            model.went(event.room_id, event.from_name)

    def _show_payment(self, payment: Payment) -> None:
        chat = self._chat
        chat.people.add(payment.from_name)
        chat.model.learn_balance(payment.balance, payment.txn_id)
        entry = entries.of_payment(payment)
        chat.model.add(chat.model.program, entry)
        if chat.face.keeps_lines and chat.model.active is not chat.model.program:
            chat.model.add(chat.model.active, entry, is_read=True)
        is_old = payment.time < self._began_us  # it came while the person was away
        chat.face.shown(chat.model.program, entry, dated=is_old)
        if not is_old:
            chat.face.attract(chat.model.program, entry)
        self._paid.advance(0, max(self._paid.seq or 0, payment.txn_id))

    async def _fill(self, gap: RoomGap) -> None:
        """Show what the server left out, in its place."""
        found: Found = [gap]
        try:
            found = await self._chat.read_gap(gap)
        except (RequestFailed, CallTimeout) as error:
            self._chat.face.complain(explain(error))
        await self._chat.learn_names(found)
        for event in found:
            self._show(event)
            if isinstance(event, ChatBroadcast):
                await board_view.follow(self._chat, event)
        self._chat.advance(gap.room_id, gap.last_seq)
        buffer = self._chat.model.room(gap.room_id)
        if buffer is not None and any(isinstance(event, RoomGap) for event in found):
            await self._chat.look_at(buffer)
            await board_view.read_again(self._chat, gap.room_id)
