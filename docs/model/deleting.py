"""CHAT_DELETE: from the event on that deletes a text, nobody is shown it.

One room. The text stays in its slot of the ring and in the archive's file. The archive leaves it out once it has taken
the event that deletes it; until then, and while the ring may have it, the region's table says so, which has few places
(here one). Who answers a history takes the text from the ring, or from the archive where the ring no longer has it, and
looks at the table last. change.py has the intent, leaves.py who waits for a place; here the lock is one, and what needs
no kill between its stores is one step.
"""
from typing import NamedTuple

from engine import Broken, Space, locked, read, write
from recovery import Recovery

EVENTS = "event lock"


class Delete(NamedTuple):
    text: int  # the number of its event


class Say(NamedTuple):
    text: int = 0


def deleting(script, texts, reads=1, ring=2, refuses=False, order="sc", **faults):
    """script: what a worker's clients ask for, one after the other. texts: events that are there at the start, the
    archive has none of them. reads: histories that another worker is asked for, each of the first text.
    refuses: a request without a place is not waited for. Beside the faults of recovery.py: anew (the archive makes its histories anew, from the beginning)."""
    r = Recovery(["w0"], [EVENTS], **faults)
    memory = r.memory() | {"head": texts, "log head": 0, "count": 0, ("answered", "w0"): 0, ("status", "reader"): "run"}
    memory |= {("slot", n % ring): (n * (n <= texts), Say()) for n in range(1, 1 + ring)}
    memory |= {("table", "event"): 0, ("table", "text"): 0}
    memory |= {("intent", part): 0 for part in ("txn", "text", "event")} | {("status", "archive"): "run"}
    memory |= {"archive": (), "reached": 0, "reads": reads, ("left", "anew"): faults.get("anew", 0)}
    # Known to the model only: answered deletions; all events.
    memory |= {"told": (), "all": (Say(),) * texts}

    # ---- the worker that deletes

    def worker():
        done = yield read(("answered", "w0"))
        while done < len(script):
            what, made = script[done], False
            while not made:
                while not (yield from r.take("w0", (), EVENTS)):
                    pass
                made = yield from (delete(what) if isinstance(what, Delete) else say())
                yield from r.give((EVENTS,))
                if not made:
                    if refuses:
                        break
                    yield r.wait("for a place", lambda m: [(None, {})] * (free(m) or m["recovery"] != 0))
                    yield from r.acknowledge("w0")
            told = (what.text,) if made and isinstance(what, Delete) else ()
            yield locked("answered", lambda m: [(None, {
                ("answered", "w0"): m["answered", "w0"] + 1, "told": m["told"] + told})])
            done, what, made, told = done + 1, None, None, None
        done = None
        yield from r.idle("w0")

    def free(m):
        """Is the place in the table needed no longer? The ring has gone past its event, the archive has come to it."""
        event = m["table", "event"]
        return not event or (event + ring <= m["head"] and event <= m["reached"])

    def delete(what):
        made, place, head, log = yield locked("look", lambda m: [(
            (what in m["all"], free(m), m["head"], m["log head"]), {})])
        if made or not place:  # made: by who died before it answered
            return made
        yield write(("intent", "text"), what.text)
        yield write(("intent", "event"), head + 1)
        yield write(("intent", "txn"), log + 1)  # the intent counts from here on
        yield write("log head", log + 1)  # the commit point
        yield from note(what.text, head + 1)
        yield from publish(head + 1, what)
        yield write(("intent", "txn"), 0)
        return True

    def say():
        head = yield read("head")
        yield from publish(head + 1, Say())
        return True

    def note(text, event):
        """Again without harm, before another is noted."""
        count, last, of = yield read("count", ("table", "event"), ("table", "text"))
        if not (count and (last, of) == (event, text)):
            yield write(("table", "event"), 0)
            yield write(("table", "text"), text)
            yield write(("table", "event"), event)
            yield write("count", count + 1)

    def publish(number, content):
        yield write(("slot", number % ring), (0, None))
        yield write(("slot", number % ring), (number, content))
        yield locked("head", lambda m: [(None, {"head": number, "all": m["all"] + (content,)})])

    # ---- the repair child

    def repair():
        dead = yield read("to repair")
        if dead:
            txn, text, event = yield read(("intent", "txn"), ("intent", "text"), ("intent", "event"))
            log, head = yield read("log head", "head")
            if txn and txn <= log:
                yield from note(text, event)
                if event > head:
                    yield from publish(event, Delete(text))
            yield write(("intent", "txn"), 0)
            log, head = yield read("log head", "head")
            word, content = yield read(("slot", (head + 1) % ring))
            if word == head + 1:
                yield from publish(head + 1, content)
        dead = txn = text = event = log = head = word = content = None
        yield from r.free_locks()
        yield r.finish(lambda m: None)

    # ---- the archive

    def archive():
        while True:
            yield locked("take", lambda m: [(None, {"archive": m["all"][:len(m["archive"]) + 1]})] * (
                len(m["archive"]) < m["head"]))
            taken, reached = yield read("archive", "reached")
            if len(taken) > reached:  # it never goes back: what it freed in the table is not there any more
                yield write("reached", len(taken))
            taken = reached = None

    def known(m):
        """What it answers: has it the text, and may it be shown as far as it knows?"""
        there = m["archive"]
        if len(there) < m["reached"]:  # it has begun anew, and knows less than it did
            return []
        return [(bool(there) and Delete(1) not in there, {})]

    # ---- the worker that is asked for histories

    def reader():
        seen, hidden = 0, 0
        while True:
            asked = yield locked("asked", lambda m: [(m["told"], {"reads": m["reads"] - 1})] * (m["reads"] > 0))
            seen, hidden = yield from look(seen, hidden)
            before = hidden
            head = yield read("head")
            word, content = yield read(("slot", 1 % ring))
            later = yield read(("slot", head % ring))
            shown = word == 1
            if not shown:
                later = 0, None
                shown = yield locked("the archive answers", known)
            seen, hidden = yield from look(seen, hidden)
            shown = shown and 1 not in (before, hidden)
            yield answer(shown, asked, later[1] if later[0] == head else None)
            asked = before = head = word = content = later = shown = None

    def look(seen, hidden):
        """What the table hides: read anew where the count is another."""
        count = yield read("count")
        if count != seen:
            event = yield read(("table", "event"))
            text = yield read(("table", "text"))
            after = yield read(("table", "event"))
            seen, hidden = count, text if event and after == event else 0
        return seen, hidden

    def answer(shown, asked, later):
        def outcomes(_m):
            if shown and 1 in asked:
                raise Broken("a text is shown to who asked after it was deleted")
            if shown and later == Delete(1):
                raise Broken("a text is shown, with the event that deletes it")
            return [(None, {})]
        return locked("the answer", outcomes)

    # ---- properties

    def strikes(m):
        return r.faults(m) + [("**** the archive begins anew", {
            "archive": (), ("left", "anew"): m["left", "anew"] - 1})] * bool(m["left", "anew"] and m["archive"])

    def check(m):
        if [what for what in m["all"] if isinstance(what, Delete)] != [*map(Delete, m["told"])]:
            raise Broken(f"of {m['told']} the log has {m['is log']}")

    def goal(m):
        return m["status", "master"] == "dead" or (
            m["answered", "w0"] == len(script) and not m["reads"] and not m["recovery"] and m["status", "w0"] == "run")

    programs = {"w0": worker, "reader": reader, "archive": archive, "master": r.master, "repair": repair}
    return Space(memory, programs, strikes, goal, lambda m: check(m), lambda m, name, value: {}, order)
