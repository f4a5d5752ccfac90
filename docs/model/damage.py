"""Damage in the one log: what a start makes of a batch whose event part, or money part, is damaged; the snapshots that
it starts from; the segments that go.

One client, one room, `sync`. A batch is a segment of its own. A snapshot is made of the files, at a batch's end. What a
torn write looks like is in one_log.py; here the checksum of a part that was written is wrong, at a start.
"""
from typing import NamedTuple

from engine import Broken, Space, locked

BAD = "damaged"


class Record(NamedTuple):  # of the money part
    kind: str  # "new", "floor", "pay" or "pair"
    number: int  # req_id, or the floor
    seq: int = 0  # of a pair: room_seq


class Event(NamedTuple):
    number: int  # req_id
    seq: int
    pair: bool


class Batch(NamedTuple):
    money: tuple
    events: tuple


NOTHING = Batch((), ())


class State(NamedTuple):
    balance: int = 0  # payments made
    roles: int = 0  # what pairs have changed, beside money
    pairs: int = 0  # their events
    floor: int | None = None  # None: no client record
    newest: int = 0
    outcomes: tuple = ()  # req_ids
    marked: bool = False
    epoch: int = 0  # of the room
    last: int = 0


def damage(script, snapshots=1, **faults):
    """script: the client's requests: "pay", "chat" or "pair", with req_ids 1, 2, ...

    Faults, each as often as the scenario allows: crashes; bad_events, bad_money (of any batch), bad_snapshots (the
    newest), all of them seen at the next start; drops (of the client's connection)."""
    memory = {"up": 1, "live": State(), "pending": NOTHING, "log": (), "first": 0, "archive": 0, "refused": 0}
    memory |= {"decided": (), "epochs": 0}  # (batch, of the log: where the BEGIN stands, its epoch; 0: the archive had it)
    memory |= {"snapshots": snapshots, "made": ((0, State()), (0, State())), "session": 0, "next": 1, "unanswered": 0}
    memory |= {"done": (), "numbers": (), "seen": (), "rely": (), "told": ()}  # known to the model only
    memory |= {("left", kind): faults.get(kind, 0) for kind in (
        "crashes", "bad_events", "bad_money", "bad_snapshots", "drops")}
    memory |= {("status", who): "run" for who in ("client", "server")}

    # ---- the client

    def client():
        while True:
            yield locked("next", act)

    def act(m):
        number = m["unanswered"] or m["next"]
        if not m["up"] or number > len(script):
            return []
        if not m["session"]:
            return [("LOGIN", login(m))]
        if m["session"] == 1:  # it is answered when it is durable
            return [("LOGIN is answered", {"session": 2})] * (m["pending"] == NOTHING)
        if m["unanswered"] and (m["unanswered"], "sent") in m["told"]:
            return [(f"{number} is answered", answered(m, number, "OK"))] * (m["pending"] == NOTHING)
        return [(f"sends {number}", execute(m, number))]

    def login(m):
        live, money = m["live"], m["pending"].money
        if live.floor is None:
            money += (Record("new", m["next"]),)
            live = live._replace(floor=m["next"])
        elif live.marked:  # its outcomes may be lost: nothing below is executed any more
            money += (Record("floor", m["next"]),)
            live = live._replace(floor=m["next"], marked=False)
        return {"live": live, "pending": m["pending"]._replace(money=money), "session": 1,
                "told": tuple(x for x in m["told"] if x[1] != "sent")}

    def answered(m, number, what):
        if what == "unknown" and not set(m["seen"]) - set(m["rely"]):
            raise Broken(f"the outcome of {number} is unknown, and no damage was found since it was sent")
        if what == "unknown" and number in m["done"] and script[number - 1] != "chat":
            raise Broken(f"the outcome of {number} is unknown, and a good money part has it")
        told = tuple(x for x in m["told"] if x[1] != "sent") + ((number, what),)
        return {"told": told, "unanswered": 0}

    def execute(m, number):
        live, (money, events), kind = m["live"], m["pending"], script[number - 1]
        sent = {"unanswered": number, "next": max(m["next"], number + 1), "told": m["told"] + ((number, "sent"),)}
        sent["rely"] = m["rely"] if m["unanswered"] else m["seen"]
        if number in live.outcomes:
            return sent
        if number < live.floor:
            return {"next": max(m["next"], number + 1)} | answered(m, number, "unknown")
        if number in m["done"]:
            raise Broken(f"request {number} is executed twice")
        seq = live.last + 1 if kind != "pay" else 0
        if seq and (live.epoch, seq) in m["numbers"]:
            raise Broken(f"number {seq} is used twice in an epoch")
        if kind != "chat":
            money += (Record(kind, number, seq),)
        if seq:
            events += (Event(number, seq, kind == "pair"),)
        live = apply(apply_events(live, events[-1:] if seq else ()), money[-1:] if kind != "chat" else ())
        numbers = m["numbers"] + (((live.epoch, seq),) if seq else ())
        return sent | {"live": live, "pending": Batch(money, events), "done": m["done"] + (number,), "numbers": numbers}

    # ---- what records and events make of a state

    def apply(s, money):
        for r in money:
            if r.kind == "new":
                s = s._replace(floor=r.number, newest=0, outcomes=(), marked=False)
            elif r.kind == "floor":
                s = s._replace(floor=r.number, marked=False)
            else:
                s = stored(s._replace(balance=s.balance + 1, roles=s.roles + (r.kind == "pair")), r.number)
        return s

    def apply_events(s, events):
        for e in events:
            s = s._replace(last=max(s.last, e.seq), pairs=s.pairs + e.pair)
            if not e.pair:  # a pair's outcome is in its transaction
                s = stored(s, e.number)
        return s

    def stored(s, number):
        if s.floor is None or number < s.floor or number in s.outcomes:
            return s
        return s._replace(newest=max(s.newest, number), outcomes=tuple(sorted((*s.outcomes, number))))

    def fold(m, upto, made):
        """None: the start is refused."""
        at, s = made
        if at < m["first"]:
            raise Broken("what follows the snapshot is gone")
        decided = {i: epoch for i, _, epoch in m["decided"]}  # by the start that found it: written with its BEGIN
        for i in range(at, upto):
            s = begun(m, s, i)
            batch = m["log"][i]
            if batch.money == BAD:
                return None
            s = apply(s, batch.money)
            if batch.events != BAD:
                s = apply_events(s, batch.events)
                continue
            events = tuple(Event(r.number, r.seq, True) for r in batch.money if r.kind == "pair")
            s = apply_events(s, events)  # the transaction has all that its event needs
            s = s._replace(marked=s.floor is not None)
            if not decided[i] if i in decided else m["archive"] > i:  # the archive has the part, and the numbers
                s = s._replace(last=max(s.last, last_of(m, i)))
        return begun(m, s, upto)

    def begun(m, s, place):
        """With the BEGIN that stands there, if one has begun a new epoch."""
        for _, at, epoch in m["decided"]:
            if at == place:
                s = anew(s, epoch)
        return s

    def anew(s, epoch):
        """In it the numbers begin anew; not again, where the snapshot has it."""
        return s._replace(epoch=epoch, last=0) if epoch > s.epoch else s

    def last_of(m, i):
        """As the archive has it, at least: it has the events of one epoch."""
        return max((seq for epoch, seq in m["numbers"] if epoch == m["epochs"]), default=0)

    # ---- the server

    def server():
        while True:
            yield locked("work", work)

    def work(m):
        if not m["up"]:
            return [] if m["refused"] else [("start", start(m))]
        out = []
        if m["pending"] != NOTHING:
            out.append(("a batch", {"log": m["log"] + (m["pending"],), "pending": NOTHING}))
        if m["archive"] < len(m["log"]):
            out.append(("the archive", {"archive": m["archive"] + 1}))
        if m["snapshots"] and m["made"][0][0] < len(m["log"]):
            s = fold(m, len(m["log"]), m["made"][0])
            if s is not None:
                made = len(m["log"]), s
                out.append(("a snapshot", {"made": (made, m["made"][0]), "snapshots": m["snapshots"] - 1}))
        if m["first"] < min(m["archive"], m["made"][1][0]):
            out.append(("a segment goes", {"first": m["first"] + 1}))
        return out

    def start(m):
        s = fold(m, len(m["log"]), m["made"][0])
        if s is None:
            if not any(batch.money == BAD for batch in m["log"][m["made"][0][0]:]):
                raise Broken("a start is refused, and the newest good snapshot is above the damage")
            return {"refused": 1}
        payments = [n for n in m["done"] if script[n - 1] != "chat"]
        pairs = sum(script[n - 1] == "pair" for n in m["done"])
        if (s.balance, s.roles) != (len(payments), pairs):
            raise Broken(f"money that was answered is not there: {s}, of {m['done']}")
        if s.pairs != pairs:
            raise Broken("a transfer is there, and its event is not")
        found = {i for i in range(m["made"][0][0], len(m["log"])) if m["log"][i].events == BAD}
        new = found - {i for i, *_ in m["decided"]}
        epochs = m["epochs"] + any(m["archive"] <= i for i in new)  # one that was drawn
        decided = tuple((i, len(m["log"]), 0 if m["archive"] > i else epochs) for i in sorted(new))
        for _, _, epoch in decided:
            s = anew(s, epoch)
        if s.epoch != m["live"].epoch and found <= {*m["seen"]}:
            raise Broken("the room begins anew, and no damage was found")
        seen = tuple(sorted(found | {*m["seen"]}))
        return {"up": 1, "live": s, "decided": m["decided"] + decided, "epochs": epochs, "seen": seen}

    # ---- faults and properties

    def strikes(m):
        out = []

        def strike(kind, label, changes):
            if m["left", kind]:
                out.append((label, changes | {("left", kind): m["left", kind] - 1}))

        if m["up"]:
            lost = [e.number for e in m["pending"].events] + [r.number for r in m["pending"].money if r.kind == "pay"]
            seqs = [(m["live"].epoch, e.seq) for e in m["pending"].events]  # nobody has seen them
            strike("crashes", "**** all are killed", {
                "up": 0, "pending": NOTHING, "session": 0, "done": tuple(n for n in m["done"] if n not in lost),
                "numbers": tuple(number for number in m["numbers"] if number not in seqs)})
            if m["session"] == 2:
                strike("drops", "**** the connection is lost", {"session": 0})
        else:
            for i in range(m["first"], len(m["log"])):
                for part in ("money", "events"):
                    if getattr(m["log"][i], part) not in ((), BAD):
                        log = (*m["log"][:i], m["log"][i]._replace(**{part: BAD}), *m["log"][i + 1:])
                        strike(f"bad_{part}", f"**** the {part} of batch {i} are damaged", {"log": log})
            if m["made"][0][0]:
                strike("bad_snapshots", "**** the newest snapshot is damaged", {"made": (m["made"][1], m["made"][1])})
        return out

    def goal(m):
        content = m["next"] > len(script) and not m["unanswered"] and m["pending"] == NOTHING
        return m["refused"] or m["up"] and content

    def check(m):
        for number, what in m["told"]:
            if what == "OK" and number not in m["done"]:
                raise Broken(f"{number} is answered OK, and was not executed")

    programs = {"client": client, "server": server}
    return Space(memory, programs, strikes, goal, check, lambda *_: {})
