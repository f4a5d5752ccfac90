"""Readers of the event ring in `sync`: nothing is shown before it is durable; who is lapped; a JOIN that is not
answered yet is owed its events.

A publisher, the journal (its durable word is one step here; one_log.py has the rest), and a worker whose client joins
each room at some time and asks for the rooms' counters. A slot's copy is one step (ring.py has its loads). An inbox is
like a room, a LOGIN that is parked like its JOIN.
"""
from typing import NamedTuple

from engine import Broken, Space, locked, read, write


class Event(NamedTuple):
    number: int
    room: str
    seq: int


def readers(said, rooms=("red",), capacity=2, own=True, looks=0, sync=True, order="sc"):
    """said: the rooms to which others speak, one after the other. own: a JOIN makes an event (not the user's first
    connection in the room: it makes none). looks: ROOM_LISTs."""
    memory = {"head": 0, "durable": 0, "also": 0, "lock": None, "events": (), "said": 0, "looks": looks, "cursor": 0}
    memory |= {("slot", i): None for i in range(capacity)}
    memory |= {(what, room): start for room in rooms for what, start in (
        ("last", 0), ("last event", 0), ("told", None))}
    memory |= {("status", who): "run" for who in ("publisher", "journal", "reader")}

    # ---- under the event lock

    def acquire():
        """It is not waited for where the ring has no free slot: one that is not durable is not used again."""
        return locked("the event lock, and a free slot", lambda m: [(None, {"lock": m.who})] * bool(
            not m["lock"] and m["head"] + 1 - capacity <= m["durable"]))

    def release():
        return locked("release", lambda m: [(None, {"lock": None})])

    def publish(room):
        head, last = yield read("head", ("last", room))
        event = Event(head + 1, room, last + 1)
        yield locked(f"commit {event}", lambda m: [
            (None, {("slot", event.number % capacity): event, "events": m["events"] + (event,)})])
        yield write(("last event", room), event.number)  # before the counter: who reads that finds this
        yield write(("last", room), event.seq)
        yield write("head", event.number)
        return event

    def publisher():
        done = 0
        while done < len(said):
            yield acquire()
            yield from publish(said[done])
            yield release()
            done += 1
            yield write("said", done)
        yield locked("content", lambda m: [])

    def journal_process():
        while True:
            yield locked("a batch is durable", lambda m: [
                (None, {"durable": m["head"]})] * (m["durable"] < m["head"]) + [(None, {"also": 1})] * (not m["also"]))

    # ---- the worker that reads

    def reader():
        cursor, joined, parked, passed, gap = 0, (), None, 0, None
        while True:
            what = yield choose(cursor, joined, parked, gap)
            if what == "join":
                parked = yield from join(rooms[len(joined)])
                passed = parked[1]
            elif what == "look":
                yield from look()
            else:
                durable = yield read("durable" if sync else "head")
                if parked and parked[2] <= durable and what == "answer":
                    room, last, number, joined = *parked, joined + parked[:1]
                    yield tell(f"JOIN is answered: {last}", room, last)
                    parked, number = None, max(number, 1)
                    if gap:  # with the others, when it is durable
                        gap = gap[0], gap[1] + ((room, passed),)
                    while not gap and number <= cursor:  # what is owed: from the ring, while it is there
                        event = yield copy(number)
                        if not event:
                            yield tell(f"GAP to {passed}", room, passed)
                            break
                        if event.room == room:
                            yield push(event)
                        number, event = number + 1, None
                    passed = 0
                    room = last = number = event = None
                if gap and gap[0] <= durable:
                    for room, last in gap[1]:
                        yield tell(f"GAP to {last}", room, last)
                    gap = room = last = None
                if not gap and cursor < durable:
                    event = yield copy(cursor + 1)
                    if not event:
                        cursor, gap, passed = yield from lapped(joined, parked, passed)
                    else:
                        cursor = event.number
                        if event.room in joined:
                            yield push(event)
                        elif parked and event.room == parked[0] and event.seq > passed:
                            passed = event.seq
                    event = None
                durable = None
            what = None
            yield write("cursor", cursor if not gap else -1)

    def lapped(joined, parked, passed):
        """Note the head, then the counters; the gaps are sent when all that they tell of is durable."""
        head = yield read("head")
        upto, counters = head, ()
        for room in (*joined, *(parked or ())[:1]):
            last = yield read(("last", room))
            its_event = yield read(("last event", room))
            upto = max(upto, its_event)
            if room in joined:
                counters += ((room, last),)
            else:
                passed = last
        return head, (upto, counters), passed

    def join(room):
        """A member from here on. What its answer shows, its own event included, is what the answer waits for."""
        yield acquire()
        last, number = yield read(("last", room), ("last event", room))
        if own:
            event = yield from publish(room)
            number = event.number
        yield release()
        return room, last, number

    def look():
        """ROOM_LIST: no lock."""
        last = yield read(("last", rooms[0]))
        number = yield read(("last event", rooms[0]))
        yield locked(f"until {number} is durable", lambda m: [(None, {})] * bool(not sync or m["durable"] >= number))
        yield locked(f"ROOM_LIST shows {last}", lambda m: [(None, shown(m, rooms[0], last))])

    def choose(cursor, joined, parked, gap):
        def outcomes(m):
            upto = m["durable"] if sync else m["head"]
            out = [("join", {})] * (not parked and len(joined) < len(rooms) and not gap)
            out += [("look", {"looks": m["looks"] - 1})] * bool(m["looks"])
            if parked and parked[2] <= upto and m["also"]:  # it may wait for a transaction, too
                return out + [("answer", {})]
            return out + [("poll", {})] * bool(not gap and cursor < upto or gap and gap[0] <= upto)
        return locked("look for work", outcomes)

    def copy(number):
        def outcomes(m):
            event = m["slot", number % capacity]
            return [(event if event and event.number == number else None, {})]
        return locked(f"copy {number}", outcomes)

    # ---- what the client is shown

    def shown(m, room, last):
        late = [e for e in m["events"] if e.room == room and e.seq <= last and e.number > m["durable"]]
        if sync and late:
            raise Broken(f"{room} {last} is shown before it is durable")
        return {}

    def tell(what, room, last):
        def outcomes(m):
            if last <= (m["told", room] or 0) and m["told", room] is not None:
                return [(None, {})]
            return [(None, shown(m, room, last) | {("told", room): last})]
        return locked(f"{room}: {what}", outcomes)

    def push(event):
        def outcomes(m):
            told = m["told", event.room]
            if told is None:
                raise Broken("pushed before the answer to its JOIN")
            if event.seq <= told:  # it was in the answer to JOIN, or in a GAP
                return [(None, {})]
            if event.seq != told + 1:
                raise Broken(f"{event.room} {event.seq} is pushed after {told}")
            return [(None, shown(m, event.room, event.seq) | {("told", event.room): event.seq})]
        return locked(f"push {event}", outcomes)

    def goal(m):
        informed = all(m["told", room] == m["last", room] for room in rooms)
        return m["said"] == len(said) and informed and m["cursor"] == m["head"] == m["durable"]

    programs = {"publisher": publisher, "journal": journal_process, "reader": reader}
    return Space(memory, programs, lambda m: [], goal, lambda m: None, lambda *_: {}, order)
