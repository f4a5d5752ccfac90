cimport cython
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from bench.stress cimport notes
from bench.stress.outcomes cimport Outcomes, Request, Tally
from bench.stress.pushes cimport Pushes
from libnet cimport kernel
from libproto cimport calls
from libproto.framing cimport Decoder
from libproto.wrapping cimport Wrapper

cdef int _IN, _OUT
cdef uint16_t _GOING_AWAY, _SERVER_BUSY, _FIRST_BOARD, _LAST_BOARD
cdef uint32_t _RESPONSE, _DUPLICATE


cdef class Host(Tally):
    cdef readonly object poll, address
    cdef readonly double timeout_s
    cdef readonly bint ignores_busy, encrypts
    cdef readonly dict connections

    cpdef free(self, Connection connection, double at)


@cython.final
cdef class Connection:
    cdef readonly int64_t account
    cdef readonly str name
    cdef readonly uint32_t user
    cdef readonly list rooms
    cdef readonly bint slow
    cdef public bint funded
    cdef public double waking
    cdef readonly bint live, leaving
    cdef readonly int64_t in_flight
    cdef readonly double blocked_until
    cdef public int64_t reconnects, moves
    cdef readonly object failure
    cdef readonly double last_sent
    cdef readonly object heartbeat_s
    cdef readonly dict pending
    cdef readonly object random
    cdef readonly Outcomes outcomes
    cdef readonly Pushes pushes
    cdef Host _host
    cdef object _client_id, _sock, _old, _greeting
    cdef int _fd, _interest
    cdef Decoder _decoder
    cdef Wrapper _wrapper
    cdef list _out
    cdef bint _paused, _connecting, _moved
    cdef int64_t _attempts, _busy
    cdef double _opened
    cdef uint64_t _next_numbered, _next_other
    cdef dict _repeat

    cpdef send(self, uint16_t opcode, tuple fields, double due, double now)
    cdef _write(self, bytes frame, double now)
    cpdef flush(self, double now)
    @cython.locals(out=list, data=bytes, done=Py_ssize_t)
    cdef _flush(self, double now)
    @cython.locals(interest=int)
    cdef _watch(self)
    @cython.locals(data=bytes, frame=Decoder, now=double)
    cpdef double readable(self, Py_ssize_t size) except -1

    @cython.locals(
        opcode=uint16_t, req_id=uint64_t, status=uint16_t, request=Request, buf=bytes,
        start=Py_ssize_t, end=Py_ssize_t, first=uint64_t, second=uint64_t,
    )
    cdef _take(self, Decoder frame, double now)
