# Twin of wire.py: not compiled by itself, but into the modules that cimport it.
#
# The checksum is that of zlib.crc32, sixteen bytes at a time from tables that every extension fills
# when it is loaded. Frames are big-endian; whoever calls has looked that the bytes are there.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "wire.pxd is written for little-endian machines"
    #endif

    /* What a byte becomes when row more bytes are passed behind it. */
    static uint32_t wire_crc_table[16][256];

    __attribute__((constructor)) static void wire_crc_fill(void) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t crc = byte;
            for (int bit = 0; bit < 8; bit++)
                crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
            wire_crc_table[0][byte] = crc;
        }
        for (uint32_t byte = 0; byte < 256; byte++)
            for (int row = 1; row < 16; row++) {
                uint32_t before = wire_crc_table[row - 1][byte];
                wire_crc_table[row][byte] = before >> 8 ^ wire_crc_table[0][before & 0xFF];
            }
    }

    /* Four bytes, of which the last has `row` more behind it. */
    static inline uint32_t wire_crc_four(uint32_t word, int row) {
        return wire_crc_table[row + 3][word & 0xFF] ^ wire_crc_table[row + 2][word >> 8 & 0xFF]
            ^ wire_crc_table[row + 1][word >> 16 & 0xFF] ^ wire_crc_table[row][word >> 24];
    }

    /* As zlib's crc32(crc, data, size). */
    static inline uint32_t wire_crc(uint32_t crc, const char *data, Py_ssize_t size) {
        const unsigned char *at = (const unsigned char *)data;
        uint32_t words[4];
        crc = ~crc;
        for (; size >= 16; size -= 16, at += 16) {
            memcpy(words, at, 16);
            crc = wire_crc_four(words[0] ^ crc, 12) ^ wire_crc_four(words[1], 8)
                ^ wire_crc_four(words[2], 4) ^ wire_crc_four(words[3], 0);
        }
        for (; size >= 4; size -= 4, at += 4) {
            memcpy(words, at, 4);
            crc = wire_crc_four(words[0] ^ crc, 0);
        }
        for (; size > 0; size--, at++)
            crc = crc >> 8 ^ wire_crc_table[0][(crc ^ *at) & 0xFF];
        return ~crc;
    }

    static inline uint64_t wire_read64(const char *at) {
        uint64_t value;
        memcpy(&value, at, 8);
        return __builtin_bswap64(value);
    }

    static inline uint32_t wire_read32(const char *at) {
        uint32_t value;
        memcpy(&value, at, 4);
        return __builtin_bswap32(value);
    }

    static inline uint16_t wire_read16(const char *at) {
        uint16_t value;
        memcpy(&value, at, 2);
        return __builtin_bswap16(value);
    }

    static inline void wire_write64(char *at, uint64_t value) {
        value = __builtin_bswap64(value);
        memcpy(at, &value, 8);
    }

    static inline void wire_write32(char *at, uint32_t value) {
        value = __builtin_bswap32(value);
        memcpy(at, &value, 4);
    }

    static inline void wire_write16(char *at, uint16_t value) {
        value = __builtin_bswap16(value);
        memcpy(at, &value, 2);
    }

    /* The header of a frame whose body is in place behind it, with the checksum over both. */
    static inline void wire_seal(char *frame, uint32_t word, uint32_t body_len, uint16_t opcode,
                                 uint16_t status, uint64_t req_id) {
        wire_write32(frame, word);
        wire_write16(frame + 4, 32);
        wire_write32(frame + 6, body_len);
        wire_write16(frame + 10, opcode);
        wire_write16(frame + 12, status);
        wire_write64(frame + 14, req_id);
        memset(frame + 26, 0, 6);
        wire_write32(frame + 22,
                     wire_crc(wire_crc(0, frame, 22), frame + 26, 6 + (Py_ssize_t)body_len));
    }
    """
    uint32_t wire_crc(uint32_t crc, const char *data, Py_ssize_t size) noexcept nogil
    uint64_t wire_read64(const char *at) noexcept nogil
    uint32_t wire_read32(const char *at) noexcept nogil
    uint16_t wire_read16(const char *at) noexcept nogil
    void wire_write64(char *at, uint64_t value) noexcept nogil
    void wire_write32(char *at, uint32_t value) noexcept nogil
    void wire_write16(char *at, uint16_t value) noexcept nogil
    void wire_seal(char *frame, uint32_t word, uint32_t body_len, uint16_t opcode,
                   uint16_t status, uint64_t req_id) noexcept nogil

ctypedef (uint32_t, uint16_t, uint32_t, uint16_t, uint16_t, uint64_t, uint32_t, uint16_t, uint32_t) Header

cdef inline Header header(bytes data, Py_ssize_t pos) noexcept:
    cdef const char *at = PyBytes_AS_STRING(data) + pos
    return (
        wire_read32(at), wire_read16(at + 4), wire_read32(at + 6), wire_read16(at + 10),
        wire_read16(at + 12), wire_read64(at + 14), wire_read32(at + 22), wire_read16(at + 26),
        wire_read32(at + 28),
    )

cdef inline uint32_t checksum(bytes data, Py_ssize_t start, Py_ssize_t end) noexcept:
    cdef const char *at = PyBytes_AS_STRING(data)
    return wire_crc(wire_crc(0, at + start, 22), at + start + 26, end - start - 26)

cdef inline bytes frame(uint32_t word, uint16_t opcode, uint16_t status, uint64_t req_id, bytes body):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
    if size > 0xFFFFFFFF:
        raise OverflowError("a body of 4 GiB or more")
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 32 + size)
    cdef char *at = PyBytes_AS_STRING(made)
    memcpy(at + 32, PyBytes_AS_STRING(body), size)
    wire_seal(at, word, <uint32_t>size, opcode, status, req_id)
    return made

cdef inline bytes head(uint32_t word, uint32_t body_len, uint16_t opcode, uint16_t status, uint64_t req_id):
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 22)
    cdef char *at = PyBytes_AS_STRING(made)
    wire_write32(at, word)
    wire_write16(at + 4, 32)
    wire_write32(at + 6, body_len)
    wire_write16(at + 10, opcode)
    wire_write16(at + 12, status)
    wire_write64(at + 14, req_id)
    return made

cdef inline uint64_t crc(bytes data, uint32_t before) noexcept:
    return wire_crc(before, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
