cimport cython
from libc.stdint cimport uint64_t

from libproto cimport words
from libproto.framing cimport Decoder
from server.core.chat cimport Chat
from server.core.session cimport Session
from server.worker.connection cimport Connection
from server.worker.durable cimport Durable
from server.worker.requests cimport Request
from server.worker.subscriptions cimport Subscriptions

cdef unsigned int _FLAGGED, _CHAT_SEND
cdef Py_ssize_t _MESSAGE_AT


cdef class ChatSend(Request):
    cdef object _services
    cdef Chat _chat
    cdef Durable _durable
    cdef Subscriptions _subscriptions
    cdef Py_ssize_t _max_message
    cdef bint _rated

    @cython.locals(
        buf=bytes, at=Py_ssize_t, end=Py_ssize_t, encoded=bytes, message=str, room=uint64_t,
    )
    cpdef bytes serve(self, object connection, Decoder frame)
    @cython.locals(
        session=Session, seq=uint64_t, time=uint64_t, event=uint64_t, recorded=bint,
        touched=frozenset, flag=cython.uint,
    )
    cdef bytes _execute(
        self, Connection connection, uint64_t req_id, uint64_t flags, uint64_t room, str message,
        bytes encoded,
    )
