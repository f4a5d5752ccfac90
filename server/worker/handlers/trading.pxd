cimport cython
from libc.stdint cimport uint64_t

from libproto cimport words
from libproto.framing cimport Decoder
from server.core.audience cimport Audience
from server.core.ledger cimport Ledger
from server.core.session cimport Session
from server.worker.connection cimport Connection
from server.worker.durable cimport Durable
from server.worker.requests cimport Request

cdef unsigned int _FLAGGED, _TRANSFER_OPCODE, _BALANCE_OPCODE
cdef uint64_t _TRANSFER
cdef int _RECORDED


cdef class _Money(Request):
    cdef object _services
    cdef Audience _audience
    cdef Ledger _ledger
    cdef Durable _durable


cdef class _WithTheWorld(_Money):
    cdef unsigned int _opcode
    cdef uint64_t _kind

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


cdef class Balance(_Money):
    @cython.locals(
        session=Session, found=(bint, uint64_t, uint64_t), live=bint, balance=uint64_t, last=uint64_t,
    )
    cdef bytes _execute(self, Connection connection, uint64_t req_id)
