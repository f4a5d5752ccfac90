cimport cython
from libc.stdint cimport uint64_t

from server.region cimport machine
from server.region.machine cimport Words

cdef uint64_t _ONE


cdef class RoomBits:
    cdef object _view, _sessions
    cdef Words _words
    cdef uint64_t _first, _stride, _length

    cdef uint64_t _at(self, uint64_t session) noexcept
    @cython.locals(words=Words, place=uint64_t)
    cpdef bint has(self, uint64_t session, uint64_t room) except -1
    @cython.locals(words=Words, at=uint64_t)
    cpdef set(self, uint64_t session, uint64_t room)
    @cython.locals(words=Words, at=uint64_t)
    cpdef clear(self, uint64_t session, uint64_t room)
    @cython.locals(words=Words, at=uint64_t, word=uint64_t)
    cpdef clear_all(self, uint64_t session)
    @cython.locals(at=uint64_t)
    cpdef list rooms(self, uint64_t session)
