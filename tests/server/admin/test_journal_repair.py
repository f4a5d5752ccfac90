"""A repair keeps as much as can be kept, says what is lost, and can be interrupted anywhere."""

from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from server.admin.journal_repair import Plan, carry_out, plan
from server.admin.journal_verify import verify
from server.journal.directory import Identity
from server.journal.disk import Disk, read_file
from server.journal.errors import JournalError, Refused
from server.journal.format import BATCH, SNAPSHOT, BatchKind, events_in
from server.journal.reader import Batch, segments
from server.journal.snapshot import paths as snapshot_paths
from server.journal.snapshot import read as read_snapshot
from server.journal.snapshot import write as write_snapshot
from server.region.records import RECORD_SIZE
from tests.helpers.disk import PowerCut, SimulatedDisk, Survivors, everything, nothing
from tests.server.admin.bank import (
    DATA,
    NOW,
    SECRET,
    Bank,
    batch_of,
    batches,
    break_at,
    cut_at,
    log_id,
    state,
)
from tests.server.admin.test_journal_verify import AT_THE_END, Breaks, content, worked

NEW_ID: Final = 4711
LATER: Final = NOW + 1


def mend(disk: Disk, until: int | None = None) -> Plan:
    made = plan(disk, DATA, until)
    kept = carry_out(disk, DATA, made, NEW_ID, LATER)
    assert (kept is None) == made.is_nothing
    return made


def good(bank: Bank, made: Plan, *, balances: list[int] | None = None) -> None:
    """All is good, the state is that of a transaction, and the bank goes on from it."""
    disk, until = bank.disk, made.until
    report = verify(disk, DATA)
    assert (report.is_good, report.notes) == (True, [])
    books = state(disk)
    assert (books.txn, report.txn) == (until, until)
    if balances is None:
        balances = bank.balances[until] if until else [0]
    assert books.balances[: len(balances)].tolist() == balances
    assert log_id(disk) == (NEW_ID if made.begins_anew else bank.log_ids[-1])
    there = [txn for batch in batches(disk) for txn in range(batch.first, batch.last + 1)]
    assert there == (list(range(report.oldest, until + 1)) if report.oldest else [])
    going_on = Bank(disk.after_kill() if isinstance(disk, SimulatedDisk) else disk)
    going_on.work(batches=1)
    after = verify(going_on.disk, DATA)
    assert after.is_good
    assert after.txn > until
    assert state(going_on.disk).epoch == books.epoch
    assert isinstance(disk, SimulatedDisk)
    assert disk.open_files == 0


def epoch(disk: Disk) -> int:
    return [b.head.epoch for b in batches(disk) if b.head.kind == BatchKind.BEGIN][-1]


def kept_or_there(disk: Disk, before: dict[Path, bytes]) -> None:
    """Nothing that was there has gone: it is as it was, or a copy of it is. The zeros
    behind the last batch of a segment are worth nothing."""
    copies = set()
    for name in disk.names(DATA.path):
        if name.startswith("removed-"):
            kept = DATA.path / name
            for part in disk.names(kept):
                inner = [kept / part]
                if part in ("journal", "snapshots"):
                    inner = [kept / part / each for each in disk.names(kept / part)]
                copies |= {read_file(disk, path).rstrip(b"\0") for path in inner}
    now = content(disk)
    for path, data in before.items():
        wanted = data.rstrip(b"\0")
        assert now.get(path, b"").rstrip(b"\0") == wanted or wanted in copies, path


# ---- what loses least


def test_what_is_good_is_left_alone() -> None:
    for stops in (True, False):
        disk, bank = worked(last_stops=stops)
        before = content(disk)
        made = mend(disk)
        assert made.is_nothing
        assert content(disk) == before
        good(bank, made)


def test_damage_below_a_snapshot_costs_history_alone() -> None:
    """The snapshots above it stay, and so does the log's identity."""
    disk, bank = worked()
    first, *rest = segments(disk, DATA.journal)
    hit = batch_of(disk, 3)
    disk.remove(snapshot_paths(disk, DATA.snapshots)[-1])  # as when two are kept
    break_at(disk, hit.path, hit.offset + BATCH.size + 50)
    snapshots = snapshot_paths(disk, DATA.snapshots)
    before, its_epoch = content(disk), epoch_of_state(disk)
    made = mend(disk)
    assert made.history == [first]
    assert not made.begins_anew
    assert segments(disk, DATA.journal) == rest
    assert snapshot_paths(disk, DATA.snapshots) == snapshots
    assert epoch_of_state(disk) == its_epoch
    kept_or_there(disk, before)
    good(bank, made)


def epoch_of_state(disk: Disk) -> int:
    return state(disk).epoch


def break_events(disk: Disk, txn: int) -> Batch:
    """Those of the batch that a transaction is in."""
    hit = batch_of(disk, txn)
    assert hit.head.events_size
    break_at(disk, hit.path, hit.offset + BATCH.size + hit.count * RECORD_SIZE + 9)
    return hit


def test_damaged_events_need_no_repair() -> None:
    disk, bank = worked(last_stops=False)
    break_events(disk, bank.commits[-3].txn)
    before = content(disk)
    made = mend(disk)
    assert made.is_nothing
    assert content(disk) == before
    with bank.start() as region:
        assert region.column("accounts", "balance")[:4] == bank.balances[max(bank.balances)]


def test_a_repair_behind_damaged_events_keeps_what_is_before_it() -> None:
    """Transactions behind them are damaged: of these a repair drops what it has to, and the next
    start deals with the events."""
    disk, bank = worked(last_stops=False)
    hit, broken = bank.commits[-3].txn, batch_of(disk, bank.commits[-1].txn)
    lost = break_events(disk, hit)
    break_at(disk, broken.path, broken.offset + BATCH.size + 50)
    made = mend(disk)
    assert made.until == broken.first - 1
    assert not verify(disk, DATA).refusal
    with bank.start() as region:
        assert region.column("accounts", "balance")[:4] == bank.balances[broken.first - 1]
    assert lost.head.first_event not in state(disk).lost


def test_a_batch_whose_events_are_damaged_is_not_parted() -> None:
    disk, bank = worked(last_stops=False)
    hit = break_events(disk, bank.commits[-2].txn)
    before = content(disk)
    with pytest.raises(Refused, match=f"choose {hit.first - 1}, or {hit.last}, its last one$"):
        mend(disk, hit.first)
    assert content(disk) == before
    assert mend(disk, hit.last).until == hit.last


def test_damaged_history_in_a_segment_that_is_needed_stays() -> None:
    bank = Bank()
    bank.work(stops=False)  # its snapshot is in the one segment there is
    disk = bank.disk
    hit = batch_of(disk, 3)
    break_at(disk, hit.path, hit.offset + BATCH.size + 50)
    made = mend(disk)
    assert made.is_nothing
    assert [error.offset for error in made.stays] == [hit.offset]
    assert state(disk).txn == bank.commits[-1].txn


@pytest.mark.parametrize("harm", AT_THE_END)
def test_what_is_missing_at_the_end_is_told_and_cut_off(harm: Breaks) -> None:
    disk, bank = worked(last_stops=False)
    last, its_epoch = bank.commits[-1], epoch(disk)
    harm(disk, bank)
    before = content(disk)
    made = plan(disk, DATA)
    assert content(disk) == before
    assert made.begins_anew
    lost = made.lost
    assert (lost.first_txn, lost.last_txn) == (made.until + 1, last.txn)
    assert lost.last_event == last.event
    assert not lost.is_nothing
    mend(disk)
    kept_or_there(disk, before)
    assert epoch(disk) > its_epoch
    good(bank, made)
    assert state(disk).rooms == {}, "they begin anew"


def test_what_is_lost_is_counted() -> None:
    """A batch that is damaged, and three behind it that can be read."""
    bank = Bank()
    with bank.run(stops=False, snapshot=False) as run:
        for number in range(5):
            run.deposit(0, 100)
            run.deposit(1, 5 + number)
            run.transfer(0, 2, 10)
            run.say(1, "hello")
            run.whisper(1, 3, "psst")
            run.commit()
    disk = bank.disk
    hit = batch_of(disk, bank.commits[2].txn)
    break_at(disk, hit.path, hit.offset + BATCH.size + 50)
    made = plan(disk, DATA)
    lost = made.lost
    assert made.until == hit.first - 1 == bank.commits[1].txn
    assert (lost.first_txn, lost.last_txn, lost.txns) == (hit.first, bank.commits[-1].txn, 9)
    assert lost.amounts == {"ann": 3 * (100 - 10), "bob": 7 + 8 + 9 + 3 * 10}
    # The events of the damaged batch can be read: its transactions are what was hit.
    assert (lost.last_event + 1 - lost.first_event, lost.events, lost.messages) == (8, 8, 8)
    assert 0 < lost.unreadable == len(hit.records)
    assert lost.since == lost.till == NOW
    mend(disk)
    good(bank, made)


def test_a_snapshot_alone_is_begun_with() -> None:
    """The segment that it stands in is damaged before it, and what follows it is gone."""
    disk, bank = worked()
    newest = segments(disk, DATA.journal)[-1]
    cut_at(disk, newest, 150)
    before, last = content(disk), bank.commits[-1]
    made = mend(disk)
    assert made.until == last.txn
    assert made.begins_anew
    assert made.lost.txns == 0
    assert made.lost.last_txn == last.txn
    assert made.lost.first_txn == last.txn + 1
    [path] = snapshot_paths(disk, DATA.snapshots)
    assert read_snapshot(disk, path, NEW_ID).books.txn == last.txn
    assert len(segments(disk, DATA.journal)) == 1
    kept_or_there(disk, before)
    good(bank, made)


def test_a_better_snapshot_is_never_dropped() -> None:
    """The journal is damaged early, and the older snapshots are gone: the newest one counts."""
    disk, bank = worked()
    newest, *older = snapshot_paths(disk, DATA.snapshots)
    for path in older:
        disk.remove(path)
    first, second, third = segments(disk, DATA.journal)
    break_at(disk, first, batch_of(disk, 3).offset + 10)
    break_at(disk, second, 30)
    made = mend(disk)
    assert made.until == bank.commits[-1].txn
    assert newest in snapshot_paths(disk, DATA.snapshots)
    assert segments(disk, DATA.journal) == [third]
    assert not made.begins_anew
    good(bank, made)


def test_a_bad_snapshot_is_put_aside_and_nothing_lost() -> None:
    disk, bank = worked()
    path = snapshot_paths(disk, DATA.snapshots)[0]
    break_at(disk, path, SNAPSHOT.size + 3)
    before = content(disk)
    made = mend(disk)
    assert (made.drop, made.begins_anew) == ([path], False)
    kept_or_there(disk, before)
    good(bank, made)


def test_a_snapshot_that_the_journal_does_not_make_is_put_aside() -> None:
    disk, bank = worked()
    path = snapshot_paths(disk, DATA.snapshots)[0]
    found = read_snapshot(disk, path, log_id(disk))
    found.books.registered[1] += 1
    write_snapshot(disk, DATA.snapshots, log_id(disk), found.books, found.head.position, NOW)
    made = mend(disk)
    assert made.drop == [path]
    good(bank, made)


@pytest.mark.parametrize("gone", [True, False])
def test_without_a_noted_position_the_log_begins_anew(*, gone: bool) -> None:
    """Nothing is known to be missing, and nobody knows that nothing is."""
    disk, bank = worked()
    if gone:
        disk.remove(DATA.position)
    else:
        cut_at(disk, DATA.position, 0)
    made = mend(disk)
    assert made.begins_anew
    assert made.lost.is_nothing
    assert made.until == bank.commits[-1].txn
    good(bank, made)


def test_a_torn_end_is_copied_where_the_log_begins_anew() -> None:
    disk, bank = worked(last_stops=False)
    path = segments(disk, DATA.journal)[-1]
    data = read_file(disk, path)
    fd = disk.open(path, writable=True)
    disk.write(
        fd, [data[batch_of(disk, bank.commits[-1].txn).offset :][:100]], bank.commits[-1].offset
    )
    disk.close(fd)
    disk.remove(DATA.position)
    before = (
        content(disk)
        if DATA.position.name in disk.names(DATA.path)
        else {path: read_file(disk, path)}
    )
    made = mend(disk)
    assert made.cut
    kept_or_there_without_position(disk, before)


def kept_or_there_without_position(disk: Disk, before: dict[Path, bytes]) -> None:
    [kept] = [name for name in disk.names(DATA.path) if name.startswith("removed-")]
    for path, data in before.items():
        assert read_file(disk, DATA.path / kept / path.parent.name / path.name) == data


def test_without_anything_good_it_is_refused() -> None:
    disk, _ = worked()
    for name in disk.names(DATA.journal):
        disk.remove(DATA.journal / name)
    for name in disk.names(DATA.snapshots):
        break_at(disk, DATA.snapshots / name, 100)
    before = content(disk)
    for until in (None, 0, 3):
        with pytest.raises(Refused, match="no snapshot in /data/snapshots is good"):
            mend(disk, until)
    assert content(disk) == before


# ---- until a transaction


def test_any_transaction_can_be_made_the_last() -> None:
    """At the end of a batch and in the middle of it, at the end of a segment, and none at all."""
    disk, bank = worked(last_stops=False)
    last = bank.commits[-1].txn
    whole = [batch.words() for batch in batches(disk) if batch.count]
    inside = 0
    for until in range(last + 1):
        other = Bank(disk.after_kill(), balances=bank.balances, log_ids=bank.log_ids)
        before = content(other.disk)
        made = mend(other.disk, until)
        assert made.until == until
        assert made.begins_anew == (until != last)
        assert (made.lost.txns, made.lost.unreadable) == (last - until, 0)
        kept_or_there(other.disk, before)
        inside += made.part is not None
        balances: list[int] | None = None if until in bank.balances or not until else []
        good(other, made, balances=balances)
        records = [word for batch in batches(other.disk) for word in batch.words()]
        assert records == [word for words in whole for word in words][: len(records)]
        assert isinstance(other.disk, SimulatedDisk)
        again = mend(other.disk.after_kill(), until)
        assert again.is_nothing
    assert inside > 3


def test_a_part_of_a_batch_keeps_the_events_that_need_no_more() -> None:
    bank = Bank()
    with bank.run(stops=False, snapshot=False) as run:
        run.deposit(0, 10)
        run.say(0, "one")
        run.deposit(0, 20)
        run.whisper(0, 2, "two")
        run.commit()
    disk, last = bank.disk, bank.commits[-1]
    made = mend(disk, last.txn - 1)
    assert made.part is not None
    found = [event.word for batch in batches(disk) for event, _ in events_in(batch.events)]
    assert found == list(range(1, last.event + 1)), "no event names a transaction here"
    assert state(disk).balances[1] == 10


def test_a_part_of_a_batch_drops_the_event_of_a_later_transaction() -> None:
    """A pair is kept whole or not at all, and no event stands behind one that is gone."""
    bank = Bank()
    with bank.run(stops=False, snapshot=False) as run:
        run.deposit(0, 100)
        run.say(0, "one")
        run.pay_in_room(0, 2, 30)
        run.say(1, "two")
        run.deposit(2, 5)
        run.commit()
    assert isinstance(bank.disk, SimulatedDisk)
    last, first = bank.commits[-1], bank.commits[0]
    for until, events, balances in (
        (last.txn - 2, first.event + 1, [0, 100, 0, 0]),
        (last.txn - 1, last.event, [0, 70, 30, 0]),
    ):
        other = Bank(bank.disk.after_kill(), log_ids=bank.log_ids)
        made = mend(other.disk, until)
        assert made.part is not None
        assert state(other.disk).event == events
        assert (made.lost.first_event, made.lost.last_event) == (events + 1, last.event)
        good(other, made, balances=balances)


def test_behind_the_damage_it_is_refused() -> None:
    disk, bank = worked(last_stops=False)
    hit = batch_of(disk, bank.commits[-2].txn)
    break_at(disk, hit.path, hit.offset + BATCH.size + 50)
    before = content(disk)
    for until in (hit.first, hit.last, bank.commits[-1].txn):
        with pytest.raises(Refused, match=f"the journal is good up to {hit.first - 1}$"):
            mend(disk, until)
    assert content(disk) == before
    made = mend(disk, hit.first - 1)
    good(bank, made)


def test_beyond_the_end_and_before_the_beginning_it_is_refused() -> None:
    disk, bank = worked()
    last = bank.commits[-1].txn
    with pytest.raises(Refused, match=f"the journal ends with transaction {last}$"):
        mend(disk, last + 1)
    oldest = snapshot_paths(disk, DATA.snapshots)[-1]
    first = read_snapshot(disk, oldest, log_id(disk)).head.txn_id
    disk.remove(segments(disk, DATA.journal)[0])
    before = content(disk)
    for until in (0, 1, first - 1):
        with pytest.raises(Refused, match="the oldest state that is there is of transaction"):
            mend(disk, until)
    assert content(disk) == before


# ---- interrupted


def _harmed(which: str) -> tuple[SimulatedDisk, Bank, int | None]:
    if which == "until":
        disk, bank = worked(last_stops=False)
        return disk, bank, batch_of(disk, bank.commits[-2].txn).last - 1
    if which == "alone":
        disk, bank = worked()
        cut_at(disk, segments(disk, DATA.journal)[-1], 150)
        return disk, bank, None
    disk, bank = worked(last_stops=False)
    if which == "based":  # the state begins with a snapshot
        disk.remove(segments(disk, DATA.journal)[0])
        disk.remove(snapshot_paths(disk, DATA.snapshots)[-1])
    hit = batch_of(disk, bank.commits[-4].txn)  # in the segment before the newest
    break_at(disk, hit.path, hit.offset + BATCH.size + 50)
    for path in snapshot_paths(disk, DATA.snapshots):
        if read_snapshot(disk, path, log_id(disk)).head.txn_id > hit.first:
            disk.remove(path)
    return disk, bank, None


@pytest.mark.parametrize("which", ["damage", "based", "until", "alone"])
@pytest.mark.parametrize("survives", [nothing, everything], ids=["nothing", "everything"])
def test_a_repair_can_be_interrupted_anywhere(which: str, survives: Survivors) -> None:
    """And is done again: meanwhile no server starts with less than the whole of it."""
    disk, bank, until = _harmed(which)
    before = content(disk)
    expected = plan(disk, DATA, until).until
    at, cut = 0, True
    while cut:
        at += 1
        tried = disk.after_power_cut(everything)
        tried.cut_at = at
        try:
            mend(tried, until)
            cut = False
        except PowerCut:
            cut = True
        tried = tried.after_power_cut(survives)
        kept_or_there(tried, before)
        if log_id(tried) != NEW_ID:
            started(tried, bank)
        made = mend(tried, until)
        assert made.until == expected
        again = Bank(tried, balances=bank.balances, log_ids=[NEW_ID])
        good(again, made, balances=None if expected in bank.balances else [])
    assert at > 20


def started(disk: SimulatedDisk, bank: Bank) -> None:
    """A server that starts has all that there was."""
    copy = disk.after_kill()
    with suppress(JournalError):
        DATA.open(copy, Identity(SECRET, 1))
        assert state(copy).txn == bank.commits[-1].txn


def test_a_directory_that_was_put_back_begins_anew_with_all_it_has() -> None:
    disk, bank = worked()
    made = plan(disk, DATA, anew=True)
    assert made.lost.is_nothing
    carry_out(disk, DATA, made, NEW_ID, LATER)
    assert made.until == bank.commits[-1].txn
    good(bank, made)
