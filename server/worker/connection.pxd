cimport cython
from libc.stdint cimport uint64_t

from libnet.transport cimport FrameProtocol
from libproto cimport wire
from libproto.framing cimport Decoder
from server.core.session cimport Session
from server.region cimport machine
from server.region.machine cimport Words
from server.worker.durable cimport Durable
from server.worker.overload cimport Share
from server.worker.requests cimport Request
from server.worker.served cimport Served

cdef unsigned int _FLAGGED, _LOGIN, _RESPONSE_HEAD, _BUSY
cdef uint64_t _HEADER_LEN


cdef class Connection(FrameProtocol):
    cdef readonly object services
    cdef readonly str peer
    cdef object _table, _view
    cdef Words _words
    cdef object _connections
    cdef Durable _durable
    cdef Served _served
    cdef public object state
    cdef list _allowed
    cdef public Session session
    cdef public object greeting
    cdef public object capabilities
    cdef readonly bint sealed
    cdef Decoder _stream
    cdef public object turns
    cdef public set uploads
    cdef int _failed_logins, _bad_checksums
    cdef bint _active, _guarded
    cdef double _quiet_since, _outside_since
    cdef object _pace

    cpdef sends(self, list frames)
    @cython.locals(
        opcode=cython.uint, flags=cython.uint, req_id=uint64_t, request=Request, share=Share,
    )
    cpdef bytes handle(self, Decoder frame)
    cdef bytes _shed(self, unsigned int opcode, uint64_t req_id, Share share)
