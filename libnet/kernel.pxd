# Twin of kernel.py: not compiled by itself, but into the modules that cimport it.
#
# The interpreter lock is kept: neither call waits. So one buffer serves all connections and threads
# of the process.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <sys/socket.h>
    #include <time.h>

    #define KERNEL_RECEIVE_MAX (64 * 1024)
    static char kernel_buffer[KERNEL_RECEIVE_MAX];

    static inline Py_ssize_t kernel_receive(int fd) {
        Py_ssize_t size = recv(fd, kernel_buffer, KERNEL_RECEIVE_MAX, MSG_DONTWAIT);
        if (size >= 0) return size;
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? -1 : -2;
    }

    static inline Py_ssize_t kernel_send(int fd, const char *data, Py_ssize_t size) {
        Py_ssize_t sent = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) return sent;
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
    }

    static inline uint64_t kernel_now_us(void) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    }
    """
    char *kernel_buffer
    Py_ssize_t kernel_receive(int fd) noexcept
    Py_ssize_t kernel_send(int fd, const char *data, Py_ssize_t size) noexcept
    uint64_t now_us "kernel_now_us" () noexcept


cdef inline bytes receive(int fd):
    cdef Py_ssize_t size = kernel_receive(fd)
    if size == -2:
        PyErr_SetFromErrno(OSError)
    if size < 0:
        return None
    return PyBytes_FromStringAndSize(kernel_buffer, size)


cdef inline Py_ssize_t send(int fd, bytes data, Py_ssize_t start) except -1:
    cdef const char *at = PyBytes_AS_STRING(data) + start
    cdef Py_ssize_t sent = kernel_send(fd, at, PyBytes_GET_SIZE(data) - start)
    if sent < 0:
        PyErr_SetFromErrno(OSError)
    return sent
