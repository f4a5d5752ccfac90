"""BEGIN and END records: no number of a room is used twice over a crash, none is skipped over a stop.

Each number that is used is shown to somebody at once (that is `async`; `sync` shows it when it is durable, which is
less). An event is one step (ring.py has its steps). The file's entries are BEGINs, batches of events, ENDs; a snapshot
has what the entries up to it give, and these are gone then.
"""
from typing import NamedTuple

from disk import File
from engine import EXIT, Broken, Space, locked, read, write


class Begin(NamedTuple):
    skip: int  # by how much every number goes up
    ring: int  # slots of the event ring from here on: as many events may be used that the file never gets


class Events(NamedTuple):
    events: tuple  # (room, room_seq)


END = "END"


class State(NamedTuple):  # what the entries give
    numbers: tuple = ()  # by room, its last
    ring: int = 0  # of the last BEGIN
    ended: bool = True


def begin_end(rooms=("red", "blue"), says=3, rings=(2,), snapshots=0, **faults):
    """says: events that are asked for. rings: sizes of the event ring, any of them at a start.

    Faults, each as often as the scenario allows: journal_kills; crashes, cuts as in journal.py; stops, orderly ones;
    orphans (a stop in which a worker stands still for longer than the journal waits)."""
    file = File(2 + 2 * says + 2 * sum(faults.values()))
    region = {"up": 0, "serving": 0, "ending": 0, "ring": 0, "pending": (), "late": 0, "failed": 0}
    region |= {("last", room): 0 for room in rooms} | {("status", who): "off" for who in ("worker", "journal")}
    down = region | {("buffer", who): () for who in ("worker", "journal", "master")}
    memory = region | file.memory() | {("status", "master"): "run", "says": says, "may skip": 0}
    memory |= {"snapshot": (0, State((0,) * len(rooms))), "snapshots": snapshots}
    memory |= {("left", kind): faults.get(kind, 0) for kind in ("journal_kills", "crashes", "cuts", "stops", "orphans")}
    memory |= {("used", room): 0 for room in rooms} | {("may skip", room): 0 for room in rooms}

    # ---- a worker

    def worker():
        while True:
            yield locked("serve", serve)

    def serve(m):
        out = []
        if m["says"] and len(m["pending"]) < m["ring"] and not m["failed"]:
            out += [(f"an event in {room}", use(m, room) | {"says": m["says"] - 1}) for room in rooms]
        if m["ending"]:
            out.append((EXIT, {("status", "worker"): "off"}))
        return out

    def use(m, room):
        """The room's next number, shown at once."""
        number = m["last", room] + 1
        if number <= m["used", room]:
            raise Broken(f"{room} {number} is used again")
        if number > m["used", room] + 1 and not m["may skip", room]:
            raise Broken(f"{room} {number} is used after {m['used', room]}, though nothing has crashed")
        return {("last", room): number, ("used", room): number, ("may skip", room): 0,
                "pending": m["pending"] + ((room, number),)}

    # ---- the journal process

    def journal_process():
        entries, state, torn = yield locked("look for the end", find_end)
        if torn:
            yield file.truncate(entries)
        yield file.sync()  # what was found, before anything is written behind it
        serving = yield read("serving")
        if serving:
            yield locked("what is in the file is not pending", known)
        else:
            ring = yield locked("this start's ring", lambda m: [(size, {}) for size in rings])
            skip = 0 if state.ended else state.ring
            yield from file.write(entries, Begin(skip, ring))
            yield file.sync()
            entries = entries + 1
            yield locked("begin", lambda m: [(None, {"ring": ring, "serving": 1} | {
                ("last", room): number + skip for room, number in zip(rooms, state.numbers)})])
        torn = serving = state = ring = skip = None
        while True:
            what, batch = yield locked("look", look)
            if what in ("end", "late"):
                break
            if what == "snapshot":
                yield locked("a snapshot, made of the file", lambda m: snapshot(m, entries))
            else:
                yield from file.write(entries, Events(batch))
                yield file.sync()
                entries = entries + 1
                yield locked("slots are free", lambda m: [(None, {"pending": m["pending"][len(batch):]})])
            what = batch = None
        if what == "end":
            yield from file.write(entries, END)
            yield file.sync()
        yield locked("end", lambda m: [(EXIT, {("status", "journal"): "ended", "failed": 1})])

    def look(m):
        if m["pending"]:
            return [(("batch", m["pending"]), {})]
        out = [(("snapshot", None), {"snapshots": m["snapshots"] - 1})] * bool(m["snapshots"])
        out += [(("end", None), {})] * (m["ending"] and m["status", "worker"] == "off")
        return out + [(("late", None), {})] * (m["late"] and m["status", "worker"] != "off")

    def known(m):
        """After a kill of the journal: some of the ring's events may be in the file."""
        entries, _ = file.end(m["shown"])
        there = [event for batch in m["shown"][:entries] if isinstance(batch, Events) for event in batch.events]
        return [(None, {"pending": tuple(event for event in m["pending"] if event not in there)})]

    def find_end(m):
        entries, torn = file.end(m["shown"])
        return [((entries, fold(m, m["shown"][:entries]), torn), {})]

    def fold(m, batches):
        covered, state = m["snapshot"]
        for entry in batches[covered:]:
            numbers = dict(zip(rooms, state.numbers))
            if isinstance(entry, Begin):
                numbers = {room: number + entry.skip for room, number in numbers.items()}
                state = State(tuple(numbers.values()), entry.ring, False)
            elif isinstance(entry, Events):
                numbers |= dict(entry.events)
                state = State(tuple(numbers.values()), state.ring, False)
            else:
                state = state._replace(ended=True)
        return state

    def snapshot(m, entries):
        return [(None, {"snapshot": (entries, fold(m, m["shown"][:entries]))})]

    # ---- the master

    def master():
        while True:
            yield locked("start or stop", supervise)

    def supervise(m):
        if not m["up"]:
            return [(None, {"up": 1, ("status", "journal"): "run"})]
        if m["status", "journal"] == "ended":  # a start waits for the worker, which holds the directory's lock
            may_skip = {("may skip", room): 1 for room in rooms} if m["late"] else {}
            return [("all have ended", down | may_skip)] * (m["status", "worker"] == "off")
        if m["status", "journal"] != "run":
            return [("fork journal", {("status", "journal"): "run"})]
        return [("fork worker", {("status", "worker"): "run"})] * bool(
            m["serving"] and m["status", "worker"] == "off" and not m["ending"])

    # ---- faults and properties

    def strikes(m):
        out, crashed = [], {("may skip", room): 1 for room in rooms}

        def strike(kind, label, changes):
            if m["left", kind]:
                out.append((label, changes | {("left", kind): m["left", kind] - 1}))

        if m["status", "journal"] == "run" and m["serving"]:
            strike("journal_kills", "**** journal: dead", {("status", "journal"): "dead"})
        if m["up"]:
            strike("crashes", "**** all are killed", down | crashed)
            for label, changes in file.power_cut(m):
                strike("cuts", label, down | changes | crashed)
        if m["serving"] and not m["ending"]:
            strike("stops", "a stop is asked for", {"ending": 1})
            strike("orphans", "**** a stop is asked for, and the worker stands still", {"ending": 1, "late": 1})
        return out

    def goal(m):
        return not m["says"] and not m["ending"] and all(m["status", who] == "run" for who in ("worker", "journal"))

    programs = {"worker": worker, "journal": journal_process, "master": master}
    return Space(memory, programs, strikes, goal, lambda m: None, lambda *_: {})
