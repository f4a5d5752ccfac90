"""Requests that wait for a place in the event ring, as worker/places.py keeps them: in order of arrival, for a second;
leaves for as long as it takes.

Each request is of a connection of its own. An event is one step here (ring.py has its steps); so is an attempt, which is
made under the event lock. The journal says how far events may go, and says nothing where there is nothing to write.
"""

from engine import Broken, Space, locked, read, write


def places(scripts, ring=2, spare=1, order="sc", **faults):
    """scripts: for each worker what its clients ask for, in order of arrival: "say" or "leave". ring: its slots. spare:
    of these, what only leaves get.

    Faults, each as often as the scenario allows: journal_kills."""
    crew = [f"w{i}" for i in range(len(scripts))]
    memory = {"head": 0, "durable": 0, "limit": ring - spare, "leave limit": ring}
    memory |= {("status", who): "run" for who in (*crew, "journal", "master")}
    memory |= {("asked", w): 0 for w in crew}
    memory |= {("answered", w, i): None for w, script in zip(crew, scripts) for i in range(len(script))}
    memory |= {("left", "journal_kills"): faults.get("journal_kills", 0)}

    # ---- a worker

    def worker(w, script):
        leaves, others, looked = (), (), None  # who waits; the limits when they were tried last
        while True:
            what = yield locked("wait", lambda m: wait(m, script, bool(leaves or others)))
            if what == "look":
                leave_limit = yield read("leave limit")
                limit = yield read("limit")
                moved, looked = looked != (leave_limit, limit), (leave_limit, limit)
                while moved and leaves:
                    done = yield attempt(leaves[0], script, False)
                    if not done:
                        break
                    leaves = leaves[1:]
                done = True
                while others and done:
                    late = yield locked("is it late?", lambda m: [(False, {}), (True, {})])
                    done = False
                    if moved or late:
                        done = yield attempt(others[0], script, late)
                    others = others[1:] if done else others
                leave_limit = limit = moved = done = late = None
            else:
                done = False
                if script[what] == "leave" or not others:
                    done = yield attempt(what, script, False)
                if not done and not leaves and not others:
                    looked = None  # a limit may have moved since
                if not done and script[what] == "leave":
                    leaves += (what,)
                elif not done:
                    others += (what,)
                done = None
            what = None

    def wait(m, script, waits):
        """A timer goes while something waits."""
        i = m["asked", m.who]
        return [(i, {("asked", m.who): i + 1})] * (i < len(script)) + [("look", {})] * waits

    def attempt(i, script, late):
        """Under the event lock; late: it is answered now."""

        def outcomes(m):
            answered = ("answered", m.who, i)
            if m["head"] >= m["leave limit" if script[i] == "leave" else "limit"]:
                if late and script[i] == "leave":
                    raise Broken("a leave is refused")
                return [(True, {answered: "busy"})] if late else [(False, {})]
            before = [j for j in range(i) if script[j] == script[i] == "say" and m["answered", m.who, j] is None]
            if before:
                raise Broken(f"request {i} overtakes {before}")
            return [(True, {answered: "done", "head": m["head"] + 1})]

        return locked(f"{script[i]}, request {i}", outcomes)

    # ---- the journal, the master

    def journal_process():
        durable = yield read("durable")
        while True:
            yield write("durable", durable)
            yield write("limit", durable + ring - spare)
            yield write("leave limit", durable + ring)
            durable = yield locked("write", lambda m: [(m["head"], {})] * (m["head"] > m["durable"]))

    def master():
        while True:
            yield locked(
                "fork journal",
                lambda m: (
                    [(None, {("status", "journal"): "run"})]
                    * (m["status", "journal"] == "dead" and not m["buffer", "journal"])
                ),
            )

    # ---- faults and properties

    def strikes(m):
        if m["status", "journal"] != "run" or not m["left", "journal_kills"]:
            return []
        changes = {
            ("status", "journal"): "dead",
            ("left", "journal_kills"): m["left", "journal_kills"] - 1,
        }
        return [("**** journal: dead", changes)]

    def watch(m, name, value):
        if name in ("limit", "leave limit") and value < m[name]:
            raise Broken(f"{name} goes back, from {m[name]}")
        return {}

    def goal(m):
        return all(m["answered", w, i] for w, script in zip(crew, scripts) for i in range(len(script)))

    programs = {w: lambda w=w, script=script: worker(w, script) for w, script in zip(crew, scripts)}
    programs |= {"journal": journal_process, "master": master}
    return Space(memory, programs, strikes, goal, lambda m: None, watch, order)
