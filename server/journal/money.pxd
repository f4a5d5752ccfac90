cimport cython
from libc.stdint cimport uint64_t

from server.region cimport machine
from server.region.machine cimport Words

cdef uint64_t _DEPOSIT, _WITHDRAW, _TRANSFER, _TAKEN, _IN_ROOM, _TAKE
cdef uint64_t _MAX_BALANCE, _WORD, _RECORD_SIZE, _ROW_WORDS, _WINDOW, _OUTCOME_WORDS, _KIND_SHIFT

cdef uint64_t _RECORD_WORDS, _EVENT


@cython.locals(words=Words, count=uint64_t)
cpdef bint are_numbered(object records, uint64_t first) except -1


@cython.locals(words=Words, count=uint64_t)
cpdef bint tell_of_events(object records) except -1


@cython.locals(
    txn=uint64_t, supply=uint64_t, newest_time=uint64_t, end=uint64_t, users=uint64_t,
    clients=uint64_t, number=uint64_t, kind=uint64_t, time=uint64_t, supply_after=uint64_t,
    payer=uint64_t, payee=uint64_t, amount=uint64_t, payer_after=uint64_t, payee_after=uint64_t,
    payer_previous=uint64_t, payee_previous=uint64_t, client_id=uint64_t, req_id=uint64_t,
    client=uint64_t, room=uint64_t, room_seq=uint64_t, event=uint64_t, digest=uint64_t,
    before=uint64_t, balance=uint64_t, slot=uint64_t, outcome=uint64_t, latest=uint64_t, target=uint64_t,
    balances=Words, last_txn=Words, client_users=Words, client_ids=Words, newest=Words,
    floors=Words, outcomes=Words, wrong=bint,
)
cpdef uint64_t fold_money(object of, bytes records, uint64_t at) except? 0
