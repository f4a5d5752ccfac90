"""The pair, an operation that moves money and speaks in a room, and messages that are executed once: their stores, and
the repair of both.

Transfers, pairs (TRANSFER_IN_ROOM) and messages, on several workers; the rings are as large as the
scenario says, and nothing is taken out of them (ledger.py has that).
"""
from typing import NamedTuple

from engine import Broken, Space, locked, read, write
from recovery import Recovery

LOG, EVENTS = "log lock", "event lock"


class Pay(NamedTuple):
    number: int  # the req_id; each user is one client
    src: str
    dst: str
    room: str = ""  # where it is a pair
    elsewhere: bool = False  # its client turns to another worker when this one dies


class Say(NamedTuple):
    number: int
    src: str  # the account of the user that speaks
    room: str
    elsewhere: bool = False


class End(NamedTuple):
    number: int
    src: str  # the user whose session ends: a LOGIN supersedes it, or PASSWORD ends it


class Event(NamedTuple):
    number: int
    room: str
    seq: int  # room_seq
    request: int
    txn: int = 0  # of a pair


class Record(NamedTuple):
    txn: int
    request: int
    balances: tuple  # ((account, balance after it), ...)
    event: Event | None


def pair(scripts, balances, txns=9, events=9, ring=9, order="sc", **faults):
    """scripts: for each worker what its clients ask for, one request after the other. txns, events: how many of each
    there is space for. ring: slots of the event ring; they are used again at once."""
    script = {f"w{i}": requests for i, requests in enumerate(scripts)}
    requests = {q.number: q for asked in scripts for q in asked}
    r = Recovery(list(script), [*balances, LOG, EVENTS], **faults)
    memory = r.memory() | {"head": 0, "event head": 0, "log": (), "said": ()}
    memory |= {(what, a): start for a, at in balances.items() for what, start in (("balance", at), ("newest", 0))}
    memory |= {("last", q.room): 0 for q in requests.values() if not isinstance(q, End) and q.room}
    memory |= {("ended", a): 0 for a in balances} | {"ends told": ()}
    memory |= {("slot", i, part): 0 for i in range(1, 1 + len(requests)) for part in ("word", "record")}
    memory |= {("event slot", i, part): 0 for i in range(ring) for part in ("word", "event")}
    memory |= {("intent", w, part): 0 for w in script for part in ("txn", "record")}
    memory |= {("answered", w): 0 for w in script} | {("outcome", number): 0 for number in requests}

    def event_slot(number, part):
        return "event slot", number % ring, part

    # ---- a worker

    def worker(w):
        done, again = yield read(("answered", w), ("again", w))
        while done < len(script[w]):
            q = script[w][done]
            if isinstance(q, End):
                yield from end(w, q)
            elif not (again and q.elsewhere):
                yield from (pay if isinstance(q, Pay) else say)(w, q)
            done, again = done + 1, 0
            yield write(("answered", w), done)
        done = again = q = None
        yield from r.idle(w)

    def pay(w, q):
        accounts = tuple(sorted((q.src, q.dst)))
        rings = (LOG, EVENTS) if q.room else (LOG,)
        while True:
            if not (yield from r.take(w, (), *accounts)):
                continue
            ended = yield read(("ended", q.src))
            recorded, rich, poor = yield read(("outcome", q.number), ("balance", q.src), ("balance", q.dst))
            if ended or recorded or not rich:
                yield from r.give(accounts)
                if not ended:
                    yield answered(q, recorded or "too poor")
                return
            if not (yield from r.take(w, accounts, *rings)):
                continue
            head, event_head = yield read("head", "event head")
            txn, number, event = head + 1, event_head + 1, None
            if txn > txns or q.room and number > events:  # space in both, before anything is written
                yield from r.give((*accounts, *rings))
                yield answered(q, "busy")
                return
            if q.room:
                last = yield read(("last", q.room))
                event = Event(number, q.room, last + 1, q.number, txn)
            record = Record(txn, q.number, ((q.src, rich - 1), (q.dst, poor + 1)), event)
            yield write(("intent", w, "record"), record)
            yield write(("intent", w, "txn"), txn)  # the intent counts from here on
            yield write(("slot", txn, "word"), 0)
            yield write(("slot", txn, "record"), record)
            yield write(("slot", txn, "word"), txn)  # the commit point, of both
            yield write("head", txn)
            if event:
                yield from publish(event)
                yield r.post(EVENTS)
            yield r.post(LOG)
            yield from apply(record)
            yield write(("intent", w, "txn"), 0)  # the intent is cleared
            yield from r.give(accounts)
            yield answered(q, (txn, number if q.room else 0))
            return

    def apply(record):
        for account, balance in record.balances:
            yield write(("balance", account), balance)
        yield write(("outcome", record.request), (record.txn, record.event.number if record.event else 0))
        client = requests[record.request].src
        newest = yield read(("newest", client))
        yield write(("newest", client), max(newest, record.request))

    def say(w, q):
        while True:
            if not (yield from r.take(w, (), q.src)):
                continue
            ended = yield read(("ended", q.src))
            recorded = yield read(("outcome", q.number))
            if ended or recorded:
                yield from r.give((q.src,))
                if not ended:
                    yield answered(q, recorded)
                return
            if not (yield from r.take(w, (q.src,), EVENTS)):
                continue
            head, last = yield read("event head", ("last", q.room))
            if head + 1 > events:
                yield from r.give((q.src, EVENTS))
                yield answered(q, "busy")
                return
            event = Event(head + 1, q.room, last + 1, q.number)
            yield from publish(event)
            yield from r.give((q.src, EVENTS))  # both locks, to the end
            yield answered(q, (0, event.number))
            return

    def end(w, q):
        """From its answer on nothing of that session is executed."""
        while not (yield from r.take(w, (), q.src)):
            pass
        yield write(("ended", q.src), 1)
        yield from r.give((q.src,))
        yield locked("that is answered", lambda m: [(None, {"ends told": m["ends told"] + (q.src,)})])

    def publish(event):
        yield write(event_slot(event.number, "word"), 0)
        yield write(event_slot(event.number, "event"), event)
        yield write(event_slot(event.number, "word"), event.number)  # of a message, the commit point
        yield from complete(event)

    def complete(event):
        """What a committed event changes, from its slot alone; the head last."""
        if not event.txn:
            yield write(("outcome", event.request), (0, event.number))
            client = requests[event.request].src
            newest = yield read(("newest", client))
            yield write(("newest", client), max(newest, event.request))
        yield write(("last", event.room), event.seq)
        yield write("event head", event.number)

    def answered(q, answer):
        def outcomes(m):
            executed = [(x.txn, x.event.number if x.event else 0) for x in m["log"] if x.request == q.number]
            executed += [(0, e.number) for e in m["said"] if e.request == q.number and not e.txn]
            if executed != [answer] if isinstance(answer, tuple) else executed:
                raise Broken(f"the answer is {answer}, the logs have it as {executed}")
            return [(None, {})]
        return locked(f"request {q.number} is answered: {answer}", outcomes)

    # ---- the repair child

    def repair():
        head = yield read("event head")
        word = yield read(event_slot(head + 1, "word"))
        if word == head + 1:  # committed beyond the head
            event = yield read(event_slot(word, "event"))
            yield from complete(event)
        head = word = event = None
        dead = yield read("to repair")
        while dead:
            txn, head = yield read(("intent", dead[0], "txn"), "head")
            if txn:
                word = yield read(("slot", txn, "word"))
                if txn <= head or word == txn:
                    record = yield read(("intent", dead[0], "record"))
                    if txn > head:
                        yield write("head", txn)
                    event_head = yield read("event head")
                    if record.event and record.event.number > event_head:  # its event may be out already
                        yield from publish(record.event)
                    yield from apply(record)
                yield write(("intent", dead[0], "txn"), 0)
            dead = dead[1:]
        txn = head = word = record = event_head = None
        yield from r.free_locks()
        yield r.finish(check)

    # ---- properties

    def watch(m, name, value):
        if name[0] == "slot" and name[2] == "word" and value:
            record = m["slot", value, "record"]
            if not isinstance(record, Record) or record.txn != value or value != len(m["log"]) + 1:
                raise Broken("half a record is committed, or in the wrong place")
            executed_once(m, record.request)
            if record.event and record.event.number <= max((e.number for e in m["said"]), default=0):
                raise Broken("a pair is committed whose event's number is used")
            if value > txns:
                raise Broken("committed where there is no space")
            return {"log": m["log"] + (record,)}
        if name[0] == "event slot" and name[2] == "word" and value:
            event, said = m[event_slot(value, "event")], m["said"]
            if not isinstance(event, Event) or event.number != value:
                raise Broken("half an event is committed, or in the wrong place")
            if event in said:
                if m["event head"] >= value:
                    raise Broken("an event is published that readers have passed")
                return {}  # a repair that was killed, once more
            if value != len(said) + 1 or event.seq != 1 + sum(e.room == event.room for e in said):
                raise Broken("not the next number, of events or of the room")
            if event.txn and event not in [record.event for record in m["log"]]:
                raise Broken("the event is published of a transfer that is not committed")
            if event.txn < max((e.txn for e in said), default=0) and event.txn:
                raise Broken("the order of events does not agree with txn_id")
            if value > events:
                raise Broken("published where there is no space")
            if not event.txn:
                executed_once(m, event.request)
            return {"said": said + (event,)}
        if name == "event head":
            owed = [e for e in m["said"] if e.number == value and not e.txn]
            if any(m["outcome", e.request] != (0, e.number) for e in owed) or any(
                    m["newest", requests[e.request].src] < e.request for e in owed):
                raise Broken("the head is advanced, and there is nothing left from which to make the outcome")
        return {}

    def executed_once(m, number):
        if number in [x.request for x in m["log"]] + [e.request for e in m["said"] if not e.txn]:
            raise Broken(f"request {number} is executed twice")
        if requests[number].src in m["ends told"]:
            raise Broken(f"request {number} is executed, of a session that has ended")

    def check(m):
        """All stands still: the two logs, and what they give."""
        log, said, now, executed = m["log"], m["said"], dict(balances), {}
        for record in log:
            q = requests[record.request]
            now[q.src], now[q.dst] = now[q.src] - 1, now[q.dst] + 1
            executed[q.number] = record.txn, record.event.number if record.event else 0
            if min(now.values()) < 0 or record.balances != ((q.src, now[q.src]), (q.dst, now[q.dst])):
                raise Broken("a transaction does not follow from those before it")
        executed |= {e.request: (0, e.number) for e in said if not e.txn}
        if [e for e in said if e.txn] != [x.event for x in log if x.event]:
            raise Broken(f"half a pair: {log}, {said}")
        if any(m["balance", a] != now[a] for a in balances):
            raise Broken("the balances are not what the log gives")
        if any(m["outcome", number] != executed.get(number, 0) for number in requests):
            raise Broken("an outcome is not what the logs give")
        if any(m["newest", a] != max((n for n in executed if requests[n].src == a), default=0) for a in balances):
            raise Broken("newest is not the greatest req_id executed")
        counters = {name[1]: m[name] for name in memory if name[0] == "last"}
        if any(last != sum(e.room == room for e in said) for room, last in counters.items()):
            raise Broken("a room's counter is wrong")
        if (m["head"], m["event head"]) != (len(log), len(said)):
            raise Broken("a head is wrong")

    def goal(m):
        if m["status", "master"] == "dead":
            return all(m["status", w] not in ("run", "dying") for w in script)
        content = [m["status", w] == "stop" or m["answered", w] == len(script[w]) for w in script]
        return all(content) and all(m["status", w] in ("run", "stop") for w in script) and not m["recovery"]

    def settled(m):
        if all(m["status", who] == "run" for who in [*script, "master"]):
            check(m)

    programs = {w: lambda w=w: worker(w) for w in script} | {"master": r.master, "repair": repair}
    return Space(memory, programs, r.faults, goal, settled, watch, order)
