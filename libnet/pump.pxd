cimport cython
from libc.stdint cimport uint64_t

from libnet cimport kernel
from libnet.transport cimport FrameProtocol

cdef int _IN, _OUT


cdef class Pipe:
    cdef object _sock
    cdef Pump _pump
    cdef FrameProtocol _protocol
    cdef int _fd, _interest
    cdef bint _reads, _closing, _eof, _writes
    cdef list _unsent
    cdef Py_ssize_t _high, _left, _low, _sent

    @cython.locals(sent=Py_ssize_t)
    cpdef write(self, bytes data)
    @cython.locals(size=Py_ssize_t)
    cdef _keep(self, bytes data, Py_ssize_t sent)
    cpdef ready(self, int events)
    cdef _receive(self)
    cdef _watch(self)


cdef class Pump:
    cdef readonly object loop
    cdef object _epoll, _poll
    cdef dict _pipes
    cdef uint64_t _long_us
    cdef object _on_long, _on_no_memory

    cpdef watch(self, int fd, int before, int wanted)
    @cython.locals(began=uint64_t)
    cpdef _turn(self)
