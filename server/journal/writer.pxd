cimport cython
from libc.stdint cimport int64_t, uint64_t


@cython.locals(size=int64_t)
cdef int64_t _bytes_of(object pieces) except -1


cdef class Writer:
    cdef object _disk, _directory, _now, _salt_of
    cdef readonly object position, segment
    cdef readonly uint64_t written
    cdef uint64_t _log_id, _salt
    cdef int64_t _segment_size, _size, _next_size
    cdef int _fd, _next, _old
    cdef bint _failed

    @cython.locals(events_size=int64_t, size=int64_t)
    cdef _write(
        self, object kind, object records, int64_t count, object events, uint64_t next_event,
        tuple begin=*
    )
    cdef _fail(self)
