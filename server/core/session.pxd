from libc.stdint cimport uint64_t

from server.region.locks cimport Lock


cdef class Session:
    cdef readonly uint64_t at, slot, id, user, account
    cdef readonly str name
    cdef readonly Lock lock
    cdef public object sending, directing
    cdef public uint64_t client, outcomes, client_slot, client_id, floor
    cdef public bint resumed
