cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from bench.stress cimport notes
from bench.stress.record cimport Recorder, Trail
from bench.stress.rooms cimport Rooms

cdef uint8_t _READ, _TRANSFERS
cdef uint16_t _TRANSFER, _BALANCE, _CHAT_SEND, _TAKE


@cython.final
@cython.freelist(64)
cdef class Request:
    cdef readonly uint16_t opcode
    cdef readonly tuple fields
    cdef readonly double due, sent
    cdef public double asked
    cdef readonly bint counted
    cdef public bint failed, repeated


cdef class Tally:
    cdef public Recorder recorder
    cdef public Trail trail
    cdef readonly Rooms rooms
    cdef readonly object market


@cython.final
cdef class Outcomes:
    cdef Tally _tally
    cdef uint32_t _user
    cdef str _name

    @cython.locals(
        tally=Tally, opcode=uint16_t, fields=tuple, answers=bytearray, user=uint32_t, sent=double,
        kind=uint8_t,
    )
    cpdef succeeded(self, Request request, uint64_t first, uint64_t second, double now)
