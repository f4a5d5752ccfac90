cimport cython
from libc.stdint cimport int64_t, uint64_t

from libproto cimport words
from server.core.audience cimport Audience
from server.core.chat cimport digest_of
from server.core.events cimport Events
from server.core.ledger cimport Ledger
from server.core.log cimport TxnLog
from server.core.outcomes cimport Outcomes
from server.core.room_bits cimport RoomBits
from server.core.session cimport Session
from server.region cimport machine
from server.region.locks cimport Lock, Locks
from server.region.machine cimport Words

cdef uint64_t _EVENT_KIND, _TRANSFER, _IN_ROOM, _KIND_SHIFT, _PAYLOAD_WORDS
cdef int _DONE, _RECORDED, _SUPERSEDED, _NO_USER, _FUNDS, _AMOUNT, _LIMIT
cdef int64_t _AGAIN, _FULL


cdef class _Transfer:
    cdef Session session
    cdef bytes note
    cdef uint64_t room, payee, payee_at, amount, req_id, flagged, now, digest, target
    cdef uint64_t txn, balance, seq, last, payee_balance, payee_last


cdef class Pairs:
    cdef object _view, _bytes
    cdef Words _words
    cdef Locks _locks
    cdef TxnLog _log
    cdef Ledger _ledger
    cdef RoomBits _bits
    cdef Audience _audience
    cdef Events _events
    cdef Outcomes _outcomes
    cdef object _rooms
    cdef uint64_t _last_event, _intent_event, _opened, _room_stride

    @cython.locals(payee_at=uint64_t, request=_Transfer, held=tuple)
    cpdef transfer_encoded(
        self, Session session, uint64_t room, uint64_t payee, uint64_t amount, bytes note,
        uint64_t req_id, uint64_t flagged, uint64_t now,
    )
    @cython.locals(
        log=TxnLog, lock=Lock, events=Events, event=Lock, what=int, txn=int64_t, number=uint64_t,
    )
    cdef _under_locks(self, _Transfer request, tuple held)
    @cython.locals(
        words=Words, session=Session, amount=uint64_t, payee_at=uint64_t, account=uint64_t,
        balance=uint64_t, most=uint64_t,
    )
    cdef int _check(self, _Transfer request) except -1
    @cython.locals(
        events=Events, log=TxnLog, session=Session, room=uint64_t, user=uint64_t, txn=uint64_t,
        now=uint64_t, seq=uint64_t, number=uint64_t, frame=bytes, event=bytes,
    )
    cdef uint64_t _publish(self, _Transfer request) except? 0
    cpdef intend_event(self, bytes event, uint64_t number)
    @cython.locals(words=Words, session=Session, txn=uint64_t, account=uint64_t, payee_at=uint64_t)
    cdef _apply(self, _Transfer request)
