"""The room event ring: publishers that are killed, a reader that is lapped, members who leave."""
from typing import NamedTuple

from engine import Broken, Space, locked, read, write
from recovery import Recovery

EVENTS, LEAVE = "event lock", "leave"


class Event(NamedTuple):
    room: str
    seq: int  # room_seq
    leaver: str = ""  # "": a message


def ring(scripts, rooms=("red", "blue"), capacity=2, order="sc", **faults):
    """scripts: for each worker the rooms to which its clients speak, or LEAVE: each worker has a member in the first room.
    The repair publishes nothing; leaves.py has the sessions of the dead. The reader stands for a worker whose client
    joins each room at some time; it reads on during a recovery."""
    script = {f"w{i}": said for i, said in enumerate(scripts)}
    r = Recovery(list(script), [EVENTS], **faults)
    memory = r.memory() | {"head": 0, "events": (), "cursor": 0, ("status", "reader"): "run"}
    memory |= {(what, room): start for room in rooms for what, start in (("last", 0), ("told", None))}
    memory |= {("slot", i, part): 0 for i in range(capacity) for part in ("word", "front", "back")}
    memory |= {(what, w): start for w in script for what, start in (("member", 1), ("answered", 0))}

    def slot(n, part):
        return "slot", n % capacity, part

    def publish(room, leaver=""):
        """Under the event lock (the repair child: alone)."""
        head, last = yield read("head", ("last", room))
        n, event = head + 1, Event(room, last + 1, leaver)
        yield write(slot(n, "word"), 0)  # a reader of the old event sees that it goes
        yield write(slot(n, "front"), event)
        yield write(slot(n, "back"), event)
        yield write(slot(n, "word"), n)  # the commit point: the rest can be done from the slot
        yield from complete(n, event)

    def complete(n, event):
        if event.leaver:
            yield write(("member", event.leaver), 0)
        yield write(("last", event.room), event.seq)
        yield write("head", n)  # last: who goes by the head finds all the rest done

    def leave(w):
        member = yield read(("member", w))
        if member:  # not where it was published, and its worker died before it could tell
            yield from publish(rooms[0], w)

    def worker(w):
        done = yield read(("answered", w))
        while done < len(script[w]):
            if (yield from r.take(w, (), EVENTS)):
                if script[w][done] == LEAVE:
                    yield from leave(w)
                else:
                    yield from publish(script[w][done])
                yield from r.give((EVENTS,))
                done += 1
                yield write(("answered", w), done)
        done = None
        yield from r.idle(w)

    def repair():
        head = yield read("head")
        word = yield read(slot(head + 1, "word"))
        if word == head + 1:
            event = yield read(slot(word, "front"))
            yield from complete(word, event)
        head = word = event = None
        yield from r.free_locks()
        yield r.finish(check)

    def reader():
        joined, cursor = 0, 0
        while True:
            n = cursor + 1
            if (yield choose(n, joined)) == "join":
                last = yield read(("last", rooms[joined]))
                yield tell(f"JOIN is answered: {last}", rooms[joined], last)
                joined, last = joined + 1, None
                continue
            before = yield read(slot(n, "word"))
            front = yield read(slot(n, "front"))
            back = yield read(slot(n, "back"))
            after = yield read(slot(n, "word"))
            if before == after == n:
                yield push(front, back)
                cursor = n
            else:  # lapped: first the head, then the rooms' counters
                cursor = yield read("head")
                for room in rooms[:joined]:
                    last = yield read(("last", room))
                    yield tell(f"GAP to {last}", room, last)
            before = front = back = after = room = last = None
            yield write("cursor", cursor)

    def choose(n, joined):
        def outcomes(m):
            return [("join", {})] * (joined < len(rooms)) + [("poll", {})] * (m["head"] >= n)
        return locked("look for work", outcomes)

    def tell(what, room, last):
        return locked(f"{room}: {what}", lambda m: [(None, {("told", room): max(last, m["told", room] or 0)})])

    def push(front, back):
        def outcomes(m):
            if front != back or front not in m["events"]:
                raise Broken("a frame made of two")
            told = m["told", front.room]
            if told is None or front.seq <= told:  # not joined; or it was in the answer to JOIN, or in a GAP
                return [(None, {})]
            if front.seq != told + 1:
                raise Broken(f"{front.room} {front.seq} is pushed after {told}")
            return [(None, {("told", front.room): front.seq})]
        return locked(f"push {front}", outcomes)

    # ---- properties

    def watch(m, name, value):
        if name[0] != "slot" or name[2] != "word" or not value:
            return {}
        event, events = m[slot(value, "front")], m["events"]
        if value != len(events) + 1 or event != m[slot(value, "back")] or not isinstance(event, Event):
            raise Broken("half a frame is committed, or in the wrong place")
        if event.seq != 1 + sum(e.room == event.room for e in events):
            raise Broken(f"{event.room} {event.seq} is not the room's next")
        if event.leaver and event.leaver in [e.leaver for e in events]:
            raise Broken("left twice")
        return {"events": events + (event,)}

    def check(m):
        events = m["events"]
        if m["head"] != len(events) or any(m["last", x] != sum(e.room == x for e in events) for x in rooms):
            raise Broken("the head or a room's counter is wrong")
        if any(m["member", w] == any(e.leaver == w for e in events) for w in script):
            raise Broken("a member who has left, or one who is gone without a leave")

    def goal(m):
        content = all(m["status", w] == "run" and m["answered", w] == len(script[w]) for w in script)
        informed = m["cursor"] == m["head"] and all(m["told", x] == m["last", x] for x in rooms)
        return content and informed and not m["recovery"]

    programs = {w: lambda w=w: worker(w) for w in script} | {"reader": reader, "master": r.master, "repair": repair}
    return Space(memory, programs, r.faults, goal, check, watch, order)
