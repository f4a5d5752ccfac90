cimport cython
from libc.stdint cimport uint64_t

from libnet cimport kernel
from libnet.transport cimport FrameProtocol
from server.core.audience cimport Audience
from server.core.events cimport Events
from server.core.session cimport Session
from server.region cimport histogram, machine
from server.region.machine cimport Words
from server.worker.durable cimport Durable

cdef uint64_t _SLICE, _TIMES_FIRST, _ROOM_CHANGED


cdef class _Subscription:
    cdef readonly Session session
    cdef readonly bint payments
    cdef readonly set rooms
    cdef readonly dict gaps
    cdef public uint64_t direct_seq


cdef class _LocalRoom:
    cdef public uint64_t delivered
    cdef readonly uint64_t opened
    cdef readonly dict members


cdef class Subscriptions:
    cdef Durable _durable
    cdef object _state, _counters, _view, _wakeups, _loop, _memberships
    cdef Words _words
    cdef Events _events
    cdef Audience _audience
    cdef uint64_t _worker, _cursor, _cut_at, _cut, _pushes_at, _delay_at, _now, _gaps
    cdef object _named, _deletions
    cdef uint64_t _deletions_at
    cdef dict _of, _rooms, _users, _touched, _leaving
    cdef list _frames
    cdef uint64_t _frames_room, _frames_first
    cdef object _lap
    cdef set _waking
    cdef bint _wake_scheduled

    cpdef wake(self, frozenset touched)
    cpdef _wake(self)
    @cython.locals(released=uint64_t, cut=uint64_t, head=uint64_t, last=uint64_t)
    cpdef poll(self)
    @cython.locals(
        events=Events, cursor=uint64_t, released=uint64_t, subscriber=FrameProtocol,
    )
    cdef _push_slice(self, uint64_t last)
    cdef _push(self, FrameProtocol subscriber, bytes frame)
    @cython.locals(local=_LocalRoom, seq=uint64_t)
    cdef _room_event(self, event)
    @cython.locals(
        frames=list, room=uint64_t, first=uint64_t, members=dict, touched=dict, count=uint64_t,
        every=bytes, what=bytes, told=uint64_t, start=uint64_t, subscriber=FrameProtocol,
    )
    cdef _push_frames(self)
    @cython.locals(words=Words, at=uint64_t, now=uint64_t, delay=uint64_t)
    cdef _count(self, uint64_t time, uint64_t members)
    @cython.locals(subscriber=FrameProtocol, subscription=_Subscription)
    cdef _to_user(self, event)
