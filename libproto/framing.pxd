cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from libproto cimport wire

cdef class Decoder:
    cdef readonly bytes buf
    cdef readonly Py_ssize_t start
    cdef readonly Py_ssize_t end
    cdef readonly uint64_t req_id
    cdef readonly uint16_t opcode
    cdef readonly uint16_t status
    cdef readonly uint32_t flags
    cdef readonly uint32_t fault
    cdef public bint dead
    cdef public uint64_t max_body_len
    cdef bytearray _tail

    cpdef object feed(self, bytes data)
    cpdef object next(self)

    @cython.locals(
        data=bytes, pos=Py_ssize_t, start=Py_ssize_t, size=Py_ssize_t, end=Py_ssize_t, head=uint32_t,
        header_len=uint16_t, body_len=uint32_t, opcode=uint16_t, status=uint16_t, req_id=uint64_t,
        crc=uint32_t, high=uint16_t, low=uint32_t, flags=uint32_t,
    )
    cpdef bint following(self) except -1

    cdef bint _refill(self, Py_ssize_t needed) except -1
