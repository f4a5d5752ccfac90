cimport cython
from libc.stdint cimport int64_t, uint64_t

from server.core.log cimport TxnLog
from server.core.session cimport Session
from server.region cimport machine
from server.region.locks cimport Lock, Locks
from server.region.machine cimport Words


cdef int _AGAIN
cdef uint64_t _DEPOSIT, _TRANSFER, _WINDOW, _OUTCOME_WORDS, _KIND_SHIFT, _PAYLOAD_WORDS, _TELLER


cdef class Ledger:
    cdef readonly uint64_t max_balance, min_transfer, max_transfer
    cdef bint _open, _tellers
    cdef uint64_t _role
    cdef object _view, _bytes
    cdef Words _words
    cdef Locks _locks
    cdef TxnLog _log
    cdef object _recorded, _clients, _ring
    cdef uint64_t _accounts, _stride, _users, _user_word, _user_stride, _newest

    @cython.locals(low=Lock, high=Lock, payee=uint64_t, two=bint, outcome=(int, uint64_t, uint64_t))
    cpdef (int, uint64_t, uint64_t) execute(
        self, Session session, uint64_t kind, uint64_t other, uint64_t amount, uint64_t req_id,
        uint64_t flagged, uint64_t now,
    )

    @cython.locals(
        words=Words, log=TxnLog, account=uint64_t, at=uint64_t, client=uint64_t, balance=uint64_t,
        last=uint64_t, newest=uint64_t, outcome=uint64_t, payee_after=uint64_t,
        payee_last=uint64_t, target=uint64_t, payer=uint64_t, payer_after=uint64_t,
        supply_change=int64_t, txn=int64_t, same=bint, role=uint64_t,
    )
    cdef (int, uint64_t, uint64_t) _transact(
        self, Session session, uint64_t kind, uint64_t other, uint64_t amount, uint64_t req_id,
        uint64_t flagged, uint64_t now, uint64_t payee, Lock low, Lock high,
    )

    @cython.locals(
        words=Words, account=uint64_t, lock=Lock, live=bint, balance=uint64_t, last=uint64_t,
    )
    cpdef (bint, uint64_t, uint64_t) balance(self, Session session)

    cpdef uint64_t account_of(self, uint64_t user) except? 0
