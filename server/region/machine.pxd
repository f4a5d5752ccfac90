# Twin of machine.py: not compiled by itself, but into the modules that cimport it. What each of
# these does, says machine.py.
#
# A pointer to words is one to volatile words: the C compiler neither merges stores nor moves one
# past another, so whoever is killed has stored a beginning of what the source says. A commit word
# is stored with release and read with acquire (C11, 7.17.3): other processors see the same order.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EINTR, ETIMEDOUT
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #include <errno.h>
    #include <semaphore.h>
    #include <stdint.h>
    #include <string.h>
    #include <time.h>

    typedef volatile uint64_t *region_words;

    static inline uint64_t region_look(region_words words, uint64_t at) {
        return __atomic_load_n(words + at, __ATOMIC_ACQUIRE);
    }

    static inline uint64_t region_look_again(region_words words, uint64_t at) {
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        return __atomic_load_n(words + at, __ATOMIC_RELAXED);
    }

    static inline void region_publish(region_words words, uint64_t at, uint64_t value) {
        __atomic_store_n(words + at, value, __ATOMIC_RELEASE);
    }

    static inline void region_retract(region_words words, uint64_t at) {
        __atomic_store_n(words + at, 0, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_RELEASE);
    }

    static inline void region_copy(region_words words, uint64_t to, uint64_t start, uint64_t count) {
        for (uint64_t n = 0; n < count; n++) words[to + n] = words[start + n];
    }

    static inline int region_are_numbered(
        region_words words, uint64_t step, uint64_t count, uint64_t first
    ) {
        if (count && first + (count - 1) < first) return 0;
        for (uint64_t n = 0; n < count; n++)
            if (words[n * step] != first + n) return 0;
        return 1;
    }

    static inline int region_has_any(
        region_words words, uint64_t at, uint64_t step, uint64_t count
    ) {
        for (uint64_t n = 0; n < count; n++)
            if (words[at + n * step]) return 1;
        return 0;
    }

    static inline void region_store(region_words words, uint64_t at, const char *block, uint64_t size) {
        uint64_t word;
        for (uint64_t n = 0; n * 8 < size; n++) {
            memcpy(&word, block + n * 8, 8);
            words[at + n] = word;
        }
    }

    static inline void region_relax(void) {
    #if defined(__x86_64__)
        __builtin_ia32_pause();
    #endif
    }

    /* 0, or the code of the error. */
    static inline int region_wait(sem_t *semaphore, int64_t deadline_ns) {
        struct timespec until = {deadline_ns / 1000000000, deadline_ns % 1000000000};
        return sem_clockwait(semaphore, CLOCK_MONOTONIC, &until) == 0 ? 0 : errno;
    }

    static inline int region_is_free(sem_t *semaphore) {
        int value = 0;
        return sem_getvalue(semaphore, &value) == 0 && value > 0;
    }
    """
    ctypedef uint64_t *Words "region_words"
    ctypedef struct sem_t:
        pass
    uint64_t look "region_look" (Words words, uint64_t at) noexcept
    uint64_t look_again "region_look_again" (Words words, uint64_t at) noexcept
    void publish "region_publish" (Words words, uint64_t at, uint64_t value) noexcept
    void retract "region_retract" (Words words, uint64_t at) noexcept
    void copy_words "region_copy" (Words words, uint64_t to, uint64_t start, uint64_t count) noexcept
    bint are_numbered "region_are_numbered" (
        Words words, uint64_t step, uint64_t count, uint64_t first
    ) noexcept
    bint has_any "region_has_any" (
        Words words, uint64_t at, uint64_t step, uint64_t count
    ) noexcept
    void _store "region_store" (
        Words words, uint64_t at, const char *block, uint64_t size
    ) noexcept
    void relax "region_relax" () noexcept
    int _wait "region_wait" (sem_t *semaphore, int64_t deadline_ns) noexcept
    bint _is_free "region_is_free" (sem_t *semaphore) noexcept
    int sem_trywait(sem_t *semaphore) noexcept
    int sem_post(sem_t *semaphore) noexcept

cdef extern from "Python.h":
    int PyObject_GetBuffer(object of, Py_buffer *view, int flags) except -1
    void PyBuffer_Release(Py_buffer *view) noexcept
    int PyBUF_WRITABLE
    bint PyMemoryView_Check(object view) noexcept
    Py_buffer *PyMemoryView_GET_BUFFER(object view) noexcept

ctypedef sem_t *Semaphore


cdef inline Words words_of(object view) except NULL:
    if not PyMemoryView_Check(view):
        raise TypeError("a compiled module needs a memoryview of the region")
    return <Words> PyMemoryView_GET_BUFFER(view).buf


cdef inline Words column(object of) except? NULL:
    cdef Py_buffer view
    PyObject_GetBuffer(of, &view, PyBUF_WRITABLE)
    PyBuffer_Release(&view)  # where it is stays the same until it grows
    return <Words> view.buf


cdef inline (
    uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
    uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
) money_record(bytes of, uint64_t at) noexcept:
    cdef Words words = <Words> (PyBytes_AS_STRING(of) + at)
    return (
        words[0], words[1], words[2], words[3], words[4], words[5], words[6], words[7], words[8],
        words[9], words[10], words[11], words[12], words[13], words[14], words[15], words[16],
        words[17],
    )


cdef inline void store_7(
    Words words, object blob, uint64_t at,
    uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g,
) noexcept:
    words[at] = a
    words[at + 1] = b
    words[at + 2] = c
    words[at + 3] = d
    words[at + 4] = e
    words[at + 5] = f
    words[at + 6] = g


cdef inline void pack_7(
    Words column, uint64_t at,
    uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g,
) noexcept:
    store_7(column, None, at // 8, a, b, c, d, e, f, g)


cdef inline void store_17(
    Words words, object blob, uint64_t at,
    uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h,
    uint64_t i, uint64_t j, uint64_t k, uint64_t l, uint64_t m, uint64_t n, uint64_t o, uint64_t p,
    uint64_t q,
) noexcept:
    store_7(words, blob, at, a, b, c, d, e, f, g)
    store_7(words, blob, at + 7, h, i, j, k, l, m, n)
    words[at + 14] = o
    words[at + 15] = p
    words[at + 16] = q


cdef inline int store_block(Words words, object blob, uint64_t at, bytes block) except -1:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(block)
    if size % 8:
        raise ValueError("a block has whole words")
    _store(words, at, PyBytes_AS_STRING(block), size)
    return 0


cdef inline bytes block_of_14(
    uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h,
    uint64_t i, uint64_t j, uint64_t k, uint64_t l, uint64_t m, uint64_t n, bytes tail,
):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(tail)
    cdef Py_ssize_t padding = -size & 7
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 14 * 8 + size + padding)
    cdef char *at = PyBytes_AS_STRING(made)
    cdef uint64_t[14] words = [a, b, c, d, e, f, g, h, i, j, k, l, m, n]
    memcpy(at, words, 14 * 8)
    memcpy(at + 14 * 8, PyBytes_AS_STRING(tail), size)
    memset(at + 14 * 8 + size, 0, padding)
    return made


cdef inline Semaphore semaphore(uint64_t address) noexcept:
    return <Semaphore> <void *> address


cdef inline bint try_wait(Semaphore of) noexcept:
    return sem_trywait(of) == 0


cdef inline bint wait_until(uint64_t address, int64_t deadline_ns) except -1:
    cdef int code = _wait(semaphore(address), deadline_ns)
    if code and code != ETIMEDOUT and code != EINTR:
        raise OSError(code, "sem_clockwait")
    return code == 0


cdef inline int post(Semaphore of) except -1:
    if _is_free(of):
        raise ValueError("a semaphore was freed that nobody held")
    sem_post(of)
    return 0
