cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from bench.stress.outcomes cimport Tally
from bench.stress.rooms cimport Stream
from libproto cimport calls

cdef uint8_t _ADDED, _TAKEN
cdef uint16_t _BROADCAST, _GAP


@cython.final
cdef class Pushes:
    cdef readonly dict streams
    cdef public set joining
    cdef Tally _tally
    cdef str _name
    cdef Stream _last

    @cython.locals(room=uint32_t, seq=uint64_t, kind=uint8_t, at=Py_ssize_t, stream=Stream)
    cpdef take(self, uint16_t opcode, bytes buf, Py_ssize_t start, Py_ssize_t end, double now)

    cdef Stream _stream(
        self, uint32_t room, uint16_t opcode, bytes buf, Py_ssize_t start, Py_ssize_t end,
    )
