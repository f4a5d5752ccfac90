# Twin of calls.py: not compiled by itself, but into the modules that cimport it.
#
# What is not as it should be goes to the codec, which says what is wrong with it; so does text that
# is not ASCII, as whether it is UTF-8 is for Python to say.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from libproto cimport wire, words

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static inline int calls_is_ascii(const char *at, Py_ssize_t size) {
        uint64_t all = 0, word;
        for (; size >= 8; size -= 8, at += 8) {
            memcpy(&word, at, 8);
            all |= word;
        }
        for (; size > 0; size--, at++) all |= (unsigned char)*at;
        return !(all & 0x8080808080808080u);
    }
    """
    bint calls_is_ascii(const char *at, Py_ssize_t size) noexcept

ctypedef (uint64_t, uint64_t) Pair
ctypedef (uint32_t, uint64_t, uint8_t, Py_ssize_t) Event


cdef inline uint64_t _whole(object value) except? 0:
    if type(value) is not int:  # C would take a float, and cut it off
        raise TypeError
    return value


cdef inline bytes _request(uint16_t opcode, uint64_t req_id, uint32_t flags, tuple fields):
    """None: it is for the codec."""
    cdef bytes made
    cdef const char *text
    cdef uint64_t first
    cdef Py_ssize_t size = 0
    cdef char *at
    if flags > 0x0F:
        return None
    if opcode == 0x0203 and len(fields) == 2:
        first = _whole(fields[0])
        if first > 0xFFFFFFFF:
            return None
        made = PyBytes_FromStringAndSize(NULL, 32 + 12)
        at = PyBytes_AS_STRING(made)
        wire.wire_write32(at + 32, <uint32_t>first)
        wire.wire_write64(at + 36, _whole(fields[1]))
        size = 12
    elif (opcode == 0x0004 or opcode == 0x0201 or opcode == 0x0202) and len(fields) == 1:
        made = PyBytes_FromStringAndSize(NULL, 32 + 8)
        at = PyBytes_AS_STRING(made)
        wire.wire_write64(at + 32, _whole(fields[0]))
        size = 8
    elif opcode == 0x0204 and len(fields) == 0:
        made = PyBytes_FromStringAndSize(NULL, 32)
        at = PyBytes_AS_STRING(made)
    elif opcode == 0x0103 and len(fields) == 2:
        first = _whole(fields[0])
        if first > 0xFFFFFFFF or type(fields[1]) is not str:
            return None
        text = PyUnicode_AsUTF8AndSize(fields[1], &size)
        if size > 0xFFFF:
            return None
        made = PyBytes_FromStringAndSize(NULL, 32 + 6 + size)
        at = PyBytes_AS_STRING(made)
        wire.wire_write32(at + 32, <uint32_t>first)
        wire.wire_write16(at + 36, <uint16_t>size)
        memcpy(at + 38, text, size)
        size += 6
    else:
        return None
    wire.wire_seal(at, 0x4E530100 | flags, <uint32_t>size, opcode, 0, req_id)
    return made


cdef inline bytes request(uint16_t opcode, uint64_t req_id, uint32_t flags, tuple fields):
    cdef bytes made = None
    try:
        made = _request(opcode, req_id, flags, fields)
    except (OverflowError, TypeError, ValueError):
        pass  # the codec refuses it, too
    if made is None:
        from libproto.codec import REQUEST
        return REQUEST[opcode].frame(req_id, flags, *fields)
    return made


cdef inline Pair pair(uint16_t opcode, bytes buf, Py_ssize_t start, Py_ssize_t end) except *:
    if end - start != 16:
        from libproto.codec import RESPONSE
        return RESPONSE[opcode].decode(buf, start, end)
    cdef const char *at = PyBytes_AS_STRING(buf) + start
    return (wire.wire_read64(at), wire.wire_read64(at + 8))


cdef inline Event event(bytes buf, Py_ssize_t start, Py_ssize_t end) except *:
    cdef const char *at = PyBytes_AS_STRING(buf) + start
    cdef Py_ssize_t size = end - start, text
    if size >= 29:
        text = 29 + wire.wire_read16(at + 25)
        if text <= size and text + wire.wire_read16(at + text - 2) == size \
                and calls_is_ascii(at + 27, size - 27):
            return (
                wire.wire_read32(at), wire.wire_read64(at + 4), <uint8_t>at[20], start + text,
            )
    from libproto.codec import PUSH
    room, seq, _, kind, _, _, message = PUSH[0x0104].decode(buf, start, end)
    return (room, seq, kind, end - len(message.encode()))


cdef inline bytes said(
    uint32_t room, uint64_t seq, uint64_t time, uint32_t user, str name, str text
):
    cdef Py_ssize_t name_size = 0, text_size = 0
    cdef const char *name_at = PyUnicode_AsUTF8AndSize(name, &name_size)
    cdef const char *text_at = PyUnicode_AsUTF8AndSize(text, &text_size)
    if name_size > 0xFFFF or text_size > 0xFFFF:
        from libproto.codec import PUSH
        return PUSH[0x0104].encode(room, seq, time, 0, user, name, text)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 29 + name_size + text_size)
    words.write_event(
        PyBytes_AS_STRING(made), room, seq, time, 0, user, name_at, name_size, text_at, text_size,
    )
    return made
