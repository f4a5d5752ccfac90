"""The archive behind the durable word, snapshots, and the segments that go.

One room. The journal writes batches, each a segment of its own here; a snapshot stands at a batch's end; the archive
reads events from the file at its own pace and syncs when it likes. What anybody is shown of a history is there after
every start, without a hole. (damage.py has files that are damaged.)
"""
from typing import NamedTuple

from disk import File
from engine import Broken, Space, locked

MONEY = "money"


class Event(NamedTuple):
    number: int
    content: int  # no two events have the same


def archive_behind(says=2, pays=0, ring=1, lag=9, snapshots=0, tips=0, packs=0, order="sc",
                   **faults):
    """says, pays: events and transactions that are asked for. ring: slots of the event ring. lag: events that the
    archive may be behind. snapshots: how many are made. tips: PAYMENTs, which take a number and are not in the file.
    packs: whether a segment is kept, packed, as it goes.

    Faults, each as often as the scenario allows: archive_kills; crashes, cuts as in journal.py; full (no spill, and no
    packed segment, can be written any more); stops (of the archive, for good); bad (the newest snapshot cannot be read); repairs (an operator
    cuts the log's last event off, at a start)."""
    file = File(1 + 2 * (says + pays))
    region = {"up": 0, "ready": 0, "events": (), "oldest": 1, "durable": 0, "pending": (), "dropped": 0}
    region |= {("status", who): "off" for who in ("worker", "journal", "archive")}
    down = region | {("buffer", who): () for who in ("worker", "journal", "archive", "master")}
    memory = region | file.memory() | {("status", "master"): "run", "archive": (), "archive kept": (), "archive at": 0}
    memory |= {"says": says, "pays": pays, "tips": tips, "content": 1, "told": (), "snapshots": snapshots}
    memory |= {"made": ((0, 0), (0, 0)), "first": 0, "spill": (), "full": 0, "packed": 0, "packed kept": 0}
    memory |= {("left", kind): faults.get(kind, 0) for kind in (
        "archive_kills", "crashes", "cuts", "full", "stops", "bad", "repairs")}

    def event_of(entry):
        return isinstance(entry, Event)

    # ---- a worker

    def worker():
        while True:
            yield locked("serve", serve)

    def serve(m):
        out, number = [], len(m["events"]) + 1
        if m["says"] and m["dropped"]:  # no new event has the number of one that it is to drop
            behind = sum(map(event_of, m["events"])) - len(m["archive"])
            if behind >= lag:
                if not m["status", "archive"] == "stop":
                    out.append(("ERR_SERVER_BUSY", {}))
                if len([e for e in m["events"] if event_of(e)]) == len(m["archive"]):
                    raise Broken("refused, and the archive has every event")
            elif number - m["durable"] <= ring:
                event = Event(number, m["content"])
                out.append((f"{event}", published(m, event) | {"says": m["says"] - 1, "content": m["content"] + 1}))
        if m["pays"]:
            out.append(("a transfer", {"pending": m["pending"] + (MONEY,), "pays": m["pays"] - 1}))
        if m["tips"] and m["dropped"] and number - m["durable"] <= ring:
            out.append(("a PAYMENT", published(m, None) | {"tips": m["tips"] - 1}))
        if packs and m["packed"] < m["first"]:
            raise Broken("a segment's transactions are neither in the journal nor packed")
        return out + [("a history", changes) for changes in history(m)]

    def published(m, event):
        oldest = max(m["oldest"], len(m["events"]) + 2 - ring)
        return {"events": m["events"] + (event,), "pending": m["pending"] + (event,), "oldest": oldest}

    def history(m):
        """Past the archive's position only where archive and ring meet."""
        known, at = m["archive"], m["archive at"]
        if not m["dropped"]:
            return []
        there = known
        if at + 1 >= m["oldest"]:
            there += tuple(e for e in m["events"][at:m["durable"]] if e and e.number >= m["oldest"])
        if there[:len(m["told"])] != m["told"] and len(there) >= len(m["told"]) or [
                e for e in m["events"][:m["durable"]] if e and e.number <= (there[-1].number if there else 0)
                ] != [*there]:
            raise Broken(f"the history is {there}, of {m['events']}, and was {m['told']}")
        return [{"told": there}] * (len(there) > len(m["told"]))

    # ---- the journal

    def journal_process():
        while True:
            what = yield locked("look", look)
            if what[0] == "batch":
                at, entry = what[1:]
                if entry:
                    yield from file.write(at, entry)
                    yield file.sync()
                yield locked("durable", lambda m: [(None, {"pending": m["pending"][1:], "durable": m["durable"] + (
                    entry != MONEY)})])
            elif what[0] == "spill":
                yield locked("spill", lambda m: [(None, {"spill": m["spill"] + (what[1],)})])
            elif what[0] == "pack":
                yield locked("pack the oldest segment", lambda m: [(None, {"packed": m["first"] + 1})])
                yield locked("sync it", lambda m: [(None, {"packed kept": m["packed"]})])
            elif what[0] == "remove":
                yield locked("remove the oldest segment", lambda m: [(None, {"first": m["first"] + 1})])
            what = at = entry = None

    def look(m):
        entries, _ = file.end(m["shown"])
        out = [(("batch", entries, m["pending"][0]), {})] if m["pending"] else []
        if m["snapshots"] and m["made"][0][0] < entries and not m["pending"]:
            made = entries, max((e.number for e in m["shown"][:entries] if event_of(e)), default=0)
            out.append((("snapshot",), {"made": (made, m["made"][0]), "snapshots": m["snapshots"] - 1}))
        if m["first"] < min(m["made"])[0]:
            oldest = m["shown"][m["first"]]
            lacks = event_of(oldest) and oldest not in m["archive kept"]
            if not lacks or oldest in m["spill"]:
                if not packs or m["packed kept"] > m["first"]:
                    out.append((("remove",), {}))
                elif not m["full"]:
                    out.append((("pack",), {}))
            elif not m["full"]:
                out.append((("spill", oldest), {}))
        return out

    # ---- the archive

    def archive_process():
        yield locked("drop what is above the log's last event", drop)
        while True:
            yield locked("take, or sync", take)

    def log_events(m):
        """What it can read: of the file and of the spill, and not above the durable event."""
        entries, _ = file.end(m["shown"])
        there = {e.number: e for e in (*m["spill"], *m["shown"][m["first"]:entries]) if event_of(e)}
        return {number: e for number, e in there.items() if number <= m["durable"]}

    def last_event(m):
        entries, _ = file.end(m["shown"])
        numbers = [e.number for e in m["shown"][m["first"]:entries] if event_of(e)]
        return max((*numbers, m["made"][0][1]), default=0)

    def drop(m):
        if m["dropped"]:  # not at a start of the server
            return [(None, {})]
        kept = tuple(e for e in m["archive"] if e.number <= last_event(m))
        return [(None, {"archive": kept, "archive at": kept[-1].number if kept else 0, "dropped": 1})]

    def take(m):
        out = []
        following = [e for number, e in sorted(log_events(m).items()) if number > m["archive at"]]
        if following:
            changes = {"archive": m["archive"] + (following[0],), "archive at": following[0].number}
            out.append((following[0], changes))
        if m["archive"] != m["archive kept"]:
            out.append(("sync", {"archive kept": m["archive"]}))
        return out

    # ---- the master

    def master():
        while True:
            yield locked("start", supervise)

    def supervise(m):
        if not m["up"]:
            return [("start", start(m, 0))] + [("start, after a repair", start(m, 1) | {
                ("left", "repairs"): m["left", "repairs"] - 1})] * bool(m["left", "repairs"] and repaired(m))
        gone = [who for who in ("archive",) if m["status", who] == "dead" and not m["buffer", who]]
        return [(f"fork {who}", {("status", who): "run"}) for who in gone]

    def repaired(m):
        entries, _ = file.end(m["shown"])
        return entries > m["first"] and entries > m["made"][0][0] and event_of(m["shown"][entries - 1])

    def start(m, cut):
        """From the newest snapshot that can be read, and what follows it."""
        entries, _ = file.end(m["shown"])
        snapshot = m["made"][0]
        if snapshot[0] < m["first"]:
            raise Broken("what follows the snapshot is gone")
        words = {("status", who): "run" for who in ("worker", "journal", "archive")} | {"up": 1}
        entries -= cut  # what is torn goes; so does what the operator cuts off, and everybody begins anew
        shown = m["shown"][:entries] + (None,) * (file.size - entries)
        words |= {"shown": shown, "kept": shown, "on its way": ()}  # what is found is synced
        here = [e for e in m["shown"][:entries] if event_of(e)]
        number = max((here[-1].number if here else 0), 0)
        if cut:
            words |= {"told": tuple(e for e in m["told"] if e.number <= number)}
        events = tuple({e.number: e for e in here}.get(n) for n in range(1, number + 1))
        told = words.get("told", m["told"])
        if told != tuple(e for e in events if e)[:len(told)]:
            raise Broken(f"{told} was shown, the log has {events}")
        return words | {"events": events, "durable": number, "oldest": number + 1}

    # ---- faults and properties

    def strikes(m):
        out = []

        def strike(kind, label, changes):
            if m["left", kind]:
                out.append((label, changes | {("left", kind): m["left", kind] - 1}))

        if m["status", "archive"] == "run":
            strike("archive_kills", "**** archive: dead", {("status", "archive"): "dead"})
            strike("stops", "**** archive: stopped", {("status", "archive"): "stop"})
        if m["up"]:
            strike("crashes", "**** all are killed", down)
            for label, changes in file.power_cut(m):
                changes = changes | {"packed": m["packed kept"]}
                for kept in range(len(m["archive kept"]), len(m["archive"]) + 1):
                    rest = m["archive"][:kept]
                    if rest[:len(m["archive kept"])] == m["archive kept"]:
                        strike("cuts", f"{label}, the archive has {kept}", down | changes | {
                            "archive": rest, "archive kept": rest, "archive at": rest[-1].number if rest else 0})
        if not m["up"] and m["made"][0][0]:
            strike("bad", "**** the newest snapshot cannot be read", {"made": (m["made"][1], m["made"][1])})
        strike("full", "**** the disk is full", {"full": 1})
        return out

    def goal(m):
        if m["pays"] or m["pending"] or not m["up"]:
            return False
        events = tuple(e for e in m["events"] if e)
        return m["status", "archive"] == "stop" or not m["says"] and m["archive kept"] == events

    programs = {"worker": worker, "journal": journal_process, "archive": archive_process, "master": master}
    return Space(memory, programs, strikes, goal, lambda m: None, lambda *_: {}, order)
