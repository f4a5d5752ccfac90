"""Sessions that end: leaves that cannot be refused, a repair that waits for no space, rings and disks that are full.

A session that ends, however it does, is set to ENDING, which needs no slot of the ring; workers publish its leaves one
by one as there is space, and its record is free after the last. A LEAVE_ROOM waits for a slot, and is never refused. An
event is three steps here: its commit, what it changes with the head (ring.py has their stores), and the members, who
are counted after it. The journal makes events durable, allocates what is written next, and says how far requests may go.
"""
from typing import NamedTuple

from engine import Broken, Space, locked

FREE, LIVE, ENDING = "free", "live", "ENDING"


class Session(NamedTuple):
    state: str = FREE
    user: str = ""
    worker: str = ""
    rooms: tuple = ()


class Event(NamedTuple):
    kind: str  # "joined" or "left"
    user: str
    room: str
    session: int


def leaves(sessions, setting=2, workers=2, capacity=1, spare=0, allocated=9, joins=(), parts=(), logins=(), **faults):
    """sessions: (user, worker, rooms) of those that are live at first. setting: live sessions at most. joins, parts:
    rooms that clients ask to join, and to leave. logins: users that log in again, each in the place of a session of
    theirs. spare: slots of the ring that only leaves get. allocated: events that the file has space for, beside what is
    in it.

    Faults, each as often as the scenario allows: kills (of workers), journal_kills, logouts; full (the disk, for
    good)."""
    crew, rooms = [f"w{i}" for i in range(workers)], sorted({r for s in sessions for r in s[2]} | set(joins))
    table = range(2 * setting)
    memory = {("session", i): Session(LIVE, *sessions[i]) if i < len(sessions) else Session() for i in table}
    memory |= {("members", room): len({s[0] for s in sessions if room in s[2]}) for room in rooms}
    memory |= {"events": tuple(Event("joined", *key, 0) for key in sorted({(s[0], r) for s in sessions for r in s[2]}))}
    first = len(memory["events"])
    memory |= {"head": first, "durable": first, "allocated": first + allocated, "committed": None, "lock": None}
    memory |= {"uncounted": None, "limit": first}
    memory |= {"recovery": 0, "joins": joins, "parts": parts, "logins": logins, "full": 0}
    memory |= {("status", who): "run" for who in (*crew, "journal", "master")}
    memory |= {("left", kind): faults.get(kind, 0) for kind in ("kills", "journal_kills", "logouts", "full")}

    # ---- what the records say

    def all_of(m):
        return {i: m["session", i] for i in table if m["session", i].state != FREE}

    def inside(m, user, room, but=None):
        """Is the user in the room, with a session that is ENDING too?"""
        return any(s.user == user and room in s.rooms for i, s in all_of(m).items() if i != but)

    def count(m, room):
        return len({s.user for s in all_of(m).values() if room in s.rooms})

    # ---- workers

    def worker(w):
        while True:
            yield locked("work", lambda m: [] if m["recovery"] else serve(m, w))

    def serve(m, w):
        if m["committed"] and m["lock"] == w:
            return [("the event is complete", complete(m))]
        if m["uncounted"] and m["lock"] == w:
            return [("its member is counted", counted(m))]
        if m["lock"]:
            return []
        out = []
        for i, s in all_of(m).items():
            if s.state == LIVE and s.worker == w:
                out += join(m, w, i, s) if m["joins"] and m["joins"][0] not in s.rooms else []
                if m["parts"] and m["parts"][0] in s.rooms:
                    out += leave(m, w, i, s, m["parts"][0], {"parts": m["parts"][1:]})
                if m["left", "logouts"]:
                    out.append((f"logout of {i}", {("left", "logouts"): m["left", "logouts"] - 1} | end(m, i)))
            if s.state == ENDING:
                if s.rooms:
                    out += leave(m, w, i, s, s.rooms[0], {})
                else:
                    out.append((f"record {i} is free", {("session", i): Session()}))
        if m["parts"] and not any(m["parts"][0] in s.rooms for s in all_of(m).values() if s.state == LIVE):
            out.append(("LEAVE_ROOM of a room not joined", {"parts": m["parts"][1:]}))
        return out + (login(m, w) if m["logins"] else [])

    def join(m, w, i, s):
        room, rest = m["joins"][0], {"joins": m["joins"][1:]}
        event = not inside(m, s.user, room)
        if event and m["head"] + 1 > m["limit"]:
            return [(f"ERR_SERVER_BUSY for {i}", rest)]
        if event:
            return [(f"{i} joins {room}", rest | commit(m, w, Event("joined", s.user, room, i)))]
        return [(f"{i} joins {room}, no event", rest | {("session", i): s._replace(rooms=(*s.rooms, room))})]

    def leave(m, w, i, s, room, done):
        """Whether it makes an event is decided now, by the user's other sessions. The file has space for it."""
        if inside(m, s.user, room, i):
            rest = tuple(r for r in s.rooms if r != room)
            return [(f"{i} leaves {room}, no event", done | {("session", i): s._replace(rooms=rest)})]
        if m["head"] + 1 > m["durable"] + capacity:
            return []
        return [(f"{i} leaves {room}", done | commit(m, w, Event("left", s.user, room, i)))]

    def end(m, i):
        """Under registry and account lock; logout, superseding, a lost connection and the repair do it alike."""
        return {("session", i): m["session", i]._replace(state=ENDING)}

    def login(m, w):
        """In the place of a session of this user that is live, if there is one."""
        user, rest = m["logins"][0], {"logins": m["logins"][1:]}
        free = [i for i in table if m["session", i].state == FREE]
        old = [i for i, s in all_of(m).items() if s.state == LIVE and s.user == user]
        live = [i for i, s in all_of(m).items() if s.state == LIVE]
        if len(live) - len(old[:1]) >= setting:
            return [("LOGIN: ERR_SERVER_BUSY", rest)]
        if not free:
            raise Broken("LOGIN is refused, with fewer live sessions than the setting says")
        changes = rest | {("session", free[0]): Session(LIVE, user, w)}
        return [(f"LOGIN of {user}", changes | (end(m, old[0]) if old else {}))]

    # ---- an event

    def commit(m, w, event):
        present = {(e.user, e.room): e.kind for e in m["events"]}.get((event.user, event.room), "left")
        if present == event.kind:
            raise Broken(f"{event.user} has {event.kind} {event.room} twice")
        return {"committed": event, "events": m["events"] + (event,), "lock": w}

    def complete(m):
        """From the slot alone; but for the members, who are counted with the locks still held."""
        event = m["committed"]
        s = m["session", event.session]
        rest = tuple(r for r in s.rooms if r != event.room)
        s = s._replace(rooms=(*rest, event.room) if event.kind == "joined" else rest)
        return {("session", event.session): s, "head": m["head"] + 1, "committed": None, "uncounted": event}

    def counted(m):
        event = m["uncounted"]
        number = m["members", event.room] + (1 if event.kind == "joined" else -1)
        return {("members", event.room): number, "uncounted": None, "lock": None}

    # ---- the journal, the master

    def journal_process():
        while True:
            yield locked("write, allocate", write)

    def write(m):
        if m["head"] > m["allocated"]:
            raise Broken("what was executed cannot be written")
        out = [("durable", {"durable": m["head"]})] * (m["durable"] < m["head"])
        wanted = m["durable"] + 2 * (capacity - spare) + members(m) + 1
        out += [("allocated", {"allocated": wanted})] * (not m["full"] and m["allocated"] < wanted)
        return out + [("more may go", {"limit": limit(m)})] * (m["limit"] < limit(m))

    def members(m):
        return sum(m["members", room] for room in rooms)

    def limit(m):
        """Requests go so far that the file has space for a leave of each member besides. One more than are counted, as
        one may not be yet; and each request may be a join, so there are two events in its place."""
        given = max(m["limit"], m["durable"])
        left = m["allocated"] - m["durable"] - members(m) - 1 - 2 * (given - m["durable"])
        return given + max(0, min(m["durable"] + capacity - spare - given, left // 2))

    def master():
        while True:
            what = yield locked("until somebody is dead", lambda m: [
                (who, {"recovery": int(who in crew)}) for who in (*crew, "journal") if m["status", who] == "dead"])
            if what != "journal":
                yield locked("complete the committed event", lambda m: [
                    (None, (complete(m) if m["committed"] else {}) | {"lock": None, "uncounted": None})])
                yield locked("its sessions end", lambda m: [(None, ended(m, what))])
                yield locked("members anew", lambda m: [(None, {("members", room): count(m, room) for room in rooms})])
            yield locked("respawn", lambda m: [(None, {("status", what): "run", "recovery": 0})])

    def ended(m, w):
        changes = {}
        for i, s in all_of(m).items():
            if s.worker == w and s.state == LIVE:
                changes |= end(m, i)
        return changes

    # ---- faults and properties

    def strikes(m):
        out = [(f"**** {who}: dead", {("status", who): "dead", ("left", kind): m["left", kind] - 1})
               for who, kind in [(w, "kills") for w in crew] + [("journal", "journal_kills")]
               if m["status", who] == "run" and m["left", kind]]
        return out + [("**** the disk is full", {"full": 1, ("left", "full"): 0})] * m["left", "full"]

    def goal(m):
        """Nobody who has left is there, and nobody waits."""
        ending = any(s.state == ENDING for s in all_of(m).values())
        alive = all(m["status", who] == "run" for who in (*crew, "journal"))
        return not ending and alive and not (m["parts"] or m["logins"] or m["recovery"] or m["lock"])

    def check(m):
        present = {(e.user, e.room): e.kind == "joined" for e in m["events"]}
        for (user, room), there in present.items():
            if there != inside(m, user, room):
                raise Broken(f"{user} is {'' if there else 'not '}in {room} by its events, and not by its sessions")
        if not m["lock"] and not m["recovery"] and any(m["members", room] != count(m, room) for room in rooms):
            raise Broken("the members are not counted right")

    programs = {w: lambda w=w: worker(w) for w in crew} | {"journal": journal_process, "master": master}
    return Space(memory, programs, strikes, goal, check, lambda *_: {})
