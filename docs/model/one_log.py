"""One write-ahead file for both rings: the cut of a batch, two durable words after one sync, what waits for them, slots
that are not written, kills, power cuts, the start from disk.

A transaction, an event and each half of a pair (TRANSFER_IN_ROOM) is one step here; pair.py has their stores, and the
repair. What is shown to anybody shows all transactions up to its txn_id and all events up to its event number. Wake-ups
and failed syncs are as in journal.py.
"""
from typing import NamedTuple

from disk import TORN, File
from engine import Broken, Space, locked, read, write


class Record(NamedTuple):  # of the txn ring
    txn: int
    request: tuple
    event: int = 0  # the number of its event, where it is a pair


class Event(NamedTuple):
    number: int
    request: tuple
    after: int  # the newest txn_id when it was published; of a pair, its own
    txn: int = 0  # the pair's; of a PAYMENT, what it tells of
    payment: bool = False


class Batch(NamedTuple):  # as the file has it
    money: tuple
    events: tuple


class Segment(File):
    """Either part of a batch that was on its way may be there without the other."""

    def remains(self, entry):
        if not isinstance(entry, Batch):
            return (TORN,)
        return TORN, Batch(entry.money, TORN), Batch(TORN, entry.events)

    def whole(self, entry):
        return isinstance(entry, Batch) and TORN not in entry

    def write(self, at, batch):
        yield locked(f"begin to write {batch} at {at}", lambda m: [(None, self.put(m, at, TORN))])
        if batch.money and batch.events:
            yield locked(f"the first of it is written at {at}", lambda m: [
                (None, self.put(m, at, Batch(batch.money, TORN)))])
        yield locked(f"write at {at}", lambda m: [(None, self.put(m, at, batch))])


def one_log(scripts, workers=1, txns=2, events=2, at_once=9, sync=True, **faults):
    """scripts: for each client what it asks for, one after the other, of any worker once its first one has died: "pay",
    "say", "pair", "tip" (a payment with a PAYMENT push) or "look". txns, events: capacities of the rings. at_once: the
    records of each kind in a batch, at most.

    Faults, each as often as the scenario allows: kills (of workers), journal_kills, crashes (of all processes at once),
    cuts (power: of what was not synced each part is there or not)."""
    crew, clients = [f"w{i}" for i in range(workers)], range(len(scripts))
    asked = sum(map(len, scripts))
    file = Segment(1 + 2 * asked)
    region = {"up": 0, "ready": 0, "log": (), "events": (), "head": 0, "event head": 0, "locks": None}
    region |= {"began at": 0, "durable txn": 0, "durable event": 0, "limit": 0, "event limit": 0}
    region |= {("slot", i): 0 for i in range(txns)} | {("event slot", i): 0 for i in range(events)}
    region |= {("status", who): "off" for who in (*crew, "journal")} | {("taken", c): None for c in clients}
    region |= {("cursor", w): 0 for w in crew}
    down = region | {("buffer", who): () for who in (*crew, "journal", "master")}
    memory = region | file.memory() | {("status", "master"): "run"}
    memory |= {("left", kind): faults.get(kind, 0) for kind in ("kills", "journal_kills", "crashes", "cuts")}
    memory |= {("at", c): crew[c % workers] for c in clients} | {("answered", c): 0 for c in clients}
    memory |= {"told": (), "told events": ()}  # the longest of each that was shown to anybody, as requests

    # ---- a worker

    def worker(w):
        parked = ()
        while True:
            what, c, txn, event = yield wait(parked)
            if what == "push":
                yield push()
            elif what == "release":
                yield show_client(c, txn, event)
                parked = tuple(place for place in parked if place[0] != c)
            else:
                what, txn, event = yield execute(c, what)
                if what == "pair":
                    yield its_event(c, txn, event)
                elif what == "tip":
                    yield payment(c, txn)
                if what == "full":
                    yield locked("ERR_SERVER_BUSY", lambda m: [(None, {("taken", c): None})])
                else:
                    parked = tuple(sorted((*parked, (c, txn, event))))
            what = c = txn = event = None

    def upto(m):
        """How far answers and pushes may go."""
        return (m["durable txn"], m["durable event"]) if sync else (m["head"], m["event head"])

    def wait(parked):
        def outcomes(m):
            txn, event = upto(m)
            out = [((scripts[c][m["answered", c]], c, None, None), {("taken", c): m.who}) for c in clients
                   if m["answered", c] < len(scripts[c]) and not m["taken", c] and m["at", c] in (m.who, "anywhere")]
            out += [(("release", *place), {}) for place in parked if place[1] <= txn and place[2] <= event]
            return out + [(("push", None, None, None), {})] * (m["cursor", m.who] < event)
        return locked("wait", outcomes)

    def execute(c, what):
        """Under its locks: the recorded outcome, a place in what it needs, the head. Of a pair, the first half."""
        def outcomes(m):
            request = c, m["answered", c]
            if what == "look":
                return [(("looked", m["head"], m["event head"]), {})]
            if m["locks"]:
                return []
            for record in m["log"]:
                if record.request == request:
                    return [(("recorded", record.txn, record.event), {})]
            for event in m["events"]:
                if event.request == request and not event.payment:
                    return [(("recorded", 0, event.number), {})]
            if what != "say" and m["head"] + 1 > m["limit"]:
                return [(("full", 0, 0), {})]
            if what in ("say", "pair") and m["event head"] + 1 > m["event limit"]:
                if events > 1 and all(e.payment for e in m["events"][-events:]):
                    raise Broken("ERR_SERVER_BUSY, though only PAYMENTs fill the ring")
                return [(("full", 0, 0), {})]
            number = m["event head"] + 1
            if what == "say":
                return [(("said", 0, number), say(m, Event(number, request, m["head"])))]
            record = Record(m["head"] + 1, request, number if what == "pair" else 0)
            changes = {"log": m["log"] + (record,), ("slot", record.txn % txns): record, "head": record.txn}
            return [((what, record.txn, record.event), changes | {"locks": m.who if what == "pair" else None})]
        return locked(f"client {c}: {what}", outcomes)

    def say(m, event):
        return {"events": m["events"] + (event,), ("event slot", event.number % events): event,
                "event head": event.number}

    def its_event(c, txn, number):
        """The second half of a pair: the log lock is held up to here."""
        def outcomes(m):
            return [(None, say(m, Event(number, (c, m["answered", c]), txn, txn)) | {"locks": None})]
        return locked(f"the event of {txn}", outcomes)

    def payment(c, txn):
        """It is dropped where there is no slot, and the last eighth (here: the last slot) is not for it."""
        def outcomes(m):
            number = m["event head"] + 1
            if m["locks"]:
                return []
            if number > m["event limit"] - 1:
                return [("dropped", {})]
            return [(None, say(m, Event(number, (c, m["answered", c]), m["head"], txn, True)))]
        return locked(f"PAYMENT of {txn}", outcomes)

    def push():
        """The next event to everybody: from the ring, where it still is (readers.py has those that are lapped)."""
        def outcomes(m):
            number = m["cursor", m.who] + 1
            event, changes = m["event slot", number % events], {("cursor", m.who): number}
            if not event or event.number != number:
                return [("lapped", {("cursor", m.who): upto(m)[1]})]
            if number <= m["began at"]:
                raise Broken("a restart publishes an event anew")
            if event.payment:
                return [(event, changes | tell(m, event.txn, 0))]
            return [(event, changes | tell(m, 0, number))]
        return locked("push", outcomes)

    def show_client(c, txn, event):
        def outcomes(m):
            if m["taken", c] != m.who:  # it has turned elsewhere
                return [(None, {})]
            return [(None, {("taken", c): None, ("answered", c): m["answered", c] + 1} | tell(m, txn, event))]
        return locked(f"client {c} is shown transaction {txn}, event {event}", outcomes)

    def tell(m, txn, event):
        """Both are shown, and all before them."""
        shown = {"told": tuple(record.request for record in m["log"][:txn])}
        shown["told events"] = tuple(e.request for e in m["events"] if e.number <= event and not e.payment)
        for name, now in shown.items():
            both = min(len(now), len(m[name]))
            if sync and now[:both] != m[name][:both]:
                raise Broken(f"{now} is shown, and {m[name]} was")
        return {name: max(now, m[name], key=len) if sync else () for name, now in shown.items()}

    # ---- the journal process

    def journal_process():
        entries, last, last_event, torn = yield locked("look for the end", find_end)
        if torn:
            yield file.truncate(entries)
        yield file.sync()
        torn = None
        yield from publish(last, last_event)
        yield write("ready", 1)
        while True:
            event_head = yield read("event head")  # first: what it has of a pair, the txn head has too
            head = yield read("head")
            if (head, event_head) == (last, last_event):
                yield locked("sleep", lambda m: [(None, {})] * (m["head"] > last or m["event head"] > last_event))
            else:
                batch, last, last_event = yield locked("copy", lambda m: copy(m, last, last_event, head, event_head))
                if batch.money or batch.events:
                    yield from file.write(entries, batch)
                    yield file.sync()
                    entries = entries + 1
                batch = None
                yield from publish(last, last_event)
            head = event_head = None

    def find_end(m):
        """In a region that is in use the durable event may be beyond the file's: PAYMENTs are not in the file."""
        entries, torn = file.end(m["shown"])
        log, said = fold(m["shown"][:entries])
        return [((entries, len(log), max(m["durable event"], said[-1].number if said else 0), torn), {})]

    def copy(m, last, last_event, head, event_head):
        """The records, and what the batch takes of them."""
        records = [m["slot", txn % txns] for txn in range(last + 1, head + 1)]
        said = [m["event slot", number % events] for number in range(last_event + 1, event_head + 1)]
        if [r and r.txn for r in records] != list(range(last + 1, head + 1)) or [
                e and e.number for e in said] != list(range(last_event + 1, event_head + 1)):
            raise Broken("a slot was used again before it was durable")
        records, said = cut(records[:at_once], said[:at_once], last, last_event)
        batch = Batch(tuple(records), tuple(e for e in said if not e.payment))
        return [((batch, last + len(records), last_event + len(said)), {})]

    def cut(records, said, last, last_event):
        """No half of a pair within a batch, and none across; no event before the transactions that came before it, a
        PAYMENT not before what it tells of."""
        before = None
        while before != (len(records), len(said)):
            before = len(records), len(said)
            for i, record in enumerate(records):
                if record.event > last_event + len(said):
                    records = records[:i]
                    break
            for i, event in enumerate(said):
                if event.after > last + len(records):
                    said = said[:i]
                    break
        return records, said

    def publish(last, last_event):
        yield write("durable event", last_event)
        yield write("durable txn", last)
        yield locked("the limits", lambda m: [(None, {"limit": last + txns, "event limit": last_event + events})])

    # ---- the master

    def master():
        while True:
            yield locked("start or stop", supervise)

    def supervise(m):
        if not m["up"]:
            return [(None, start(m))]
        gone = [who for who in (*crew, "journal") if m["status", who] != "run" and not m["buffer", who]]
        return [(f"fork {who}", {("status", who): "run"} | (repair(m, who) if who in crew else {}))
                for who in gone if who == "journal" or m["ready"]]

    def repair(m, w):
        """The event of a committed pair is completed; the successor's cursor is where all events are durable."""
        changes = {("cursor", w): upto(m)[1]}
        if m["locks"] != w:
            return changes
        record = m["log"][-1]
        return changes | say(m, Event(record.event, record.request, record.txn, record.txn)) | {"locks": None}

    def start(m):
        """The loader, and the journal process, on which the workers wait. Nothing is published anew."""
        entries, _ = file.end(m["shown"])
        log, said = fold(m["shown"][:entries])
        for what, told, there in (("told", m["told"], log), ("told events", m["told events"], said)):
            there = tuple(x.request for x in there)
            if there[:len(told)] != told:
                raise Broken(f"what was shown is not there: {told} was, the disk has {there}")
        number = said[-1].number if said else 0
        words = {"up": 1, "log": log, "events": said, "head": len(log), "event head": number}
        words |= {("slot", record.txn % txns): record for record in log[-txns:]}
        words |= {("event slot", e.number % events): e for e in said[-events:]}
        words |= {"durable txn": len(log), "durable event": number, ("status", "journal"): "run"}
        return words | {"began at": number}

    def fold(batches):
        """Transactions and events in the file, each of which must follow from those before it."""
        log, said = (), ()
        for batch in batches:
            log, said = log + batch.money, said + batch.events
        numbers, pairs = [e.number for e in said], {(r.txn, r.event) for r in log if r.event}
        if [r.txn for r in log] != list(range(1, len(log) + 1)) or numbers != sorted(set(numbers)):
            raise Broken("the log has a hole")
        if pairs != {(e.txn, e.number) for e in said if e.txn}:
            raise Broken(f"half a pair: {log}, {said}")
        for kind in (log, said):
            if len({x.request for x in kind}) != len(kind):
                raise Broken(f"executed twice: {kind}")
        return log, said

    # ---- faults and properties

    def strikes(m):
        out = []

        def strike(kind, label, changes):
            if m["left", kind]:
                out.append((label, changes | {("left", kind): m["left", kind] - 1}))

        for who in (*crew, "journal"):
            if m["status", who] == "run":
                lost = {(what, c): value for c in clients if m["taken", c] == who
                        for what, value in (("taken", None), ("at", "anywhere"))}
                kind = "journal_kills" if who == "journal" else "kills"
                strike(kind, f"**** {who}: dead", {("status", who): "dead"} | lost)
        if m["up"]:
            strike("crashes", "**** all are killed", down)
            for label, changes in file.power_cut(m):
                strike("cuts", label, down | changes)
        return out

    def watch(m, name, value):
        if name in ("durable txn", "durable event") and value < m[name]:
            raise Broken(f"{name} goes back, from {m[name]}")
        return {}

    def goal(m):
        content = all(m["answered", c] == len(scripts[c]) for c in clients)
        alive = all(m["status", who] == "run" for who in (*crew, "journal"))
        pushed = all(m["cursor", w] == m["event head"] for w in crew)
        return content and alive and pushed and upto(m) == (m["head"], m["event head"]) == (
            m["durable txn"], m["durable event"])

    def check(m):
        entries, _ = file.end(m["kept"])
        log, said = fold(m["kept"][:entries])
        if log != m["log"] or said != tuple(e for e in m["events"] if not e.payment):
            raise Broken(f"the disk has {m['kept']}, the log {m['log']}, {m['events']}")
        if sync and len(said) + len(log) < sum(2 if x == "pair" else x != "look" for s in scripts for x in s):
            raise Broken("a request was not executed")

    programs = {w: lambda w=w: worker(w) for w in crew} | {"journal": journal_process, "master": master}
    return Space(memory, programs, strikes, goal, check, watch)
