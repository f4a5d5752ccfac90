# Twin of notes.py: not compiled by itself, but into the modules that cimport it.
#
# A column that is no array, or not one of what is said, is a mistake of ours that Python would tell
# and C does not: rooms.pxd and record.pxd say that they are arrays, and rooms.py of what.

from cpython.array cimport array, resize_smart
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.unicode cimport PyUnicode_DATA, PyUnicode_New
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset

from libproto cimport wire

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #include <time.h>

    static inline double notes_now(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)((int64_t)now.tv_sec * 1000000000 + now.tv_nsec) / 1e9;
    }

    /* The number in 16 hex digits; 0 where they are not such, or not in lower case. */
    static inline int notes_hex(const char *at, uint64_t *found) {
        uint64_t value = 0;
        for (int n = 0; n < 16; n++) {
            unsigned char digit = (unsigned char)at[n];
            if (digit >= '0' && digit <= '9') value = value << 4 | (uint64_t)(digit - '0');
            else if (digit >= 'a' && digit <= 'f') value = value << 4 | (uint64_t)(digit - 'a' + 10);
            else return 0;
        }
        *found = value;
        return 1;
    }

    static inline void notes_write_double(char *at, double value) {
        uint64_t word;
        memcpy(&word, &value, 8);
        wire_write64(at, word);
    }
    """
    double now "notes_now" () noexcept
    bint notes_hex(const char *at, uint64_t *found) noexcept
    void notes_write_double(char *at, double value) noexcept


cdef inline uint32_t us(double passed_s) noexcept:
    cdef int64_t found = <int64_t>(passed_s * 1e6)
    return <uint32_t>found if found < 0xFFFFFFFF else 0xFFFFFFFF


cdef inline int append(array column, uint32_t value) except -1:
    cdef Py_ssize_t count = len(column)
    resize_smart(column, count + 1)
    column.data.as_uints[count] = value
    return 0


cdef inline uint8_t u8(array column, Py_ssize_t at) noexcept:
    return column.data.as_uchars[at]


cdef inline void put_u8(array column, Py_ssize_t at, uint8_t value) noexcept:
    column.data.as_uchars[at] = value


cdef inline uint32_t u32(array column, Py_ssize_t at) noexcept:
    return column.data.as_uints[at]


cdef inline void put_u32(array column, Py_ssize_t at, uint32_t value) noexcept:
    column.data.as_uints[at] = value


cdef inline void put_f64(array column, Py_ssize_t at, double value) noexcept:
    column.data.as_doubles[at] = value


cdef inline int answer(
    bytearray packed, uint64_t txn_id, uint8_t kind, uint32_t user, uint32_t payee,
    uint64_t amount, uint64_t balance, double sent, double answered,
) except -1:
    cdef Py_ssize_t size = PyByteArray_GET_SIZE(packed)
    PyByteArray_Resize(packed, size + 49)
    cdef char *at = PyByteArray_AS_STRING(packed) + size
    wire.wire_write64(at, txn_id)
    at[8] = <char>kind
    wire.wire_write32(at + 9, user)
    wire.wire_write32(at + 13, payee)
    wire.wire_write64(at + 17, amount)
    wire.wire_write64(at + 25, balance)
    notes_write_double(at + 33, sent)
    notes_write_double(at + 41, answered)
    return 0


cdef inline uint32_t digest(bytes buf, Py_ssize_t start, Py_ssize_t end) noexcept:
    cdef uint32_t found = wire.wire_crc(0, PyBytes_AS_STRING(buf) + start, end - start)
    return found if found else 1


cdef inline str compose(double sent, uint64_t serial, Py_ssize_t payload):
    cdef char head[64]
    cdef Py_ssize_t size = snprintf(
        head, sizeof(head), "%016llx %llu ", <unsigned long long>(sent * 1e9),
        <unsigned long long>serial,
    )
    cdef str made = PyUnicode_New(payload, 0x7F)
    cdef char *at = <char *>PyUnicode_DATA(made)
    memset(at, 46, payload)  # dots
    memcpy(at, head, size if size < payload else payload)
    return made


cdef inline double sent_at(bytes buf, Py_ssize_t start, Py_ssize_t end) except? -1:
    cdef uint64_t found = 0
    if end - start >= 16 and notes_hex(PyBytes_AS_STRING(buf) + start, &found):
        return <double>found / 1e9
    try:
        return int(buf[start : min(start + 16, end)], 16) / 1e9
    except ValueError:
        return 0.0
