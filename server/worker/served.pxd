cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from libnet cimport kernel
from libnet.transport cimport FrameProtocol
from libproto cimport wire
from server.region cimport histogram, machine
from server.region.machine cimport Words

cdef uint64_t _HEADER_LEN, _RESPONSE, _STATUSES, _FIRST


cdef class Served:
    cdef object _view, _of
    cdef Words _words, _records
    cdef uint64_t _other, _opcodes, _sent, _sent_bytes, _latency

    cpdef uint64_t record(self, uint64_t opcode) except? 0
    @cython.locals(
        words=Words, now=uint64_t, before=uint64_t, took=uint64_t, bucket=uint64_t, data=bytes,
        pos=uint64_t, size=uint64_t, head=uint32_t, body_len=uint32_t, opcode=uint16_t,
        status=uint16_t, record=uint64_t, length=uint64_t, arrived=uint64_t,
    )
    cpdef sent(self, list frames, FrameProtocol connection)
