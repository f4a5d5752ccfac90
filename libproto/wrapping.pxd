cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from libproto cimport wire
from libproto.framing cimport Decoder

cdef Py_ssize_t _HEADER_LEN
cdef uint32_t _ENCRYPTED, _COMPRESSED, _HEADER, _CHECKSUM, _SEALING, _INFLATION


cdef class Wrapper:
    cdef object _sealer, _compressed

    @cython.locals(
        pos=Py_ssize_t, size=Py_ssize_t, start=Py_ssize_t, head=uint32_t, body_len=uint32_t,
        opcode=uint16_t, status=uint16_t, req_id=uint64_t, wrapped=list,
    )
    cpdef bytes wrap(self, bytes data)
    cdef bytes _frame(
        self, uint32_t head, uint16_t opcode, uint16_t status, uint64_t req_id, bytes body
    )


cdef class Unwrapper(Decoder):
    cdef Decoder _stream
    cdef object _opener
    cdef bint _inflates

    @cython.locals(
        stream=Decoder, flags=uint32_t, fault=uint32_t, buf=bytes, start=Py_ssize_t, end=Py_ssize_t,
        at=Py_ssize_t, body=bytes,
    )
    cpdef bint following(self) except -1
