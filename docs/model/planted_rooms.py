"""The one log, and who is shown what of a room: scenarios, and a bug for each rule."""
from planting import of, then


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
    (reads, dict(said=("red", "red"), looks=1)),
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


@of("leaves")
def newcomers(m, **more):
    return m.leaves([("u", "w0", ()), ("v", "w0", ())], workers=1, capacity=2, logouts=2, full=1, **more)


LEAVE_HOLD = [
    (newcomers, dict(allocated=5, joins=("red", "red"), kills=1)),
    (one_user, dict(kills=2, journal_kills=1)),
    (one_user, dict(kills=1, logouts=1, joins=("red",), parts=("red",), full=1, allocated=4)),
    (two_users, dict(kills=1, journal_kills=1, logins=("u", "v"))),
    (two_users, dict(kills=2, full=1, allocated=6, joins=("blue",), parts=("red",))),
    (two_users, dict(logouts=1, full=1, allocated=6, joins=("blue",), logins=("u",))),
    (two_users, dict(capacity=2, spare=1, journal_kills=1, kills=1, joins=("blue",), parts=("red", "blue"))),
]
RESERVED = " - members(m) - 1"
ENDS = 'yield locked("its sessions end", lambda m: [(None, ended(m, what))])'
ELSEWHERE = "if inside(m, s.user, room, i):"
LEAVE_PLANTED = [
    ("planted: the repair publishes the leaves and waits for space",
     two_users, dict(kills=1, logouts=1, journal_kills=1), {
        ENDS: then(ENDS, 'yield locked("space for a leave", lambda m: [(None, {})] * ('
                         'm["head"] < m["durable"] + capacity))', indent=16)}),
    ("planted: the leaves are not reserved in the file",
     two_users, dict(full=1, allocated=4, logouts=2, joins=("blue",)), {RESERVED: ""}),
    ("planted: a leave is reserved for each session, not for each member", two_users, dict(
        full=1, allocated=4, logouts=2, joins=("blue",)), {RESERVED: " - len(all_of(m))"}),
    ("planted: a join is not counted yet, and no leave reserved for it",
     newcomers, dict(allocated=5, joins=("red", "red", "blue")), {RESERVED: " - members(m)"}),
    ("planted: a join takes one place in the file, and its leave none",
     newcomers, dict(allocated=3, joins=("red", "red")), {
        '- 2 * (given - m["durable"])': '- (given - m["durable"])', "left // 2": "left"}),
    ("planted: LEAVE_ROOM goes only as far as other requests",
     two_users, dict(full=1, allocated=4, parts=("red",)), {
        'if m["head"] + 1 > m["durable"] + capacity:': 'if m["head"] + 1 > m["limit"]:'}),
    ("planted: superseding publishes an event", two_users, dict(full=1, allocated=4, logins=("u",)), {
        'changes = rest | {("session", free[0])': 'if m["head"] + 1 > m["limit"]:\n            return []\n'
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
        'out.append((f"record {i} is free", {("session", i): Session()}))': 'pass',
        '            return [("the event is complete", complete(m))]':
            '            done = complete(m)\n            i = m["committed"].session\n            s = done["session", i]\n'
            '            if s.state == ENDING and not s.rooms:\n                done |= {("session", i): Session()}\n'
            '            return [("the event is complete", done)]'}),
]


@of("places")
def two_say_two_leave(m, **more):
    return m.places([("say", "say", "leave", "leave", "say")], **more)


@of("places")
def two_workers(m, **more):
    return m.places([("say", "leave", "say"), ("say", "leave")], **more)


@of("places")
def two_leavers(m, **more):
    return m.places([("say", "leave"), ("leave", "say")], **more)


PLACE_HOLD = [
    (two_say_two_leave, dict(journal_kills=1)),
    (two_workers, {}),
    (two_leavers, dict(order="tso")),
]
PLACE_PLANTED = [
    ("planted: the limits are noted when a request begins to wait", two_workers, {}, {
        "looked = None  # a limit may have moved since": 'looked = yield read("leave limit", "limit")'}),
    ("planted: a limit that moves is not noticed", two_say_two_leave, {}, {
        "moved, looked = looked != (leave_limit, limit), (leave_limit, limit)":
            "moved, looked = looked is None, (leave_limit, limit)"}),
    ("planted: a leave is refused when it has waited for long", two_say_two_leave, {}, {
        'done = yield attempt(leaves[0], script, False)': 'done = yield attempt(leaves[0], script, True)'}),
    ("planted: who comes later finds a place first", two_say_two_leave, {}, {
        'if script[what] == "leave" or not others:': "if True:"}),
    ("planted: the journal that takes over gives less", two_workers, dict(journal_kills=1), {
        'durable = yield read("durable")\n': "durable = 0\n"}),
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
    ("planted: what was read is trusted where an offer is there",
     taker_and_owners, {}, {TAKEN: "            if not again:"}),
    ("planted: the offer goes after the locks", taker_and_owners, {}, {
        GOES: "", '            yield write(("intent", w, "txn"), 0)\n': GOES + '            yield write(("intent", w, "txn"), 0)\n'}),
    ("planted: the repair leaves the offer on the board", two_takers, dict(kills=1), {
        "if offer and offer == record.offer:": "if False:"}),
    ("planted: the repair removes the offer that came after it", taker_and_owners, dict(kills=1), {
        "if offer and offer == record.offer:": "if offer:"}),
]


@of("change")
def text_and_others(m, **more):
    return m.change([[m.Change(1, (2,))], [m.Plain(2)]], **more)


@of("change")
def topic_and_access(m, **more):
    """Two changes, the first of which has a text; its client comes back to the worker that takes the place."""
    return m.change([[m.Change(1, (1, 0))], [m.Change(2, (1,))]], **more)


@of("change")
def blocks(m, **more):
    return m.change([[m.Block(1)], [m.Direct(2), m.Direct(3)]], **more)


CHANGE_HOLD = [
    (text_and_others, dict(kills=2)),
    (topic_and_access, dict(kills=1, child_kills=1)),
    (topic_and_access, dict(order="tso")),
    (blocks, dict(kills=1, child_kills=1)),
]
CUT_TEXT, REDONE = "                return before, event\n", "                    yield from apply(record, txn)\n"
BEHIND = "                yield write((\"slot\", head + behind, \"word\"), 0)\n"
TEXT_IS_THERE = '            yield write(("slot", txn, "word"), txn)\n        text, txn'
CHANGE_PLANTED = [
    ("planted: the repair leaves a text behind the head", text_and_others, dict(kills=2), {
        BEHIND: "                pass\n"}),
    ("planted: the head reaches each text", text_and_others, {}, {
        TEXT_IS_THERE: TEXT_IS_THERE.replace("txn)\n", 'txn)\n            yield write("head", txn)\n', 1)}),
    ("planted: the outcome comes with the first of two changes", topic_and_access, dict(kills=1), {
        "todo[0], texts[q.number][todo[0]], len(todo) == 1)": "todo[0], texts[q.number][todo[0]], True)"}),
    ("planted: the repair publishes the event and does not make the change", topic_and_access, dict(kills=1), {
        REDONE: ""}),
    ("planted: the repair makes the change and does not publish its event", topic_and_access, dict(kills=1), {
        "if record.event > told:": "if False:"}),
    ("planted: a batch is cut between a text and its change", topic_and_access, {}, {
        CUT_TEXT: "                return txn - 1, event\n"}),
    ("planted: a batch is cut between a change and its event", topic_and_access, {}, {
        "if record.event > event:": "if False:"}),
    ("planted: the journal reads the head of the log before that of the events", topic_and_access, {}, {
        'event = yield read("event head")  # before the head of the log\n            head = yield read("head")':
            'head = yield read("head")\n            event = yield read("event head")'}),
    ("planted: who is blocked is looked at before the lock", blocks, {}, {
        'while not (yield from r.take(w, (), REGISTRY)):\n            pass\n        blocked = yield read("blocked")\n':
            'blocked = yield read("blocked")\n        while not (yield from r.take(w, (), REGISTRY)):\n            pass\n'}),
    ("planted: a block is in the log, and the repair does not make it", blocks, dict(kills=1), {REDONE: ""}),
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


@of("room_ends")
def closed_with_a_topic(m, **more):
    return m.room_ends(["say", "last topic", "open", "say"], leaver=True, **more)


@of("room_ends")
def banned_and_closed(m, **more):
    return m.room_ends(["say", "ban", "say", "close", "open", "say"], leaver=True, **more)


ROOM_HOLD = [
    (banned, {}), (banned, dict(capacity=1)), (superseded, {}), (opened_again, {}), (opened_again, dict(capacity=1)),
    (closed_with_a_topic, dict(capacity=8)), (closed_with_a_topic, {}), (banned_and_closed, dict(capacity=8)),
    (banned_and_closed, dict(capacity=1)),
]
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
    ("planted: who is lapped does not look at the session",
     superseded, dict(capacity=1), {STAYS: "if room == Room(joined):"}),
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
    ("planted: the event of a closing does not end the pushes",
     opened_again, {}, {'("banned", "closed")': '("banned",)'}),
    ("planted: who may not stay is put out at the first change of the room", closed_with_a_topic, dict(capacity=8), {
        '("banned", "closed")': '("banned", "closed", "topic")'}),
    ("planted: a number is used again while its last member's leave is to come", closed_with_a_topic, {}, {
        ' * (not m["inside"])': ""}),
]


@of("deleting")
def deletes_two(m, **more):
    """The place of the first in the table is wanted for the second."""
    return m.deleting((m.Delete(1), m.Say(), m.Say(), m.Delete(2)), 2, **more)


@of("deleting")
def deletes_one(m, **more):
    return m.deleting((m.Delete(1), m.Say()), 1, **more)


@of("deleting")
def deletes_two_at_once(m, **more):
    """Both texts are in the ring, and stay there."""
    return m.deleting((m.Delete(1), m.Delete(2)), 2, ring=4, refuses=True, **more)


DELETE_HOLD = [
    (deletes_two_at_once, {}),
    (deletes_two, dict(anew=1)),
    (deletes_two, dict(kills=1)),
    (deletes_one, dict(kills=1, child_kills=1)),
    (deletes_one, dict(reads=2, order="tso")),
]
NOTED = "        yield from note(what.text, head + 1)\n"
TOLD = "        yield from publish(head + 1, what)\n"
DELETE_PLANTED = [
    ("planted: a deletion is noted after its event", deletes_one, {}, {NOTED: "", TOLD: TOLD + NOTED}),
    ("planted: the repair publishes the event and does not note the deletion", deletes_one, dict(kills=1), {
        "                yield from note(text, event)\n": ""}),
    ("planted: the table is looked at before the ring is read", deletes_one, {}, {
        "            seen, hidden = yield from look(seen, hidden)\n            shown = shown and": "            shown = shown and"}),
    ("planted: a place is used again that the archive has not come to", deletes_two, {}, {
        ' and event <= m["reached"]': ""}),
    ("planted: a place is used again whose text the ring has", deletes_two_at_once, {}, {"event + ring <= m[\"head\"] and ": ""}),
    ("planted: what the table said when the archive was asked is forgotten", deletes_two, {}, {
        "1 not in (before, hidden)": "hidden != 1"}),
    ("planted: an archive that has begun anew answers at once", deletes_two, dict(anew=1), {
        'if len(there) < m["reached"]:': "if False:"}),
    ("planted: an archive that begins anew says so", deletes_two, dict(anew=1), {"if len(taken) > reached:": "if True:"}),
]


DEEP = [
    (deletes_two, dict(anew=1, kills=1, reads=2)),
    (reads, dict(said=("red", "red", "red", "red"), own=False, looks=1)),
    (reads, dict(rooms=("red", "blue"), said=("red", "blue", "red", "blue"), order="tso")),
    (two_users, dict(kills=2, journal_kills=1, logins=("u",), joins=("blue",))),
    (newcomers, dict(allocated=5, joins=("red", "red", "blue"), kills=1)),
    (two_workers, dict(journal_kills=1)),
    (two_takers, dict(kills=2, child_kills=1)),
    (text_and_others, dict(kills=2, child_kills=1)),
    (topic_and_access, dict(kills=2)),
]
HOLD = [*READ_HOLD, *LEAVE_HOLD, *PLACE_HOLD, *BOARD_HOLD, *CHANGE_HOLD, *ROOM_HOLD, *DELETE_HOLD]
PLANTED = [*READ_PLANTED, *LEAVE_PLANTED, *PLACE_PLANTED, *BOARD_PLANTED, *CHANGE_PLANTED, *ROOM_PLANTED, *DELETE_PLANTED]
