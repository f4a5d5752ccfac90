cimport cython
from libc.stdint cimport uint64_t

from libnet cimport kernel
from libproto.framing cimport Decoder
from libproto.wrapping cimport Wrapper

cdef int _FAIR_FRAMES
cdef Py_ssize_t _HIGH_MARK


cdef class FrameProtocol:
    cdef readonly object loop
    cdef readonly Decoder decoder
    cdef readonly Wrapper wrapper
    cdef public object transport
    cdef readonly list out
    cdef public uint64_t now
    cdef public object phase
    cdef public Py_ssize_t pending, parked_bytes, background
    cdef readonly uint64_t arrived
    cdef readonly Py_ssize_t owed_before
    cdef list _owed
    cdef int _reasons
    cdef bint _peer_ended
    cdef double _flush_s
    cdef bint _stopped
    cdef public bint closing
    cdef public bint choked

    cpdef bytes handle(self, Decoder frame)
    cpdef sends(self, list frames)
    @cython.locals(arrived=uint64_t)
    cpdef uint64_t arrival(self) except? 0
    cpdef data_received(self, bytes data)
    @cython.locals(out=list, frame=Decoder, size=Py_ssize_t, answer=bytes)
    cpdef turn(self)
    cpdef push(self, bytes frame)
    @cython.locals(frames=list, frame=bytes)
    cpdef flush(self)
