from libc.stdint cimport uint64_t

from libproto.framing cimport Decoder
from server.worker.overload cimport Share


cdef class Request:
    cdef readonly uint64_t record
    cdef readonly object decode
    cdef public Share share

    cpdef bytes serve(self, object connection, Decoder frame)


cdef class Handled(Request):
    cdef object _services, _handler
