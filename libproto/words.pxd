# Twin of words.py: not compiled by itself, but into the modules that cimport it.
#
# What is not as it should be goes to the codec, which says what is wrong with it.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from libproto cimport wire

ctypedef (uint32_t, uint64_t) Transfer

cdef inline bytes pair(uint16_t opcode, uint64_t req_id, uint32_t flags, uint64_t first, uint64_t second):
    if flags > 0x0F:
        from libproto.codec import RESPONSE
        return RESPONSE[opcode].frame(req_id, flags, first, second)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 48)
    cdef char *at = PyBytes_AS_STRING(made)
    wire.wire_write64(at + 32, first)
    wire.wire_write64(at + 40, second)
    wire.wire_seal(at, 0x4E530104 | flags, 16, opcode, 0, req_id)
    return made

cdef inline uint64_t word(uint16_t opcode, bytes buf, Py_ssize_t start, Py_ssize_t end) except? 0:
    if end - start != 8:
        from libproto.codec import REQUEST
        return REQUEST[opcode].decode(buf, start, end)[0]
    return wire.wire_read64(PyBytes_AS_STRING(buf) + start)

cdef inline Transfer transfer(bytes buf, Py_ssize_t start, Py_ssize_t end) except *:
    if end - start != 12:
        from libproto.codec import REQUEST
        return REQUEST[0x0203].decode(buf, start, end)
    cdef const char *at = PyBytes_AS_STRING(buf) + start
    return (wire.wire_read32(at), wire.wire_read64(at + 4))
