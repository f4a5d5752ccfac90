"""Exactly once: the records of clients, which are given away; what a LOGIN asks of them; retries over restarts.

One client makes payments that are all alike. Others log in and out and want its record's place. A request, and each of
the two halves of a LOGIN, is one step (ledger.py has the steps of a transaction; NEW_CLIENT is one like it).

Time is lived time, in ticks: a record that has been idle for a tick may be given away (`--client-retention`), and for
two ticks after a start none that was known at it and had not been idle for a tick before it (`--client-grace`).
"""
from typing import NamedTuple

from engine import Broken, Space, locked, read, write


class Record(NamedTuple):
    who: tuple  # whose it is: a name and a client_id
    floor: int  # next_req_id of the LOGIN that made it
    newest: int = 0  # greatest req_id executed
    outcomes: tuple = ()  # (req_id, payment)
    idle: int = 0  # ticks since its latest session, 1 at most
    kept: int = 0  # known at the start, and not idle then


class Session(NamedTuple):
    number: int
    slot: int
    resumed: int


def clients(payments=2, slots=1, others=2, flags=True, grace=2, **faults):
    """flags: its client says POSSIBLE_DUPLICATE when it repeats.

    Faults, each as often as the scenario allows: drops (of the client's connection), crashes (kill -9 of the whole
    server), stops (orderly ones), forgets (the client's file is put back), shares (another program has its client_id), jumps (of the clock)."""
    memory = {("record", slot): None for slot in range(slots)}
    memory |= {"log": (), "durable": 0, "sessions": (), "sent": None, "answer": None, "boot": 0, "grace": 0}
    memory |= {"client": ("client", 1), "next": 1, "payment": 1, "unanswered": 0, "connected": 0, "connection": 0, "lost": (), "told": ()}
    memory |= {"others": others, "promised": 0, "known": 0, "away": 0, "owed": 0}  # all but the first: what the client may rely on
    memory |= {("status", who): "run" for who in ("client", "server", "time")}
    memory |= {("left", kind): faults.get(kind, 0) for kind in ("drops", "crashes", "stops", "forgets", "shares", "jumps")}

    # ---- the client: one connection at a time, one request at a time

    def client():
        while True:
            payment = yield read("payment")
            if payment > payments:
                break
            boot = yield read("boot")
            how, txn = yield locked("LOGIN: the record", login)
            if how == "taken":  # the memory is lost, or shared
                yield locked("draw another client_id", draw)
                continue
            made = how
            how = yield locked("LOGIN: until it is durable", lambda m: durable(m, txn, boot))
            if how == "durable":
                how = yield locked("LOGIN: the session", lambda m: begin(m, made))
            while how == "session":
                how = yield locked("send", send)
                if how == "sent":
                    how = yield locked("until it is answered", answered)
            yield write("connected", 0)
            payment = boot = how = txn = made = None
        yield locked("content", lambda m: [])

    def login(m):
        """The first half: there is a record, and its place in the log is what to wait for."""
        slot = find(m, m["client"])
        if slot is not None:
            record = m["record", slot]
            if m["next"] <= record.newest or m["next"] < record.floor:  # first half
                return [(("taken", 0), {})]
            return [(("resumed", len(m["log"])), {})]
        if m["promised"]:
            raise Broken("a client that was answered is not known any more, in the time that it was promised")
        return [(("made", txn), changes) for txn, changes in new(m, m["client"], m["next"])]

    def durable(m, txn, boot):
        return [("lost", {})] if m["boot"] != boot else [("durable", {})] * (m["durable"] >= txn)

    def begin(m, made):
        """The second half: meanwhile the record may have been given away, or another have used it."""
        slot = find(m, m["client"])
        if slot is None:
            return [("from the beginning", {})]
        record = m["record", slot]
        if m["next"] <= record.newest or m["next"] < record.floor:  # second half
            return [("from the beginning", {})]
        number = m["connection"] + 1
        sessions = tuple(s for s in m["sessions"] if s.slot != slot) + (Session(number, slot, made == "resumed"),)
        changes = {"sessions": sessions, "connected": 1, "connection": number, ("record", slot): record._replace(idle=0)}
        changes |= {"promised": 1, "away": 0, "known": m["known"] if made == "resumed" else 0}
        return [("session", changes)] + [("lost", changes | lose(m, number))] * bool(m["left", "drops"])

    def send(m):
        number = m["unanswered"] or m["next"]
        request = m["connection"], number, m["payment"], bool(m["unanswered"]) and flags
        owed = m["owed" if m["unanswered"] else "promised"]
        sent = {"sent": request, "unanswered": number, "next": max(m["next"], number + 1), "owed": owed}
        return [("sent", sent)] + [("lost", lose(m, m["connection"]))] * bool(m["left", "drops"])

    def answered(m):
        """It is told once, and the client goes on to the next payment."""
        out, answer = [], m["answer"]
        if m["connection"] not in [s.number for s in m["sessions"]]:
            return [("lost", {})]
        if answer and answer[0] == m["connection"] and m["durable"] >= answer[3]:
            changes = {"answer": None, "payment": m["payment"] + 1, "unanswered": 0}
            out.append(("session" if m["payment"] < payments else "done", changes | tell(m, *answer[1:3])))
        if m["left", "drops"]:
            out.append(("lost", lose(m, m["connection"])))
        return out

    def tell(m, what, payment):
        if what == "OK" and payment != m["payment"]:
            raise Broken(f"payment {m['payment']} is answered OK, and was not made: that was {payment}")
        if what == "unknown" and m["owed"]:
            raise Broken("the outcome is unknown, though the client's record was promised to be there")
        return {"told": m["told"] + ((m["payment"], what),)}

    def lose(m, number):
        return {"lost": m["lost"] + (number,), ("left", "drops"): m["left", "drops"] - 1}

    def draw(m):
        """What is unanswered under the old client_id is told as unknown, and never sent under the new one."""
        changes = {"client": ("client", m["client"][1] + 1), "next": 1, "unanswered": 0, "promised": 0}
        if m["unanswered"]:
            changes |= {"told": m["told"] + ((m["payment"], "unknown"),), "payment": m["payment"] + 1}
        return [(None, changes)]

    # ---- the server

    def server():
        while True:
            yield locked("serve", serve)

    def serve(m):
        out = []
        if m["sent"]:
            out.append(("a request", {"sent": None} | execute(m, *m["sent"])))
        for session in m["sessions"]:
            if session.number in m["lost"]:
                out.append(("the end of a session", end(m, session)))
        if m["others"]:
            who = "other", m["others"]
            out += [("another client, in and out", changes | {"others": m["others"] - 1}) for _, changes in new(m, who, 1)]
        if m["durable"] < len(m["log"]):
            out.append(("the journal", {"durable": m["durable"] + 1}))
        return out

    def execute(m, number, req_id, payment, flagged):
        session = next((s for s in m["sessions"] if s.number == number), None)
        if session is None:
            return {}
        record, log = m["record", session.slot], m["log"]
        recorded = dict(record.outcomes)
        if req_id in recorded:
            return {"answer": (number, "OK", recorded[req_id], len(log))}
        if req_id < record.floor:
            return {"answer": (number, "unknown", payment, 0)}
        if payment in [entry[3] for entry in log if entry[0] == "paid"]:
            raise Broken(f"payment {payment} is executed twice")
        log += (("paid", session.slot, req_id, payment),)
        return {"log": log, ("record", session.slot): paid(record, req_id, payment),
                "answer": (number, "OK", payment, len(log))}

    def paid(record, req_id, payment):
        outcomes = record.outcomes + ((req_id, payment),)
        return record._replace(newest=max(record.newest, req_id), outcomes=outcomes)

    def end(m, session):
        sessions = tuple(s for s in m["sessions"] if s != session)
        record = m["record", session.slot]._replace(idle=0)
        return {"sessions": sessions, ("record", session.slot): record}

    def find(m, who):
        return next((s for s in range(slots) if m["record", s] and m["record", s].who == who), None)

    def new(m, who, floor):
        """A client new to the server: its place, which may be another's, and what has to be durable."""
        live, out = [s.slot for s in m["sessions"]], []
        for slot in range(slots):
            record = m["record", slot]
            free = record is None
            if free or slot not in live and record.idle and not (record.kept and m["grace"]):
                log = m["log"] + (("new", slot, who, floor),)
                out.append((len(log), {"log": log, ("record", slot): Record(who, floor)}))
        return out

    def fold(log):
        """The records as the log makes them."""
        records = dict.fromkeys(range(slots))
        for kind, slot, *fields in log:
            records[slot] = Record(*fields) if kind == "new" else paid(records[slot], *fields)
        return records

    # ---- lived time

    def time():
        while True:
            yield locked("a tick", tick)

    def tick(m):
        changes = {"grace": max(0, m["grace"] - 1)} | older(m)
        mine = find(m, m["client"])
        if mine is None or mine not in [s.slot for s in m["sessions"]]:
            changes |= {"away": 1} | promise(m, m["known"] and changes["grace"])
        return [(None, changes)] if any(m[name] != value for name, value in changes.items()) else []

    def promise(m, still):
        return {name: m[name] if still else 0 for name in ("promised", "owed")}

    def older(m):
        idle = {s for s in range(slots) if m["record", s]} - {s.slot for s in m["sessions"]}
        return {("record", s): m["record", s]._replace(idle=1) for s in idle}

    # ---- faults

    def strikes(m):
        out = []

        def strike(kind, label, changes):
            if m["left", kind]:
                out.append((label, changes | {("left", kind): m["left", kind] - 1}))

        down = {"sessions": (), "sent": None, "answer": None, "boot": m["boot"] + 1, "grace": grace}
        log = m["log"][:m["durable"]]
        strike("crashes", "kill -9 of the server", down | {"log": log, "known": m["promised"]} | {
            ("record", slot): r and r._replace(idle=0, kept=1) for slot, r in fold(log).items()})  # nobody has told
        if m["durable"] == len(m["log"]):
            live = [s.slot for s in m["sessions"]]
            kept = {s: m["record", s]._replace(idle=0) if s in live else m["record", s] for s in range(slots)}
            rely = promise(m, not m["away"])
            strike("stops", "the server is stopped, and started", down | rely | {"known": rely["promised"]} | {
                ("record", s): r and r._replace(kept=1 - r.idle) for s, r in kept.items()})
        if not m["connected"] and not m["unanswered"] and m["next"] > 1:
            strike("forgets", "the client's file is put back", {"next": m["next"] - 1})
        if not m["connected"] and (slot := find(m, m["client"])) is not None:
            log = m["log"] + (("paid", slot, m["next"], 0),)
            strike("shares", "another program pays under its client_id, and supersedes it", {
                "log": log, "sessions": tuple(s for s in m["sessions"] if s.slot != slot),
                ("record", slot): paid(m["record", slot], m["next"], 0)})
        strike("jumps", "the clock jumps", {})
        return out

    def goal(m):
        return m["payment"] > payments and m["durable"] == len(m["log"])

    def settled(m):
        """Whatever was answered is in the log, once; what is told as unknown is there once or not at all."""
        made = sorted(entry[3] for entry in m["log"] if entry[0] == "paid")
        missing = [payment for payment, what in m["told"] if what == "OK" and payment not in made]
        if missing or len(set(made)) != len(made):
            raise Broken(f"answered are {m['told']}, the log has {made}")

    return Space(memory, {"client": client, "server": server, "time": time}, strikes, goal, settled, lambda *_: {})
