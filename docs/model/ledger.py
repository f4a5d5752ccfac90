"""The ledger: transfers, superseding LOGINs, retries, the ring going round, and the repair of a dead worker's
transaction."""
from typing import NamedTuple

from engine import Broken, Space, locked, read, write
from recovery import Recovery

LOG = "log lock"


class Transfer(NamedTuple):
    number: int  # the req_id; all are one client's
    src: str
    dst: str
    amount: int = 1
    session: int = 0
    elsewhere: bool = False  # its client turns to another worker when this one dies


class Login(NamedTuple):
    account: str
    supersedes: int  # a session of that account's user


class Half(NamedTuple):  # of an intent or a record: one of its two accounts
    account: str
    balance: int  # after the transaction
    previous: int  # txn_id of the account's transaction before
    request: Transfer

    def __repr__(self):
        return f"({self.account} = {self.balance}, previous {self.previous}, request {self.request.number})"


def ledger(scripts, balances, capacity=8, taken=False, order="sc", **faults):
    """scripts: for each worker what its clients ask for, one request after the other. taken: a slot has its next record
    only when the journal has taken the one before."""
    script = {f"w{i}": requests for i, requests in enumerate(scripts)}
    r = Recovery(list(script), [*balances, LOG], **faults)
    memory = r.memory() | {"head": 0, "limit": capacity if taken else 99, "history": (), "superseded": ()}
    memory |= {(what, a): start for a in balances for what, start in (("balance", balances[a]), ("last", 0))}
    memory |= {("mark", q.session): 0 for requests in scripts for q in requests if isinstance(q, Transfer)}
    memory |= {("slot", i, part): 0 for i in range(capacity) for part in ("word", "debit", "credit")}
    memory |= {("intent", w, part): 0 for w in script for part in ("txn", "debit", "credit")}
    memory |= {("answered", w): 0 for w in script}
    memory |= {("outcome", q.number): 0 for requests in scripts for q in requests if isinstance(q, Transfer)}

    def slot(txn, part):
        return "slot", txn % capacity, part

    # ---- a worker (steps as the design numbers them)

    def worker(w):
        done, again = yield read(("answered", w), ("again", w))
        while done < len(script[w]):
            q = script[w][done]
            if isinstance(q, Login):
                yield from login(w, q)
            elif not (again and q.elsewhere):
                yield from transfer(w, q)
            done, again = done + 1, 0
            yield write(("answered", w), done)
        done = again = q = None
        yield from r.idle(w)

    def login(w, q):
        while not (yield from r.take(w, (), q.account)):
            pass
        yield write(("mark", q.supersedes), 1)
        yield from r.give((q.account,))
        yield locked("LOGIN is answered", lambda m: [(None, {"superseded": m["superseded"] + (q.supersedes,)})])

    def transfer(w, q):
        accounts = tuple(sorted((q.src, q.dst)))
        while True:
            if not (yield from r.take(w, (), *accounts)):  # step 1
                continue
            mark = yield read(("mark", q.session))  # step 2
            rich, poor, src_last, dst_last = yield read(*((x, a) for x in ("balance", "last") for a in (q.src, q.dst)))
            answer = "superseded" if mark else "too poor" if rich < q.amount else None
            recorded = yield read(("outcome", q.number))
            if recorded and not mark:  # before the funds count: it may be what has spent them
                answer = recorded
            if answer:
                yield from r.give(accounts)
                yield answered(q, answer)
                return
            debit = Half(q.src, rich - q.amount, src_last, q)
            credit = Half(q.dst, poor + q.amount, dst_last, q)
            yield write(("intent", w, "debit"), debit)  # step 3
            yield write(("intent", w, "credit"), credit)
            if not (yield from r.take(w, accounts, LOG)):  # step 4
                continue
            head, limit = yield read("head", "limit")
            txn = head + 1
            if txn > limit:
                yield from r.give((*accounts, LOG))  # ERR_SERVER_BUSY, and the client tries again
                continue
            yield write(("intent", w, "txn"), txn)  # the intent counts from here on
            yield write(slot(txn, "word"), 0)  # whoever reads the old record sees that it goes
            yield write(slot(txn, "debit"), debit)
            yield write(slot(txn, "credit"), credit)
            yield write(slot(txn, "word"), txn)  # the commit point
            yield write("head", txn)
            yield r.post(LOG)
            for half in (debit, credit):  # step 5
                yield write(("balance", half.account), half.balance)
                yield write(("last", half.account), txn)
            yield write(("outcome", q.number), txn)
            yield write(("intent", w, "txn"), 0)  # step 6
            yield from r.give(accounts)  # step 7
            yield answered(q, txn)
            return

    def answered(q, answer):
        def outcomes(m):
            executed = [t for t, d, _ in m["history"] if d.request.number == q.number]
            if executed != [answer] if isinstance(answer, int) else executed and answer == "too poor":
                raise Broken(f"the answer is {answer}, the log has it as {executed}")
            return [(None, {})]
        return locked(f"request {q.number} is answered: {answer}", outcomes)

    def journal_process():
        """What it does to the ring (the rest is in journal.py): it takes no lock, and no recovery waits for it."""
        txn = 1
        while True:
            yield locked(f"until the head is {txn}", lambda m: [(None, {})] * (m["head"] >= txn))
            debit = yield read(slot(txn, "debit"))
            credit = yield read(slot(txn, "credit"))
            yield locked("a true copy?", lambda m: [(None, {})] * (m["history"][txn - 1] == (txn, debit, credit)))
            yield write("limit", txn + capacity)  # not a true copy: it hangs, and the goal is out of reach
            txn, debit, credit = txn + 1, None, None

    # ---- the repair child

    def repair():
        dead = yield read("to repair")
        while dead:
            txn, head = yield read(("intent", dead[0], "txn"), "head")
            if txn:
                word = yield read(slot(txn, "word"))
                if txn <= head or word == txn:  # committed; the slot may be another transaction's by now
                    debit, credit = yield read(("intent", dead[0], "debit"), ("intent", dead[0], "credit"))
                    for half in (debit, credit):
                        yield write(("balance", half.account), half.balance)
                        yield write(("last", half.account), txn)
                    yield write(("outcome", debit.request.number), txn)
                    if txn > head:
                        yield write("head", txn)
                yield write(("intent", dead[0], "txn"), 0)  # not committed: the next transaction gets this txn_id
            dead = dead[1:]
        txn = head = word = debit = credit = half = None
        yield from r.free_locks()
        yield r.finish(check)

    # ---- properties

    def watch(m, name, value):
        """The commit point is where most promises are kept or broken."""
        if name[0] == "last" and value < m[name]:
            raise Broken("an older transaction is stored over a newer one")
        if name[0] != "slot" or name[2] != "word" or not value:
            return {}
        debit, credit, history = m[slot(value, "debit")], m[slot(value, "credit")], m["history"]
        if value != len(history) + 1:
            raise Broken(f"transaction {value} is committed after {len(history)}")
        if not isinstance(debit, Half) or not isinstance(credit, Half) or debit.request != credit.request:
            raise Broken("half a record is committed")
        if debit.request.number in [d.request.number for _, d, _ in history]:
            raise Broken("this request is executed twice")
        if debit.request.session in m["superseded"]:
            raise Broken("committed for a session that is superseded")
        return {"history": history + ((value, debit, credit),)}

    def check(m):
        """All stands still: the log, replayed in order, gives the balances and the chains."""
        now, last = dict(balances), dict.fromkeys(balances, 0)
        for txn, debit, credit in m["history"]:
            amount = debit.request.amount
            for half, after in ((debit, now[debit.account] - amount), (credit, now[credit.account] + amount)):
                if half.balance != after or after < 0 or half.previous != last[half.account]:
                    raise Broken(f"transaction {txn} does not follow from those before it")
                now[half.account], last[half.account] = after, txn
        executed = {d.request.number: txn for txn, d, _ in m["history"]}
        for q in (q for requests in scripts for q in requests if isinstance(q, Transfer)):
            if m["outcome", q.number] != executed.get(q.number, 0):
                raise Broken(f"the outcome of request {q.number} is not what the log has")
        if any((m["balance", a], m["last", a]) != (now[a], last[a]) for a in balances):
            raise Broken(f"balances are {[m['balance', a] for a in balances]}, by the log {now}; chains end at {last}")
        for txn, *halves in m["history"][-capacity:]:
            if m[slot(txn, "word")] == txn and halves != [m[slot(txn, part)] for part in ("debit", "credit")]:
                raise Broken(f"the ring's record {txn} is not what was committed")
        if sum(now.values()) != sum(balances.values()) or m["head"] != len(m["history"]):
            raise Broken("money is made or lost, or the head is wrong")

    def goal(m):
        if m["status", "master"] == "dead":
            return all(m["status", w] not in ("run", "dying") for w in script)
        content = [m["status", w] == "stop" or m["answered", w] == len(script[w]) for w in script]
        alive = [m["status", w] in ("run", "stop") for w in script]
        return all(content + alive) and not m["recovery"] and (not taken or m["limit"] == m["head"] + capacity)

    def settled(m):
        if all(m["status", who] == "run" for who in [*script, "master"]):
            check(m)

    programs = {w: lambda w=w: worker(w) for w in script} | {"master": r.master, "repair": repair}
    if taken:
        programs, memory = programs | {"journal": journal_process}, memory | {("status", "journal"): "run"}
    return Space(memory, programs, r.faults, goal, settled, watch, order)
