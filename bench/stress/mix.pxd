cimport cython
from libc.stdint cimport int64_t, uint16_t


@cython.final
cdef class Choice:
    cdef list _opcodes, _bounds

    @cython.locals(drawn=double, bound=double, place=Py_ssize_t)
    cpdef uint16_t pick(self, object rng) except 0


@cython.final
cdef class Payees:
    cdef int64_t _accounts, _paid
    cdef list _bounds

    @cython.locals(found=int64_t, bounds=list)
    cpdef int64_t pick(self, object rng, int64_t payer) except -1
