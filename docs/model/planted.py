"""Scenarios, and bugs to show that the checker bites.

A bug is a change of the models' text, so the models themselves stay clean. "planted": a known mistake. "as written":
what the design said before it was checked. "open": what it left to the reader's choice, chosen wrongly.
"""
from planting import of, then

MODULES = "ledger", "ring", "journal", "clients"  # of a scenario that does not say


def opposite(m, **more):
    return m.ledger([[m.Transfer(1, "A", "B")], [m.Transfer(2, "B", "A")]], {"A": 1, "B": 1}, **more)


def there_and_back(m, **more):
    there = [m.Transfer(1, "A", "B"), m.Transfer(2, "A", "B")]
    back = [m.Transfer(3, "B", "A"), m.Transfer(4, "B", "A", 2)]
    return m.ledger([there, back], {"A": 2, "B": 1}, **more)


def elsewhere(m, **more):
    """The same request on two workers: its client has turned to the other while the first is slow."""
    request = m.Transfer(1, "A", "B")
    return m.ledger([[request], [request]], {"A": 2, "B": 0}, **more)


def circle(m, **more):
    scripts = [m.Transfer(1, "A", "B")], [m.Transfer(2, "B", "C")], [m.Transfer(3, "C", "A")]
    return m.ledger(scripts, {"A": 1, "B": 1, "C": 1}, **more)


def supersede(m, **more):
    old = m.Transfer(1, "A", "B", session=1, elsewhere=True)
    return m.ledger([[old], [m.Login("A", 1), old._replace(session=2)]], {"A": 2, "B": 0}, **more)


def small_ring(m, **more):
    scripts = [m.Transfer(1, "A", "B")], [m.Transfer(2, "C", "D")]
    return m.ledger(scripts, {"A": 1, "B": 0, "C": 1, "D": 0}, capacity=1, taken=True, **more)


def rooms(m, said=("red", "blue"), **more):
    return m.ring([said], **more)


def two_speakers(m, **more):
    return m.ring([["red"], ["red"]], ("red",), **more)


def leaver(m, **more):
    return m.ring([[m.LEAVE], ["red"]], ("red",), **more)


def pay(m, **more):
    return m.journal([["pay"], ["pay"]], **more)


def pay_and_look(m, **more):
    return m.journal([["pay"], ["pay", "look"]], **more)


def pay_twice(m, **more):
    return m.journal([["pay", "pay"]], **more)


def retries(m, **more):
    return m.clients(**more)


@of("supply")
def deposits(m, **more):
    return m.supply([[("A", 1)], [("B", 2)]], **more)


@of("supply")
def deposits_back(m, **more):
    return m.supply([[("A", 2), ("A", -1)], [("B", 1)]], **more)

HOLD = [
    (opposite, dict(kills=2, child_kills=1)),
    (opposite, dict(kills=1, stops=1)),
    (opposite, dict(kills=1, alarms=1)),
    (opposite, dict(kills=1, child_kills=1, master_kills=1)),
    (opposite, dict(kills=2, order="tso")),
    (there_and_back, dict(kills=1, child_kills=2)),
    (supersede, dict(kills=2, child_kills=1)),
    (elsewhere, dict(kills=1, child_kills=1)),
    (circle, dict(kills=1)),
    (small_ring, dict(kills=1)),
    (rooms, dict(kills=1, child_kills=1)),
    (rooms, dict(said=("red", "red", "red"), order="tso")),
    (two_speakers, dict(kills=1)),
    (leaver, dict(kills=1)),
    (pay_and_look, dict(kills=1)),
    (pay_and_look, dict(crashes=1, cuts=1)),
    (pay_and_look, dict(timeout=False, journal_kills=1)),
    (pay, dict(failures=1, drops=1, cuts=1)),
    (pay, dict(kills=1, cuts=1)),
    (pay_twice, dict(failures=1, journal_kills=1, drops=1, cuts=1)),
    (pay_twice, dict(kills=1, turns=1, cuts=1)),
    (pay, dict(capacity=1, journal_kills=1, cuts=1)),
    (pay, dict(workers=2)),
    (pay, dict(ticks=False)),
    (pay, dict(journal_kills=1, order="tso")),
    (retries, dict(drops=2, flags=False, jumps=1)),
    (retries, dict(drops=1, crashes=1)),
    (retries, dict(drops=1, forgets=1, shares=1)),
    (retries, dict(drops=1, stops=1)),
    (deposits, dict(kills=1, child_kills=1)),
    (deposits_back, dict(kills=1)),
]
DEEP = [
    (opposite, dict(kills=3, child_kills=2)),
    (opposite, dict(kills=1, child_kills=1, stops=1, alarms=1)),
    (opposite, dict(kills=2, child_kills=1, order="tso")),
    (there_and_back, dict(kills=2, child_kills=1)),
    (there_and_back, dict(kills=1, stops=1)),
    (supersede, dict(kills=1, stops=1)),
    (circle, dict(kills=1, child_kills=1)),
    (small_ring, dict(kills=1, child_kills=1)),
    (small_ring, dict(kills=1, order="tso")),
    (rooms, dict(said=("red", "blue", "red"), kills=1, child_kills=1)),
    (rooms, dict(said=("red",), kills=1, order="tso")),
    (two_speakers, dict(kills=1, child_kills=1)),
    (leaver, dict(kills=1, child_kills=1)),
    (pay_and_look, dict(journal_kills=1, cuts=1)),
    (pay, dict(failures=1, journal_kills=1, drops=1, cuts=1)),
    (pay, dict(kills=1, cuts=1, turns=1)),
    (pay_and_look, dict(kills=1, journal_kills=1)),
    (pay, dict(failures=1, crashes=1, drops=1, cuts=2)),
    (pay, dict(workers=2, journal_kills=1)),
    (pay, dict(kills=1, cuts=1, order="tso")),
    (retries, dict(drops=2, crashes=1)),
    (retries, dict(drops=1, stops=2)),
    (retries, dict(drops=2, crashes=1, forgets=1)),
    (retries, dict(payments=1, slots=2, drops=1, crashes=1, others=3)),
]

ALARM, HEARS = 'out.append(("too long", {"alarm": 1}))', 'out.append(("recovery", {}))'
ORPHAN, REAPED = '* (m["status", "master"] == "dead")', 'm["status", who] == "dead" and'
PAUSE = 'epoch = yield self.wait("until it changes",'
MARK_LOCK = "while not (yield from r.take(w, (), q.account)):\n            pass\n"
CREDIT = 'yield write(("intent", w, "credit"), credit)'
LOG_WAIT = "if not (yield from r.take(w, accounts, LOG)):  # step 4\n                continue"
WIPE, COMMIT = 'yield write(slot(txn, "word"), 0)', 'yield write(slot(txn, "word"), txn)  # the commit point'
CLEAR, UNLOCK = 'yield write(("intent", w, "txn"), 0)  # step 6', "yield from r.give(accounts)  # step 7"
LOOK, COMMITTED = 'word = yield read(slot(txn, "word"))', "if txn <= head or word == txn:"
DONE = 'yield write(("intent", dead[0], "txn"), 0)'
EVENT_WIPE, EVENT_COMMIT = 'yield write(slot(n, "word"), 0)', 'yield write(slot(n, "word"), n)'
LEFT = 'if event.leaver:\n            yield write(("member", event.leaver), 0)'
PUBLISH, REMOVE = "yield from publish(rooms[0], w)", 'yield write(("member", w), 0)'
COUNT, HEAD = 'yield write(("last", event.room), event.seq)', 'yield write("head", n)'
POST_NAMED = f"""{LOOK}
                for part in ("debit", "credit"):
                    half = yield read(("intent", dead[0], part))
                    yield r.post(half.account)"""
NO_OP = f"""if word != txn:
                    for part in ("debit", "credit"):
                        yield write(slot(txn, part), Half("", 0, 0, Transfer(0, "", "", 0)))
                    yield write(slot(txn, "word"), txn)
                    yield write("head", max(txn, head))
                {DONE}"""
REPLAY = 'for txn, debit, credit in m["history"]:'
REPLAY_SOME = 'for txn, debit, credit in [record for record in m["history"] if record[1].account]:'
PARTS = 'for w in script for part in ("txn", "debit", "credit")'
PHASE = f'{CREDIT}\n            yield write(("intent", w, "phase"), 1)'
PHASE_LOOK = f'{LOOK}\n                phase = yield read(("intent", dead[0], "phase"))'
RELOCK = "while not (yield from r.take(w, accounts, LOG)):\n                yield from r.take(w, (), *accounts)"


RECORDED = '            recorded = yield read(("outcome", q.number))\n'
ACCOUNTS = "accounts = tuple(sorted((q.src, q.dst)))"
OUTCOME = 'yield write(("outcome", q.number), txn)\n'
COVERED, SYNCED = "if txn <= released:", "done = yield file.sync()"
WRITTEN, FOUND_END = "yield from file.write(entries, batch)", "entries, last, newest, torn = yield locked("
SLEEPS = 'yield write("waiting", 1)\n                head = yield read("head")'
BELOW, GIVEN = "if req_id < record.floor:", "slot not in live and record.idle and not"
ASKS = 'if m["next"] <= record.newest or m["next"] < record.floor:  # {} half'
FIRST, SECOND, MADE = ASKS.format("first"), ASKS.format("second"), '(("new", slot, who, floor),)'
GRACE, AGAIN = ' and not (record.kept and m["grace"])', 'slot = find(m, m["client"])\n        if slot is None:'
RESUMES, STARTS = '("record", slot): record._replace(idle=0)}\n        changes', "r._replace(idle=0, kept=1)"
SUPPLY_LOOK = """            if not (yield from r.take(w, (account,), LOG)):
                continue
            head = yield read("head")
            newest = yield read(("slot", head, "record"))
"""
SUPPLY_LIMIT = "if newest.supply + amount > most:  # nothing is written yet"



PLANTED = [  # what is wrong; where that shows; the texts that are replaced
    ("planted: the intent is cleared after the unlock", opposite, dict(kills=1), {CLEAR: UNLOCK, UNLOCK: CLEAR}),
    ("planted: the repair posts the locks that the intent names", opposite, dict(kills=1, child_kills=1), {
        LOOK: POST_NAMED}),
    ("planted: repair when the kill is sent, before the reap", opposite, dict(kills=2), {
        REAPED: 'm["status", who] in ("dead", "dying") and'}),
    ("planted: commit word before payload", opposite, {}, {WIPE: COMMIT, COMMIT: "pass"}),
    ("planted: sequence word before payload", rooms, {}, {EVENT_WIPE: EVENT_COMMIT, EVENT_COMMIT: "pass"}),
    ("planted: the recovery word is ignored in the lock wait", opposite, dict(kills=1), {HEARS: "pass"}),
    ("planted: acknowledged without giving up the locks", opposite, dict(kills=1), {
        "yield from self.give(held)": "pass"}),
    ("planted: acknowledged, and going on at once", opposite, dict(kills=1), {
        "while epoch:": "if epoch:", PAUSE: PAUSE.replace("epoch = yield", "epoch =")}),
    ("planted: an epoch's number is used again", there_and_back, dict(kills=2), {"epoch = epoch + 1": "epoch = 1"}),
    ("planted: the locks are taken in any order", opposite, {}, {"tuple(sorted((q.src, q.dst)))": "q.src, q.dst"}),
    ("planted: the head is advanced before the commit word", opposite, dict(kills=1), {
        WIPE: then('yield write("head", txn)', WIPE, indent=12)}),
    ("planted: LOGIN marks without the account's lock", supersede, {}, {
        MARK_LOCK: "pass\n", "yield from r.give((q.account,))": "pass"}),
    ("planted: funds are checked before the recorded outcome", opposite, dict(kills=1), {
        "if recorded and not mark:": "if recorded and not answer:"}),
    ("planted: the recorded outcome is read without the account lock", elsewhere, {}, {
        RECORDED: "", ACCOUNTS: then(ACCOUNTS, RECORDED.strip(), indent=8)}),
    ("planted: the outcome is stored after the unlock", opposite, dict(kills=1), {
        OUTCOME: "pass\n", UNLOCK: then(UNLOCK, OUTCOME.strip(), indent=12)}),
    ("planted: the repair forgets the outcome", opposite, dict(kills=1), {
        'yield write(("outcome", debit.request.number), txn)': "pass"}),
    ("planted: an answer leaves before it is released", pay, dict(cuts=1), {COVERED: "if True:"}),
    ("planted: a balance is shown before it is released", pay_and_look, dict(cuts=1), {
        COVERED: COVERED.replace(":", ' or what == "balance":')}),
    ("planted: a recorded outcome is answered before it is released", pay, dict(kills=1, cuts=1), {
        COVERED: COVERED.replace(":", ' or what == "recorded":')}),
    ("planted: released before the sync", pay, dict(cuts=1), {
        WRITTEN: then(WRITTEN, "yield from publish(last + len(batch))", indent=16)}),
    ("planted: a sync that failed is tried again", pay, dict(failures=1, cuts=1), {
        SYNCED: "done = (yield file.sync()) or (yield file.sync())"}),
    ("planted: the end is trusted after a failed sync", pay, dict(failures=1, cuts=1), {
        "yield from file.write(entries - 1, newest)": "pass"}),
    ("planted: the end that was found is not synced", pay, dict(journal_kills=1, cuts=1), {
        "good = yield file.sync()": "good = True"}),
    ("planted: the last batch is written again behind itself", pay, dict(journal_kills=1), {
        "len(fold(batches))": "len(fold(batches[:-1]))"}),
    ("planted: a slot is given out before it is durable", pay, dict(capacity=1), {
        'yield write("limit", last + capacity)': 'yield write("limit", last + capacity + 1)'}),
    ("planted: the journal says that it sleeps after its last look", pay, dict(timeout=False), {
        SLEEPS: then(*reversed(SLEEPS.split("\n")), indent=16).replace(" " * 32, " " * 16).lstrip()}),
    ("planted: a worker parks and does not look once more", pay, dict(ticks=False), {
        "looks = not parked  #": "looks = False  #"}),
    ("planted: workers do not wait for the journal at a start", pay, dict(cuts=1), {
        'if who == "journal" or m["ready"]': "if True"}),
    ("planted: a new journal tells before it has looked", pay, dict(journal_kills=1), {
        FOUND_END: then("yield from publish(0)", FOUND_END, indent=8)}),
    ("planted: known is who has a record, however new it is", retries, dict(drops=2), {
        BELOW: "if flagged and not session.resumed:"}),
    ("planted: the floor is not in the log", retries, dict(drops=1, crashes=1), {MADE: '(("new", slot, who, 1),)'}),
    ("planted: each LOGIN brings a floor of its own", retries, dict(drops=1), {
        RESUMES: RESUMES.replace("idle=0", 'idle=0, floor=m["next"]')}),
    ("planted: the floor counts for flagged requests only", retries, dict(drops=2, flags=False), {
        BELOW: BELOW.replace("if", "if flagged and")}),
    ("planted: a LOGIN does not ask for the newest req_id", retries, dict(drops=1, forgets=1), {
        half: half.replace('m["next"] <= record.newest or ', "") for half in (FIRST, SECOND)}),
    ("planted: a LOGIN does not ask for the floor", retries, dict(drops=2, forgets=1), {
        half: half.replace(' or m["next"] < record.floor', "") for half in (FIRST, SECOND)}),
    ("planted: a LOGIN does not ask once more when it begins", retries, dict(shares=1), {
        SECOND: "if False:"}),
    ("planted: what is unanswered goes on under the new client_id", retries, dict(drops=1, shares=1), {
        'if m["unanswered"]:\n': "if False:\n"}),
    ("planted: a record is given away that has a session", retries, dict(drops=1), {
        GIVEN: "record.idle and not", ' - {s.slot for s in m["sessions"]}': ""}),
    ("planted: a record is given away that was in use just now", retries, dict(drops=1), {
        GIVEN: "slot not in live and not"}),
    ("planted: the grace after a start is ignored", retries, dict(drops=1, crashes=1), {GRACE: ""}),
    ("planted: the same, after an orderly stop", retries, dict(drops=1, stops=1), {GRACE: ""}),
    ("planted: idle time goes by a clock that jumps", retries, dict(drops=1, jumps=1), {
        '"the clock jumps", {})': '"the clock jumps", older(m))'}),
    ("planted: idle times of an earlier stop count after a crash", retries, dict(drops=1, crashes=1), {
        STARTS: "r._replace(idle=1)"}),
    ("planted: a LOGIN is answered before its record is durable", retries, dict(drops=1, crashes=1), {
        '[("durable", {})] * (m["durable"] >= txn)': '[("durable", {})]'}),
    ("planted: a LOGIN begins in the place that its record had", retries, dict(drops=1), {
        AGAIN: AGAIN.replace('find(m, m["client"])', "0")}),
    ("planted: the supply is read before the log lock", deposits, {}, {
        SUPPLY_LOOK: """            head = yield read("head")
            newest = yield read(("slot", head, "record"))
            if not (yield from r.take(w, (account,), LOG)):
                continue
            head = yield read("head")
"""}),
    ("planted: the limit is looked at when the intent counts", deposits_back, dict(kills=1), {
        SUPPLY_LIMIT: then('yield write(("intent", w, "record"), Record(account, before + amount, 0))',
                           'yield write(("intent", w, "txn"), head + 1)', SUPPLY_LIMIT, indent=12)}),
    ("planted: the limit is of each account, and not of all", deposits, {}, {
        SUPPLY_LIMIT: "if before + amount > most:"}),
    ("as written: the floor is of the session that made the record", retries, dict(drops=2), {
        BELOW: BELOW.replace(":", " and not session.resumed:")}),
    ("as written: no-ops, and the repair is run again", opposite, dict(kills=1, child_kills=1), {
        COMMITTED: "if word == txn:", DONE: NO_OP, REPLAY: REPLAY_SOME}),
    ("as written: the slot alone tells, and the ring goes round", small_ring, dict(kills=1), {
        COMMITTED: "if word == txn:"}),
    ("open: a phase word; the last txn_id stays in the intent", there_and_back, dict(kills=1), {
        PARTS: PARTS.replace('"txn"', '"txn", "phase"'), CREDIT: PHASE, LOOK: PHASE_LOOK,
        CLEAR: CLEAR.replace("txn", "phase"), COMMITTED: "if phase and (txn <= head or word == txn):",
        DONE: DONE.replace("txn", "phase")}),
    ("open: an event is written over with its old word in place", rooms, dict(said=("red", "red", "red")), {
        EVENT_WIPE: "pass"}),
    ("open: a record is written over with its old word in place", small_ring, dict(kills=1), {WIPE: "pass"}),
    ("open: a worker is stopped inside a lock, nobody ends", opposite, dict(stops=1), {ALARM: "pass"}),
    ("open: a wait does not look whether the master lives", opposite, dict(kills=1, master_kills=1), {
        ORPHAN: "* 0"}),
    ("open: after a recovery it goes on with what it had read", circle, dict(kills=1), {LOG_WAIT: RELOCK}),
    ("open: the repair forgets the room's counter", rooms, dict(kills=1), {
        "yield from complete(word, event)": 'yield write("head", word)'}),
    ("open: the room's counter before the sequence word", rooms, dict(kills=1), {
        EVENT_WIPE: then(EVENT_WIPE, 'yield write(("last", room), last + 1)', indent=8)}),
    ("open: the room's counter after the head", rooms, dict(kills=1), {COUNT: HEAD, HEAD: COUNT}),
    ("open: a leave is published, then the member removed", leaver, dict(kills=1), {
        LEFT: "pass", PUBLISH: then(PUBLISH, REMOVE, indent=12)}),
    ("open: the member is removed, then the leave published", leaver, dict(kills=1), {
        LEFT: "pass", PUBLISH: then(REMOVE, PUBLISH, indent=12)}),
    ("open: who is lapped learns it from the room's next event", rooms, dict(said=("red", "blue", "red")), {
        "for room in rooms[:joined]:": "for room in ():", "if front.seq != told + 1:": "if False:"}),
    ("open: readers go by the words and not by the head", rooms, dict(kills=1), {
        '("poll", {})] * (m["head"] >= n)': '("poll", {})] * (m[slot(n, "word")] == n)'}),
    ("open: a worker with parked answers does not look by itself", pay, dict(ticks=False, order="tso"), {}),
    ("open: a journal that sleeps does not look by itself", pay, dict(timeout=False, order="tso"), {}),
    ("open: the same, and a worker is killed", pay, dict(timeout=False, kills=1), {}),
    ("open: a machine whose stores pass each other", rooms, dict(order="weak"), {}),
]
