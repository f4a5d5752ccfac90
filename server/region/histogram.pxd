# Twin of histogram.py: not compiled by itself, but into the modules that cimport it.

from libc.stdint cimport uint64_t

from server.region.machine cimport Words

cdef extern from *:
    """
    #include <stdint.h>

    static inline uint64_t histogram_bucket_of(uint64_t value, uint64_t first) {
        uint64_t over = value ? (value - 1) >> first : 0;
        uint64_t bucket = over ? 64 - __builtin_clzll(over) : 0;
        return bucket < 19 ? bucket : 19;
    }
    """
    uint64_t bucket_of "histogram_bucket_of" (uint64_t value, uint64_t first) noexcept


cdef inline void add(Words words, uint64_t at, uint64_t value, uint64_t count, uint64_t first) noexcept:
    words[at] += value * count
    words[at + 1 + bucket_of(value, first)] += count
