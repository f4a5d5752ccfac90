"""A board: of those who take an offer one gets it, and its owner is paid; a pair that changes a board (pair.py has the
pair's rings).

One place of one board. The owner is known from the entry alone, and its account has to be locked before the entry can
be: so it is read, all is locked, and it is read again. The rings are one word each here.
"""
from typing import NamedTuple

from engine import Broken, Space, locked, read, write
from recovery import Recovery

LOG, EVENTS = "log lock", "event lock"


class Offer(NamedTuple):
    number: int  # entry_id
    owner: str


class Take(NamedTuple):
    taker: str


class Put(NamedTuple):
    owner: str  # a new offer, in the place of one that is gone


class Remove(NamedTuple):
    owner: str


class Record(NamedTuple):
    txn: int
    offer: Offer
    balances: tuple  # ((account, balance after it), ...)


def board(scripts, balances, first="C", order="sc", **faults):
    """scripts: for each worker what its clients ask for; each offer costs 1. first: the owner of the first offer."""
    script = {f"w{i}": asked for i, asked in enumerate(scripts)}
    r = Recovery(list(script), [*balances, LOG, EVENTS], **faults)
    txns = sum(map(len, scripts)) + faults.get("kills", 0)
    memory = r.memory() | {"head": 0, "log": (), "offer": Offer(1, first), "offers": 1}
    memory |= {("balance", a): start for a, start in balances.items()}
    memory |= {("slot", i, part): 0 for i in range(1, 1 + txns) for part in ("word", "record")}
    memory |= {("intent", w, part): 0 for w in script for part in ("txn", "record")}
    memory |= {("answered", w): 0 for w in script}

    def worker(w):
        done = yield read(("answered", w))
        while done < len(script[w]):
            q = script[w][done]
            yield from {Take: take, Put: put, Remove: remove}[type(q)](w, q)
            done = done + 1
            yield write(("answered", w), done)
        done = q = None
        yield from r.idle(w)

    def take(w, q):
        while True:
            offer = yield read("offer")
            if not offer or offer.owner == q.taker:
                return  # ERR_NOT_FOUND
            accounts = tuple(sorted((q.taker, offer.owner)))
            if not (yield from r.take(w, (), *accounts)):
                continue
            if not (yield from r.take(w, accounts, LOG, EVENTS)):
                continue
            again = yield read("offer")
            if again != offer:  # it has changed: begin anew
                yield from r.give((*accounts, LOG, EVENTS))
                again = None
                continue
            rich, poor, head = yield read(("balance", q.taker), ("balance", offer.owner), "head")
            if not rich:
                yield from r.give((*accounts, LOG, EVENTS))
                return
            record = Record(head + 1, offer, ((q.taker, rich - 1), (offer.owner, poor + 1)))
            yield write(("intent", w, "record"), record)
            yield write(("intent", w, "txn"), record.txn)
            yield write(("slot", record.txn, "record"), record)
            yield write(("slot", record.txn, "word"), record.txn)
            yield write("head", record.txn)
            yield write("offer", None)  # under both locks
            yield r.post(EVENTS)
            yield r.post(LOG)
            for account, balance in record.balances:
                yield write(("balance", account), balance)
            yield write(("intent", w, "txn"), 0)
            yield from r.give(accounts)
            return

    def put(w, q):
        if not (yield from locks(w)):
            return
        offer, number = yield read("offer", "offers")
        if not offer:
            yield locked("a new offer", lambda m: [(None, {"offer": Offer(number + 1, q.owner), "offers": number + 1})])
        yield from r.give((LOG, EVENTS))

    def remove(w, q):
        if not (yield from locks(w)):
            return
        offer = yield read("offer")
        if offer and offer.owner == q.owner:
            yield write("offer", None)
        yield from r.give((LOG, EVENTS))

    def locks(w):
        while not (yield from r.take(w, (), LOG, EVENTS)):
            pass
        return True

    def repair():
        dead = yield read("to repair")
        while dead:
            txn, head = yield read(("intent", dead[0], "txn"), "head")
            if txn:
                word = yield read(("slot", txn, "word"))
                if txn <= head or word == txn:
                    record, offer = yield read(("intent", dead[0], "record"), "offer")
                    if offer and offer == record.offer:  # another may be in its place by now
                        yield write("offer", None)
                    for account, balance in record.balances:
                        yield write(("balance", account), balance)
                    if txn > head:
                        yield write("head", txn)
                yield write(("intent", dead[0], "txn"), 0)
            dead = dead[1:]
        txn = head = word = record = offer = account = balance = None
        yield from r.free_locks()
        yield r.finish(check)

    def watch(m, name, value):
        if name == "offer" and value is None and m["offer"] and not any(x.offer == m["offer"] for x in m["log"]):
            if not any(isinstance(q, Remove) and q.owner == m["offer"].owner for asked in scripts for q in asked):
                raise Broken("an offer goes that nobody has taken")
        if name[0] != "slot" or name[2] != "word":
            return {}
        record = m["slot", value, "record"]
        if record.offer in [x.offer for x in m["log"]]:
            raise Broken("an offer is taken twice")
        if record.offer != m["offer"]:
            raise Broken("an offer is taken that is not there any more")
        return {"log": m["log"] + (record,)}

    def check(m):
        now = dict(balances)
        for record in m["log"]:
            now |= dict(record.balances)
        if any(m["balance", a] != now[a] for a in balances) or sum(now.values()) != sum(balances.values()):
            raise Broken("the balances are not what the log gives")
        if m["offer"] in [record.offer for record in m["log"]]:
            raise Broken("an offer was paid for and is still there")

    def goal(m):
        content = all(m["answered", w] == len(script[w]) and m["status", w] == "run" for w in script)
        return content and not m["recovery"]

    programs = {w: lambda w=w: worker(w) for w in script} | {"master": r.master, "repair": repair}
    return Space(memory, programs, r.faults, goal, check, watch, order)
