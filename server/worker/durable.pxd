cimport cython
from libc.stdint cimport uint64_t

from libnet.transport cimport FrameProtocol
from server.region cimport machine
from server.region.machine cimport Words

cdef Py_ssize_t _PENDING_MAX, _HIGH_MARK


cdef class Durable:
    cdef object _view
    cdef Words _words
    cdef readonly uint64_t released, events_released
    cdef object _loop, _journal, _parked, _push
    cdef bint _in_background, _pushes_wait, _polls
    cdef uint64_t _durable, _journal_waits, _journal_failed, _has_parked

    cpdef bytes when_durable(self, FrameProtocol connection, uint64_t txn, bytes answer)
    cpdef bytes when_shown(
        self, FrameProtocol connection, uint64_t event, bytes answer, uint64_t txn=*
    )
    cdef _park_answer(self, FrameProtocol connection, uint64_t txn, uint64_t event, bytes answer)
    @cython.locals(event=uint64_t, txn=uint64_t, connection=FrameProtocol)
    cpdef release(self)
