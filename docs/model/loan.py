"""A shared segment on loan: a worker hands it over with a message, the files process fills it in two stores and hands
it back, while requests are given up and the files process is killed.

One segment is enough: what one transfer may do to another needs no second. A process that was killed may still be on a
processor ("dying") until it is dead, and only then the master reaps it; one that was stopped in the middle of its copy
is one that takes its next step late, which is tried everywhere.
"""
from engine import Broken, Space, locked, read, write

NOBODY = 0


def loan(transfers=3, kills=1, late=1, order="sc"):
    """transfers: of one worker, one after the other, each of another room. late: how many of them may be given up."""
    memory = {"writable": 1, "readable": 0, "generation": 0, "state": "empty", "asks": NOBODY, "first": NOBODY,
              "second": NOBODY, "queue": (), "serving": 0, "number": 0, "reaped": 0, "kills": kills, "late": late,
              "answers": ()}
    memory |= {("status", "worker"): "run", ("status", "files"): "off", ("status", "master"): "run"}

    def worker():
        lent = NOBODY  # number of the files process that has the segment
        transfer = 1
        while transfer <= transfers:
            given_up = False
            if lent:  # for a transfer that was given up
                lent = yield from returned(lent)
                if lent:
                    yield locked("wait for it to come back", lambda m: changed(m, lent))
                    continue
            serving = yield read("serving")
            if not serving:
                yield locked("wait for a queue, or refuse", lambda m: refuse(m, transfer))
                answers = yield read("answers")
                if len(answers) >= transfer:
                    transfer = transfer + 1
                continue
            generation = yield read("generation")
            generation = generation + 1
            yield write("generation", generation)
            yield write("asks", transfer)
            yield write("state", "in progress")
            # The queue of that name may be another's by now: the message says who is meant.
            yield locked("send", lambda m: [(None, {"queue": m["queue"] + ((generation, serving),)})])
            lent, generation = serving, None
            while not given_up:
                how = yield locked("wait for its answer", lambda m: outcomes(m, lent))
                if how == "back":
                    first = yield read("first")
                    second = yield read("second")
                    yield locked("answer", lambda m: answer(m, transfer, first, second))
                    yield write("state", "empty")
                    yield locked("post writable", lambda m: post(m, "writable"))
                    lent, given_up = NOBODY, True
                elif how == "reaped":
                    yield from reset()
                    yield locked("answer busy", lambda m: [(None, {"answers": m["answers"] + ("busy",)})])
                    lent, given_up = NOBODY, True
                elif how == "late":
                    yield locked("answer busy", lambda m: [(None, {"answers": m["answers"] + ("busy",)})])
                    given_up = True  # the segment stays lent
            serving = first = second = how = None
            transfer = transfer + 1

    def returned(lent):
        """Is a segment that was given up free by now?"""
        reaped, state = yield read("reaped", "state")
        if reaped >= lent:
            yield from reset()
            return NOBODY
        if state == "complete":
            took = yield locked("try readable", lambda m: take(m, "readable"))
            if took:
                yield write("state", "empty")
                yield locked("post writable", lambda m: post(m, "writable"))
                return NOBODY
        return lent

    def reset():
        generation = yield read("generation")
        yield write("generation", generation + 1)
        yield write("state", "empty")
        yield locked("sem_init", lambda m: [(None, {"writable": 1, "readable": 0})])

    def outcomes(m, lent):
        found = []
        if m["state"] == "complete" and m["readable"]:
            found.append(("back", {"readable": 0}))
        if m["reaped"] >= lent:
            found.append(("reaped", {}))
        if m["late"] and not found:
            found.append(("late", {"late": m["late"] - 1}))
        return found

    def refuse(m, transfer):
        if m["serving"]:
            return [(None, {})]
        return [(None, {"answers": m["answers"] + ("busy",)})] if m["number"] else []

    def changed(m, lent):
        return [(None, {})] if m["state"] == "complete" or m["reaped"] >= lent else []

    def answer(m, transfer, first, second):
        if (first, second) != (transfer, transfer):
            raise Broken(f"transfer {transfer} is answered with bytes of {first} and {second}")
        return [(None, {"answers": m["answers"] + (transfer,)})]

    def take(m, name):
        return [(m[name], {name: 0} if m[name] else {})]

    def post(m, name):
        if m[name]:
            raise Broken(f"{name} is posted twice")
        return [(None, {name: 1})]

    def files():
        number = yield read("number")
        yield locked("make the queue", lambda m: [(None, {"queue": (), "serving": m["number"]})])
        while True:
            message = yield locked("receive", receive)
            generation, state = yield read("generation", "state")
            if message[1] != number:
                continue
            if generation != message[0] or state != "in progress":
                continue
            took = yield locked("try writable", lambda m: take(m, "writable"))
            if not took:
                continue
            asks = yield read("asks")
            yield write("first", asks)
            yield write("second", asks)
            yield write("state", "complete")
            yield locked("post readable", lambda m: post(m, "readable"))
            message = generation = state = took = asks = None

    def receive(m):
        return [(m["queue"][0], {"queue": m["queue"][1:]})] if m["queue"] else []

    def master():
        while True:
            yield locked("reap", lambda m: reap(m))
            yield locked("fork", lambda m: fork(m))

    def reap(m):
        if m["status", "files"] == "dead":
            return [(None, {"serving": 0, "reaped": m["number"], ("status", "files"): "off"})]
        return [(None, {})] if m["status", "files"] == "off" else []

    def fork(m):
        return [(None, {"number": m["number"] + 1, ("status", "files"): "run"})]

    def faults(m):
        if m["kills"] and m["status", "files"] == "run":
            yield "kill -9 of files", {("status", "files"): "dying", "kills": m["kills"] - 1}

    def goal(m):
        return len(m["answers"]) == transfers

    def check(m):
        told = [one for one in m["answers"] if one != "busy"]
        if told != sorted(set(told)):
            raise Broken("a transfer is answered twice")

    programs = {"worker": worker, "files": files, "master": master}
    return Space(memory, programs, faults, goal, check, lambda *_: {}, order)
