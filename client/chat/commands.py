"""The commands of the chat: one table makes their parsing, /help and completion, in the line mode
and on the screen."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from client.amounts import parse_amount
from client.chat import passwd, sharing, trading
from client.chat.command import Command, Parameter, UsageError
from client.chat.person import Chat
from client.chat.settings import SettingError
from client.errors import CallTimeout, ConnectionLost, RequestFailed
from client.terminal.advice import explain, is_unknown
from client.terminal.arguments import (
    HISTORY_COUNT,
    TXNS_COUNT,
    choice,
    read_count,
    read_entries,
    read_entry,
    read_place,
    read_text,
    read_user,
)
from client.terminal.room_lines import ACCESSES, ROLES
from libproto.errors import MisuseError


async def show_help(chat: Chat, name: str | None) -> None:
    """List the commands, or explain one. UsageError."""
    if name is None:
        width = max(len(command.usage) for command in COMMANDS)
        for command in COMMANDS:
            chat.face.result([f"{command.usage:{width}}  {command.about}"])
        chat.face.result([f"{'TEXT':{width}}  say it in the current room; //TEXT says /TEXT"])
        return
    found = BY_NAME.get(name.removeprefix("/"))
    if found is None:
        raise UsageError(f"there is no command {name}: /help lists them")
    chat.face.result([f"{found.usage}: {found.about}"])


_PLACE = Parameter("ROOM", read_place, "place", rest=True)
_ANY_ROOM = Parameter("ROOM", read_place, "place", optional=True, rest=True)
_USER = Parameter("USER", read_user, "user")
_AMOUNT = Parameter("AMOUNT", parse_amount)
_COUNT = Parameter("N", read_count, optional=True)
_TEXT = Parameter("TEXT", read_text, rest=True)
_TOPIC = Parameter("TEXT", str, optional=True, rest=True)
_NOTE = Parameter("NOTE", read_text, optional=True, rest=True)
_ACCESS = Parameter("ACCESS", choice(*ACCESSES))
_ROLE = Parameter("ROLE", choice(*ROLES))
_SECONDS = Parameter("SECONDS", read_count, optional=True)
_PRICE = Parameter("PRICE", parse_amount)
_ENTRY = Parameter("ID", read_entry)
_FILE = Parameter("FILE", read_text, rest=True)
_FILE_ID = Parameter("FILE_ID", read_count)
_PATH = Parameter("PATH", read_text, optional=True, rest=True)
_URL = Parameter("URL", read_text)
_ENTRIES = Parameter("ID|mine", read_entries)
_ACTION = Parameter("find|show|stats|clear", choice(*trading.BOARD_ACTIONS), optional=True)
_COMMAND = Parameter("CMD", str, "command", optional=True)
_BUFFER = Parameter("NAME", str, "buffer", optional=True)
_SETTING = Parameter("NAME", str, "setting", optional=True)
_VALUE = Parameter("VALUE", str, optional=True, rest=True)

COMMANDS: tuple[Command, ...] = (
    Command(
        "join", (_PLACE,), "join a room by its number, or by its name, which opens it", Chat.join
    ),
    Command(
        "leave", (_ANY_ROOM,), "leave a room, or the current one; close a conversation", Chat.leave
    ),
    Command(
        "rooms", (), "list the rooms: names, members, topics, what is unread", trading.list_rooms
    ),
    Command(
        "who", (_ANY_ROOM,), "list who is in a room, when last heard, what they offer", trading.who
    ),
    Command("msg", (_USER, _TEXT), "send a message to one person", Chat.message),
    Command(
        "inbox", (_COUNT,), f"show the last N ({HISTORY_COUNT}) messages to you", Chat.show_inbox
    ),
    Command(
        "history",
        (_COUNT,),
        f"show the last N ({HISTORY_COUNT}) messages of the current room; on the screen, N older",
        Chat.history,
    ),
    Command("find", (_TEXT,), "find the last message with this text, older ones too", Chat.find),
    Command(
        "buffer",
        (_BUFFER,),
        "go to a buffer: its place, a room like #7, or a user; list them",
        Chat.buffer,
    ),
    Command("topic", (_TOPIC,), "show the topic of the room, or set it", trading.topic),
    Command("access", (_ACCESS,), "say who may join: public, or private", trading.access),
    Command("invite", (_USER,), "let somebody join a private room", trading.invite),
    Command("kick", (_USER,), "put somebody out, who may join again after a second", trading.kick),
    Command("ban", (_USER, _SECONDS), "put somebody out and keep them out", trading.ban),
    Command("mute", (_USER, _SECONDS), "let somebody read, but not write", trading.mute),
    Command("pardon", (_USER,), "end a ban or a mute, and any other role", trading.pardon),
    Command("role", (_USER, _ROLE), "none, member, moderator, owner", trading.role),
    Command("close", (), "close the room for good; asks", trading.close),
    Command(
        "board",
        (_ACTION, _TOPIC),
        "list the board of the room; find TEXT, show ID, stats, clear (asks)",
        trading.board,
    ),
    Command("offer", (_PRICE, _TEXT), "put up an offer for all in the room", trading.offer),
    Command("note", (_TEXT,), "put up a note, which has no price", trading.note),
    Command("take", (_ENTRY,), "pay for an offer and take it; asks", trading.take),
    Command("drop", (_ENTRIES,), "take an entry off the board, or all of yours", trading.drop),
    Command("send", (_FILE,), "share a file in the room", sharing.send),
    Command(
        "get",
        (_FILE_ID, _PATH),
        "fetch a file to PATH, or here under its name; overwrites nothing",
        sharing.get,
    ),
    Command("files", (), "list the files of the room", sharing.list_files),
    Command("link", (_URL,), "have the server fetch a link and share it", sharing.link),
    Command("block", (_USER,), "hear no more of somebody", trading.block),
    Command("unblock", (_USER,), "undo /block", trading.unblock),
    Command("balance", (), "show your balance", Chat.balance),
    Command("deposit", (_AMOUNT,), "put money in, like 12.50", Chat.deposit),
    Command("withdraw", (_AMOUNT,), "take money out", Chat.withdraw),
    Command("pay", (_USER, _AMOUNT, _NOTE), "pay somebody; in a room, shown there", Chat.pay),
    Command("txns", (_COUNT,), f"show your last N transactions ({TXNS_COUNT})", Chat.transactions),
    Command("passwd", (), "change your password; asks, and shows nothing of it", passwd.passwd),
    Command("set", (_SETTING, _VALUE), "list the settings, show one, or change it", Chat.set),
    Command("help", (_COMMAND,), "list the commands, or explain one", show_help),
    Command("quit", (), "end the chat", Chat.quit),
)

BY_NAME = {command.name: command for command in COMMANDS}


def parse(line: str) -> tuple[Command, list[Any]]:
    """Return the command that a line starting with one slash names, and its arguments.

    UsageError."""
    name, _, rest = line[1:].partition(" ")
    command = BY_NAME.get(name)
    if command is None:
        raise UsageError(
            f"there is no command /{name}: /help lists them, //{name} sends it as text"
        )
    return command, command.arguments(rest)


async def execute(
    chat: Chat, line: str, action: Callable[[], Awaitable[None]] | None = None
) -> str:
    """Do what a line says; action: what it stands for, where it was not typed. What the server
    refuses is said and noted; a connection that is lost for good is raised. Answers why it was not
    carried out, or nothing."""
    chat.in_doubt = ""
    chat.face.begin()
    try:
        if action is not None:
            await action()
        elif line.startswith("/") and not line.startswith("//"):
            command, arguments = parse(line)
            await command.run(chat, *arguments)
        elif line.strip():
            await chat.say(line.removeprefix("/"))
    except asyncio.CancelledError as error:
        if getattr(error, "req_id", 0):
            chat.in_doubt = line
        raise
    except (UsageError, SettingError, MisuseError) as error:
        return chat.fail(str(error))
    except (RequestFailed, CallTimeout) as error:
        return chat.fail(explain(error))
    except ConnectionLost as error:
        if not (chat.client.connected or chat.client.reconnecting):
            if is_unknown(error):
                chat.in_doubt = line
            raise
        unknown = getattr(error, "__notes__", ("whether this was said is unknown",))
        return chat.fail(f"the connection was lost: {'; '.join(unknown)}")
    return ""
