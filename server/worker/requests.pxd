from libc.stdint cimport uint64_t

from libproto.framing cimport Decoder


cdef class Request:
    cdef readonly uint64_t record
    cdef readonly object decode

    cpdef bytes serve(self, object connection, Decoder frame)


cdef class Handled(Request):
    cdef object _services, _handler
