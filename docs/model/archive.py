"""The rooms' numbers: reserved ahead and durably, so that none is used twice over a crash, none skipped over a stop.

One room. A number that is used is shown to somebody at once: chat waits for no disk. What is said, and each leave, is
one step (ring.py has its steps); the file has the reservations only.
"""
from disk import File
from engine import EXIT, Broken, Space, locked, read, write

BLOCK, SESSIONS = 2, 1  # reserved at a time; beside them a leave for each session


def archive(says=3, order="sc", **faults):
    """says: events that a client asks for, joins and messages as it likes.

    Faults, each as often as the scenario allows: kills (of the worker), archive_kills; crashes, cuts, failures, drops
    as in journal.py; stops (orderly ones); orphans (the master is killed: the others end by themselves, a stopped
    worker late, when the archive does not wait any more)."""
    file = File(3 + says + 2 * sum(faults.values()))
    region = {"up": 0, "serving": 0, "ending": 0, "last": 0, "reserved": 0, "member": 0}
    region |= {("status", who): "off" for who in ("worker", "archive")}
    down = region | {("buffer", who): () for who in ("worker", "archive", "master")}
    memory = region | file.memory() | {"syncs that fail": faults.get("failures", 0), ("status", "master"): "run"}
    memory |= {("left", kind): faults.get(kind, 0) for kind in (
        "kills", "archive_kills", "crashes", "cuts", "drops", "stops", "orphans")}
    memory |= {"says": says, "used": 0, "may skip": 0, "late": 0}

    # ---- a worker

    def worker():
        while True:
            yield locked("serve", serve)

    def serve(m):
        """Each under the event lock."""
        out = []
        if m["says"] and m["last"] < m["reserved"]:
            what = {} if m["member"] else {"member": 1}
            out.append(("a message" if m["member"] else "a join", use(m) | what | {"says": m["says"] - 1}))
        if m["member"]:
            out.append(("a leave", leave(m)))
        if m["ending"]:  # its sessions first
            out.append((EXIT, (leave(m) if m["member"] else {}) | {("status", "worker"): "off"}))
        return out

    def use(m):
        """The room's next number."""
        number = m["last"] + 1
        if number <= m["used"]:
            raise Broken(f"number {number} is used again")
        if number > m["used"] + 1 and not m["may skip"]:
            raise Broken(f"number {number} is used after {m['used']}, though nothing has crashed")
        return {"last": number, "used": number, "may skip": 0}

    def leave(m):
        """It cannot be refused."""
        return use(m) | {"member": 0}

    # ---- the archive process

    def archive_process():
        entries, ceiling, torn = yield locked("open the store", open_store)
        if torn:
            yield file.truncate(entries)
        if entries:
            yield from file.write(entries - 1, ceiling)
        torn = None
        yield from synced()
        serving = yield read("serving")
        if not serving:
            yield write("last", ceiling)
            ceiling = ceiling + BLOCK + SESSIONS
            yield from file.write(entries, ceiling)
            yield from synced()
            entries = entries + 1
        serving = None
        while True:
            yield write("reserved", ceiling - SESSIONS)
            yield write("serving", 1)
            what, last = yield locked("look", look)
            if what != "reserve":
                break
            ceiling = last + BLOCK + SESSIONS
            yield from file.write(entries, ceiling)
            yield from synced()
            entries, what, last = entries + 1, None, None
        if what == "settle":
            yield from file.write(entries, last)
            yield from synced()
        how = "late" if what == "it waits no longer" else "ended"
        yield locked(f"end: {what}", lambda m: [(EXIT, {("status", "archive"): how})])

    def open_store(m):
        entries, torn = file.end(m["shown"])
        return [((entries, m["shown"][entries - 1] if entries else 0, torn), {})]

    def synced():
        if not (yield file.sync()):
            yield locked("end: the store has failed", lambda m: [(EXIT, {("status", "archive"): "dead"})])

    def look(m):
        out = [(("reserve", m["last"]), {})] * (m["last"] + BLOCK // 2 > m["reserved"])
        if no_worker(m):
            return [(("settle", m["last"]), {})]
        if m["ending"] and m["late"]:
            out.append((("it waits no longer", m["last"]), {}))
        return out

    # ---- the master

    def master():
        while True:
            yield locked("start or stop", supervise)

    def supervise(m):
        """A start waits until no process of the server before is left: each holds the lock of the data directory."""
        if not m["up"]:
            return [(None, {"up": 1, ("status", "archive"): "run"})]
        gone = {who: m["status", who] != "run" and not m["buffer", who] for who in ("worker", "archive")}
        if not m["serving"]:
            return [("cannot start", down | {"may skip": 1})] * gone["archive"]
        out = []
        if no_worker(m) and m["ending"] and gone["archive"]:
            may_skip = int(m["may skip"] or m["status", "archive"] != "ended")
            return [("all have ended", down | {"may skip": may_skip, "late": 0})]
        if gone["archive"] and m["status", "archive"] == "dead" and not m["late"] and not no_worker(m):
            out.append(("fork archive", {("status", "archive"): "run"}))
        if gone["worker"] and not no_worker(m):
            how = "off" if m["ending"] else "run"
            out.append((f"repair, worker: {how}", (leave(m) if m["member"] else {}) | {("status", "worker"): how}))
        return out

    def no_worker(m):
        """None will come either."""
        return m["ending"] and (m["status", "worker"] == "off" or m["late"] and m["status", "worker"] == "dead")

    # ---- faults and properties

    def strikes(m):
        out = []

        def strike(kind, label, changes):
            if m["left", kind]:
                out.append((label, changes | {("left", kind): m["left", kind] - 1}))

        for who, kind in (("worker", "kills"), ("archive", "archive_kills")):
            if m["status", who] == "run":
                strike(kind, f"**** {who}: dead", {("status", who): "dead"})
        if m["up"]:
            strike("crashes", "**** all are killed", down | {"may skip": 1})
            for label, changes in file.power_cut(m):
                strike("cuts", label, down | changes | {"may skip": 1})
        if m["serving"] and m["status", "worker"] == "run" and not m["ending"]:
            strike("stops", "a stop is asked for", {"ending": 1})
            strike("orphans", "**** master: dead, and worker: stopped for long", {"ending": 1, "late": 1})
        for label, changes in file.forget(m):
            strike("drops", label, changes)
        return out

    def goal(m):
        return not m["says"] and all(m["status", who] == "run" for who in ("worker", "archive"))

    def watch(m, name, value):
        if name == "reserved" and value < m["reserved"]:
            raise Broken(f"reserved goes back, from {m['reserved']}")
        return {}

    programs = {"worker": worker, "archive": archive_process, "master": master}
    return Space(memory, programs, strikes, goal, lambda m: None, watch, order)
