from libc.stdint cimport uint64_t


cdef class Share:
    cdef public double part
    cdef public bytes body
    cdef public uint64_t counter
    cdef double _credit

    cpdef bint takes(self)
