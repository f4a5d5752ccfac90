"""Messages and payments under one window of req_ids: what a fold of the log makes of their outcomes.

The file has transactions and events in two parts of each batch, so a fold does not see them in the order in which they
were executed. Two clients want the place of one client record. A request is one step (pair.py has the stores of a
message, ledger.py those of a payment, clients.py the rest of LOGIN and when a record may be given away). The window is
as small as the scenario says; it is 64.
"""
from typing import NamedTuple

from engine import Broken, Space, locked


class Record(NamedTuple):
    who: str
    floor: int  # next_req_id of the LOGIN that made it
    newest: int
    places: tuple  # by req_id mod window: (req_id, outcome) or None


class Entry(NamedTuple):
    kind: str  # "pay", "chat" or "new"
    who: str
    number: int  # req_id, or the floor


def chat_once(scripts, window=2, sync=True, **faults):
    """scripts: for each client its requests, "pay" or "chat"; their req_ids are 1, 2, ...

    Faults, each as often as the scenario allows: drops (of a connection), crashes (of the server)."""
    script = {f"c{i}": asked for i, asked in enumerate(scripts)}
    memory = {"record": None, "log": (), "events": (), "after": (), "order": (), "batches": ((0, 0),)}
    memory |= {("left", kind): faults.get(kind, 0) for kind in ("drops", "crashes")}
    memory |= {("status", who): "run" for who in (*script, "journal")}
    for c in script:  # not connected: None; a LOGIN that waits: its txn_id; connected: 0
        memory |= {("session", c): None, ("next", c): 1, ("unanswered", c): (), ("repeat", c): (), ("told", c): ()}

    # ---- a client, and what the server does for it

    def client(c):
        while True:
            yield locked("next", lambda m: act(m, c))

    def act(m, c):
        session, number, unanswered = m["session", c], m["next", c], m["unanswered", c]
        finished = number > len(script[c]) and not unanswered
        if session is None:
            return [] if finished else login(m, c)
        if session:
            waits = sync and m["batches"][-1][0] < session
            return [("LOGIN is answered", {("session", c): 0})] * (not waits)
        if finished:
            return [("the end of its session", {("session", c): None})]
        out = [(f"{req} is answered", {("unanswered", c): without(unanswered, req)} | tell(m, c, req, "OK"))
               for req in unanswered if req not in m["repeat", c] and durable(m, c, req)]
        if m["repeat", c]:
            req = m["repeat", c][0]
            return out + [(f"repeats {req}", execute(m, c, req) | {("repeat", c): m["repeat", c][1:]})]
        if number <= len(script[c]) and number - min((*unanswered, number)) < window:
            out.append((f"sends {number}", execute(m, c, number) | {("next", c): number + 1}))
        return out

    def login(m, c):
        record, unanswered = m["record"], m["unanswered", c]
        if record and record.who == c:
            return [("LOGIN, resumed", {("session", c): len(m["log"]), ("repeat", c): unanswered})]
        if record and m["session", record.who] is not None:
            return []
        log = m["log"] + (Entry("new", c, m["next", c]),)
        changes = {"log": log, "order": m["order"] + (("log", len(log)),), "record": made(c, m["next", c])}
        return [("LOGIN, new", changes | {("session", c): len(log), ("repeat", c): unanswered})]

    def made(who, floor):
        return Record(who, floor, 0, (None,) * window)

    def execute(m, c, req):
        """The window first, then the recorded outcome, then the floor."""
        record, kept = m["record"], {("unanswered", c): (*without(m["unanswered", c], req), req)}
        place = record.places[req % window]
        if req <= record.newest - window:
            return unknown(m, c, req)
        if place and place[0] == req:
            check_outcome(m, c, req, place[1])
            return kept
        if req < record.floor:
            return unknown(m, c, req)
        if executed(m, c, req):
            raise Broken(f"request {req} of {c} is executed twice")
        entry = Entry(script[c][req - 1], c, req)
        name = "log" if entry.kind == "pay" else "events"
        entries = m[name] + (entry,)
        if name == "events":  # the newest txn_id at that time
            kept |= {"after": m["after"] + (len(m["log"]),)}
        number = len(entries)
        return kept | {name: entries, "order": m["order"] + ((name, number),), "record": store(record, entry, number)}

    def executed(m, c, req):
        """How many times."""
        return sum(e[1:] == (c, req) and e.kind != "new" for e in m["log"] + m["events"])

    def unknown(m, c, req):
        return {("unanswered", c): without(m["unanswered", c], req)} | tell(m, c, req, "unknown")

    def without(unanswered, req):
        return tuple(x for x in unanswered if x != req)

    def check_outcome(m, c, req, at):
        kind = script[c][req - 1]
        entries = m["log" if kind == "pay" else "events"]
        if at > len(entries) or entries[at - 1] != Entry(kind, c, req):
            raise Broken(f"request {req} of {c} is answered with another's outcome")

    def durable(m, c, req):
        entry, (txns, events) = Entry(script[c][req - 1], c, req), m["batches"][-1]
        return not sync or entry in m["log"][:txns] or entry in m["events"][:events]

    def tell(m, c, req, what):
        return {("told", c): m["told", c] + ((req, what),)}

    # ---- what an entry makes of a record

    def store(record, entry, at):
        """The same in every order, here and in every fold."""
        req, here = entry.number, record.places[entry.number % window]
        if not record or record.who != entry.who:  # it was given away
            return record
        if req < record.floor:  # of a record before
            return record
        if req <= record.newest - window:  # too old
            return record
        if here and here[0] > req:  # the place is a later one's
            return record
        places = tuple((req, at) if i == req % window else place for i, place in enumerate(record.places))
        return record._replace(newest=max(record.newest, req), places=places)

    def fold(m, order):
        """order: both kinds, as a fold comes by them: (entry, its number)."""
        record = None
        for entry, at in order:
            if entry.kind == "new":
                record = made(entry.who, entry.number)
            elif record:
                record = store(record, entry, at)
        return record

    def seen(record):
        """What an answer can tell of it."""
        if not record:
            return None
        inside = tuple(p if p and p[0] > record.newest - window else None for p in record.places)
        return record._replace(places=inside)

    def folds(m):
        """By batches, the money first; and as it was executed."""
        of = {name: [(entry, i) for i, entry in enumerate(m[name], 1)] for name in ("log", "events")}
        batches, (txns, events) = [], m["batches"][-1]
        for (t0, e0), (t1, e1) in zip(m["batches"], m["batches"][1:]):
            batches += of["log"][t0:t1] + of["events"][e0:e1]  # a batch
        known = [(name, i) for name, i in m["order"] if i <= (txns if name == "log" else events)]
        return fold(m, batches), fold(m, [of[name][i - 1] for name, i in known])

    # ---- the journal, crashes, properties

    def journal_process():
        while True:
            yield locked("a batch", batch)

    def batch(m):
        txns, events = m["batches"][-1]
        out = [(t, e) for t in range(txns, len(m["log"]) + 1) for e in range(events, len(m["events"]) + 1)]
        return [(cut, {"batches": m["batches"] + (cut,)}) for cut in out if cut != (txns, events) and whole(m, cut)]

    def whole(m, cut):
        """A batch may be as small as it likes, but has no event without the transactions before it."""
        txns, events = cut
        return not events or m["after"][events - 1] <= txns

    def strikes(m):
        out = []
        if m["left", "drops"]:
            out += [(f"**** {c} has lost its connection", {
                ("session", c): None, ("left", "drops"): m["left", "drops"] - 1})
                for c in script if m["session", c] is not None]
        if m["left", "crashes"]:
            (txns, events), (record, _) = m["batches"][-1], folds(m)
            known = {"log": m["log"][:txns], "events": m["events"][:events], "after": m["after"][:events]}
            order = tuple((name, i) for name, i in m["order"] if i <= len(known[name]))
            out.append(("**** kill -9 of the server", known | {
                "record": record, "order": order,
                ("left", "crashes"): m["left", "crashes"] - 1} | {("session", c): None for c in script}))
        return out

    def goal(m):
        return m["batches"][-1] == (len(m["log"]), len(m["events"])) and all(
            m["next", c] > len(script[c]) and not m["unanswered", c] for c in script)

    def check(m):
        if len({*map(seen, (*folds(m), m["record"]))}) > 1:
            raise Broken(f"a fold depends on the order: {folds(m)}, {m['record']}")
        for c in script:
            for req, what in m["told", c]:
                there = executed(m, c, req)
                if there > 1 or sync and what == "OK" and not there:
                    raise Broken(f"request {req} of {c} is answered {what}, and was executed {there} times")

    programs = {c: lambda c=c: client(c) for c in script} | {"journal": journal_process}
    return Space(memory, programs, strikes, goal, check, lambda *_: {})
