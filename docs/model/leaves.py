"""Sessions that end: leaves that cannot be refused, a repair that waits for no space, rings and disks that are full.

A session that ends, however it does, is set to ENDING, which needs no slot of the ring; workers publish its leaves one
by one as there is space, and its record is free after the last. An event is two steps here: its commit, and all that it
changes with the head (ring.py has their stores). The journal makes events durable and allocates what is written next.
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


def leaves(sessions, setting=2, workers=2, capacity=1, allocated=9, joins=(), logins=(), **faults):
    """sessions: (user, worker, rooms) of those that are live at first. setting: live sessions at most. joins: rooms
    that clients ask for. logins: users that log in again, each in the place of a session of theirs. allocated: events
    that the file has space for, beside what is in it.

    Faults, each as often as the scenario allows: kills (of workers), journal_kills, logouts; full (the disk, for
    good)."""
    crew, rooms = [f"w{i}" for i in range(workers)], sorted({r for s in sessions for r in s[2]} | set(joins))
    table = range(2 * setting)
    memory = {("session", i): Session(LIVE, *sessions[i]) if i < len(sessions) else Session() for i in table}
    memory |= {("members", room): len({s[0] for s in sessions if room in s[2]}) for room in rooms}
    memory |= {"events": tuple(Event("joined", *key, 0) for key in sorted({(s[0], r) for s in sessions for r in s[2]}))}
    first = len(memory["events"])
    memory |= {"head": first, "durable": first, "allocated": first + allocated, "committed": None, "lock": None}
    memory |= {"recovery": 0, "joins": joins, "logins": logins, "refused": 0, "full": 0}
    memory |= {("status", who): "run" for who in (*crew, "journal", "master")}
    memory |= {("left", kind): faults.get(kind, 0) for kind in ("kills", "journal_kills", "logouts", "full")}

    # ---- what the records say

    def all_of(m):
        return {i: m["session", i] for i in table if m["session", i].state != FREE}

    def inside(m, user, room, but=None):
        """Is the user in the room, with a session that is ENDING too?"""
        return any(s.user == user and room in s.rooms for i, s in all_of(m).items() if i != but)

    def memberships(m):
        return sum(len(s.rooms) for s in all_of(m).values())

    def count(m, room):
        return len({s.user for s in all_of(m).values() if room in s.rooms})

    # ---- workers

    def worker(w):
        while True:
            yield locked("work", lambda m: [] if m["recovery"] else serve(m, w))

    def serve(m, w):
        if m["committed"] and m["lock"] == w:
            return [("the event is complete", complete(m))]
        if m["lock"]:
            return []
        out = []
        for i, s in all_of(m).items():
            if s.state == LIVE and s.worker == w:
                out += join(m, w, i, s) if m["joins"] and m["joins"][0] not in s.rooms else []
                if m["left", "logouts"]:
                    out.append((f"logout of {i}", {("left", "logouts"): m["left", "logouts"] - 1} | end(m, i)))
            if s.state == ENDING:
                out += leave(m, w, i, s) if s.rooms else [(f"record {i} is free", {("session", i): Session()})]
        return out + (login(m, w) if m["logins"] else [])

    def free_slot(m):
        return m["head"] + 1 <= m["durable"] + capacity

    def join(m, w, i, s):
        """It leaves space in the file for a leave of each membership, its own included."""
        room, rest = m["joins"][0], {"joins": m["joins"][1:]}
        reserve = memberships(m) + 1
        event = not inside(m, s.user, room)
        if m["head"] + event + reserve > m["allocated"] or event and not free_slot(m):
            return [(f"ERR_SERVER_BUSY for {i}", rest)]
        if event:
            return [(f"{i} joins {room}", rest | commit(m, w, Event("joined", s.user, room, i)))]
        return [(f"{i} joins {room}, no event", rest | {("session", i): s._replace(rooms=(*s.rooms, room))})]

    def leave(m, w, i, s):
        """Whether it makes an event is decided now, by the user's other sessions."""
        room = s.rooms[0]
        if inside(m, s.user, room, i):
            return [(f"{i} leaves {room}, no event", {("session", i): s._replace(rooms=s.rooms[1:])})]
        if not free_slot(m) or m["head"] + 1 > m["allocated"]:
            return []
        return [(f"{i} leaves {room}", commit(m, w, Event("left", s.user, room, i)))]

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
        """From the slot alone."""
        event = m["committed"]
        s = m["session", event.session]
        rest = tuple(r for r in s.rooms if r != event.room)
        s = s._replace(rooms=(*rest, event.room) if event.kind == "joined" else rest)
        number = m["members", event.room] + (1 if event.kind == "joined" else -1)
        return {("session", event.session): s, ("members", event.room): number, "head": m["head"] + 1,
                "committed": None, "lock": None}

    # ---- the journal, the master

    def journal_process():
        while True:
            yield locked("write, allocate", write)

    def write(m):
        if m["head"] > m["allocated"]:
            raise Broken("what was executed cannot be written")
        out = [("durable", {"durable": m["head"]})] * (m["durable"] < m["head"])
        return out + [("allocated", {"allocated": m["head"] + 3})] * (not m["full"] and m["allocated"] < m["head"] + 3)

    def master():
        while True:
            what = yield locked("until somebody is dead", lambda m: [
                (who, {"recovery": int(who in crew)}) for who in (*crew, "journal") if m["status", who] == "dead"])
            if what != "journal":
                yield locked("complete the committed event", lambda m: [
                    (None, (complete(m) if m["committed"] else {}) | {"lock": None})])
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
        return not ending and alive and not (m["logins"] or m["recovery"] or m["lock"])

    def check(m):
        present = {(e.user, e.room): e.kind == "joined" for e in m["events"]}
        for (user, room), there in present.items():
            if there != inside(m, user, room):
                raise Broken(f"{user} is {'' if there else 'not '}in {room} by its events, and not by its sessions")
        if any(m["members", room] != count(m, room) for room in rooms):
            raise Broken("the members are not counted right")

    programs = {w: lambda w=w: worker(w) for w in crew} | {"journal": journal_process, "master": master}
    return Space(memory, programs, strikes, goal, check, lambda *_: {})
