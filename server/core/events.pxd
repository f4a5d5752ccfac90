cimport cython
from libc.stdint cimport uint64_t

from server.core.outcomes cimport Outcomes
from server.core.room_bits cimport RoomBits
from server.region cimport machine
from server.region.machine cimport Words

cdef uint64_t _CHAT, _DIRECT, _JOINED, _LEFT, _DIRECT_KIND, _KIND_SHIFT, _PAYMENT_SHARE


cdef class Events:
    cdef object _view, _bytes
    cdef Words _words
    cdef RoomBits _bits
    cdef Outcomes _outcomes
    cdef uint64_t _room_base, _room_stride, _user_base, _user_stride, _client_base, _client_stride
    cdef uint64_t _head, _limit, _leave_limit, _full, _closed, _first, _skipped
    cdef uint64_t _ring, _stride, _mask, _frame, _frame_size
    cdef uint64_t _last, _oldest, _last_event, _kept
    cdef public bint others_wait

    @cython.locals(words=Words)
    cpdef check_open(self, uint64_t more=*)
    cpdef uint64_t next_seq(self, uint64_t room) except? 0
    @cython.locals(
        words=Words, previous=uint64_t, sender=uint64_t, client_slot=uint64_t, client_id=uint64_t,
        req_id=uint64_t, digest=uint64_t,
    )
    cpdef bytes payload(
        self, uint64_t kind, uint64_t room, uint64_t seq, uint64_t user, uint64_t session,
        bytes frame, uint64_t now, tuple request=*, uint64_t txn=*,
    )
    @cython.locals(words=Words, number=uint64_t, slot=uint64_t, gone=uint64_t)
    cpdef publish(self, bytes payload)
    @cython.locals(
        words=Words, kind=uint64_t, room=uint64_t, seq=uint64_t, user=uint64_t, session=uint64_t,
        at=uint64_t,
    )
    cdef _complete(self, uint64_t number, uint64_t slot)
    @cython.locals(words=Words, target=uint64_t, client=uint64_t)
    cdef _store_outcome(self, uint64_t slot, uint64_t to, uint64_t seq)
    cdef uint64_t _room(self, uint64_t room) noexcept
    cpdef uint64_t head(self) except? 0
    @cython.locals(
        words=Words, slot=uint64_t, kind=uint64_t, room=uint64_t, seq=uint64_t, user=uint64_t,
        session=uint64_t, size=uint64_t, time=uint64_t, at=uint64_t, frame=bytes,
    )
    cpdef read(self, uint64_t number, object wanted=*)
    @cython.locals(
        words=Words, number=uint64_t, slot=uint64_t, there=uint64_t, seq=uint64_t,
        previous=uint64_t, numbers=list,
    )
    cdef list _chain(self, uint64_t room, uint64_t after)
    @cython.locals(words=Words, first=uint64_t, following=uint64_t)
    cpdef uint64_t oldest(self) except? 0
    cpdef uint64_t last_seq(self, uint64_t room) except? 0
    cpdef uint64_t direct_seq(self, uint64_t user) except? 0
