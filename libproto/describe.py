"""Frames as text, and the table of messages as the protocol document.

`explain` is for people who look at a capture: it says all it can of a frame, also of a bad one.
`document` joins the tables, which come from the code that runs, with the prose of
`protocol_template.md`, which must have a place for every table and every message.
"""

from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any

import libproto
from libproto.codec import ERROR, PUSH, REQUEST, RESPONSE, Codec
from libproto.errors import LibprotoError, PeerError, Status
from libproto.fields import Body, fields_of
from libproto.framing import KNOWN_FLAGS, PREFIX, Decoder, Fault, Frame, checksum
from libproto.messages import (
    BY_OPCODE,
    CHUNK_MAX,
    FILE_NAME_MAX,
    FILES_WAITING_MAX,
    HEADER_LEN,
    IDENTITY_LEN,
    KEY_LEN,
    LIST_MAX,
    MAGIC,
    MAX_BALANCE,
    MEDIA_TYPE_MAX,
    MESSAGES,
    MIN_ITERATIONS,
    NONCE_LEN,
    OUTCOME_WINDOW,
    PUBLIC_KEY_LEN,
    SALT_LEN,
    SHA256_LEN,
    SIGNATURE_LEN,
    URL_MAX,
    USERNAME_PATTERN,
    VERSION,
    Capability,
    EventKind,
    Flag,
    Message,
    Opcode,
    RoomAccess,
    RoomRole,
    State,
    TxnKind,
)
from libproto.session import TRANSITIONS
from libproto.texts import CLIENT_NAME_MAX, RESERVED_NAMES
from libproto.wire import HEADER

_LONGEST_BODY_LEN = 2**32 - 1
_OPCODE_NAMES = {int(opcode): opcode.name for opcode in Opcode}
_STATUS_NAMES = {int(status): status.name for status in Status}

# --- Frames -----------------------------------------------------------------------------------


def explain(data: bytes) -> tuple[str, bool]:
    """Describe every frame of a stream; also whether all, and the stream's end, are good."""
    decoder = Decoder(_LONGEST_BODY_LEN)
    decoder.feed(data)
    blocks: list[str] = []
    good = True
    position = 0
    while (frame := decoder.next()) is not None:
        raw = data[position:]
        if frame[7] != Fault.HEADER:
            raw = raw[: HEADER_LEN + frame[6] - frame[5]]
        lines, problems = _explain_frame(frame, raw)
        title = f"frame {len(blocks) + 1} at byte {position}: {_title(frame)}"
        blocks.append("\n".join([title, *lines, *(f"  PROBLEM: {text}" for text in problems)]))
        good = good and not problems
        position += len(raw)
    if decoder.buffered:
        good = False
        blocks.append(f"PROBLEM: at byte {position}: {_incomplete(data[position:])}")
    return "\n\n".join(blocks) + "\n", good


def _incomplete(rest: bytes) -> str:
    if len(rest) < HEADER_LEN:
        return f"the stream ends in a header: {len(rest)} of {HEADER_LEN} bytes"
    body_len = HEADER.unpack_from(rest)[2]
    return f"the stream ends in a body: {len(rest) - HEADER_LEN} of {body_len} bytes"


def _direction(opcode: int, flags: int) -> str:
    if flags & Flag.RESPONSE:
        return "response"
    return "push" if opcode in PUSH else "request"


def _title(frame: Frame) -> str:
    opcode, _, flags, *_ = frame
    name = BY_OPCODE[opcode].name if opcode in BY_OPCODE else "unknown opcode"
    return f"{name} {_direction(opcode, flags)}"


def _explain_frame(frame: Frame, raw: bytes) -> tuple[list[str], list[str]]:
    """Lines that show a frame, and one sentence for each thing wrong with it."""
    opcode, req_id, flags, status, buf, start, end, fault = frame
    head, header_len, body_len, _, _, _, found, high, low = HEADER.unpack_from(raw)
    names = [flag.name or "" for flag in Flag if flags & flag]
    rows = [
        ("magic", _hex(head >> 16, 4)),
        ("version", f"{head >> 8 & 0xFF}"),
        ("flags", " ".join([f"{_hex(flags, 2)}", *names])),
        ("header_len", f"{header_len}"),
        ("body_len", f"{body_len}"),
        ("opcode", f"{_hex(opcode, 4)} {_OPCODE_NAMES.get(opcode, '(unknown)')}"),
        ("status", f"{status} {_STATUS_NAMES.get(status, '(unknown)')}"),
        ("req_id", f"{req_id}"),
    ]
    if fault == Fault.HEADER:
        rows += [("checksum", f"{_hex(found, 8)}, not checked")]
        return _table(rows), [_header_problem(head, header_len)]
    expected = checksum(raw)
    problems = []
    if fault == Fault.CHECKSUM:
        rows.append(("checksum", f"{_hex(found, 8)} bad, expected {_hex(expected, 8)}"))
        problems.append(f"the checksum is {_hex(found, 8)}, expected {_hex(expected, 8)}")
    else:
        rows.append(("checksum", f"{_hex(found, 8)} ok"))
    if high or low:
        problems.append(f"the reserved bytes are {high:04x}{low:08x}, not 0")
    if flags & ~KNOWN_FLAGS:
        problems.append(f"the flags {_hex(flags & ~KNOWN_FLAGS, 2)} are reserved")
    problems += _envelope_problems(opcode, req_id, flags, status)
    lines = _table(rows)
    body, problem = _explain_body(opcode, flags, status, buf, start, end)
    if problem:
        problems.append(problem)
    return lines + body, problems


def _header_problem(head: int, header_len: int) -> str:
    if head >> 16 != MAGIC:
        what = f"the magic is {_hex(head >> 16, 4)}, expected {_hex(MAGIC, 4)}"
    elif head >> 8 != PREFIX >> 8:
        what = f"the version is {head >> 8 & 0xFF}, expected {VERSION}"
    else:
        what = f"the header_len is {header_len}, expected {HEADER_LEN}"
    return f"{what}; nothing from here on can be read"


def _envelope_problems(opcode: int, req_id: int, flags: int, status: int) -> list[str]:
    direction = _direction(opcode, flags)
    problems = []
    if direction == "request" and req_id == 0:
        problems.append("the req_id of a request is not 0")
    if direction == "push" and req_id != 0:
        problems.append("the req_id of a push is 0")
    if direction != "response" and status != 0:
        problems.append(f"the status of a {direction} is 0")
    if status not in _STATUS_NAMES:
        problems.append(f"there is no status {status}")
    if opcode not in BY_OPCODE and (direction == "request" or status == Status.OK):
        problems.append(f"there is no opcode {_hex(opcode, 4)}")
    if opcode in PUSH and direction == "response" and status == Status.OK:
        problems.append("a push has no response")
    return problems


def _codec(opcode: int, flags: int, status: int) -> Codec | None:
    if flags & Flag.RESPONSE:
        return RESPONSE.get(opcode) if status == Status.OK else ERROR
    return PUSH.get(opcode) or REQUEST.get(opcode)


def _explain_body(
    opcode: int, flags: int, status: int, buf: bytes, start: int, end: int
) -> tuple[list[str], str]:
    """Lines that show a body, and what is wrong with it or an empty string."""
    raw = [f"  body        {buf[start:end].hex() or '(empty)'}"]
    if flags & Flag.ENCRYPTED:
        return ["  body, encrypted", f"    {buf[start:end].hex()}"], ""
    if flags & Flag.COMPRESSED:
        return ["  body, compressed", f"    {buf[start:end].hex()}"], ""
    codec = _codec(opcode, flags, status)
    if codec is None:
        return raw, ""
    try:
        values = codec.decode(buf, start, end)
    except PeerError as error:
        return raw, error.detail
    fields = fields_of(codec.body)
    if not fields:
        return raw, ""
    width = max(len(field.name) for field in fields)
    lines = ["  body"]
    for field, value in zip(fields, values, strict=True):
        if field.item is None:
            lines.append(f"    {field.name:{width}}  {_shown(value)}")
            continue
        lines.append(f"    {field.name:{width}}  {len(value)} items")
        for item in value:
            pairs = zip(fields_of(field.item), item, strict=True)
            lines.append("      " + ", ".join(f"{f.name} {_shown(v)}" for f, v in pairs))
    return lines, ""


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex() or "(empty)"
    return repr(value)


def _hex(value: int, digits: int) -> str:
    return f"0x{value:0{digits}X}"


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return [f"  {name:10}  {value}" for name, value in rows]


# --- The document -----------------------------------------------------------------------------

# For each part of the header its size in bytes, its name, and what it holds.
_HEADER_ROWS = (
    (2, "magic", f'{_hex(MAGIC, 4)}, "NS"'),
    (1, "version", f"{VERSION}"),
    (1, "flags", "see below"),
    (2, "header_len", f"{HEADER_LEN}"),
    (4, "body_len", "bytes that follow the header, as transmitted"),
    (2, "opcode", "see the messages"),
    (2, "status", "0 in requests and pushes"),
    (8, "req_id", "chosen by the client, not 0; echoed by the response; 0 in pushes"),
    (4, "checksum", "CRC-32/ISO-HDLC over header[0:22] \\|\\| header[26:32] \\|\\| body"),
    (6, "reserved", "0"),
)

_STRUCT_CODES = {1: "B", 2: "H", 4: "I", 6: "6x", 8: "Q"}

_FLAG_MEANINGS = {
    Flag.ENCRYPTED: "the body is sealed; only where encryption was granted",
    Flag.COMPRESSED: "the body is a zlib stream; only where compression was granted",
    Flag.RESPONSE: "set in every response, in nothing else",
    Flag.POSSIBLE_DUPLICATE: "in a numbered request: it may have been executed before; "
    "in a response: the outcome is a recorded one",
}

_CAPABILITY_MEANINGS = {
    Capability.ENCRYPTION: "encrypted bodies",
    Capability.COMPRESSION: "compressed bodies",
    Capability.PAYMENTS: "PAYMENT pushes",
}

_STATUS_MEANINGS = {
    Status.OK: "done; the body is the response body of the opcode",
    Status.ERR_BAD_PACKET: "a length, field, flag, opcode or argument is invalid",
    Status.ERR_CHECKSUM_FAIL: "the checksum does not match; the frame was dropped",
    Status.ERR_UNAUTHORIZED: "not logged in, wrong proof, not a member of the room, "
    "or the session was superseded",
    Status.ERR_NOT_FOUND: "no such room, user, offer, text or file; "
    "LEAVE_ROOM of a room that was not joined",
    Status.ERR_INSUFFICIENT_FUNDS: "the balance is below the amount",
    Status.ERR_SERVER_BUSY: "overload, rate limit, or shutting down; `retry_after_ms` says when "
    "to try again",
    Status.ERR_TIMEOUT: "not done in time; in the ledger: whether it was ever executed "
    "cannot be told any more",
    Status.ERR_ALREADY_EXISTS: "the username is taken",
    Status.ERR_LIMIT: "an amount or a balance would pass its limit, the receiver's included; "
    "nothing changed",
    Status.ERR_INTERNAL: "the server failed; the fault is not the client's",
}


def document() -> str:
    """The protocol document, Markdown. LibprotoError if the template misses a part."""
    parts = _parts()
    text = files(libproto).joinpath("protocol_template.md").read_text(encoding="utf-8")
    template = Template(text)
    named = set(template.get_identifiers())
    if named != parts.keys():
        raise LibprotoError(f"protocol_template.md: parts differ: {sorted(named ^ parts.keys())}")
    return template.substitute(parts)


def _answers_by_move() -> dict[tuple[State, Opcode, State], list[str]]:
    moves: dict[tuple[State, Opcode, State], list[str]] = {}
    for (state, opcode, status), state_after in TRANSITIONS.items():
        moves.setdefault((state, opcode, state_after), []).append(status.name)
    return moves


def _parts() -> dict[str, str]:
    nonce_len = f"{NONCE_LEN.start} to {NONCE_LEN.stop - 1}"
    return {
        "version": f"{VERSION}",
        "header_len": f"{HEADER_LEN}",
        "header_table": _header_table(),
        "header_struct": ">" + "".join(_STRUCT_CODES[size] for size, _, _ in _HEADER_ROWS),
        "flags_table": _rows(
            ("flag", "name", "meaning"),
            [(_hex(f, 2), f.name or "", _FLAG_MEANINGS[f]) for f in Flag],
        ),
        "status_table": _rows(
            ("code", "name", "meaning"),
            [(f"{s.value}", s.name, _STATUS_MEANINGS[s]) for s in Status],
        ),
        "error_body": _body("error body", ERROR.body),
        "limits_table": _limits_table(nonce_len),
        "rules_table": _rules_table(),
        "transitions_table": _rows(
            ("state", "request", "answer", "state after it"),
            [
                (state.name, opcode.name, ", ".join(answers), state_after.name)
                for (state, opcode, state_after), answers in _answers_by_move().items()
            ],
        ),
        "capabilities_table": _rows(
            ("bit", "value", "name", "meaning"),
            [
                (f"{c.bit_length() - 1}", f"{c.value}", c.name or "", _CAPABILITY_MEANINGS[c])
                for c in Capability
            ],
        ),
        "list_max": f"{LIST_MAX}",
        "key_len": f"{KEY_LEN}",
        "salt_len": f"{SALT_LEN}",
        "nonce_len": nonce_len,
        "identity_len": f"{IDENTITY_LEN}",
        "signature_len": f"{SIGNATURE_LEN}",
        "public_key_len": f"{PUBLIC_KEY_LEN}",
        "min_iterations": f"{MIN_ITERATIONS}",
        "max_balance": f"{MAX_BALANCE}",
        "client_name_max": f"{CLIENT_NAME_MAX}",
        "reserved_names": ", ".join(f"`{name}`" for name in RESERVED_NAMES),
        "chunk_max": f"{CHUNK_MAX}",
        "sha256_len": f"{SHA256_LEN}",
        "file_name_max": f"{FILE_NAME_MAX}",
        "media_type_max": f"{MEDIA_TYPE_MAX}",
        "url_max": f"{URL_MAX}",
        "files_waiting_max": f"{FILES_WAITING_MAX}",
        "outcome_window": f"{OUTCOME_WINDOW}",
        "outcome_window_less_one": f"{OUTCOME_WINDOW - 1}",
        "event_kinds": ", ".join(f"{kind.value} {kind.name.lower()}" for kind in EventKind),
        "room_accesses": ", ".join(f"{one.value} {one.name.lower()}" for one in RoomAccess),
        "room_roles": ", ".join(f"{one.value} {one.name.lower()}" for one in RoomRole),
        "txn_kinds": ", ".join(f"{kind.value} {kind.name.lower()}" for kind in TxnKind),
        "numbered_requests": ", ".join(message.name for message in MESSAGES if message.numbered),
        **{f"message_{message.name}": _message(message) for message in MESSAGES},
    }


def _limits_table(nonce_len: str) -> str:
    return _rows(
        ("limit", "value"),
        [
            ("items of a list", f"{LIST_MAX}"),
            ("username", f"`{USERNAME_PATTERN.pattern.removesuffix(chr(92) + 'Z')}`"),
            ("client_nonce, server_nonce", f"{nonce_len} bytes"),
            ("salt of REGISTER", f"{SALT_LEN} bytes"),
            ("stored_key, server_key, client_proof, server_signature", f"{KEY_LEN} bytes"),
            ("public_key", f"{PUBLIC_KEY_LEN} bytes, or empty"),
            ("iterations", f"at least {MIN_ITERATIONS}"),
            ("amount", "at least 1"),
            ("balance", f"at most {MAX_BALANCE}"),
        ],
    )


def _header_table() -> str:
    rows = []
    offset = 0
    for size, name, meaning in _HEADER_ROWS:
        rows.append((f"{offset}", f"{size}", f"`{name}`", meaning))
        offset += size
    return _rows(("offset", "size", "field", "value"), rows)


def _rules_table() -> str:
    rows = [
        (message.name, *("handled" if rule == Status.OK else rule.name for rule in message.rules))
        for message in MESSAGES
        if message.push is None
    ]
    return _rows(("request", *(state.name for state in State)), rows)


def _message(message: Message) -> str:
    bodies = [("request", message.request), ("response", message.response), ("push", message.push)]
    lines = [_body(label, body) for label, body in bodies if body is not None]
    return "\n".join([f"#### {_hex(message.opcode, 4)} {message.name}", "", *lines])


def _body(label: str, body: Body) -> str:
    fields = [f"`{name}` {kind}" for name, kind in _named_kinds(body)]
    return f"- {label}: {', '.join(fields) or '(empty)'}"


def _named_kinds(body: Body) -> list[tuple[str, str]]:
    pairs = []
    for field in fields_of(body):
        if field.item is None:
            pairs.append((field.name, field.kind.name))
        else:
            inner = ", ".join(f"`{name}` {kind}" for name, kind in _named_kinds(field.item))
            pairs.append((field.name, f"list<{inner}>"))
    return pairs


def _rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
