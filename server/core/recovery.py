"""The repair after a worker's death. Runs in a short-lived child of the master, while every live
worker is paused and holds no lock, and every dead one has been reaped.

It may be killed at any store and started over: each step leaves the same bytes when it is done
again, and the order of the steps is such that what a step needs is still there.

1. The intents of the dead: redone where committed, else forgotten. The locks that they held are
   still not free, so nobody has touched these accounts since. What is left behind the log's head of
   a change that was not committed is cleared.
2. The event that stands committed beyond the ring's head is completed from its slot.
3. If the registry's lock was held, somebody died in the middle of a change there: what is derived
   from the slots is built anew. The lock is still held after that, so a repair that dies here
   leaves the sign for the next.
4. Every semaphore that has not the bytes of a fresh one is initialised to 1; never posted.
5. The sessions of the dead are marked as ended, with the registry's lock held, so that a death in
   the middle is seen by the next repair in step 3. Their leaves are published by the workers, as
   there are places for events: a repair waits for none.
"""

from collections import Counter
from collections.abc import Sequence

from server.core.state import State
from server.region.layout import WORD
from server.region.locks import init_lock, unfree_locks
from server.region.records import RecordKind
from server.region.region import Region


def repair(states: Sequence[State], now: int) -> Counter[str]:
    """Repair after the death of these workers: the state of each, made for its slot. now:
    microseconds since the Unix epoch, the time of the leaves that are announced.

    Answers what it found and did, by the names in REPAIRS, which it has added to the region.
    """
    done = Counter(repairs=1, deaths=len(states))
    region = states[0].region
    for state in states:
        _finish_intent(state, now, done)
    first = states[0]
    first.log.drop_text()
    done["completed"] += first.events.complete()
    if "registry[0].lock" in unfree_locks(region):
        first.users.rebuild()
        first.sessions.rebuild()
        done["rebuilt"] += 1
    done["freed"] += _free_locks(region)
    _end_sessions(states, now, done)
    for name, count in done.items():
        setattr(region.repairs, name, getattr(region.repairs, name) + count)
    return done


def _finish_intent(state: State, now: int, done: Counter[str]) -> None:
    words, intent = state.region.words, state.log.intent
    if not words[intent]:
        return
    record = state.log.intended()
    if record is None:
        done["discarded"] += 1
    else:
        done["redone"] += 1
        payload = bytes(state.region.bytes[(intent + 1) * WORD : (intent + len(record)) * WORD])
        if record[1] == RecordKind.REGISTER:
            state.users.apply(payload)
        elif record[1] == RecordKind.NEW_CLIENT:
            state.clients.apply(payload)
        elif record[1] == RecordKind.BLOCK:
            state.blocks.apply(payload)
        elif record[1] == RecordKind.NEW_FLOOR:
            state.clients.apply_floor(payload)
        elif record[1] in (RecordKind.VERIFIER, RecordKind.USER_SET):
            state.operators.redo(record, payload, now)
        else:
            if record[1] < RecordKind.REGISTER:
                state.ledger.redo(record)
            state.operators.redo(record, payload, now)
            state.changes.redo(record)
            state.pairs.redo(record)
    state.log.done()


def _free_locks(region: Region) -> int:
    """Initialise every semaphore that is not as fresh."""
    unfree = unfree_locks(region)
    for address in unfree.values():
        init_lock(address)
    return len(unfree)


def _end_sessions(states: Sequence[State], now: int, done: Counter[str]) -> None:
    first, dead = states[0], {state.worker for state in states}
    registry = first.locks.registry
    first.locks.hold(registry)
    for worker in dead:
        first.audience.absent(worker)
    for slot, worker in first.sessions.live():
        if worker in dead:
            done["ended"] += first.sessions.mark_ended(slot, now)
    first.locks.release(registry)
