# Twin of wire.py: not compiled by itself, but into the modules that cimport it.
#
# The checksum is that of zlib.crc32: of few bytes from tables that every extension fills when it is
# loaded, sixteen at a time; of more by carry-less multiplication, where the processor has it. Frames
# are big-endian; whoever calls has looked that the bytes are there.

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

    /* How a CRC without its two inversions goes on over some bytes. */
    static inline uint32_t wire_crc_pass(uint32_t crc, const unsigned char *at, Py_ssize_t size) {
        uint32_t words[4];
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
        return crc;
    }

    #if defined(__x86_64__)
    #include <immintrin.h>
    #define WIRE_FOLDS __attribute__((target("pclmul,sse4.1")))

    static int wire_can_fold;

    __attribute__((constructor)) static void wire_look(void) {
        __builtin_cpu_init();
        wire_can_fold = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
    }

    /* Sixteen bytes, passed over by as many as `powers` tells: two powers of x, modulo the
       polynomial, by which its halves are multiplied; and those which stand there. */
    WIRE_FOLDS static inline __m128i wire_fold(__m128i sum, __m128i powers, __m128i there) {
        __m128i low = _mm_clmulepi64_si128(sum, powers, 0x00);
        __m128i high = _mm_clmulepi64_si128(sum, powers, 0x11);
        return _mm_xor_si128(_mm_xor_si128(low, high), there);
    }

    /* The same as wire_crc_pass, of 64 bytes or more: they are folded into sixteen that have the
       same remainder, four lanes at a time. */
    WIRE_FOLDS static uint32_t wire_crc_fold(uint32_t crc, const unsigned char *at, Py_ssize_t size) {
        const __m128i by_64 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
        const __m128i by_16 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
        const __m128i *from = (const __m128i *)at;
        unsigned char folded[16];
        __m128i a = _mm_xor_si128(_mm_loadu_si128(from), _mm_cvtsi32_si128((int)crc));
        __m128i b = _mm_loadu_si128(from + 1);
        __m128i c = _mm_loadu_si128(from + 2);
        __m128i d = _mm_loadu_si128(from + 3);
        for (from += 4, size -= 64; size >= 64; from += 4, size -= 64) {
            a = wire_fold(a, by_64, _mm_loadu_si128(from));
            b = wire_fold(b, by_64, _mm_loadu_si128(from + 1));
            c = wire_fold(c, by_64, _mm_loadu_si128(from + 2));
            d = wire_fold(d, by_64, _mm_loadu_si128(from + 3));
        }
        a = wire_fold(wire_fold(wire_fold(a, by_16, b), by_16, c), by_16, d);
        for (; size >= 16; from++, size -= 16)
            a = wire_fold(a, by_16, _mm_loadu_si128(from));
        _mm_storeu_si128((__m128i *)folded, a);
        return wire_crc_pass(wire_crc_pass(0, folded, 16), (const unsigned char *)from, size);
    }
    #endif

    /* As zlib's crc32(crc, data, size). */
    static inline uint32_t wire_crc(uint32_t crc, const char *data, Py_ssize_t size) {
        const unsigned char *at = (const unsigned char *)data;
    #if defined(__x86_64__)
        if (size >= 64 && wire_can_fold)
            return ~wire_crc_fold(~crc, at, size);
    #endif
        return ~wire_crc_pass(~crc, at, size);
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
