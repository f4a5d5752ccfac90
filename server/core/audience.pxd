cimport cython
from libc.stdint cimport uint64_t

from server.region cimport machine
from server.region.machine cimport Words


cdef class Audience:
    cdef object _view, _sessions, _users, _presence
    cdef Words _words
    cdef uint64_t _watchers, _user_stride, _present, _workers

    @cython.locals(words=Words, at=uint64_t, there=list, worker=uint64_t)
    cpdef frozenset listeners(self, uint64_t room)
    cpdef bint watched(self, uint64_t user) except -1
