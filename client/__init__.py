"""Clients of tradechat: `Client` blocks, `AsyncClient` is for asyncio; the names are the same."""

from client.aio import AsyncClient
from client.blocking import Client
from client.core.pushes import PaymentGap, Push, RoomRefused, RoomRestarted
from client.errors import (
    AlreadyExists,
    BadPacket,
    CallTimeout,
    ChecksumFailed,
    ClientError,
    ConnectionLost,
    InsufficientFunds,
    InternalError,
    LimitReached,
    NotFound,
    OutcomeUnknown,
    ProtocolViolation,
    ReloginFailed,
    RequestFailed,
    ServerBusy,
    Superseded,
    Unauthorized,
)

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "BadPacket",
    "CallTimeout",
    "ChecksumFailed",
    "Client",
    "ClientError",
    "ConnectionLost",
    "InsufficientFunds",
    "InternalError",
    "LimitReached",
    "NotFound",
    "OutcomeUnknown",
    "PaymentGap",
    "ProtocolViolation",
    "Push",
    "ReloginFailed",
    "RequestFailed",
    "RoomRefused",
    "RoomRestarted",
    "ServerBusy",
    "Superseded",
    "Unauthorized",
]
