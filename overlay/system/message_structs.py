"""The structures of sendmmsg(2) and recvmmsg(2), which Python's socket module lacks."""

from __future__ import annotations

import ctypes

__all__ = ["IoVector", "Message", "MessageHeader"]


class IoVector(ctypes.Structure):
    """``struct iovec`` (readv(2))."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class MessageHeader(ctypes.Structure):
    """``struct msghdr`` (recvmsg(2))."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Message(ctypes.Structure):
    """``struct mmsghdr``; ``length`` is the number of bytes sent or received."""

    _fields_ = (("header", MessageHeader), ("length", ctypes.c_uint))
