# Twin of words.py: not compiled by itself, but into the modules that cimport it.
#
# What is not as it should be goes to the codec, which says what is wrong with it.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from libproto cimport wire

# 64 bits each, so that whoever shifts a number loses nothing
ctypedef (uint64_t, uint64_t) Transfer
ctypedef (uint64_t, uint64_t, uint64_t) TransferInRoom

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

cdef inline uint64_t chat_send(bytes buf, Py_ssize_t start, Py_ssize_t end) except? 0:
    cdef const char *at = PyBytes_AS_STRING(buf) + start
    if end - start < 6 or wire.wire_read16(at + 4) != end - start - 6:
        from libproto.codec import REQUEST
        return REQUEST[0x0103].decode(buf, start, end)[0]
    return wire.wire_read32(at)

cdef inline TransferInRoom transfer_in_room(bytes buf, Py_ssize_t start, Py_ssize_t end) except *:
    cdef const char *at = PyBytes_AS_STRING(buf) + start
    if end - start < 18 or wire.wire_read16(at + 16) != end - start - 18:
        from libproto.codec import REQUEST
        return REQUEST[0x0206].decode(buf, start, end)[:3]
    return (wire.wire_read32(at), wire.wire_read32(at + 4), wire.wire_read64(at + 8))

cdef inline bytes transferred_in_room(
    uint64_t req_id, uint32_t flags, uint64_t txn, uint64_t balance, uint64_t seq
):
    if flags > 0x0F:
        from libproto.codec import RESPONSE
        return RESPONSE[0x0206].frame(req_id, flags, txn, balance, seq)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 56)
    cdef char *at = PyBytes_AS_STRING(made)
    wire.wire_write64(at + 32, txn)
    wire.wire_write64(at + 40, balance)
    wire.wire_write64(at + 48, seq)
    wire.wire_seal(at, 0x4E530104 | flags, 24, 0x0206, 0, req_id)
    return made

# The body of a CHAT_BROADCAST: 29 bytes, and those of name and message.
cdef inline void write_event(
    char *at, uint64_t room, uint64_t seq, uint64_t time, uint64_t kind, uint64_t user,
    const char *name, Py_ssize_t name_size, const char *message, Py_ssize_t size,
) noexcept:
    wire.wire_write32(at, <uint32_t>room)
    wire.wire_write64(at + 4, seq)
    wire.wire_write64(at + 12, time)
    at[20] = <char>kind
    wire.wire_write32(at + 21, <uint32_t>user)
    wire.wire_write16(at + 25, <uint16_t>name_size)
    memcpy(at + 27, name, name_size)
    at += 27 + name_size
    wire.wire_write16(at, <uint16_t>size)
    memcpy(at + 2, message, size)

cdef inline bytes broadcast(
    uint64_t room, uint64_t seq, uint64_t time, uint64_t kind, uint64_t user, str name,
    bytes message,
):
    cdef Py_ssize_t name_size = 0, size = PyBytes_GET_SIZE(message)
    cdef const char *its_name = PyUnicode_AsUTF8AndSize(name, &name_size)
    if name_size > 0xFFFF or size > 0xFFFF or room >> 32 or kind >> 8 or user >> 32:
        from libproto.codec import PUSH
        return PUSH[0x0104].frame(0, 0, room, seq, time, kind, user, name, message.decode())
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 61 + name_size + size)
    cdef char *at = PyBytes_AS_STRING(made)
    write_event(
        at + 32, room, seq, time, kind, user, its_name, name_size, PyBytes_AS_STRING(message), size,
    )
    wire.wire_seal(at, 0x4E530100, <uint32_t>(29 + name_size + size), 0x0104, 0, 0)
    return made
