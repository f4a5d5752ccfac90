"""The one log: scenarios, and a bug for each of its rules (planted.py has what is built today)."""


def of(*modules):
    """What a scenario is made of; its bugs are changes of these."""
    def mark(scenario):
        scenario.modules = modules
        return scenario
    return mark


def then(*statements, indent):
    return f"\n{' ' * indent}".join(statements)


@of("one_log")
def pair_and_say(m, **more):
    return m.one_log([["pair"], ["say"]], **more)


@of("one_log")
def pair_and_pay(m, **more):
    return m.one_log([["pair"], ["pay"]], **more)


@of("one_log")
def pair_and_look(m, **more):
    return m.one_log([["pair"], ["say", "look"]], **more)


@of("one_log")
def pay_say_look(m, **more):
    return m.one_log([["pay"], ["say", "look"]], **more)


@of("one_log")
def say_pay_look(m, **more):
    return m.one_log([["say"], ["pay", "look"]], **more)


@of("one_log")
def tips(m, **more):
    return m.one_log([["tip"], ["tip", "say"]], **more)


@of("one_log")
def tip_and_say(m, **more):
    return m.one_log([["tip"], ["say"]], **more)


LOG_HOLD = [
    (pair_and_say, dict(kills=1, cuts=1)),
    (pair_and_say, dict(journal_kills=1, cuts=1)),
    (pair_and_say, dict(crashes=1, cuts=1)),
    (pair_and_say, dict(workers=2, kills=1)),
    (pair_and_say, dict(at_once=1, cuts=1)),
    (pair_and_pay, dict(at_once=1, cuts=1)),
    (pair_and_pay, dict(sync=False, events=1, txns=1, journal_kills=1, cuts=1)),
    (pair_and_look, dict(cuts=1, crashes=1)),
    (pay_say_look, dict(cuts=1)),
    (say_pay_look, dict(cuts=1)),
    (tips, dict(cuts=1)),
    (tip_and_say, dict(journal_kills=1, cuts=1)),
    (tip_and_say, dict(kills=1, cuts=1)),
    (tip_and_say, dict(sync=False, kills=1, crashes=1)),
]
HEADS = """event_head = yield read("event head")  # first: what it has of a pair, the txn head has too
            head = yield read("head")"""
CUT = "records, said = cut(records[:at_once], said[:at_once], last, last_event)"
UNPAIRED, UNPAID = "if record.event > last_event + len(said):", "if event.after > last + len(records):"
COVERED = 'if place[1] <= txn and place[2] <= event]'
UPTO = 'return (m["durable txn"], m["durable event"]) if sync else (m["head"], m["event head"])'
WROTE = "yield from file.write(entries, batch)"
LIMITS = '{"limit": last + txns, "event limit": last_event + events}'
LOG_PLANTED = [
    ("planted: no cut: a txn is in the batch, its event is not", pair_and_pay, dict(cuts=1), {UNPAIRED: "if False:"}),
    ("planted: the txn head is read first, and no cut", pair_and_say, dict(cuts=1), {
        HEADS: then(*reversed([line.strip() for line in HEADS.split("\n")]), indent=12), UNPAID: "if False:"}),
    ("planted: the cut comes before the limit of a batch", pair_and_pay, dict(at_once=1, cuts=1), {
        CUT: then("records, said = cut(records, said, last, last_event)",
                  "records, said = records[:at_once], said[:at_once]", indent=8)}),
    ("planted: a torn batch whose money part is good is applied", pair_and_say, dict(cuts=1), {
        "return isinstance(entry, Batch) and TORN not in entry": "return isinstance(entry, Batch) and entry.money != TORN",
        "log, said = log + batch.money, said + batch.events":
            "log, said = log + batch.money, said + (batch.events if batch.events != TORN else ())"}),
    ("planted: what shows both waits for the txn only", say_pay_look, dict(cuts=1), {
        COVERED: "if place[1] <= txn and (place[1] or place[2] <= event)]"}),
    ("planted: what shows both waits for the event only", pay_say_look, dict(cuts=1), {
        COVERED: "if place[2] <= event and (place[2] or place[1] <= txn)]"}),
    ("planted: a message is answered before it is durable", pair_and_say, dict(cuts=1), {
        COVERED: "if place[1] <= txn]"}),
    ("planted: an event is pushed before it is durable", pair_and_say, dict(cuts=1), {
        '* (m["cursor", m.who] < event)': '* (m["cursor", m.who] < m["event head"])'}),
    ("planted: the durable event is published before the sync", pair_and_say, dict(cuts=1), {
        WROTE: then(WROTE, 'yield write("durable event", last_event)', indent=20)}),
    ("planted: the durable txn is published before the sync", pair_and_pay, dict(cuts=1), {
        WROTE: then(WROTE, 'yield write("durable txn", last)', indent=20)}),
    ("planted: a PAYMENT counts as durable before its transfer", tip_and_say, dict(cuts=1), {
        UNPAID: "if event.after > last + len(records) and not event.payment:",
        HEADS: then(*reversed([line.strip() for line in HEADS.split("\n")]), indent=12)}),
    ("planted: where PAYMENTs stand, the journal does not wait for its txns", tip_and_say, dict(cuts=1), {
        "batch, last, last_event = yield locked(": then(
            'yield locked("only PAYMENTs", lambda m: [(None, {"durable event": event_head} if all(',
            '    e and e.payment for e in m["events"][-1:]) else {})])',
            "batch, last, last_event = yield locked(", indent=16)}),
    ("planted: PAYMENTs alone do not advance the durable event", tips, {}, {
        "yield from publish(last, last_event)\n            head":
            "yield from publish(last, last_event) if batch_written else ()\n            head",
        "                batch = None\n": "                batch_written, batch = bool(batch.money or batch.events), None\n"}),
    ("planted: a PAYMENT takes the last slot", tips, {}, {'if number > m["event limit"] - 1:': 'if number > m["event limit"]:'}),
    ("planted: a new journal begins at the file's last event", tips, dict(journal_kills=1), {
        'max(m["durable event"], said[-1].number if said else 0)': "said[-1].number if said else 0"}),
    ("planted: in async slots are used again by the head", pair_and_pay, dict(sync=False, txns=1), {
        'if what != "say" and m["head"] + 1 > m["limit"]:':
            'if what != "say" and m["head"] + 1 > m["limit"] + (not sync):'}),
    ("planted: the same, of events", pair_and_say, dict(sync=False, events=1), {
        'm["event head"] + 1 > m["event limit"]:': 'm["event head"] + 1 > m["event limit"] + (not sync):'}),
    ("planted: the locks are released between the halves of a pair", pair_and_say, dict(workers=2), {
        '{"locks": m.who if what == "pair" else None}': '{"locks": None}'}),
    ("planted: the repair forgets the event of a pair", pair_and_say, dict(kills=1), {
        "say(m, Event(record.event, record.request, record.txn, record.txn)) | {": "{"}),
    ("planted: a restart publishes the ring anew", pair_and_say, dict(crashes=1), {
        'changes = {("cursor", w): upto(m)[1]}': 'changes = {("cursor", w): 0}'}),
]


@of("pair")
def pair_and_message(m, **more):
    return m.pair([[m.Pay(1, "A", "B", "red")], [m.Say(2, "B", "red")]], {"A": 1, "B": 0}, **more)


@of("pair")
def pair_and_stranger(m, **more):
    scripts = [m.Pay(1, "A", "B", "red")], [m.Say(2, "C", "red")]
    return m.pair(scripts, {"A": 1, "B": 0, "C": 0}, **more)


@of("pair")
def two_pairs(m, **more):
    there, back = m.Pay(1, "A", "B", "red"), m.Pay(2, "B", "A", "red")
    return m.pair([[there], [back]], {"A": 1, "B": 1}, **more)


@of("pair")
def apart(m, **more):
    """No account in common."""
    scripts = [m.Pay(1, "A", "B", "red")], [m.Pay(2, "C", "D", "red")]
    return m.pair(scripts, {"A": 1, "B": 0, "C": 1, "D": 0}, **more)


@of("pair")
def pair_and_transfer(m, **more):
    scripts = [m.Pay(1, "A", "B", "red")], [m.Pay(2, "C", "D")]
    return m.pair(scripts, {"A": 1, "B": 0, "C": 1, "D": 0}, **more)


@of("pair")
def same_message(m, **more):
    """The same message on two workers: its client has turned to the other while the first is slow."""
    message = m.Say(1, "A", "red")
    return m.pair([[message], [message]], {"A": 0}, **more)


@of("pair")
def same_pair(m, **more):
    request = m.Pay(1, "A", "B", "red")
    return m.pair([[request], [request]], {"A": 2, "B": 0}, **more)


PAIR_HOLD = [
    (pair_and_message, dict(kills=1, child_kills=1)),
    (pair_and_message, dict(kills=1, master_kills=1)),
    (pair_and_message, dict(kills=1, order="tso")),
    (pair_and_message, dict(kills=1, stops=1)),
    (pair_and_message, dict(kills=1, events=1)),
    (two_pairs, dict(kills=2)),
    (two_pairs, dict(kills=1, txns=1)),
    (apart, dict(kills=1)),
    (pair_and_transfer, dict(kills=1)),
    (pair_and_stranger, dict(kills=1, ring=1)),
    (pair_and_stranger, dict(kills=1, child_kills=1)),
    (same_message, dict(kills=2, child_kills=1)),
    (same_pair, dict(kills=1, child_kills=1)),
]
PAIR_SPACE = 'if txn > txns or q.room and number > events:'
SPEAKS = """            if event:
                yield from publish(event)
                yield r.post(EVENTS)
            yield r.post(LOG)
"""
ITS_COMMIT = 'yield write(("slot", txn, "word"), txn)  # the commit point, of both'
CLEARED = 'yield write(("intent", w, "txn"), 0)  # the intent is cleared'
PASSED = "if record.event and record.event.number > event_head:"
MADE_OUTCOME = """            yield write(("outcome", event.request), (0, event.number))
            client = requests[event.request].src
            newest = yield read(("newest", client))
            yield write(("newest", client), max(newest, event.request))
"""
COUNTER, EVENT_HEAD = 'yield write(("last", event.room), event.seq)', 'yield write("event head", event.number)'
SAY_LOOK = """            if not (yield from r.take(w, (), q.src)):
                continue
            recorded = yield read(("outcome", q.number))
            if recorded:
                yield from r.give((q.src,))"""
GIVE_SAID = "yield from r.give((q.src, EVENTS))  # both locks, to the end"
PAIR_PLANTED = [
    ("planted: space for the event is looked for after the commit", pair_and_message, dict(events=1), {
        PAIR_SPACE: "if txn > txns:"}),
    ("planted: the intent has its txn_id before space is looked for", pair_and_transfer, dict(events=0, kills=1), {
        PAIR_SPACE: then('record = Record(txn, q.number, ((q.src, rich - 1), (q.dst, poor + 1)), None)',
                         'yield write(("intent", w, "record"), record)', 'yield write(("intent", w, "txn"), txn)',
                         PAIR_SPACE, indent=12)}),
    ("planted: the event of a pair before its commit", pair_and_message, dict(kills=1), {
        SPEAKS: "            yield from r.give(rings)\n",
        ITS_COMMIT: then("if event:", "    yield from publish(event)", ITS_COMMIT, indent=12)}),
    ("planted: the event lock before the log lock", apart, {}, {
        "rings = (LOG, EVENTS)": 'rings = (EVENTS, LOG) if q.src == "A" else (LOG, EVENTS)'}),
    ("planted: the ring's locks before those of the accounts", two_pairs, {}, {
        "yield from r.take(w, (), *accounts)": "yield from r.take(w, (), *(rings if q.dst > q.src else ()), *accounts)",
        "yield from r.take(w, accounts, *rings)": "yield from r.take(w, accounts, *(() if q.dst > q.src else rings))"}),
    ("planted: the event lock is taken when the pair is committed", apart, {}, {
        "rings = (LOG, EVENTS)": "rings = (LOG,)", SPEAKS: """            yield r.post(LOG)
            if event:
                while not (yield from r.take(w, (), EVENTS)):
                    pass
                yield from publish(event)
                yield r.post(EVENTS)
"""}),
    ("planted: the intent is cleared before the event is out", pair_and_message, dict(kills=1), {
        ITS_COMMIT: then(ITS_COMMIT, CLEARED.split("  #")[0], indent=12)}),
    ("planted: the intent lacks the event", pair_and_message, dict(kills=1), {
        'yield write(("intent", w, "record"), record)': 'yield write(("intent", w, "record"), record._replace(event=None))'}),
    ("planted: the repair forgets the event of a committed pair", pair_and_message, dict(kills=1), {
        PASSED: "if False:"}),
    ("planted: the repair publishes an event that is out", pair_and_message, dict(kills=1), {
        PASSED: "if record.event:"}),
    ("planted: the repair goes by the event's slot alone", pair_and_stranger, dict(kills=1, ring=1), {
        PASSED: 'if record.event and (yield read(event_slot(record.event.number, "word"))) != record.event.number:'}),
    ("planted: a message's outcome is made after the head", same_message, dict(kills=1), {
        MADE_OUTCOME: "            pass\n",
        EVENT_HEAD: then(EVENT_HEAD, "if not event.txn:", "    " + MADE_OUTCOME.strip(), indent=8)}),
    ("planted: newest is stored after the head", same_message, dict(kills=1), {
        MADE_OUTCOME: MADE_OUTCOME.split("\n")[0] + "\n",
        EVENT_HEAD: then(EVENT_HEAD, "if not event.txn:", *[
            "    " + line.strip() for line in MADE_OUTCOME.strip().split("\n")[1:]], indent=8)}),
    ("planted: a message's outcome before its commit word", same_message, dict(kills=1), {
        '            yield from publish(event)\n            yield from r.give((q.src, EVENTS))  #':
            '            yield write(("outcome", q.number), (0, event.number))\n'
            '            yield from publish(event)\n            yield from r.give((q.src, EVENTS))  #'}),
    ("planted: the room's counter after the head", pair_and_message, dict(kills=1), {COUNTER: EVENT_HEAD, EVENT_HEAD: COUNTER}),
    ("planted: the repair completes the head of a message only", same_message, dict(kills=1), {
        'event = yield read(event_slot(word, "event"))\n            yield from complete(event)':
            'event = yield read(event_slot(word, "event"))\n            yield write("event head", word)'}),
    ("planted: a message looks for its outcome without the account's lock", same_message, {}, {
        SAY_LOOK: """            recorded = yield read(("outcome", q.number))
            if not (yield from r.take(w, (), q.src)):
                continue
            if recorded:
                yield from r.give((q.src,))"""}),
    ("planted: a message holds the event lock only", same_message, {}, {
        "            if not (yield from r.take(w, (q.src,), EVENTS)):": """            yield r.post(q.src)
            if not (yield from r.take(w, (), EVENTS)):""",
        GIVE_SAID: "yield r.post(EVENTS)"}),
]


@of("begin_end")
def starts(m, **more):
    return m.begin_end(**more)


BEGIN_HOLD = [
    (starts, dict(says=2, crashes=2)),
    (starts, dict(says=3, cuts=1, stops=1)),
    (starts, dict(says=3, rings=(1, 2), cuts=1)),
    (starts, dict(says=2, journal_kills=1, cuts=1)),
    (starts, dict(says=2, snapshots=1, crashes=1, stops=1)),
]
SKIP = "skip = 0 if state.ended else state.ring"
BEGUN = """            yield from file.write(entries, Begin(skip, ring))
            yield file.sync()
"""
BEGIN_PLANTED = [
    ("planted: no number is skipped after an unclean stop", starts, dict(crashes=1), {SKIP: "skip = 0"}),
    ("planted: numbers are skipped after a stop, too", starts, dict(stops=1), {SKIP: "skip = state.ring"}),
    ("planted: rooms without events in the file are not skipped", starts, dict(crashes=1), {
        "{room: number + entry.skip for room, number in numbers.items()}":
            "{room: number + entry.skip if number else 0 for room, number in numbers.items()}",
        "number + skip for room": "(number + skip if number else 0) for room"}),
    ("planted: skips do not add up", starts, dict(rooms=("red",), says=3, rings=(1,), crashes=2), {
        "numbers = {room: number + entry.skip for room, number in numbers.items()}": "pass"}),
    ("planted: the skip is the size of the new ring", starts, dict(rings=(1, 2), crashes=1), {
        SKIP: "skip = 0 if state.ended else ring"}),
    ("planted: the skip is not durable before anybody is served", starts, dict(rooms=("red",), crashes=1, cuts=1), {
        BEGUN: BEGUN.split("\n")[0].replace("yield from file.write(", "yield locked('not synced', lambda m: [(None, file.put(m, ")
               .rstrip().removesuffix(")") + "))])\n"}),
    ("planted: a start writes no BEGIN", starts, dict(rooms=("red",), crashes=2), {
        BEGUN: "            entries = entries - 1\n"}),
    ("planted: a new journal in a region that is in use writes BEGIN", starts, dict(journal_kills=1), {
        "        if serving:\n": "        if False:\n"}),
    ("planted: END is written before the last event", starts, dict(stops=1), {
        '(m["ending"] and m["status", "worker"] == "off")': 'm["ending"]'}),
    ("planted: any END in the file is a clean stop", starts, dict(stops=1, crashes=1), {
        "State(tuple(numbers.values()), entry.ring, False)": "State(tuple(numbers.values()), entry.ring, state.ended and bool(state.ring))",
        "State(tuple(numbers.values()), state.ring, False)": "State(tuple(numbers.values()), state.ring, state.ended)"}),
    ("open: a snapshot does not have the size of the ring", starts, dict(snapshots=1, crashes=1), {
        '(entries, fold(m, m["shown"][:entries]))': '(entries, fold(m, m["shown"][:entries])._replace(ring=0))'}),
    ("open: a snapshot does not have the skips", starts, dict(rooms=("red",), snapshots=1, crashes=2), {
        '(entries, fold(m, m["shown"][:entries]))':
            '(entries, fold(m, [e._replace(skip=0) if isinstance(e, Begin) else e for e in m["shown"][:entries]]))'}),
    ("open: a snapshot does not say whether the stop was clean", starts, dict(snapshots=1, crashes=1), {
        '(entries, fold(m, m["shown"][:entries]))': '(entries, fold(m, m["shown"][:entries])._replace(ended=True))'}),
]


@of("chat_once")
def chat_and_pay(m, asked=("chat", "pay", "pay"), **more):
    return m.chat_once([asked], **more)


@of("chat_once")
def two_clients(m, **more):
    return m.chat_once([("chat", "pay"), ("chat",)], **more)


CHAT_HOLD = [
    (chat_and_pay, dict(crashes=1, drops=1)),
    (chat_and_pay, dict(sync=False, crashes=1)),
    (chat_and_pay, dict(asked=("pay", "chat", "chat"), sync=False, crashes=1)),
    (two_clients, dict(crashes=1, drops=1)),
    (two_clients, dict(sync=False, crashes=1)),
]
LATER = "if here and here[0] > req:  # the place"
CHAT_PLANTED = [
    ("planted: a fold stores an outcome over a later one's", chat_and_pay, dict(sync=False, crashes=1), {
        LATER: "if False:  #", "if req <= record.newest - window:  # too old": "if False:  # too old"}),
    ("planted: newest is the last one's in the fold", chat_and_pay, dict(sync=False, crashes=1), {
        "newest=max(record.newest, req)": "newest=req"}),
    ("planted: an event names a client's place, and not the client", two_clients, dict(drops=1, crashes=1), {
        "record.who != entry.who:": "False:"}),
    ("planted: a fold does not look at the floor", two_clients, dict(drops=2, sync=False), {
        "if req < record.floor:  # of a record before": "if False:  #"}),
    ("planted: messages have no outcomes in the file", chat_and_pay, dict(crashes=1), {
        "elif record:\n": "elif record and entry.kind == 'pay':\n"}),
    ("planted: a resumed LOGIN does not wait for its record", two_clients, dict(drops=1, crashes=1), {
        '{("session", c): len(m["log"]), ("repeat", c): unanswered})]\n        if': '{("session", c): 0, ("repeat", c): unanswered})]\n        if',
        "or m[\"after\"][events - 1] <= txns": "or True"}),
    ("open: a fold takes the events of a batch first", chat_and_pay, dict(sync=False, crashes=1), {
        'of["log"][t0:t1] + of["events"][e0:e1]': 'of["events"][e0:e1] + of["log"][t0:t1]'}),
    ("open: a small batch has an event, and not the NEW_CLIENT before it", chat_and_pay, dict(sync=False, crashes=1), {
        "or m[\"after\"][events - 1] <= txns": "or True"}),
]


@of("readers")
def reads(m, said=("red", "red", "red"), **more):
    return m.readers(said, **more)


READ_HOLD = [
    (reads, {}),
    (reads, dict(own=False, looks=1)),
    (reads, dict(rooms=("red", "blue"), said=("red", "blue", "red"))),
    (reads, dict(sync=False)),
    (reads, dict(capacity=1, own=False)),
    (reads, dict(order="tso")),
]
OWED = """                    while not gap and number <= cursor:  # what is owed: from the ring, while it is there
"""
NOTED = 'its_event = yield read(("last event", room))\n            upto = max(upto, its_event)'
READ_COUNTERS = """        head = yield read("head")
        upto, counters = head, ()
"""
READ_PLANTED = [
    ("planted: a worker reads up to the head in sync", reads, {}, {
        'durable = yield read("durable" if sync else "head")': 'durable = yield read("head")',
        'upto = m["durable"] if sync else m["head"]': 'upto = m["head"]'}),
    ("planted: JOIN is answered when it is executed", reads, {}, {
        "if parked and parked[2] <= upto and m": "if parked and m",
        'if parked and parked[2] <= durable and what == "answer":': 'if parked and what == "answer":'}),
    ("planted: a JOIN without an event of its own waits for nothing", reads, dict(own=False), {
        'last, number = yield read(("last", room), ("last event", room))\n': 'last, number = (yield read(("last", room))), 0\n'}),
    ("planted: gaps are sent at once", reads, {}, {
        "if gap and gap[0] <= durable:": "if gap:", "or gap and gap[0] <= upto)": "or gap)"}),
    ("planted: gaps are sent when the noted head is durable, whatever the counters tell of", reads, {}, {
        NOTED: NOTED.split("\n")[0]}),
    ("planted: a room's counter is stored before its last event", reads, dict(capacity=1), {
        '        yield write(("last event", room), event.number)  # before the counter: who reads that finds this\n': "",
        'yield write(("last", room), event.seq)\n':
            'yield write(("last", room), event.seq)\n        yield write(("last event", room), event.number)\n'}),
    ("planted: the counters are noted before the head", reads, {}, {
        READ_COUNTERS: '        upto, counters = 0, ()\n', "return head, (upto": 'head = yield read("head")\n        return head, (max(upto, head)'}),
    ("planted: pushes before a pending gap", reads, {}, {"if not gap and cursor < durable:": "if cursor < durable:",
        "bool(not gap and cursor < upto or": "bool(cursor < upto or"}),
    ("planted: a JOIN not answered is passed over", reads, {}, {OWED: "                    while False:\n"}),
    ("planted: the same, by a reader that is lapped", reads, {}, {
        "in (*joined, *(parked or ())[:1]):": "in joined:"}),
    ("planted: a JOIN not answered gets its pushes", reads, {}, {
        "if event.room in joined:": "if event.room in joined + (parked or ())[:1]:"}),
    ("planted: at a wake-up pushes go before answers", reads, dict(rooms=("red", "blue"), said=("red",)), {
        "elif parked and event.room == parked[0] and event.seq > passed:": "elif False:", OWED: "                    while False:\n"}),
    ("open: ROOM_LIST waits for the head that it found", reads, dict(looks=1), {
        'number = yield read(("last event", rooms[0]))\n        yield locked': 'number = yield read("head")\n        yield locked'}),
    ("open: the gap of a JOIN that is answered meanwhile is sent at once", reads, {}, {
        "if gap:  # with the others, when it is durable": "if False:", OWED: OWED.replace("not gap and ", "")}),
]


@of("leaves")
def one_user(m, **more):
    """Two connections of one user, in a room on two workers."""
    return m.leaves([("u", "w0", ("red",)), ("u", "w1", ("red",))], **more)


@of("leaves")
def two_users(m, **more):
    return m.leaves([("u", "w0", ("red", "blue")), ("v", "w1", ("red",))], **more)


LEAVE_HOLD = [
    (one_user, dict(kills=2, journal_kills=1)),
    (one_user, dict(kills=1, logouts=1, joins=("red",), full=1, allocated=3)),
    (two_users, dict(kills=1, journal_kills=1, logins=("u", "v"))),
    (two_users, dict(kills=2, full=1, allocated=3, joins=("blue",))),
    (two_users, dict(logouts=1, full=1, allocated=4, joins=("blue",), logins=("u",))),
]
ENDS = 'yield locked("its sessions end", lambda m: [(None, ended(m, what))])'
ELSEWHERE = "if inside(m, s.user, room, i):"
LEAVE_PLANTED = [
    ("planted: the repair publishes the leaves and waits for space", two_users, dict(kills=1, logouts=1, journal_kills=1), {
        ENDS: then(ENDS, 'yield locked("space for a leave", lambda m: [(None, {})] * free_slot(m))', indent=16)}),
    ("planted: the leaves are not reserved in the file", two_users, dict(full=1, allocated=4, logouts=2, joins=("blue",)), {
        "m[\"head\"] + event + reserve > m": "m[\"head\"] + event > m"}),
    ("planted: a leave is reserved for each session, not for each membership", two_users, dict(
        full=1, allocated=4, logouts=2, joins=("blue",)), {
            "reserve = memberships(m) + 1": "reserve = len(all_of(m))"}),
    ("planted: a slot is given where the file has no space", two_users, dict(full=1, allocated=0, logouts=1), {
        ' or m["head"] + 1 > m["allocated"]:\n': ":\n"}),
    ("planted: superseding publishes an event", two_users, dict(full=1, allocated=3, logins=("u",)), {
        'changes = rest | {("session", free[0])': 'if m["head"] + 1 + memberships(m) > m["allocated"]:\n            return []\n'
        '        changes = rest | {("session", free[0])'}),
    ("planted: a record is free when its session ends", two_users, dict(logouts=1), {
        'm["session", i]._replace(state=ENDING)': "Session()"}),
    ("planted: whether a leave makes an event is decided when its session ends", one_user, dict(kills=2), {
        "    rooms: tuple = ()\n": "    rooms: tuple = ()\n    alone: tuple = ()\n", ELSEWHERE: "if room not in s.alone:",
        'm["session", i]._replace(state=ENDING)': 'm["session", i]._replace(state=ENDING, alone=tuple('
        'r for r in m["session", i].rooms if not inside(m, m["session", i].user, r, i)))'}),
    ("planted: only live sessions count for a leave", one_user, dict(kills=2), {
        "if i != but)": "if i != but and (but is None or s.state == LIVE))"}),
    ("planted: only live sessions count for a join", one_user, dict(logouts=2, logins=("u",), joins=("red",)), {
        "if i != but)": "if i != but and (but is not None or s.state == LIVE))"}),
    ("planted: a rebuild counts the members of live sessions only", two_users, dict(kills=1), {
        "return len({s.user for s in all_of(m).values() if room in s.rooms})":
            "return len({s.user for s in all_of(m).values() if room in s.rooms and (s.state == LIVE or not m['recovery'])})"}),
    ("planted: the table has no records for ENDING sessions", one_user, dict(logins=("u",)), {
        "range(2 * setting)": "range(setting)"}),
    ("planted: who publishes the last leave frees the record, nobody else", two_users, dict(kills=1, logouts=1), {
        'else [(f"record {i} is free", {("session", i): Session()})]': 'else []',
        '            return [("the event is complete", complete(m))]':
            '            done = complete(m)\n            i = m["committed"].session\n            s = done["session", i]\n'
            '            if s.state == ENDING and not s.rooms:\n                done |= {("session", i): Session()}\n'
            '            return [("the event is complete", done)]'}),
]


@of("archive_behind")
def histories(m, **more):
    return m.archive_behind(**more)


ARCHIVE_HOLD = [
    (histories, dict(archive_kills=1, cuts=1)),
    (histories, dict(snapshots=2, cuts=1)),
    (histories, dict(snapshots=3, crashes=1, bad=1)),
    (histories, dict(says=3, ring=2, snapshots=2, archive_kills=1, cuts=1)),
    (histories, dict(snapshots=2, full=1, stops=1)),
    (histories, dict(says=2, pays=2, lag=1, archive_kills=1)),
    (histories, dict(pays=1, lag=1, stops=1)),
    (histories, dict(tips=1, crashes=1)),
    (histories, dict(repairs=1, crashes=1)),
]
LACKS = 'event_of(oldest) and oldest not in m["archive kept"]'
BEHIND = 'behind = sum(map(event_of, m["events"])) - len(m["archive"])'
ARCHIVE_PLANTED = [
    ("planted: the archive takes what is not durable", histories, dict(cuts=1), {' if number <= m["durable"]}': "}"}),
    ("planted: the archive keeps what is above the log's end", histories, dict(repairs=1, crashes=1), {
        'kept = tuple(e for e in m["archive"] if e.number <= last_event(m))': 'kept = m["archive"]'}),
    ("planted: the archive answers before it has dropped that", histories, dict(repairs=1, crashes=1), {
        'if not m["dropped"]:': "if False:"}),
    ("open: events are published before the archive has dropped that", histories, dict(repairs=1, crashes=1), {
        'm["says"] and m["dropped"]': 'm["says"]'}),
    ("planted: the archive's position is the durable event", histories, dict(tips=1, crashes=1), {
        '"archive at": following[0].number}': '"archive at": following[-1].number if len(following) > 1 else m["durable"]}',
        '{"archive": kept, "archive at": kept[-1].number if kept else 0, "dropped": 1}': '{"archive": kept, "dropped": 1}'}),
    ("planted: a history goes on in the ring where the two do not meet", histories, dict(says=3), {
        'if at + 1 >= m["oldest"]:': "if True:"}),
    ("planted: a segment goes that the archive lacks", histories, dict(snapshots=2), {LACKS: "False"}),
    ("planted: a segment goes that the archive has not synced", histories, dict(snapshots=2, cuts=1), {
        LACKS: LACKS.replace(" kept", "")}),
    ("planted: a segment goes where no spill can be written", histories, dict(snapshots=2, full=1), {
        'elif not m["full"]:\n                out.append((("spill", oldest), {}))':
            'else:\n                out.append((("remove" if m["full"] else "spill", oldest), {}))'}),
    ("planted: the archive does not read the spill", histories, dict(snapshots=2), {'(*m["spill"], *m["shown"]': '(*(), *m["shown"]'}),
    ("planted: a segment goes that the newest snapshot covers", histories, dict(snapshots=3, crashes=1, bad=1), {
        'min(m["made"])[0]': 'max(m["made"])[0]'}),
    ("planted: the lag counts money", histories, dict(says=2, pays=2, lag=1), {
        BEHIND: 'behind = file.end(m["shown"])[0] - len(m["archive"])'}),
    ("planted: money waits for an archive that lags", histories, dict(pays=1, lag=1, stops=1), {
        'if m["pays"]:\n            out': 'if m["pays"] and len(m["events"]) == len(m["archive"]):\n            out'}),
]


@of("damage")
def damaged(m, script=("chat", "pair", "chat"), **more):
    return m.damage(script, **more)


DAMAGE_HOLD = [
    (damaged, dict(crashes=1, drops=1, bad_events=1)),
    (damaged, dict(crashes=2, bad_events=1)),
    (damaged, dict(script=("chat", "pair"), snapshots=2, crashes=2, bad_events=1, bad_snapshots=1)),
    (damaged, dict(snapshots=2, crashes=1, bad_money=1)),
]
MARKED = "s = s._replace(marked=s.floor is not None)"
DAMAGE_PLANTED = [
    ("planted: client records are not marked", damaged, dict(drops=1, crashes=1, bad_events=1), {MARKED: "pass"}),
    ("planted: the event of a pair is not made from its transaction", damaged, dict(crashes=1, bad_events=1), {
        'for r in batch.money if r.kind == "pair")': "for r in ())"}),
    ("planted: a marked record loses its outcomes", damaged, dict(script=("pair", "chat"), drops=1, crashes=1, bad_events=1), {
        MARKED: "s = s._replace(marked=s.floor is not None, outcomes=())"}),
    ("planted: a marked record's floor is not in the log", damaged, dict(crashes=2, bad_events=1), {
        'money += (Record("floor", m["next"]),)\n': "pass\n"}),
    ("planted: LOGIN is answered before the floor is durable", damaged, dict(crashes=2, bad_events=1), {
        'return [("LOGIN is answered", {"session": 2})] * (m["pending"] == Batch((), ()))':
            'return [("LOGIN is answered", {"session": 2})] * (m["pending"] == Batch((), ()) or '
            'm["pending"].money[0].kind == "floor")'}),
    ("planted: no new epoch where the archive has not passed the batch", damaged, dict(crashes=1, bad_events=1), {
        "s = s._replace(epoch=i + 1)": "pass"}),
    ("open: each start decides anew whether the archive had passed the batch", damaged, dict(crashes=2, bad_events=1), {
        'decided = dict(m["decided"])  #': "decided = {}  #"}),
    ("open: each start draws a new epoch", damaged, dict(script=("chat", "chat"), crashes=2, bad_events=1), {
        "epoch=i + 1)": 'epoch=i + 1 + 10 * m["left", "crashes"])'}),
    ("planted: the numbers are not the archive's where it has passed the batch", damaged, dict(crashes=1, bad_events=1), {
        's = s._replace(last=max(s.last, last_of(m, i)))': "pass"}),
    ("planted: a damaged event part ends the log", damaged, dict(crashes=1, bad_events=1), {
        "            if batch.events != BAD:\n": "            if batch.events == BAD:\n                return s\n            if batch.events != BAD:\n"}),
    ("planted: a batch is set aside whole where its event part is damaged", damaged, dict(crashes=1, bad_events=1), {
        "            s = apply(s, batch.money)\n": "            s = apply(s, batch.money if batch.events != BAD else ())\n"}),
    ("planted: a start is refused for any damaged money part", damaged, dict(snapshots=1, crashes=1, bad_money=1), {
        "        at, s = made\n": '        at, s = made\n        if any(batch.money == BAD for batch in m["log"]):\n            return None\n'}),
    ("planted: a start passes over a damaged money part", damaged, dict(crashes=1, bad_money=1), {
        "                return None\n            s = apply": "                continue\n            s = apply"}),
    ("planted: a snapshot does not have the outcomes of messages", damaged, dict(snapshots=1, drops=1, crashes=1), {
        '"made": ((len(m["log"]), s), m': '"made": ((len(m["log"]), s._replace(outcomes=tuple('
        'n for n in s.outcomes if script[n - 1] == "pay"))), m'}),
    ("planted: a snapshot does not have the marks", damaged, dict(snapshots=1, drops=1, crashes=2, bad_events=1), {
        '"made": ((len(m["log"]), s), m': '"made": ((len(m["log"]), s._replace(marked=False)), m'}),
    ("planted: a snapshot does not have the rooms' numbers", damaged, dict(snapshots=1, crashes=1), {
        '"made": ((len(m["log"]), s), m': '"made": ((len(m["log"]), s._replace(last=0)), m'}),
    ("planted: a segment goes that only the newest snapshot covers", damaged, dict(
        snapshots=1, crashes=1, bad_snapshots=1), {'m["made"][1][0])': 'm["made"][0][0])'}),
    ("planted: a snapshot stands in the middle of a batch", damaged, dict(snapshots=1, crashes=1, drops=1), {
        '"made": ((len(m["log"]), s), m': '"made": ((len(m["log"]), s if not m["log"][-1].events else apply('
        'fold(m, len(m["log"]) - 1, m["made"][0]), m["log"][-1].money)), m'}),
]


@of("board")
def two_takers(m, **more):
    return m.board([[m.Take("A")], [m.Take("B")]], {"A": 1, "B": 1, "C": 0}, **more)


@of("board")
def taker_and_owners(m, **more):
    """The offer goes, and another's comes in its place."""
    return m.board([[m.Take("A")], [m.Remove("C"), m.Put("D")]], {"A": 1, "C": 0, "D": 0}, **more)


BOARD_HOLD = [
    (two_takers, dict(kills=1, child_kills=1)),
    (taker_and_owners, dict(kills=1)),
]
TAKEN = "            if again != offer:  # it has changed: begin anew"
GOES = '            yield write("offer", None)  # under both locks\n'
BOARD_PLANTED = [
    ("planted: the offer is not read again under the locks", two_takers, {}, {TAKEN: "            if False:"}),
    ("planted: what was read is trusted where an offer is there", taker_and_owners, {}, {TAKEN: "            if not again:"}),
    ("planted: the offer goes after the locks", taker_and_owners, {}, {
        GOES: "", '            yield write(("intent", w, "txn"), 0)\n': GOES + '            yield write(("intent", w, "txn"), 0)\n'}),
    ("planted: the repair leaves the offer on the board", two_takers, dict(kills=1), {
        "if offer and offer == record.offer:": "if False:"}),
    ("planted: the repair removes the offer that came after it", taker_and_owners, dict(kills=1), {
        "if offer and offer == record.offer:": "if offer:"}),
]


@of("room_ends")
def banned(m, **more):
    return m.room_ends(["say", "say", "ban", "leave", "say"], **more)


@of("room_ends")
def superseded(m, **more):
    return m.room_ends(["say", "say", "supersede", "leave", "say"], **more)


@of("room_ends")
def opened_again(m, **more):
    return m.room_ends(["say", "close", "leave", "open", "say", "say", "say"], **more)


ROOM_HOLD = [(banned, {}), (banned, dict(capacity=1)), (superseded, {}), (opened_again, {}), (opened_again, dict(capacity=1))]
LOOKS_FOR_WORK = 'yield locked("look for work", lambda'
ITS_SESSION = 'cursor, session = event.number, (yield read("session"))  # after the head'
ROOM_LOOKS = """                last = yield read("last")
                session = yield read("session")  # these after the counter
                room = yield read("room")
"""
STAYS = 'if session == "live" and room == Room(joined):'
ROOM_PLANTED = [
    ("planted: a session is looked at before the head is read", superseded, {}, {
        LOOKS_FOR_WORK: then('session = yield read("session")', LOOKS_FOR_WORK, indent=12),
        ITS_SESSION: "cursor = event.number"}),
    ("planted: a session's state is looked at by who is lapped only", superseded, {}, {
        'if session == "live" and joined == event.epoch:': "if joined == event.epoch:"}),
    ("planted: who is lapped does not look at the session", superseded, dict(capacity=1), {STAYS: "if room == Room(joined):"}),
    ("planted: who is lapped does not look at the role", banned, dict(capacity=1), {
        STAYS: 'if session == "live" and room._replace(banned=False) == Room(joined):'}),
    ("planted: who is lapped does not look at the access", opened_again, dict(capacity=1), {
        STAYS: 'if session == "live" and room._replace(open=True) == Room(joined):'}),
    ("planted: who is lapped does not look at the epoch", opened_again, {}, {
        STAYS: 'if session == "live" and joined and room._replace(epoch=1) == Room():'}),
    ("planted: who is lapped looks at the room, then at its counter", banned, dict(capacity=1), {
        ROOM_LOOKS: """                session = yield read("session")
                room = yield read("room")
                last = yield read("last")
"""}),
    ("planted: positions are kept without the epoch", opened_again, {}, {
        'if session == "live" and joined == event.epoch:': 'if session == "live" and joined:',
        "                else:\n                    joined = 0\n": ""}),
    ("planted: the event of a ban does not end the pushes", banned, {}, {'("banned", "closed")': '("closed",)'}),
    ("planted: the event of a closing does not end the pushes", opened_again, {}, {'("banned", "closed")': '("banned",)'}),
]
HOLD = [*LOG_HOLD, *PAIR_HOLD, *BEGIN_HOLD, *CHAT_HOLD, *READ_HOLD, *LEAVE_HOLD, *ARCHIVE_HOLD, *DAMAGE_HOLD, *BOARD_HOLD,
        *ROOM_HOLD]
DEEP = []
PLANTED = [*LOG_PLANTED, *PAIR_PLANTED, *BEGIN_PLANTED, *CHAT_PLANTED, *READ_PLANTED, *LEAVE_PLANTED, *ARCHIVE_PLANTED,
           *DAMAGE_PLANTED, *BOARD_PLANTED, *ROOM_PLANTED]
