cimport cython
from libc.stdint cimport uint32_t, uint64_t

from libproto cimport wire, words
from server.core.audience cimport Audience
from server.core.events cimport Events
from server.core.outcomes cimport Outcomes
from server.core.room_bits cimport RoomBits
from server.core.session cimport Session
from server.region cimport machine
from server.region.locks cimport Guard, Locks
from server.region.machine cimport Words

cdef uint64_t _MESSAGE, _KIND_SHIFT, _SEND, _DIRECT

cpdef uint64_t digest_of(bytes message, uint32_t room=*) except? 0


cdef class Chat:
    cdef object _view
    cdef Words _words
    cdef Locks _locks
    cdef object _users
    cdef RoomBits _bits
    cdef Audience _audience
    cdef Events _events
    cdef Outcomes _outcomes
    cdef Guard _paying
    cdef object _rooms, _blocks
    cdef uint64_t _opened, _room_stride

    @cython.locals(
        events=Events, digest=uint64_t, guard=Guard, seq=uint64_t, user=uint64_t, name=str,
        event=uint64_t, frame=bytes, payload=bytes, request=tuple,
    )
    cpdef send_encoded(
        self, Session session, uint64_t room, bytes message, uint64_t now, uint64_t req_id,
        uint64_t flagged,
    )
    cdef _recorded(
        self, Session session, uint64_t req_id, uint64_t digest, uint64_t opcode, uint64_t to,
        uint64_t flagged,
    )
    cdef _published(self, Session session, uint64_t req_id, uint64_t digest, uint64_t flagged)
    @cython.locals(words=Words)
    cdef _outcome(self, Session session, uint64_t req_id, uint64_t flagged)
