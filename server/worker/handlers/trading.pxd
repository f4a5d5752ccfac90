cimport cython
from libc.stdint cimport uint64_t

from libproto cimport words
from libproto.framing cimport Decoder
from server.core.audience cimport Audience
from server.core.ledger cimport Ledger
from server.core.pairs cimport Pairs
from server.core.session cimport Session
from server.worker.connection cimport Connection
from server.worker.durable cimport Durable
from server.worker.requests cimport Request
from server.worker.subscriptions cimport Subscriptions

cdef unsigned int _FLAGGED, _TRANSFER_OPCODE, _BALANCE_OPCODE
cdef uint64_t _TRANSFER
cdef Py_ssize_t _NOTE_AT, _NOTE_MAX
cdef int _RECORDED


cdef class _Money(Request):
    cdef object _services
    cdef Audience _audience
    cdef Ledger _ledger
    cdef Durable _durable


cdef class _WithTheWorld(_Money):
    cdef unsigned int _opcode
    cdef uint64_t _kind
    cdef bint _audited
    cdef object _name

    @cython.locals(amount=uint64_t)
    cpdef bytes serve(self, object connection, Decoder frame)
    @cython.locals(
        session=Session, done=(int, uint64_t, uint64_t), what=int, txn=uint64_t, balance=uint64_t,
        flag=cython.uint,
    )
    cdef bytes _execute(
        self, Connection connection, uint64_t req_id, uint64_t flags, uint64_t amount
    )


cdef class Transfer(_Money):
    @cython.locals(to_user=uint64_t, amount=uint64_t)
    cpdef bytes serve(self, object connection, Decoder frame)
    @cython.locals(
        session=Session, done=(int, uint64_t, uint64_t), what=int, txn=uint64_t, balance=uint64_t,
        flag=cython.uint,
    )
    cdef bytes _execute(
        self, Connection connection, uint64_t req_id, uint64_t flags, uint64_t to_user,
        uint64_t amount,
    )


cdef class TransferInRoom(_Money):
    cdef Pairs _pairs
    cdef Subscriptions _subscriptions

    @cython.locals(
        buf=bytes, at=Py_ssize_t, end=Py_ssize_t, encoded=bytes, note=str, room=uint64_t,
        to_user=uint64_t, amount=uint64_t,
    )
    cpdef bytes serve(self, object connection, Decoder frame)
    @cython.locals(
        session=Session, now=uint64_t, what=int, txn=uint64_t, balance=uint64_t, seq=uint64_t,
        event=uint64_t, touched=frozenset, flag=cython.uint,
    )
    cdef bytes _execute(
        self, Connection connection, uint64_t req_id, uint64_t flags, uint64_t room,
        uint64_t to_user, uint64_t amount, str note, bytes encoded,
    )


cdef class Balance(_Money):
    @cython.locals(
        session=Session, found=(bint, uint64_t, uint64_t), live=bint, balance=uint64_t, last=uint64_t,
    )
    cdef bytes _execute(self, Connection connection, uint64_t req_id)
