"""The repair of a directory, step by step: the log is cut, or is an older copy of itself, and clients notice.

The log's entries stand in segments, one each here; a segment has the identity that the log had then. What a server shows
to a client is there after every start, or the log has another identity, which LOGIN answers. A repair may be interrupted
at any step, by a power cut too, and is done again. (one_log.py, begin_end.py, damage.py have what a start does.)
"""

from typing import NamedTuple

from engine import Broken, Space, locked


class Segment(NamedTuple):
    log_id: int
    entry: int  # no two have the same; 0: the BEGIN of an epoch
    epoch: int


class Directory(NamedTuple):
    log_id: int = 1
    becoming: int = 0  # a repair that was interrupted was giving it this identity
    segments: tuple = (Segment(1, 0, 1),)
    copies: frozenset = frozenset()


def repair(says=3, **faults):
    """says: entries that clients ask for.

    Faults, each as often as the scenario allows: repairs (that cut the newest entry off); backups (made while no server
    runs), restores (of the backup, after which the operator runs `repair --restored`); interrupts (of a repair; of what
    is not synced, all or nothing is there)."""
    memory = {"kept": Directory(), "shown": Directory(), "up": 0, "wants": "", "says": says, "next": 1, "ids": 1}
    memory |= {"told": (), "told id": 0, "told epoch": 0, "backup": None, "lost": ()}
    memory |= {("status", who): "run" for who in ("server", "operator")}
    memory |= {("left", kind): faults.get(kind, 0) for kind in ("repairs", "backups", "restores", "interrupts")}

    def entries(directory):
        return tuple(s.entry for s in directory.segments if s.entry)

    # ---- a server: it starts, shows what the log has, and what it is asked to write

    def server():
        while True:
            yield locked("serve", serve)

    def serve(m):
        now = m["shown"]
        if not m["up"]:
            at_work = m["wants"] and m["status", "operator"] == "run"  # it has the directory's lock
            early = m["wants"] == "restored" and not now.becoming  # that the operator knows
            return [] if at_work or early or not startable(now) else [("start", start(m, now))]
        out = [("stop", {"up": 0})]
        if m["says"]:
            segment = Segment(now.log_id, m["next"], now.segments[-1].epoch)
            now = now._replace(segments=now.segments + (segment,))
            changes = {"kept": now, "shown": now, "says": m["says"] - 1, "next": m["next"] + 1}
            out.append((f"entry {segment.entry}", shows(now) | changes))
        return out

    def startable(now):
        """The log has the directory's identity at its end, and no repair is to be done again."""
        return not now.becoming and now.segments[-1].log_id == now.log_id

    def start(m, now):
        there, told = entries(now), m["told"]
        if there[:len(told)] != told and now.log_id == m["told id"]:
            raise Broken(f"{told} was shown, the log has {there} and its old identity")
        if there[:len(told)] != told and now.segments[-1].epoch == m["told epoch"]:
            raise Broken(f"{told} was shown, the log has {there}, and room numbers begin no new epoch")
        lost = [e for e in m["lost"] if e not in there and e not in now.copies]
        if lost:
            raise Broken(f"{lost} is gone, and in no copy")
        return shows(now) | {"up": 1, "kept": now}

    def shows(now):
        return {"told": entries(now), "told id": now.log_id, "told epoch": now.segments[-1].epoch}

    # ---- the operator

    def operator():
        while True:
            cut = yield locked("a repair", begin)
            new = yield locked("another identity, or that of the repair before", identity)
            yield locked("copy what goes, synced", lambda m: put(m, copies=m["shown"].copies | gone(m, cut), synced=1))
            yield locked("say what it is becoming, synced", lambda m: put(m, becoming=new, synced=1))
            if cut:
                yield locked("remove what goes", lambda m: put(m, segments=m["shown"].segments[:keeps(m)]))
                yield locked("sync", lambda m: put(m, synced=1))
            yield locked(
                "a segment of the new identity, a BEGIN of a new epoch, synced",
                lambda m: put(m, segments=m["shown"].segments + (Segment(new, 0, new),), synced=1),
            )
            yield locked("it is the directory's, synced", lambda m: put(m, log_id=new, becoming=0, synced=1))
            yield locked("done", lambda m: [(None, {"wants": ""})])
            cut = new = None

    def begin(m):
        if m["up"] or not m["wants"]:
            return []
        return [(m["wants"] == "cut", {})]

    def identity(m):
        if m["shown"].becoming:
            return [(m["shown"].becoming, {})]
        return [(m["ids"] + 1, {"ids": m["ids"] + 1})]

    def keeps(m):
        """How many segments: all before the newest entry that there was when the repair began the first time."""
        places = [i for i, s in enumerate(m["shown"].segments) if s.entry == m["lost"][-1]]
        return places[0] if places else len(m["shown"].segments)

    def gone(m, cut):
        return {s.entry for s in m["shown"].segments[keeps(m):] if s.entry} if cut else set()

    def put(m, synced=0, **changes):
        now = m["shown"]._replace(**changes)
        return [(None, {"shown": now} | ({"kept": now} if synced else {}))]

    # ---- faults and properties

    def strikes(m):
        out = []

        def strike(kind, label, changes):
            if m["left", kind]:
                out.append((label, changes | {("left", kind): m["left", kind] - 1}))

        if not m["up"] and not m["wants"]:
            if entries(m["shown"]):
                strike(
                    "repairs",
                    "**** the operator cuts the newest entry off",
                    {"wants": "cut", "lost": m["lost"] + entries(m["shown"])[-1:]},
                )
            strike("backups", "**** a backup is made", {"backup": m["shown"]})
            if m["backup"]:
                strike(
                    "restores",
                    "**** the backup is put back",
                    {"shown": m["backup"], "kept": m["backup"], "wants": "restored", "lost": ()},
                )
        if m["wants"]:
            for what in ("shown", "kept"):
                strike(
                    "interrupts",
                    f"**** the repair is interrupted, the disk has what is {what}",
                    {"shown": m[what], "kept": m[what], ("status", "operator"): "off"},
                )
        return out

    def master(m):
        return [("begin again", {("status", "operator"): "run"})] * (m["status", "operator"] == "off")

    def goal(m):
        return m["up"] and not m["says"]

    def supervise():
        while True:
            yield locked("supervise", master)

    memory |= {("status", "supervise"): "run"}
    programs = {"server": server, "operator": operator, "supervise": supervise}
    return Space(memory, programs, strikes, goal, lambda m: None, lambda *_: {})
