cimport cython
from libc.stdint cimport int64_t, uint64_t

from server.journal.writer cimport Writer
from server.region cimport histogram, machine
from server.region.machine cimport Words

cdef uint64_t _KIND, _EVENT, _TRANSFER, _TAKEN, _TEXT, _FIRST_CHANGE, _PAYMENT, _WORD, _RECORD_SIZE, _RECORD_WORDS, _NO_JOURNAL
cdef uint64_t _SIZES_FIRST, _TIMES_FIRST
cdef int64_t _LEAVE_BYTES, _TXN_BYTES


cdef class Committer:
    cdef object _region, _view, _bytes, _clock_us, _parked
    cdef readonly Writer _writer
    cdef readonly object _noted
    cdef Words _words
    cdef bint _sync
    cdef uint64_t _head, _event_head, _records, _sync_us, _longest
    cdef uint64_t _ring, _mask, _half, _events_half, _events, _stride, _members, _last_pair
    cdef uint64_t _durable, _released, _limit
    cdef uint64_t _events_durable, _events_released, _events_limit, _leave_limit
    cdef int64_t _size, _events_size, _places, _event_bytes
    cdef uint64_t _txn, _event, _txns_given, _events_given, _leaves_given

    @cython.locals(words=Words, durable=uint64_t, event=uint64_t, parked=uint64_t)
    cpdef publish(self)
    @cython.locals(
        txns_given=uint64_t, events_given=uint64_t, open_txns=int64_t, open_events=int64_t,
        txns=int64_t, events=int64_t, room=int64_t, left=int64_t, half=int64_t,
    )
    cdef _give(self)
    @cython.locals(words=Words)
    cpdef bint behind(self) except -1
    @cython.locals(words=Words)
    cpdef bint half_full(self) except -1
    @cython.locals(
        words=Words, head=uint64_t, count=uint64_t, events=list, number=uint64_t, began=uint64_t,
        took=uint64_t,
    )
    cpdef uint64_t commit(self) except? 0
    @cython.locals(
        words=Words, place=uint64_t, slot=uint64_t, kind=uint64_t, before=uint64_t, tells=bint,
    )
    cdef uint64_t _before_pair(self, uint64_t count, uint64_t head) noexcept
    @cython.locals(place=uint64_t, first=uint64_t)
    cdef list _slots(self, uint64_t count)
    @cython.locals(at=uint64_t)
    cdef _run(self, uint64_t place, uint64_t count)
    @cython.locals(words=Words, found=list, number=uint64_t, slot=uint64_t, at=uint64_t)
    cdef list _event_slots(self, uint64_t head)
