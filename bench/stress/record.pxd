cimport cython
from cpython.array cimport array
from libc.stdint cimport int64_t, uint16_t

from bench.stress cimport notes

cdef int64_t _AFTER, _BEFORE


@cython.final
cdef class Span:
    cdef public double start, end


@cython.final
cdef class Recorder:
    cdef public Span span
    cdef readonly bint is_open
    cdef readonly dict latencies, services
    cdef readonly object errors, late, dropped, details
    cdef readonly int64_t succeeded, failed
    cdef int64_t _columns_of
    cdef dict _columns

    @cython.locals(at=double)
    cdef int64_t _second(self, double due, double now)

    @cython.locals(second=int64_t, columns=tuple, latencies=array, services=array)
    cpdef success(self, uint16_t opcode, double due, double sent, double now)


@cython.final
cdef class Trail:
    cdef readonly bytearray answers
    cdef readonly list refusals, unknown, unexpected
