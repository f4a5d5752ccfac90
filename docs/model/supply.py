"""The limit of the money supply: deposits into different accounts, which no common account lock keeps apart.

The supply stands in the newest record of the txn log, so it is read under the log lock (ledger.py has transfers, which
do not change it, and the rest).
"""
from typing import NamedTuple

from engine import Broken, Space, locked, read, write
from recovery import Recovery

LOG = "log lock"


class Record(NamedTuple):
    account: str
    balance: int  # after it
    supply: int  # after it


def supply(scripts, most=2, order="sc", **faults):
    """scripts: for each worker (account, amount) of its deposits; below 0: a withdrawal. most: what the supply may be.

    A request whose worker was killed is made once more by the next one (ledger.py has recorded outcomes)."""
    script = {f"w{i}": asked for i, asked in enumerate(scripts)}
    accounts = sorted({account for asked in scripts for account, _ in asked})
    r = Recovery(list(script), [*accounts, LOG], **faults)
    memory = r.memory() | {"head": 0, "log": ()} | {("balance", a): 0 for a in accounts}
    records = 1 + sum(map(len, scripts)) + faults.get("kills", 0)
    memory |= {("slot", i, part): 0 for i in range(records) for part in ("word", "record")}
    memory |= {("intent", w, part): 0 for w in script for part in ("txn", "record")}
    memory |= {("answered", w): 0 for w in script} | {("slot", 0, "record"): Record("", 0, 0)}

    def worker(w):
        done = yield read(("answered", w))
        while done < len(script[w]):
            yield from deposit(w, *script[w][done])
            done = done + 1
            yield write(("answered", w), done)
        done = None
        yield from r.idle(w)

    def deposit(w, account, amount):
        while True:
            if not (yield from r.take(w, (), account)):
                continue
            before = yield read(("balance", account))
            if before + amount < 0:
                yield from r.give((account,))
                return
            if not (yield from r.take(w, (account,), LOG)):
                continue
            head = yield read("head")
            newest = yield read(("slot", head, "record"))
            if newest.supply + amount > most:  # nothing is written yet
                yield from r.give((account, LOG))
                yield locked("ERR_LIMIT", lambda m: refused(m, amount))
                return
            txn, record = head + 1, Record(account, before + amount, newest.supply + amount)
            yield write(("intent", w, "record"), record)
            yield write(("intent", w, "txn"), txn)
            yield write(("slot", txn, "record"), record)
            yield write(("slot", txn, "word"), txn)
            yield write("head", txn)
            yield r.post(LOG)
            yield write(("balance", account), record.balance)
            yield write(("intent", w, "txn"), 0)
            yield from r.give((account,))
            return

    def refused(m, amount):
        if max((record.supply for record in m["log"]), default=0) + amount <= most:
            raise Broken("refused, and the limit was never reached")
        return [(None, {})]

    def repair():
        dead = yield read("to repair")
        while dead:
            txn, head = yield read(("intent", dead[0], "txn"), "head")
            if txn:
                word = yield read(("slot", txn, "word"))
                if txn <= head or word == txn:
                    record = yield read(("intent", dead[0], "record"))
                    yield write(("balance", record.account), record.balance)
                    if txn > head:
                        yield write("head", txn)
                yield write(("intent", dead[0], "txn"), 0)
            dead = dead[1:]
        txn = head = word = record = None
        yield from r.free_locks()
        yield r.finish(check)

    def watch(m, name, value):
        if name[0] != "slot" or name[2] != "word" or not value:
            return {}
        record, log = m["slot", value, "record"], m["log"]
        if value != len(log) + 1:
            raise Broken("not the next number")
        before = {r.account: r.balance for r in log}.get(record.account, 0)
        if record.supply != (log[-1].supply if log else 0) + record.balance - before or record.supply > most:
            raise Broken("the supply does not follow, or is above its limit")
        return {"log": log + (record,)}

    def check(m):
        now = {record.account: record.balance for record in m["log"]}
        if any(m["balance", a] != now.get(a, 0) for a in accounts):
            raise Broken("the balances are not what the log gives")
        if sum(now.values()) != (m["log"][-1].supply if m["log"] else 0):
            raise Broken("the balances do not add up to the supply")

    def goal(m):
        content = all(m["answered", w] == len(script[w]) and m["status", w] == "run" for w in script)
        return content and not m["recovery"]

    programs = {w: lambda w=w: worker(w) for w in script} | {"master": r.master, "repair": repair}
    return Space(memory, programs, r.faults, goal, check, watch, order)
