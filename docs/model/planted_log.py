"""The one log, its records and outcomes: scenarios, and a bug for each of its rules."""
from planting import of, then


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
    (pair_and_say, dict(crashes=1, journal_kills=1)),
]
HEADS = """event_head = yield read("event head")  # first: what it has of a pair, the txn head has too
            head = yield read("head")"""
CUT = "records, said = cut(records[:at_once], said[:at_once], last, last_event)"
UNPAIRED, UNPAID = "if record.event > last_event + len(said):", "if event.after > last + len(records):"
COVERED = 'if place[1] <= txn and place[2] <= event]'
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
    ("planted: a PAYMENT takes the last slot",
     tips, {}, {'if number > m["event limit"] - 1:': 'if number > m["event limit"]:'}),
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
def end_and_message(m, **more):
    return m.pair([[m.Say(1, "A", "red")], [m.End(2, "A")]], {"A": 0}, **more)


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
    (end_and_message, dict(kills=1, child_kills=1)),
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
            ended = yield read(("ended", q.src))
            recorded = yield read(("outcome", q.number))
            if ended or recorded:
                yield from r.give((q.src,))
                if not ended:
                    yield answered(q, recorded)"""
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
    ("planted: the room's counter after the head",
     pair_and_message, dict(kills=1), {COUNTER: EVENT_HEAD, EVENT_HEAD: COUNTER}),
    ("planted: the repair completes the head of a message only", same_message, dict(kills=1), {
        'event = yield read(event_slot(word, "event"))\n            yield from complete(event)':
            'event = yield read(event_slot(word, "event"))\n            yield write("event head", word)'}),
    ("planted: a message looks for its outcome without the account's lock", same_message, {}, {
        SAY_LOOK: SAY_LOOK.replace('            recorded = yield read(("outcome", q.number))\n', "").replace(
            "            if not (yield", '            recorded = yield read(("outcome", q.number))\n            if not (yield')}),
    ("planted: a message looks at its session without the account's lock", end_and_message, {}, {
        SAY_LOOK: SAY_LOOK.replace('            ended = yield read(("ended", q.src))\n', "").replace(
            "            if not (yield", '            ended = yield read(("ended", q.src))\n            if not (yield')}),
    ("planted: the mark is set without the account's lock", end_and_message, {}, {
        "        while not (yield from r.take(w, (), q.src)):\n            pass\n        yield write((\"ended\"": '        yield write(("ended"',
        '        yield from r.give((q.src,))\n        yield locked("that is': '        yield locked("that is'}),
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
    (starts, dict(says=2, crashes=1, cuts=1)),
    (starts, dict(says=2, crashes=1, stops=1)),
    (starts, dict(says=3, orphans=1, stops=1)),
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
    ("open: a start does not sync what it found before it writes BEGIN", starts, dict(crashes=1, cuts=1), {
        "yield file.sync()  # what was found": "pass  #"}),
    ("planted: a start writes no BEGIN", starts, dict(rooms=("red",), crashes=2), {
        BEGUN: "            entries = entries - 1\n"}),
    ("planted: a new journal in a region that is in use writes BEGIN", starts, dict(journal_kills=1), {
        "        if serving:\n": "        if False:\n"}),
    ("planted: END is written before the last event", starts, dict(stops=1), {
        '(m["ending"] and m["status", "worker"] == "off")': 'm["ending"]'}),
    ("planted: a journal that waits no longer for a worker writes END", starts, dict(orphans=1), {
        'if what == "end":\n            yield from file.write': 'if True:\n            yield from file.write'}),
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
    (chat_and_pay, dict(crashes=2)),
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


DEEP = [
    (pair_and_say, dict(workers=2, kills=1, journal_kills=1, cuts=1)),
    (tips, dict(journal_kills=1, cuts=1)),
    (pair_and_message, dict(kills=2, child_kills=1)),
    (two_pairs, dict(kills=1, child_kills=1, order="tso")),
    (starts, dict(says=3, crashes=1, cuts=1, stops=1, snapshots=1)),
    (two_clients, dict(sync=False, crashes=1, drops=1)),
]
HOLD = [*LOG_HOLD, *PAIR_HOLD, *BEGIN_HOLD, *CHAT_HOLD]
PLANTED = [*LOG_PLANTED, *PAIR_PLANTED, *BEGIN_PLANTED, *CHAT_PLANTED]
