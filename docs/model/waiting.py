"""The archive's `waiting`: it sleeps, and who has an event for it wakes it.

With nothing to do it says that it waits, looks once more, sleeps for a short while, looks again, and sleeps for long.
"""
from engine import Space, locked, read, write


def waiting(events=2, timers=True, order="sc", kills=0):
    """events: that workers publish, one after the other. timers: its sleeps end by themselves, too.

    kills: of the worker, at any step; another goes on with the next event."""
    memory = {"head": 0, "collected": 0, "waiting": 0, "woken": 0, "left": kills}
    memory |= {("status", who): "run" for who in ("worker", "archive", "master")}

    def worker():
        head = yield read("head")
        while head < events:
            head = head + 1
            yield write("head", head)
            if (yield read("waiting")):
                yield write("waiting", 0)
                yield locked("wake the archive", lambda m: [(None, {"woken": 1})])
        yield locked("content", lambda m: [])

    def archive():
        collected = 0
        while True:
            head = yield read("head")
            if head > collected:
                collected = head
                yield write("collected", collected)
            else:
                yield write("waiting", 1)
                for last in (False, True):  # a short sleep, a long one
                    head = yield read("head")
                    if head > collected:
                        break
                    why = yield locked("sleep", lambda m: sleep(m, collected, last))
                    if why == "woken":
                        break
                yield write("waiting", 0)
                yield locked("clear the wake-up", lambda m: [(None, {"woken": 0})])
                last = why = None
            head = None

    def sleep(m, collected, last):
        """A timer is a step that is taken where it finds something, or where it is the short one's."""
        out = [("woken", {})] * m["woken"]
        return out + [("timer", {})] * bool(timers and (not last or m["head"] > collected))

    def master():
        while True:
            yield locked("fork a worker", lambda m: [(None, {("status", "worker"): "run"})] * bool(
                m["status", "worker"] == "dead" and not m["buffer", "worker"]))

    def strikes(m):
        if not m["left"] or m["status", "worker"] != "run":
            return []
        return [("**** worker: dead", {("status", "worker"): "dead", "left": m["left"] - 1})]

    programs = {"worker": worker, "archive": archive, "master": master}
    return Space(memory, programs, strikes, lambda m: m["collected"] == events, lambda m: None, lambda *_: {}, order)
