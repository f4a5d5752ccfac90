"""A user's password, whether the user may log in, and money that the operator moves: see server/core/operators.py.

One user with a session at most on each worker. A verifier is two words, here equal numbers, and stands twice: one word,
the version, says which counts. Each change is a record under one lock, here for registry, account and log; the records
and their commit are those of ledger.py. Readers of the verifier take no lock.
"""
from typing import NamedTuple

from engine import Broken, Space, locked, read, write
from recovery import Recovery

LOCK = "registry lock"


class Login(NamedTuple):
    password: int


class Password(NamedTuple):
    password: int


class State(NamedTuple):
    disabled: int


class Pay(NamedTuple):
    key: int  # its amount is 1
    elsewhere: bool = False  # who asks turns to another worker when this one dies


class Record(NamedTuple):
    what: tuple
    balance: int  # after it


def users(scripts, order="sc", **faults):
    """scripts: for each worker what it is asked for, one after the other."""
    script = {f"w{i}": asked for i, asked in enumerate(scripts)}
    everything = [q for asked in scripts for q in asked]
    keys = sorted({q.key for q in everything if isinstance(q, Pay)})
    r = Recovery(list(script), [LOCK], **faults)
    records = len(everything) * 2 + 2
    memory = r.memory() | {"head": 0, "version": 0, "disabled": 0, "balance": 0}
    memory |= {("verifier", copy, part): 1 - copy for copy in (0, 1) for part in ("salt", "key")}
    memory |= {("session", w): 0 for w in script} | {("answered", w): 0 for w in script}  # 1: live
    memory |= {("executed", key): 0 for key in keys}
    memory |= {("slot", i, part): 0 for i in range(1, records) for part in ("word", "record")}
    memory |= {("intent", w, part): 0 for w in script for part in ("txn", "record")}
    # Known to the model only: what was answered, and by which password a session is.
    memory |= {"disabled is told": 0, "password is told": 0} | {("by", w): 0 for w in script}

    # ---- a worker

    def worker(w):
        done, again = yield read(("answered", w), ("again", w))
        while done < len(script[w]):
            q = script[w][done]
            if not (again and getattr(q, "elsewhere", False)):
                yield from {Login: login, Password: change, State: change, Pay: pay}[type(q)](w, q)
            done, again = done + 1, 0
            yield write(("answered", w), done)
        done = again = q = None
        yield from r.idle(w)

    def login(w, q):
        version, salt = None, None
        while True:
            version = yield read("version")
            salt = yield read(("verifier", version % 2, "salt"))
            key = yield read(("verifier", version % 2, "key"))
            after = yield read("version")
            if after == version:
                break
        yield locked("the verifier", lambda m: whole(salt, key))
        if key != q.password:
            return
        while not (yield from r.take(w, (), LOCK)):
            pass
        disabled, now = yield read("disabled", "version")
        if not disabled and now == version:
            yield locked("a session", lambda m: begin(m, w, q.password))
        yield from r.give((LOCK,))
        version = salt = key = after = disabled = now = None

    def whole(salt, key):
        if salt != key:
            raise Broken("half of one verifier and half of another")
        return [(None, {})]

    def begin(m, w, password):
        if m["disabled is told"]:
            raise Broken("a login of who was disabled before")
        if m["password is told"] not in (0, password):
            raise Broken("a login by the password of before")
        return [(None, {("session", w): 1, ("by", w): password})]

    def change(w, q):
        while not (yield from r.take(w, (), LOCK)):
            pass
        balance = yield read("balance")
        txn = yield from commit(w, q, balance)
        yield from apply(w, Record(q, balance), txn)
        yield write(("intent", w, "txn"), 0)
        yield from r.give((LOCK,))
        yield locked("the change is answered", told(q))
        balance = txn = None

    def pay(w, q):
        while not (yield from r.take(w, (), LOCK)):
            pass
        executed, balance = yield read(("executed", q.key), "balance")
        if not executed:
            txn = yield from commit(w, q, balance + 1)
            yield from apply(w, Record(q, balance + 1), txn)
            yield write(("intent", w, "txn"), 0)
        yield from r.give((LOCK,))
        yield locked("the payment is answered", paid(q))
        executed = balance = txn = None

    def commit(w, q, balance):
        head = yield read("head")
        txn, record = head + 1, Record(q, balance)
        yield write(("intent", w, "record"), record)
        yield write(("intent", w, "txn"), txn)
        yield write(("slot", txn, "word"), 0)
        yield write(("slot", txn, "record"), record)
        yield write(("slot", txn, "word"), txn)  # the commit point
        yield write("head", txn)
        return txn

    def apply(w, record, txn):
        """What a record says, by the worker that made it or by a repair; again without harm."""
        q = record.what
        if isinstance(q, Pay):
            yield write("balance", record.balance)
            yield write(("executed", q.key), txn)
        elif isinstance(q, State):
            yield write("disabled", q.disabled)
            if q.disabled:
                yield from end_sessions(None)
        else:
            version = yield read("version")
            if version // 2 != txn:
                copy = 1 - version % 2
                yield write(("verifier", copy, "salt"), q.password)
                yield write(("verifier", copy, "key"), q.password)
                yield write("version", txn * 2 + copy)
                copy = None
            yield from end_sessions(w)
            version = None

    def end_sessions(kept):
        for other in script:
            if other != kept:
                yield write(("session", other), 0)

    def told(q):
        def outcomes(m):
            live = [w for w in script if m["session", w] and m["status", w] == "run"]
            if isinstance(q, State):
                if q.disabled and m["disabled"] and live:
                    raise Broken("a session of who is disabled")
                return [(None, {"disabled is told": m["disabled"]})]
            current = m["verifier", m["version"] % 2, "key"]
            if any(m["by", w] != current for w in live if w != m.who):
                raise Broken("a session by the password of before")
            return [(None, {"password is told": current})]
        return outcomes

    def paid(q):
        def outcomes(m):
            if not any(record.what[0] == q.key and isinstance(record.what, Pay) for record in log(m)):
                raise Broken("a payment is answered that is not in the log")
            return [(None, {})]
        return outcomes

    # ---- the repair child

    def repair():
        dead = yield read("to repair")
        ended = dead
        while dead:
            txn, head = yield read(("intent", dead[0], "txn"), "head")
            if txn:
                word = yield read(("slot", txn, "word"))
                if txn <= head or word == txn:
                    record = yield read(("intent", dead[0], "record"))
                    if txn > head:
                        yield write("head", txn)
                    yield from apply(dead[0], record, txn)  # by the repair
                yield write(("intent", dead[0], "txn"), 0)
            dead = dead[1:]
        txn = head = word = record = None
        while ended:  # sessions of the dead
            yield write(("session", ended[0]), 0)
            ended = ended[1:]
        yield from r.free_locks()
        yield r.finish(check)

    # ---- properties

    def log(m):
        return [m["slot", txn, "record"] for txn in range(1, 1 + m["head"])]

    def watch(m, name, value):
        """What was told holds until the next change."""
        if name == "disabled":
            return {"disabled is told": 0}
        return {"password is told": 0} if name == "version" else {}

    def check(m):
        said = log(m)
        paid_keys = [record.what.key for record in said if isinstance(record.what, Pay)]
        if len(set(paid_keys)) != len(paid_keys):
            raise Broken("a payment is made twice")
        if m["balance"] != len(paid_keys) or any(bool(m["executed", key]) != (key in paid_keys) for key in keys):
            raise Broken("the balance, or what was executed, is not what the log says")
        password = [1] + [record.what.password for record in said if isinstance(record.what, Password)]
        copy = m["version"] % 2
        if {m["verifier", copy, "salt"], m["verifier", copy, "key"]} != {password[-1]}:
            raise Broken("the verifier that counts is not the newest")
        disabled = [0] + [record.what.disabled for record in said if isinstance(record.what, State)]
        if m["disabled"] != disabled[-1]:
            raise Broken("who may log in is not what the log says")
        if m["disabled"] and any(m["session", w] for w in script):
            raise Broken("a session of who is disabled")

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
