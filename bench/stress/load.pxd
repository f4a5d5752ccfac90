cimport cython
from libc.stdint cimport int64_t, uint16_t, uint64_t

from bench.stress cimport notes
from bench.stress.connection cimport Connection, Host
from bench.stress.mix cimport Choice, Payees

cdef int _OUT
cdef double _LATE_S
cdef int64_t _AMOUNT_MAX
cdef uint16_t _CHAT_SEND, _TRANSFER, _BALANCE, _HEARTBEAT, _FIRST_BOARD, _LAST_BOARD


cdef class Load(Host):
    cdef readonly object error
    cdef readonly bint sending
    cdef readonly list everybody
    cdef object _options, _random, _timers, _timer_numbers, _commands, _backlog, _thread
    cdef int64_t _pipeline, _payload, _place
    cdef list _users, _senders
    cdef Choice _choice
    cdef Payees _payees
    cdef uint64_t _serial
    cdef double _next_due, _interval
    cdef bint _stuck
    cdef Py_ssize_t _turn

    cpdef free(self, Connection connection, double at)
    @cython.locals(at=double)
    cdef _serve(self, Connection connection, int fd, int mask)
    @cython.locals(connection=Connection, senders=list)
    cdef Connection _next_free(self, double at)
    cdef bint _has_room(self, Connection connection, double at) except -1
    cdef _fill(self, Connection connection, double at)
    @cython.locals(opcode=uint16_t, payee=int64_t, fields=tuple)
    cdef _ask(self, Connection connection, double due, double at)
