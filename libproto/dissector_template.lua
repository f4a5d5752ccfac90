-- A dissector of the tradechat protocol for Wireshark and tshark, of version ${version}.
--
-- Made by `${program}`; do not edit.
-- Put it into the folder "Personal Lua Plugins" that Wireshark shows under Help, About, Folders, or
-- name it: tshark -X lua_script:tradechat.lua -r capture.pcap
-- It takes TCP port ${port} (a preference), what begins as a frame does, and what "Decode As" says.

local HEADER_LEN = ${header_len}
local MAGIC, VERSION = ${magic}, ${protocol_version}
local FRAME_LEN_MAX = 0x1000000 -- a longer one is not waited for

${tables}

-- Fields -------------------------------------------------------------------------------------

local proto = Proto("tradechat", "tradechat")
local fields, experts = {}, {}

local function field(name, made)
    fields[name] = made
    return made
end

local function abbreviation(name)
    return "tradechat." .. name
end

field(".magic", ProtoField.uint16("tradechat.magic", "magic", base.HEX))
field(".version", ProtoField.uint8("tradechat.version", "version"))
field(".flags", ProtoField.uint8("tradechat.flags", "flags", base.HEX))
for _, flag in ipairs(FLAGS) do
    local name = "flags." .. flag[2]:lower()
    field("." .. name, ProtoField.bool(abbreviation(name), flag[2], 8, nil, flag[1]))
end
field(".flags.reserved", ProtoField.uint8("tradechat.flags.reserved", "reserved", base.HEX, nil, RESERVED_FLAGS))
field(".header_len", ProtoField.uint16("tradechat.header_len", "header_len"))
field(".body_len", ProtoField.uint32("tradechat.body_len", "body_len"))
field(".opcode", ProtoField.uint16("tradechat.opcode", "opcode", base.HEX, OPCODES))
field(".status", ProtoField.uint16("tradechat.status", "status", base.DEC, STATUSES))
field(".req_id", ProtoField.uint64("tradechat.req_id", "req_id"))
field(".checksum", ProtoField.uint32("tradechat.checksum", "checksum", base.HEX))
field(".checksum.status", ProtoField.uint8("tradechat.checksum.status", "checksum status", base.DEC,
    { [0] = "Bad", [1] = "Good" }))
field(".reserved", ProtoField.bytes("tradechat.reserved", "reserved"))
field(".message", ProtoField.string("tradechat.message_name", "message"))
field(".body", ProtoField.bytes("tradechat.body", "body"))
field(".encrypted", ProtoField.bytes("tradechat.encrypted", "encrypted body"))
field(".compressed", ProtoField.bytes("tradechat.compressed", "compressed body"))
field(".left_over", ProtoField.bytes("tradechat.left_over", "left over"))
field(".count", ProtoField.uint16("tradechat.count", "items"))

local MAKE = {
    u8 = ProtoField.uint8,
    u16 = ProtoField.uint16,
    u32 = ProtoField.uint32,
    u64 = ProtoField.uint64,
}
for _, described in ipairs(FIELDS) do
    local name, kind, label, values = described[1], described[2], described[3], described[4]
    if kind == "str" then
        field(name, ProtoField.string(abbreviation(name), label))
    elseif kind == "bytes" then
        field(name, ProtoField.bytes(abbreviation(name), label))
    elseif kind == "list" then
        field(name, ProtoField.none(abbreviation(name), label))
    elseif values == "bits" then
        field(name, MAKE[kind](abbreviation(name), label, base.HEX))
        for _, bit_of in ipairs(BITS[name]) do
            local full = name .. "." .. bit_of[2]:lower()
            field(full, ProtoField.bool(abbreviation(full), bit_of[2], 32, nil, bit_of[1]))
        end
    else
        field(name, MAKE[kind](abbreviation(name), label, base.DEC, values and VALUES[values]))
    end
end

local function expert_field(name, text, group, severity)
    experts[name] = ProtoExpert.new(abbreviation(name), text, group, severity)
end

expert_field("checksum.bad", "Bad checksum", expert.group.CHECKSUM, expert.severity.ERROR)
expert_field("header.bad", "Not the header of a frame", expert.group.MALFORMED, expert.severity.ERROR)
expert_field("body.bad", "The body is not what the opcode has", expert.group.MALFORMED, expert.severity.ERROR)
expert_field("header.reserved", "What is reserved is not 0", expert.group.PROTOCOL, expert.severity.WARN)
expert_field("opcode.unknown", "Unknown opcode", expert.group.PROTOCOL, expert.severity.WARN)
expert_field("refused", "The server refused the request", expert.group.RESPONSE_CODE, expert.severity.NOTE)

proto.fields = fields
proto.experts = experts

-- CRC-32/ISO-HDLC ----------------------------------------------------------------------------

local bits = bit or bit32
local band, bxor, rshift = bits.band, bits.bxor, bits.rshift
local CRC = {}
for number = 0, 255 do
    local value = number
    for _ = 1, 8 do
        if band(value, 1) == 1 then
            value = bxor(rshift(value, 1), 0xEDB88320)
        else
            value = rshift(value, 1)
        end
    end
    CRC[number] = value
end

local function crc_over(crc, data)
    for position = 1, #data do
        crc = bxor(rshift(crc, 8), CRC[band(bxor(crc, data:byte(position)), 0xFF)])
    end
    return crc
end

local function checksum_of(frame)
    local crc = crc_over(0xFFFFFFFF, frame:raw(0, 22))
    crc = crc_over(crc, frame:raw(26, frame:len() - 26))
    return bxor(crc, 0xFFFFFFFF) % 0x100000000
end

-- Bodies -------------------------------------------------------------------------------------

local SIZES = { u8 = 1, u16 = 2, u32 = 4, u64 = 8 }

-- How a number reads: as a time, or as money.
local function reading(name, value)
    if TIMES[name] then
        local seconds = (value / 1000000):tonumber()
        if seconds > 0 and seconds < 253402300800 then
            return os.date("!%Y-%m-%d %H:%M:%S", seconds) .. string.format(".%06d UTC", (value % 1000000):tonumber())
        end
    elseif MONEY[name] then
        return tostring(value / 100) .. string.format(".%02d", (value % 100):tonumber())
    end
end

local add_fields

-- Adds one field at an offset of `tvb`; the offset behind it, or nil where it does not fit.
local function add_field(tree, tvb, offset, described)
    local name, kind = described[1], described[2]
    local left = tvb:len() - offset
    local size = SIZES[kind]
    if size then
        if left < size then
            return nil
        end
        local range = tvb:range(offset, size)
        local item = tree:add(fields[name], range)
        if size == 8 then
            local text = reading(name, range:uint64())
            if text then
                item:append_text(" (" .. text .. ")")
            end
        end
        for _, bit_of in ipairs(BITS[name] or {}) do
            item:add(fields[name .. "." .. bit_of[2]:lower()], range)
        end
        return offset + size
    end
    if left < 2 then
        return nil
    end
    local length = tvb:range(offset, 2):uint()
    offset = offset + 2
    if kind == "list" then
        local branch = tree:add(fields[name], tvb:range(offset - 2))
        branch:add(fields[".count"], tvb:range(offset - 2, 2))
        branch:append_text(string.format(": %d", length))
        local start = offset - 2
        for number = 1, length do
            if offset == tvb:len() then
                return nil
            end
            local item = branch:add(proto, tvb:range(offset), string.format("%s %d", name, number))
            local item_start = offset
            offset = add_fields(item, tvb, offset, described[3])
            if offset == nil then
                return nil
            end
            item:set_len(offset - item_start)
        end
        branch:set_len(offset - start)
        return offset
    end
    if left - 2 < length then
        return nil
    end
    if kind == "str" then
        tree:add_packet_field(fields[name], tvb:range(offset, length), ENC_UTF_8)
    else
        tree:add(fields[name], tvb:range(offset, length))
    end
    return offset + length
end

function add_fields(tree, tvb, offset, body)
    for _, described in ipairs(body) do
        offset = add_field(tree, tvb, offset, described)
        if offset == nil then
            return nil
        end
    end
    return offset
end

local function add_body(tree, tvb, body)
    local offset = add_fields(tree, tvb, 0, body)
    if offset == nil then
        tree:add_proto_expert_info(experts["body.bad"], "The body ends in a field")
    elseif offset < tvb:len() then
        tree:add(fields[".left_over"], tvb:range(offset))
        tree:add_proto_expert_info(experts["body.bad"], "The body goes on after its last field")
    end
end

-- Frames -------------------------------------------------------------------------------------

local function is_header(tvb, offset)
    return tvb:range(offset, 2):uint() == MAGIC
        and tvb:range(offset + 2, 1):uint() == VERSION
        and tvb:range(offset + 4, 2):uint() == HEADER_LEN
end

local function frame_len(tvb, _, offset)
    local length = HEADER_LEN + tvb:range(offset + 6, 4):uint()
    if is_header(tvb, offset) and length <= FRAME_LEN_MAX then
        return length
    end
    return tvb:len() - offset -- where the next frame begins is not known
end

local function direction_of(opcode, flags)
    if band(flags, RESPONSE) ~= 0 then
        return "response"
    end
    local message = BODIES[opcode]
    return message and message.push and "push" or "request"
end

local function add_header(tree, frame, flags, opcode)
    tree:add(fields[".magic"], frame:range(0, 2))
    tree:add(fields[".version"], frame:range(2, 1))
    local item = tree:add(fields[".flags"], frame:range(3, 1))
    local names = {}
    for _, flag in ipairs(FLAGS) do
        item:add(fields[".flags." .. flag[2]:lower()], frame:range(3, 1))
        if band(flags, flag[1]) ~= 0 then
            names[#names + 1] = flag[2]
        end
    end
    item:add(fields[".flags.reserved"], frame:range(3, 1))
    if #names > 0 then
        item:append_text(" (" .. table.concat(names, ", ") .. ")")
    end
    if band(flags, RESERVED_FLAGS) ~= 0 then
        item:add_proto_expert_info(experts["header.reserved"], "Reserved flags are set")
    end
    tree:add(fields[".header_len"], frame:range(4, 2))
    tree:add(fields[".body_len"], frame:range(6, 4))
    item = tree:add(fields[".opcode"], frame:range(10, 2))
    if not OPCODES[opcode] then
        item:add_proto_expert_info(experts["opcode.unknown"])
    end
    item = tree:add(fields[".status"], frame:range(12, 2))
    local status = frame:range(12, 2):uint()
    if status ~= 0 then
        item:add_proto_expert_info(experts["refused"], STATUSES[status] or "Unknown status")
    end
    tree:add(fields[".req_id"], frame:range(14, 8))
    local found, expected = frame:range(22, 4):uint(), checksum_of(frame)
    item = tree:add(fields[".checksum"], frame:range(22, 4))
    if found == expected then
        item:append_text(" (good)")
    else
        item:append_text(string.format(" (bad, should be 0x%08x)", expected))
        item:add_proto_expert_info(experts["checksum.bad"], string.format("Bad checksum, should be 0x%08x", expected))
    end
    tree:add(fields[".checksum.status"], frame:range(22, 4), found == expected and 1 or 0):set_generated()
    item = tree:add(fields[".reserved"], frame:range(26, 6))
    if frame:raw(26, 6) ~= ("\0"):rep(6) then
        item:add_proto_expert_info(experts["header.reserved"], "Reserved bytes are not 0")
    end
    return found == expected
end

local function dissect_body(tree, frame, flags, opcode, direction)
    local described = (BODIES[opcode] or {})[direction]
    if direction == "response" and frame:range(12, 2):uint() ~= 0 then
        described = ERROR
    end
    if frame:len() == HEADER_LEN then -- there is no range of no bytes
        if described and #described > 0 and band(flags, ENCRYPTED + COMPRESSED) == 0 then
            tree:add_proto_expert_info(experts["body.bad"], "There is no body")
        end
        return
    end
    if band(flags, ENCRYPTED) ~= 0 then
        tree:add(fields[".encrypted"], frame:range(HEADER_LEN))
        return
    end
    local body = frame:range(HEADER_LEN):tvb()
    if band(flags, COMPRESSED) ~= 0 then
        tree:add(fields[".compressed"], frame:range(HEADER_LEN))
        local inflated = frame:range(HEADER_LEN):uncompress("inflated body")
        if not inflated then
            tree:add_proto_expert_info(experts["body.bad"], "The body does not inflate")
            return
        end
        body = inflated:tvb()
    end
    if described then
        add_body(tree, body, described)
    else
        tree:add(fields[".body"], body:range())
    end
end

local function dissect_frame(frame, pinfo, root)
    local tree = root:add(proto, frame:range())
    if frame:len() < HEADER_LEN or not is_header(frame, 0)
        or HEADER_LEN + frame:range(6, 4):uint() > FRAME_LEN_MAX then
        tree:add_proto_expert_info(experts["header.bad"])
        tree:append_text(", not a frame")
        pinfo.cols.info:append("not a frame ")
        return frame:len()
    end
    local flags, opcode = frame:range(3, 1):uint(), frame:range(10, 2):uint()
    local status = frame:range(12, 2):uint()
    local direction = direction_of(opcode, flags)
    local title = string.format("%s %s", OPCODES[opcode] or string.format("0x%04x", opcode), direction)
    if status ~= 0 then
        title = title .. " " .. (STATUSES[status] or tostring(status))
    end
    if band(flags, ENCRYPTED) ~= 0 then
        title = title .. " [encrypted]"
    end
    local req_id = frame:range(14, 8):uint64()
    tree:append_text(", " .. title)
    tree:add(fields[".message"], title):set_generated()
    if not add_header(tree, frame, flags, opcode) then
        title = title .. " [bad checksum]"
    end
    pinfo.cols.info:append(title .. (direction == "push" and "" or " #" .. tostring(req_id)) .. "  ")
    dissect_body(tree, frame, flags, opcode, direction)
    return frame:len()
end

function proto.dissector(tvb, pinfo, root)
    pinfo.cols.protocol = "tradechat"
    pinfo.cols.info = ""
    dissect_tcp_pdus(tvb, root, HEADER_LEN, frame_len, dissect_frame)
    return tvb:len()
end

local function looks_like_one(tvb, pinfo, root)
    if tvb:len() < 6 or not is_header(tvb, 0) then
        return false
    end
    pinfo.conversation = proto
    proto.dissector(tvb, pinfo, root)
    return true
end

-- Where it is used ---------------------------------------------------------------------------

local tcp_port = DissectorTable.get("tcp.port")
local ports = "${port}"
proto.prefs.ports = Pref.range("TCP ports", ports, "Ports that tradechat servers listen on", 65535)

tcp_port:add(ports, proto)
proto:register_heuristic("tcp", looks_like_one)

function proto.prefs_changed()
    if ports ~= "" then
        tcp_port:remove(ports, proto)
    end
    ports = proto.prefs.ports
    if ports ~= "" then
        tcp_port:add(ports, proto)
    end
end
