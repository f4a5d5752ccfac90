"""The journal: group commit, answers that are parked until they are durable, wake-ups, kills, power cuts, the start.

A transaction is one step here (ledger.py has its steps, and the repair); a request is a payment or a look at the
balance that all of them change. What is shown to a client shows all transactions up to its txn_id. (one_log.py has both
rings, and no wake-ups.)
"""
from disk import File
from engine import EXIT, Broken, Space, locked, read, write

NO_JOURNAL = 99  # released and limit of a region before its journal tells


def journal(scripts, workers=1, capacity=2, ticks=True, timeout=True, order="sc", **faults):
    """scripts: for each client what it asks for, one after the other, of any worker once its first one has died: "pay"
    or "look". ticks: workers with parked answers look by themselves; timeout: so does a journal that sleeps.

    Faults, each as often as the scenario allows: kills (of workers), journal_kills, crashes (of all processes at once),
    cuts (power, and what was not synced is there or not), failures (of a sync), drops (of what a failed sync left),
    turns (a client turns to any worker while the first one is slow)."""
    crew, clients = [f"w{i}" for i in range(workers)], range(len(scripts))
    file = File(1 + sum(script.count("pay") for script in scripts))
    region = {"up": 0, "ready": 0, "log": (), "head": 0, "released": 0, "limit": 0, "waiting": 0}
    region |= {("slot", i): 0 for i in range(capacity)} | {("parked", w): 0 for w in crew}
    region |= {("set", who): 0 for who in (*crew, "journal")}  # their wake-ups
    region |= {("status", who): "off" for who in (*crew, "journal")} | {("taken", c): None for c in clients}
    down = region | {("buffer", who): () for who in (*crew, "journal", "master")}
    memory = region | file.memory() | {"syncs that fail": faults.get("failures", 0), ("status", "master"): "run"}
    memory |= {("left", kind): faults.get(kind, 0) for kind in (
        "kills", "journal_kills", "crashes", "cuts", "drops", "turns")}
    memory |= {("at", c): crew[c % workers] for c in clients} | {("answered", c): 0 for c in clients}
    memory |= {"told": ()}  # the requests of the longest log that was shown to anybody

    # ---- a worker

    def worker(w):
        yield write(("parked", w), 0)
        parked = ()
        while True:
            event, c, what = yield wait(parked)
            looks = event != "asked"
            if event == "asked":
                what, txn = yield transaction(c) if what == "pay" else balance()
                if what == "full":
                    yield locked("ERR_SERVER_BUSY", lambda m: [(None, {("taken", c): None})])
                else:
                    released = yield read("released")
                    if txn <= released:
                        yield show_client(c, txn)
                    else:
                        yield from park(w, not parked)
                        looks = not parked  # once more: who has published before did not see the word
                        parked += ((txn, c),)
            elif event == "woken":
                yield clear(w)
            if looks and parked:
                released = yield read("released")
                while parked and parked[0][0] <= released:
                    yield show_client(parked[0][1], parked[0][0])
                    parked = parked[1:]
                if not parked:
                    yield write(("parked", w), 0)
            event = looks = c = what = txn = released = None

    def wait(parked):
        def outcomes(m):
            out = [(("asked", c, scripts[c][m["answered", c]]), {("taken", c): m.who}) for c in clients
                   if m["answered", c] < len(scripts[c]) and not m["taken", c] and m["at", c] in (m.who, "anywhere")]
            out += [(("woken", None, None), {})] * m["set", m.who]
            return out + [(("tick", None, None), {})] * bool(ticks and parked and parked[0][0] <= m["released"])
        return locked("wait", outcomes)

    def transaction(c):
        """All of it, under its locks: the recorded outcome, a place in the log, the head."""
        def outcomes(m):
            request, txn = (c, m["answered", c]), m["head"] + 1
            if request in m["log"]:
                return [(("recorded", m["log"].index(request) + 1), {})]
            if txn > m["limit"]:
                return [(("full", 0), {})]
            log, place = m["log"] + (request,), ("slot", txn % capacity)
            return [(("done", txn), {"log": log, place: (txn, request), "head": txn})]
        return locked(f"client {c} pays", outcomes)

    def balance():
        return locked("the balance, of its last txn_id", lambda m: [(("balance", m["head"]), {})])

    def park(w, first):
        if first:
            yield write(("parked", w), 1)
        if (yield read("waiting")):
            yield write("waiting", 0)
            yield wake("journal")

    def show_client(c, txn):
        def outcomes(m):
            if m["taken", c] != m.who:  # it has turned elsewhere
                return [(None, {})]
            log, told = m["log"][:txn], m["told"]
            both = min(len(log), len(told))
            if log[:both] != told[:both]:
                raise Broken(f"transactions {log} are shown, and {told} were")
            answer = {("taken", c): None, ("answered", c): m["answered", c] + 1}
            return [(None, answer | {"told": max(log, told, key=len)})]
        return locked(f"client {c} is shown transaction {txn}", outcomes)

    def wake(who):
        return locked(f"wake {who}", lambda m: [(None, {("set", who): 1})])

    def clear(who):
        return locked("clear the wake-up", lambda m: [(None, {("set", who): 0})])

    # ---- the journal process

    def journal_process():
        entries, last, newest, torn = yield locked("look for the end", find_end)
        if torn:
            yield file.truncate(entries)
        if entries:
            yield from file.write(entries - 1, newest)
        newest = torn = None
        good = yield file.sync()
        if not good:
            yield from give_up()
        good = None
        yield from publish(last)
        yield write("ready", 1)
        while True:
            head = yield read("head")
            if head > last:
                batch = yield read(*(("slot", txn % capacity) for txn in range(last + 1, head + 1)))
                batch = batch if isinstance(batch[0], tuple) else (batch,)
                yield from file.write(entries, batch)
                done = yield file.sync()
                if not done:
                    yield from give_up()
                entries, last, head, batch, done = entries + 1, last + len(batch), None, None, None
                yield from publish(last)
            else:
                yield write("waiting", 1)
                head = yield read("head")
                if head == last:
                    yield locked("sleep", lambda m: [(None, {})] * bool(
                        m["set", "journal"] or timeout and m["head"] > last))
                yield write("waiting", 0)
                yield clear("journal")

    def find_end(m):
        entries, torn = file.end(m["shown"])
        batches = m["shown"][:entries]
        return [((entries, len(fold(batches)), batches[-1] if batches else None, torn), {})]

    def publish(last):
        yield write("released", last)
        yield write("limit", last + capacity)
        for w in crew:
            parked = yield read(("parked", w))
            if parked:
                yield wake(w)

    def give_up():
        yield write("limit", 0)
        yield locked("end: the journal has failed", lambda m: [(EXIT, {("status", "journal"): "failed"})])

    # ---- the master

    def master():
        while True:
            yield locked("start or stop", supervise)

    def supervise(m):
        if not m["up"]:
            return [(None, start(m))]
        if m["status", "journal"] == "failed":
            return [("stopped", down)]  # what is parked is never answered; the operator starts it again
        gone = [who for who in (*crew, "journal") if m["status", who] != "run" and not m["buffer", who]]
        return [(f"fork {who}", {("status", who): "run"}) for who in gone if who == "journal" or m["ready"]]

    def start(m):
        """The loader, and the journal process, on which the workers wait."""
        entries, _ = file.end(m["shown"])
        log = fold(m["shown"][:entries])
        if log[:len(m["told"])] != m["told"]:
            raise Broken(f"what was shown is not there: {m['told']} was, the disk has {log}")
        slots = {("slot", (i + 1) % capacity): (i + 1, request) for i, request in enumerate(log)}
        words = {"up": 1, "log": log, "head": len(log), ("status", "journal"): "run"}
        return words | slots | {"released": NO_JOURNAL, "limit": NO_JOURNAL}

    def fold(batches):
        """The requests in the journal's records, each of which must follow from those before it."""
        log = ()
        for txn, request in (record for batch in batches for record in batch):
            if txn != len(log) + 1 or request in log:
                raise Broken(f"transaction {txn}, of request {request}, does not follow from {log}")
            log += (request,)
        return log

    # ---- faults and properties

    def strikes(m):
        out = []

        def strike(kind, label, changes):
            if m["left", kind]:
                out.append((label, changes | {("left", kind): m["left", kind] - 1}))

        def lost(w):
            return {(what, c): value for c in clients if m["taken", c] == w
                    for what, value in (("taken", None), ("at", "anywhere"))}

        for who in (*crew, "journal"):
            if m["status", who] == "run":
                kind = "journal_kills" if who == "journal" else "kills"
                strike(kind, f"**** {who}: dead", {("status", who): "dead"} | lost(who))
        if m["up"]:
            strike("crashes", "**** all are killed", down)
            for label, changes in file.power_cut(m):
                strike("cuts", label, down | changes)
        for label, changes in file.forget(m):
            strike("drops", label, changes)
        for c in clients:
            if m["taken", c]:
                strike("turns", f"**** client {c} turns elsewhere", {("taken", c): None, ("at", c): "anywhere"})
        return out

    def watch(m, name, value):
        if name == "released" and m["ready"] and value < m["released"]:
            raise Broken(f"released goes back, from {m['released']}")
        return {}

    def goal(m):
        content = all(m["answered", c] == len(scripts[c]) for c in clients)
        alive = all(m["status", who] == "run" for who in (*crew, "journal"))
        return content and alive and m["released"] == m["head"]

    def check(m):
        entries, _ = file.end(m["kept"])
        if fold(m["kept"][:entries]) != m["log"] or m["told"] != m["log"][:len(m["told"])]:
            raise Broken(f"the disk has {m['kept']}, the log {m['log']}, and {m['told']} was shown")

    programs = {w: lambda w=w: worker(w) for w in crew} | {"journal": journal_process, "master": master}
    return Space(memory, programs, strikes, goal, check, watch, order)
