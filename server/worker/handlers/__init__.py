"""What each request does: one function per opcode.

A handler takes the services, the connection, the req_id, the flags and the fields of the body, and
gives the whole response frame, or None where that comes later. It refuses by raising; the
connection makes that a frame.
"""

from libproto.messages import Opcode
from server.worker.handlers import chat, connection, trading
from server.worker.requests import Handler

HANDLERS: dict[Opcode, Handler] = connection.HANDLERS | chat.HANDLERS | trading.HANDLERS
