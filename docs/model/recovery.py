"""Quiesce, repair, resume: what workers, master and repair child do, whatever it is that the locks protect.

Faults, each as often as the scenario allows: a worker, the repair child or the master is killed at any step; a worker
is stopped for good at any step (one that goes on later is merely slow, and slowness needs no fault); the master takes a
slow worker for a stuck one and kills it, and it runs on until the kill takes effect; an alarm without need.
"""
from engine import EXIT, Broken, locked, read, write

ALIVE = "run", "stop", "dying"
FAULTS = "kills", "child_kills", "master_kills", "stops", "alarms"


class Recovery:
    def __init__(self, workers, locks, **faults):
        self.workers, self.locks, self.allowed = workers, locks, faults

    def memory(self):
        words = {"recovery": 0, "alarm": 0, "to repair": (), ("status", "master"): "run", ("status", "repair"): "off"}
        words |= {(x, w): start for w in self.workers for x, start in (("status", "run"), ("ack", 0), ("again", 0))}
        words |= {lock: 1 for lock in self.locks}
        words |= {("holder", lock): None for lock in self.locks}  # known to the model only: a semaphore has no owner
        return words | {("left", kind): self.allowed.get(kind, 0) for kind in FAULTS}

    def faults(self, m):
        strikes = [(kind, w, how) for w in self.workers for kind, how in (("kills", "dead"), ("stops", "stop"))]
        strikes += [("child_kills", "repair", "dead"), ("master_kills", "master", "dead")]
        if m["recovery"] and m["status", "master"] == "run":
            strikes += [("kills", w, "dying") for w in self.workers if m["ack", w] != m["recovery"]]
        return [(f"**** {who}: {how}", {("status", who): how, ("left", kind): m["left", kind] - 1})
                for kind, who, how in strikes if m["left", kind] and m["status", who] == "run"
                ] + [("**** a needless alarm", {"alarm": 1, ("left", "alarms"): 0})] * m["left", "alarms"]

    # ---- a worker

    def wait(self, label, outcomes):
        """Every wait of a worker is made of ticks, and between ticks it looks whether the master still lives."""
        def or_end(m):
            return outcomes(m) + [(EXIT, {("status", m.who): "off"})] * (m["status", "master"] == "dead")
        return locked(label, or_end)

    def lock(self, lock):
        """sem_trywait, then sem_clockwait in ticks, with a look at the recovery word and at the clock between them."""
        def outcomes(m):
            out, holder = [], m["holder", lock]
            if m[lock] and holder and m["status", holder] in ALIVE:
                raise Broken(f"{holder} is inside")
            if m[lock]:
                out.append(("got", {lock: m[lock] - 1, ("holder", lock): m.who}))
            elif holder and m["status", holder] == "stop" and not m["alarm"]:
                out.append(("too long", {"alarm": 1}))  # far longer than any transaction takes
            if m["recovery"]:
                out.append(("recovery", {}))
            return out
        return self.wait(f"wait for {lock}", outcomes)

    def post(self, lock):
        def outcomes(m):
            if m[lock] or m["holder", lock] not in (m.who, None):
                raise Broken("given, but not this process's to give")
            return [(None, {lock: m[lock] + 1, ("holder", lock): None})]
        return locked(f"post {lock}", outcomes)

    def take(self, w, held, *more):
        """Take more locks. False: a recovery came between, and now nothing is held: begin anew, and read all again."""
        for lock in more:
            answer = "too long"
            while answer == "too long":
                answer = yield self.lock(lock)
            if answer == "recovery":
                yield from self.give(held)
                yield from self.acknowledge(w)
                return False
            held += (lock,)
        return True

    def give(self, held):
        while held:
            yield self.post(held[-1])
            held = held[:-1]

    def acknowledge(self, w):
        """Holding nothing. Until the word changes touch nothing; a newer epoch wants an acknowledgement of its own."""
        epoch = yield read("recovery")
        while epoch:
            yield write(("ack", w), epoch)
            epoch = yield self.wait("until it changes", lambda m: [(m["recovery"], {})] * (m["recovery"] != epoch))

    def idle(self, w):
        """The event loop of a worker whose clients are content."""
        while True:
            yield self.wait("until recovery", lambda m: [(None, {})] * (m["recovery"] != 0))
            yield from self.acknowledge(w)

    # ---- the master

    def reaped(self, m, who):
        return m["status", who] == "dead" and not m["buffer", who]

    def heard(self, m, w, epoch):
        """Has w acknowledged, or been reaped? A stopped worker does neither, and is killed."""
        if self.reaped(m, w) or m["ack", w] == epoch and m["status", w] in ("run", "stop"):
            return [("yes", {})]
        return [("no: kill -9", {("status", w): "dead"})] * (m["status", w] == "stop")

    def fork(self, m):
        return [(None, {("status", "repair"): "run", "to repair": tuple(w for w in self.workers if self.reaped(m, w))})]

    def child_end(self, m):
        how = m["status", "repair"]
        return [(how, {("status", "repair"): "off"})] * (how == "done" or self.reaped(m, "repair"))

    def respawn(self, m):
        born = {(what, w): value for w in m["to repair"] for what, value in (("status", "run"), ("again", 1))}
        return [(None, born | {"to repair": ()})]

    def master(self):
        epoch = 0
        while True:
            yield locked("until a worker is reaped, or one complains", lambda m: [(None, {"alarm": 0})] * bool(
                m["alarm"] or any(self.reaped(m, w) for w in self.workers)))
            epoch = epoch + 1
            yield write("recovery", epoch)
            for w in self.workers:
                heard = None
                while heard != "yes":
                    heard = yield locked(f"until {w} acknowledges, or is reaped", lambda m: self.heard(m, w, epoch))
            heard = end = None
            while end != "done":
                yield locked("fork the repair child", self.fork)
                end = yield locked("until the child is reaped", self.child_end)
            yield write("recovery", 0)
            yield locked("respawn", self.respawn)

    # ---- the repair child

    def free_locks(self):
        """Who lives has acknowledged and holds nothing: a semaphore below 1 was a dead worker's."""
        for lock in self.locks:
            value = yield read(lock)
            if value < 1:
                yield self.init(lock)

    def init(self, lock):
        def outcomes(m):
            holder = m["holder", lock]
            if holder and m["status", holder] in ALIVE:
                raise Broken(f"{holder} is alive and holds it")
            return [(None, {lock: 1, ("holder", lock): None})]
        return locked(f"sem_init {lock}", outcomes)

    def seize(self, lock):
        """All stand still, so a lock that was set free is free: a repair that dies holding it is repeated."""
        def outcomes(m):
            if m[lock] != 1:
                raise Broken(f"{lock} is not free")
            return [(None, {lock: 0})]  # no holder: it may be the next child that finds it taken
        return locked(f"seize {lock}", outcomes)

    def finish(self, check):
        """The last step of a repair: all stand still, so every invariant must hold. check: memory -> raises Broken."""
        def outcomes(m):
            if any(m[lock] != 1 for lock in self.locks):
                raise Broken("a lock is not free")
            return [(EXIT, check(m) or {("status", "repair"): "done"})]
        return locked("check all, end", outcomes)
