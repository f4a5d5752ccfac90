"""Changes of rooms and boards: a transaction with an event, and its text in records before it; and who blocks whom.

The text stands behind the head of the log, which reaches it with the change at once. A request may be made of several
changes, one after the other, and has its outcome with the last. All are made under the locks of log and events, here
one; rooms and boards are one word for each change, pair.py has accounts and the event ring. The journal takes no lock.
"""
from typing import NamedTuple

from engine import Broken, Space, locked, read, write
from recovery import Recovery

LOG, REGISTRY = "log lock", "registry lock"
TEXTS = 2  # records of text before a change, at most


class Change(NamedTuple):
    number: int  # the req_id
    texts: tuple  # for each change that it is made of: the records of its text
    elsewhere: bool = False  # its client turns to another worker when this one dies


class Plain(NamedTuple):
    number: int  # a transaction without text and event


class Block(NamedTuple):
    number: int  # from now on no direct messages


class Direct(NamedTuple):
    number: int


class Record(NamedTuple):
    request: int
    part: int  # which of its changes; -1: a text of it
    texts: int = 0
    event: int = 0
    last: bool = True


def change(scripts, order="sc", **faults):
    """scripts: for each worker what its clients ask for, one request after the other."""
    script = {f"w{i}": requests for i, requests in enumerate(scripts)}
    requests = {q.number: q for asked in scripts for q in asked}
    r = Recovery(list(script), [LOG, REGISTRY], **faults)
    texts = {number: getattr(q, "texts", (0,)) for number, q in requests.items()}
    slots = sum(len(sizes) + sum(sizes) for sizes in texts.values()) + TEXTS
    memory = r.memory() | {"head": 0, "event head": 0, "durable": (0, 0), ("status", "journal"): "run", "blocked": 0}
    memory |= {("slot", i, part): 0 for i in range(1, 1 + slots) for part in ("word", "record")}
    memory |= {("intent", w, part): 0 for w in script for part in ("txn", "record")}
    memory |= {("answered", w): 0 for w in script} | {("outcome", number): 0 for number in requests}
    memory |= {("made", number, part): 0 for number in requests for part in range(len(texts[number]))}
    memory |= {"block is told": 0}  # known to the model only

    # ---- a worker

    def worker(w):
        done, again = yield read(("answered", w), ("again", w))
        while done < len(script[w]):
            q = script[w][done]
            if not (again and getattr(q, "elsewhere", False)):
                yield from {Change: make, Plain: make, Block: block, Direct: direct}[type(q)](w, q)
            done, again = done + 1, 0
            yield write(("answered", w), done)
        done = again = q = None
        yield from r.idle(w)

    def make(w, q):
        while not (yield from r.take(w, (), LOG)):
            pass
        recorded = yield read(("outcome", q.number))
        made = yield read(*(("made", q.number, part) for part in range(len(texts[q.number]))), "head")
        todo = [part for part in range(len(texts[q.number])) if not made[part]]  # what is so already is not changed
        todo, made = tuple(todo), None
        while todo and not recorded:
            yield from commit(w, q, todo[0], texts[q.number][todo[0]], len(todo) == 1)
            todo = todo[1:]
        yield from r.give((LOG,))
        yield locked(f"request {q.number} is answered", whole(q))
        todo = recorded = None

    def commit(w, q, part, size, last):
        txn, event = yield read("head", "event head")
        for text in range(size):
            txn = txn + 1
            yield write(("slot", txn, "word"), 0)
            yield write(("slot", txn, "record"), Record(q.number, -1))
            yield write(("slot", txn, "word"), txn)
        text, txn = None, txn + 1
        record = Record(q.number, part, size, event + 1 if isinstance(q, Change) else 0, last)
        yield write(("intent", w, "record"), record)
        yield write(("intent", w, "txn"), txn)  # the intent counts from here on
        yield write(("slot", txn, "word"), 0)
        yield write(("slot", txn, "record"), record)
        yield write(("slot", txn, "word"), txn)  # the commit point
        yield write("head", txn)
        yield from tell(record)
        yield from apply(record, txn)
        yield write(("intent", w, "txn"), 0)

    def tell(record):
        if record.event:
            yield write("event head", record.event)

    def apply(record, txn):
        yield write(("made", record.request, record.part), 1)
        if isinstance(requests[record.request], Block):
            yield write("blocked", 1)
        if record.last:
            yield write(("outcome", record.request), txn)

    def block(w, q):
        while not (yield from r.take(w, (), REGISTRY, LOG)):
            pass
        recorded = yield read("blocked")
        if not recorded:
            yield from commit(w, q, 0, 0, True)
        yield from r.give((REGISTRY, LOG))
        yield locked("the block is answered", lambda m: [(None, {"block is told": 1})])
        recorded = None

    def direct(w, q):
        while not (yield from r.take(w, (), REGISTRY)):
            pass
        blocked = yield read("blocked")
        if not blocked:
            yield locked("a direct message", deliver)
        yield from r.give((REGISTRY,))
        blocked = None

    def deliver(m):
        if m["block is told"]:
            raise Broken("a direct message of somebody who was blocked before")
        return [(None, {})]

    def whole(q):
        def outcomes(m):
            made = [record.part for record in log(m) if record.request == q.number and record.part >= 0]
            if made != list(range(len(texts[q.number]))):
                raise Broken(f"request {q.number} is answered, and of its changes the log has {made}")
            return [(None, {})]
        return outcomes

    # ---- the repair child

    def repair():
        dead = yield read("to repair")
        while dead:
            txn, head = yield read(("intent", dead[0], "txn"), "head")
            if txn:
                word = yield read(("slot", txn, "word"))
                if txn <= head or word == txn:
                    record, told = yield read(("intent", dead[0], "record"), "event head")
                    if txn > head:
                        yield write("head", txn)
                    yield from apply(record, txn)
                    if record.event > told:
                        yield from tell(record)
                yield write(("intent", dead[0], "txn"), 0)
            dead = dead[1:]
        txn = word = record = told = None
        head = yield read("head")
        for behind in range(1, 1 + TEXTS):  # texts of a change that was never committed
            word = yield read(("slot", head + behind, "word"))
            if word == head + behind:
                yield write(("slot", head + behind, "word"), 0)
        head = word = behind = None
        yield from r.free_locks()
        yield r.finish(check)

    # ---- the journal

    def journal():
        while True:
            yield locked("until there is something", lambda m: [(None, {})] * (
                (m["head"], m["event head"]) != m["durable"]))
            event = yield read("event head")  # before the head of the log
            head = yield read("head")
            batch = yield locked("cut", lambda m: [(cut(m, head, event), {})])
            yield write("durable", batch)
            event = head = batch = None

    def cut(m, head, event):
        """A change whose event was not seen yet waits, and its text with it."""
        durable = m["durable"][0]
        before = durable
        for txn in range(durable + 1, head + 1):
            record = m["slot", txn, "record"]
            if record.part < 0:
                continue
            if record.event > event:
                return before, event
            before = txn
        return head, event

    # ---- properties

    def log(m, upto=0):
        return [m["slot", txn, "record"] for txn in range(1, 1 + (upto or m["head"]))]

    def follows(records):
        """Each text belongs to the change that is next; answers the number of the last event."""
        events, waiting, seen = 0, 0, set()
        for record in records:
            if record.part < 0:
                waiting += 1
                continue
            if waiting != record.texts or (record.request, record.part) in seen:
                raise Broken(f"{record} has {waiting} records of text before it, or is there twice")
            if record.event and record.event != events + 1:
                raise Broken("the order of events is not that of transactions")
            events, waiting = record.event or events, 0
            seen.add((record.request, record.part))
        if waiting:
            raise Broken("a text of nothing is in the log")
        return events

    def watch(m, name, value):
        if name == "head" and value > m["head"]:
            if any(m["slot", txn, "word"] != txn for txn in range(m["head"] + 1, value + 1)):
                raise Broken("the head reaches what is not there")
            follows(log(m, value))
        if name == "event head" and value > follows(log(m)):
            raise Broken("an event is published whose change is not in the log")
        if name == "durable":
            if follows(log(m, value[0]) if value[0] else []) != value[1]:
                raise Broken(f"the batch that ends with {value} has a change or an event without the other")
        return {}

    def check(m):
        made = {(record.request, record.part): txn for txn, record in enumerate(log(m), 1) if record.part >= 0}
        if m["head"] and follows(log(m)) != m["event head"]:
            raise Broken("a change without its event")
        for number, sizes in texts.items():
            if isinstance(requests[number], Direct):
                continue
            parts = [(number, part) in made for part in range(len(sizes))]
            if parts != [bool(m["made", number, part]) for part in range(len(sizes))]:
                raise Broken(f"the log has of request {number} {parts}, and rooms and boards do not say so")
            if bool(m["outcome", number]) != all(parts):
                raise Broken(f"of request {number} the log has {parts}, its outcome is {m['outcome', number]}")
        if m["blocked"] != any(isinstance(requests[record.request], Block) for record in log(m)):
            raise Broken("who is blocked is not what the log says")

    def goal(m):
        if m["status", "master"] == "dead":
            return all(m["status", w] not in ("run", "dying") for w in script)
        content = [m["status", w] == "stop" or m["answered", w] == len(script[w]) for w in script]
        running = all(m["status", w] in ("run", "stop") for w in script)
        return all(content) and running and not m["recovery"] and m["durable"] == (m["head"], m["event head"])

    def settled(m):
        if all(m["status", who] == "run" for who in [*script, "master"]):
            check(m)

    programs = {w: lambda w=w: worker(w) for w in script} | {"master": r.master, "repair": repair, "journal": journal}
    return Space(memory, programs, r.faults, goal, settled, watch, order)
