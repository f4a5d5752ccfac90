cimport cython
from libc.stdint cimport uint64_t

from libproto cimport words
from libproto.framing cimport Decoder
from server.worker.connection cimport Connection
from server.worker.requests cimport Request

cdef unsigned int _HEARTBEAT


cdef class Heartbeat(Request):
    @cython.locals(mine=Connection, client_time=uint64_t)
    cpdef bytes serve(self, object connection, Decoder frame)
