cimport cython
from cpython.array cimport array
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from bench.stress cimport notes
from libproto cimport calls

cdef double _LONGEST_S
cdef uint8_t _MESSAGE


@cython.final
cdef class Seen:
    cdef readonly uint64_t first
    cdef readonly int64_t count
    cdef public int64_t unknown
    cdef readonly array digests, sent, last, members, told

    @cython.locals(index=int64_t, known=uint32_t)
    cpdef bint note(self, uint64_t seq, uint32_t found) except -1

    @cython.locals(index=int64_t)
    cpdef tell(self, uint64_t seq)

    @cython.locals(index=int64_t, took=uint32_t)
    cpdef deliver(self, uint64_t seq, double sent, double now)


@cython.final
cdef class Rooms:
    cdef readonly dict seen
    cdef readonly list problems
    cdef readonly int64_t events, gaps
    cdef readonly object missed_in_gaps, missed_unconnected

    @cython.locals(body=bytes, seen=Seen)
    cpdef acknowledged(
        self, uint32_t room, uint32_t user, str name, str text, uint64_t seq, uint64_t time,
    )


@cython.final
cdef class Stream:
    cdef readonly uint32_t room
    cdef readonly uint64_t position
    cdef Rooms _rooms
    cdef dict _all
    cdef Seen _seen
    cdef object _who
    cdef uint64_t _epoch
    cdef bint _slow

    @cython.locals(rooms=Rooms, seen=Seen)
    cpdef event(
        self, uint64_t seq, uint8_t kind, bytes buf, Py_ssize_t start, Py_ssize_t at,
        Py_ssize_t end, double now,
    )
