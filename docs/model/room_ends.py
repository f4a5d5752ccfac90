"""Who is no longer told of a room: a session that is superseded, a user who is banned, a room that is closed and opened
again under its id.

One room and one member, whose worker reads the ring by the head (in `sync`, which shows less, by the durable event).
Others change its session, its role or the room, each by one record that is complete at once, and speak. The ring tells
the member's worker of a ban or a closing in the order of events, and that event is the last that the member gets; a
worker that is lapped has to look for itself. Who was put out is in the room until a leave is published for it.
"""
from typing import NamedTuple

from engine import Broken, Space, locked, read, write


class Event(NamedTuple):
    number: int
    epoch: int
    seq: int
    kind: str  # "said", "topic", "left"; after "banned" and "closed" the member is told nothing


class Room(NamedTuple):
    epoch: int = 1
    open: bool = True
    banned: bool = False  # the member


def room_ends(script, capacity=2, leaver=False):
    """script: what others do, one after the other: "say", "supersede" (the member's session), "ban" (the member),
    "close", "last topic" (and closed, in one request), "leave" (the member's leave, by whichever worker publishes it),
    "open" (the id again: it waits until no session is in the room). leaver: the leave of a member that is put out comes
    when there is a place for it, at any moment."""
    memory = {"head": 0, "last": (1, 0), "room": Room(), "session": "live", "inside": 1, "done": 0, "cursor": 0}
    memory |= {("slot", i): None for i in range(capacity)} | {("status", w): "run" for w in ("others", "reader", "leaver")}
    memory |= {"told": 0, "final": None, "superseded at": None, "lapped": 0}  # known to the model only

    def others():
        done = 0
        while done < len(script):
            what = script[done]
            yield locked(what, lambda m: act(m, what))
            if what == "supersede":
                yield locked("LOGIN is answered", lambda m: [(None, {"superseded at": m["head"]})])
            done += 1
            yield write("done", done)
        yield locked("content", lambda m: [])

    def act(m, what):
        """Under its locks."""
        room, (epoch, last), change = m["room"], m["last"], {}
        if what == "supersede":
            return [(None, {"session": "ENDING"})]
        if what == "open":
            return [(None, {"room": Room(room.epoch + 1), "last": (room.epoch + 1, 0)})] * (not m["inside"])
        if what == "ban":
            change = {"room": room._replace(banned=True), "final": m["final"] or last + 1}
        elif what == "close":
            change = {"room": room._replace(open=False), "final": m["final"] or last + 1}
        elif what == "last topic":
            change = {"room": room._replace(open=False), "final": m["final"] or last + 2}
        elif what == "leave":
            if epoch != 1:
                raise Broken("a room that was opened again is told of a leave of who has never been in it")
            change = {"inside": 0}
        for kind in {"say": ("said",), "ban": ("banned",), "close": ("closed",), "last topic": ("topic", "closed"),
                     "leave": ("left",)}[what]:
            last += 1
            head = change.get("head", m["head"]) + 1
            event = Event(head, epoch, last, kind)
            change |= {("slot", head % capacity): event, "head": head, "last": (epoch, last)}
        return [(None, change)]

    def leave():
        if leaver:
            yield locked("the member's leave", lambda m: act(m, "leave") * out(m))
        yield locked("content", lambda m: [])

    def out(m):
        """Has the member been put out, and is still in the room?"""
        return bool(m["inside"] and (m["room"].banned or m["room"] != Room(banned=m["room"].banned)))

    def reader():
        cursor, joined = 0, 1  # the epoch in which the member joined; 0: it is out
        while True:
            yield locked("look for work", lambda m: [(None, {})] * (m["head"] > cursor))
            event = yield copy(cursor + 1)
            if event:
                cursor, session = event.number, (yield read("session"))  # after the head
                if session == "live" and joined == event.epoch:
                    yield push(event)
                    if event.kind in ("banned", "closed"):
                        joined = 0
            else:
                cursor = yield read("head")
                last = yield read("last")
                session = yield read("session")  # these after the counter
                room = yield read("room")
                if session == "live" and room == Room(joined):
                    yield gap(last)
                else:
                    joined = 0
            event = session = last = room = None
            yield write("cursor", cursor)

    def copy(number):
        def outcomes(m):
            event = m["slot", number % capacity]
            there = event and event.number == number
            return [(event if there else None, {} if there else {"lapped": 1})]
        return locked(f"copy {number}", outcomes)

    def push(event):
        def outcomes(m):
            if m["superseded at"] is not None and event.number > m["superseded at"]:
                raise Broken("pushed to a session, and sent after the LOGIN that superseded it was answered")
            if event.seq <= m["told"]:
                return [(None, {})]
            if event.epoch != 1 or event.seq != m["told"] + 1 or m["final"] and event.seq > m["final"]:
                raise Broken(f"{event} is pushed after {m['told']}")
            return [(None, {"told": event.seq})]
        return locked(f"push {event}", outcomes)

    def gap(last):
        """Of its epoch the client knows only what JOIN_ROOM told it."""
        def outcomes(m):
            if last[0] != 1 or m["final"] and last[1] >= m["final"]:
                raise Broken(f"a GAP to {last}, which the member is not to be told of")
            if m["superseded at"] is not None and last[1] > m["superseded at"]:
                raise Broken("a GAP of what was sent after the LOGIN that superseded it was answered")
            return [(None, {"told": max(m["told"], last[1])})]
        return locked(f"GAP to {last}", outcomes)

    def check(m):
        if m["final"] and not m["lapped"] and m["told"] < m["final"]:
            raise Broken(f"the member was told up to {m['told']}, the last that it was to get is {m['final']}")

    def goal(m):
        return m["done"] == len(script) and m["cursor"] == m["head"] and not (leaver and out(m))

    programs = {"others": others, "reader": reader, "leaver": leave}
    return Space(memory, programs, lambda m: [], goal, check, lambda *_: {})
