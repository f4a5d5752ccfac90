"""What each request does.

A handler is a function. It takes the services, the connection, the req_id, the flags and the fields
of the body, and gives the whole response frame, or None where that comes later. What is on the hot
path is a class, made once for a worker, which does the same. Both refuse by raising; the connection
makes that a frame.
"""

from libproto.messages import Opcode
from server.worker.handlers import boards, chat, connection, files, rooms, trading, transactions
from server.worker.requests import Handler, Hot

HANDLERS: dict[Opcode, Handler] = (
    connection.HANDLERS
    | chat.HANDLERS
    | rooms.HANDLERS
    | transactions.HANDLERS
    | boards.HANDLERS
    | files.HANDLERS
)
HOT: dict[Opcode, Hot] = connection.HOT | chat.HOT | trading.HOT
