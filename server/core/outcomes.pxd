cimport cython
from libc.stdint cimport uint64_t

from server.core.session cimport Session
from server.region cimport machine
from server.region.machine cimport Words

cdef uint64_t _WINDOW, _OUTCOME_WORDS


cdef class Outcomes:
    cdef object _view, _bytes
    cdef Words _words
    cdef uint64_t _newest, _first

    @cython.locals(words=Words, at=uint64_t, newest=uint64_t)
    cpdef look(self, Session session, uint64_t req_id, uint64_t flagged)
    @cython.locals(words=Words, at=uint64_t)
    cpdef store(
        self, uint64_t client, uint64_t req_id, uint64_t txn_id, uint64_t balance, uint64_t target,
        uint64_t amount, uint64_t seq, uint64_t digest,
    )
