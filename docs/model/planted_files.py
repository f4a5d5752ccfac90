"""The one log's files, and what else is made of them: scenarios, and a bug for each rule."""
from planting import of, then


@of("archive_behind")
def histories(m, **more):
    return m.archive_behind(**more)


ARCHIVE_HOLD = [
    (histories, dict(archive_kills=1, cuts=1)),
    (histories, dict(snapshots=2, cuts=1)),
    (histories, dict(snapshots=3, crashes=1, bad=1)),
    (histories, dict(says=3, ring=2, snapshots=2, archive_kills=1, cuts=1)),
    (histories, dict(snapshots=2, full=1, stops=1)),
    (histories, dict(says=1, pays=2, snapshots=3, packs=1, full=1, crashes=1, cuts=1)),
    (histories, dict(says=2, pays=2, lag=1, archive_kills=1)),
    (histories, dict(pays=1, lag=1, stops=1)),
    (histories, dict(tips=1, crashes=1)),
    (histories, dict(repairs=1, crashes=1)),
    (histories, dict(crashes=1, cuts=1)),
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
    ("planted: a segment goes that was packed and not synced",
     histories, dict(says=1, pays=2, snapshots=2, packs=1, crashes=1, cuts=1), {
         'm["packed kept"] > m["first"]': 'm["packed"] > m["first"]'}),
    ("planted: a segment goes where it cannot be packed",
     histories, dict(says=1, pays=2, snapshots=2, packs=1, full=1), {
         'elif not m["full"]:\n                    out.append((("pack",), {}))':
             'else:\n                    out.append((("remove" if m["full"] else "pack",), {}))'}),
    ("planted: the archive does not read the spill",
     histories, dict(snapshots=2), {'(*m["spill"], *m["shown"]': '(*(), *m["shown"]'}),
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
MADE = 'made = len(m["log"]), s'
MARKED = "s = s._replace(marked=s.floor is not None)"
DAMAGE_PLANTED = [
    ("planted: client records are not marked", damaged, dict(drops=1, crashes=1, bad_events=1), {MARKED: "pass"}),
    ("planted: the event of a pair is not made from its transaction", damaged, dict(crashes=1, bad_events=1), {
        'for r in batch.money if r.kind == "pair")': "for r in ())"}),
    ("planted: a marked record loses its outcomes",
     damaged, dict(script=("pair", "chat"), drops=1, crashes=1, bad_events=1), {
        MARKED: "s = s._replace(marked=s.floor is not None, outcomes=())"}),
    ("planted: a marked record's floor is not in the log", damaged, dict(crashes=2, bad_events=1), {
        'money += (Record("floor", m["next"]),)\n': "pass\n"}),
    ("planted: LOGIN is answered before the floor is durable", damaged, dict(crashes=2, bad_events=1), {
        'return [("LOGIN is answered", {"session": 2})] * (m["pending"] == NOTHING)':
            'return [("LOGIN is answered", {"session": 2})] * (m["pending"] == NOTHING or '
            'm["pending"].money[0].kind == "floor")'}),
    ("planted: no new epoch where the archive has not passed the batch", damaged, dict(crashes=1, bad_events=1), {
        "last=0) if epoch > s.epoch else s": "last=0) if 0 else s"}),
    ("open: each start decides anew whether the archive had passed the batch", damaged, dict(crashes=2, bad_events=1), {
        'else epochs) for i': 'else 0) for i', 's = anew(s, epoch)\n        if': 's = anew(s, epochs)\n        if'}),
    ("open: each start draws a new epoch", damaged, dict(script=("chat", "chat"), crashes=2, bad_events=1), {
        'new = found - {i for i, *_ in m["decided"]}': "new = found"}),
    ("planted: a new epoch is not in the log", damaged, dict(script=("chat", "chat"), crashes=2, bad_events=1), {
        "            if at == place:\n": "            if 0:\n"}),
    ("planted: the numbers are not the archive's where it has passed the batch",
     damaged, dict(crashes=1, bad_events=1), {
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
        MADE: 'made = len(m["log"]), s._replace(outcomes=tuple(n for n in s.outcomes if script[n - 1] == "pay"))'}),
    ("planted: a snapshot does not have the marks", damaged, dict(snapshots=1, drops=1, crashes=2, bad_events=1), {
        MADE: MADE + "._replace(marked=False)"}),
    ("planted: a snapshot does not have the rooms' numbers", damaged, dict(snapshots=1, crashes=1), {
        MADE: MADE + "._replace(last=0)"}),
    ("planted: a segment goes that only the newest snapshot covers", damaged, dict(
        snapshots=1, crashes=1, bad_snapshots=1), {'m["made"][1][0])': 'm["made"][0][0])'}),
    ("planted: a snapshot stands in the middle of a batch", damaged, dict(snapshots=1, crashes=1, drops=1), {
        MADE: MADE + ' if not m["log"][-1].events else apply(fold(m, len(m["log"]) - 1, m["made"][0]), m["log"][-1].money)'}),
]


@of("repair")
def operated(m, **more):
    return m.repair(**more)


REPAIR_HOLD = [
    (operated, dict(repairs=2, interrupts=2)),
    (operated, dict(backups=1, restores=1, repairs=1, interrupts=1)),
    (operated, dict(says=2, backups=2, restores=2)),
]
COPIES = 'yield locked("copy what goes, synced", lambda m: put(m, copies=m["shown"].copies | gone(m, cut), synced=1))'
CUT = 'yield locked("sync", lambda m: put(m, synced=1))'
NEW_ID = 'return [(m["ids"] + 1, {"ids": m["ids"] + 1})]'
REPAIR_PLANTED = [
    ("planted: a repair keeps the identity", operated, dict(repairs=1), {
        NEW_ID: 'return [(m["shown"].log_id, {})]', "(Segment(new, 0, new),)": '(Segment(new, 0, new + 10),)'}),
    ("planted: a repair keeps the epoch", operated, dict(repairs=1), {
        "(Segment(new, 0, new),)": '(Segment(new, 0, m["shown"].segments[-1].epoch),)'}),
    ("planted: --restored keeps the identity of the copy", operated, dict(backups=1, restores=1), {
        NEW_ID: f'if m["wants"] == "restored":\n            return [(m["shown"].log_id, {{}})]\n        {NEW_ID}',
        "(Segment(new, 0, new),)": '(Segment(new, 0, new + 10),)'}),
    ("planted: a repair cuts before it copies", operated, dict(repairs=1), {
        COPIES: "pass", CUT: then(CUT, COPIES, indent=16)}),
    ("planted: a repair begins without a mark", operated, dict(repairs=1, interrupts=1), {
        "put(m, becoming=new, synced=1)": "put(m, synced=1)"}),
    ("planted: a start does not look for the mark", operated, dict(repairs=1, interrupts=1), {
        "return not now.becoming and now": "return now"}),
    ("planted: the directory has its new identity before the log has", operated, dict(repairs=1, interrupts=1), {
        "put(m, becoming=new, synced=1)": "put(m, log_id=new, synced=1)",
        "return not now.becoming and now.segments[-1].log_id == now.log_id": "return not now.becoming"}),
]


DEEP = [
    (histories, dict(says=3, snapshots=3, bad=1, full=1, repairs=1, crashes=1, cuts=1)),
    (damaged, dict(snapshots=2, crashes=2, bad_events=2, drops=1)),
]
HOLD = [*ARCHIVE_HOLD, *DAMAGE_HOLD, *REPAIR_HOLD]
PLANTED = [*ARCHIVE_PLANTED, *DAMAGE_PLANTED, *REPAIR_PLANTED]
