-- Dissector for the fulmar protocol, version 1 (docs/PROTOCOL.md): every packet, frame and control message.
--
-- Install: copy this file into a plugin folder ("Help > About Wireshark > Folders"), or name it:
--   tshark -X lua_script:fulmar.lua -r capture.pcap
-- Decrypt: run fulmar (either side) with FULMAR_KEYLOG=FILE, and set the preference of the same meaning:
--   tshark -X lua_script:fulmar.lua -o fulmar.keylog:FILE -r capture.pcap -V
-- UDP port 5770 is taken by itself, other ports by the Hello, by connection IDs in the key log, or by "decode as".
--
-- Needs Wireshark 4.0 or newer, Lua 5.2 or newer. AES-128-GCM, SHA-256 and CRC-32 are computed here: Wireshark 4.0 lends
-- none of them to Lua. It takes some 15 microseconds for each 16 bytes, so a capture of 10 MB takes about 10 s to load.
-- License: MIT OR Apache-2.0, as the rest of fulmar.

local fulmar = Proto("fulmar", "fulmar file transfer")

---------------------------------------------------------------------------------------------------------------------
-- 32-bit arithmetic: bit32 in Lua 5.2, operators since 5.3 (which older ones cannot even parse, hence the strings).
---------------------------------------------------------------------------------------------------------------------

local xor2, xor4, xor5, xor16, band, bnot, rshift, lshift, extract, rrotate
if bit32 then
    xor2, xor4, xor5, xor16 = bit32.bxor, bit32.bxor, bit32.bxor, bit32.bxor
    band, bnot, rshift, lshift = bit32.band, bit32.bnot, bit32.rshift, bit32.lshift
    extract, rrotate = bit32.extract, bit32.rrotate
else
    local function made(parameters, expression)
        return assert(load("return function(" .. parameters .. ") return " .. expression .. " end"))()
    end
    local names = {}
    for i = 1, 16 do names[i] = "a" .. i end
    xor2, xor4, xor5 = made("a, b", "a ~ b"), made("a, b, c, d", "a ~ b ~ c ~ d"), made("a, b, c, d, e", "a ~ b ~ c ~ d ~ e")
    xor16 = made(table.concat(names, ", "), table.concat(names, " ~ "))
    band, bnot = made("a, b", "a & b"), made("a", "~a & 0xffffffff")
    rshift, lshift = made("a, n", "a >> n"), made("a, n", "(a << n) & 0xffffffff")
    extract = made("a, i, n", "(a >> i) & ((1 << n) - 1)")
    rrotate = made("a, n", "((a >> n) | (a << (32 - n))) & 0xffffffff")
end

local byte, char, sub = string.byte, string.char, string.sub
local TWO32 = 4294967296

-- Four bytes of a string as a number, and back. Sums below 2^53 are exact in every Lua.
local function word_at(s, i)
    local a, b, c, d = byte(s, i, i + 3)
    return ((a * 256 + b) * 256 + c) * 256 + d
end

local function word(n)
    return char(extract(n, 24, 8), extract(n, 16, 8), extract(n, 8, 8), extract(n, 0, 8))
end

local function word64(n)
    return word(math.floor(n / TWO32)) .. word(n % TWO32)
end

local function hex(s)
    return (s:gsub(".", function(c) return string.format("%02x", byte(c)) end))
end

local function unhex(s)
    return (s:gsub("%x%x", function(h) return char(tonumber(h, 16)) end))
end

---------------------------------------------------------------------------------------------------------------------
-- CRC-32 (ISO-HDLC), SHA-256 (FIPS 180-4), HMAC and HKDF-Expand (RFC 2104, RFC 5869)
---------------------------------------------------------------------------------------------------------------------

local CRC_TABLE = {}
for i = 0, 255 do
    local c = i
    for _ = 1, 8 do
        c = band(c, 1) == 1 and xor2(rshift(c, 1), 0xedb88320) or rshift(c, 1)
    end
    CRC_TABLE[i] = c
end

local function crc32(...)
    local c = 0xffffffff
    for _, s in ipairs({ ... }) do
        for i = 1, #s do
            c = xor2(rshift(c, 8), CRC_TABLE[band(xor2(c, byte(s, i)), 255)])
        end
    end
    return xor2(c, 0xffffffff)
end

-- FIPS 180-4, section 4.2.2.
local K = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}

local function sha256(message)
    local h = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 }
    message = message .. "\128" .. string.rep("\0", (55 - #message) % 64) .. word64(#message * 8)
    local w = {}
    for start = 1, #message, 64 do
        for t = 1, 16 do w[t] = word_at(message, start + 4 * (t - 1)) end
        for t = 17, 64 do
            local x, y = w[t - 15], w[t - 2]
            local s0 = xor2(xor2(rrotate(x, 7), rrotate(x, 18)), rshift(x, 3))
            local s1 = xor2(xor2(rrotate(y, 17), rrotate(y, 19)), rshift(y, 10))
            w[t] = (w[t - 16] + s0 + w[t - 7] + s1) % TWO32
        end
        local a, b, c, d, e, f, g, hh = h[1], h[2], h[3], h[4], h[5], h[6], h[7], h[8]
        for t = 1, 64 do
            local s1 = xor2(xor2(rrotate(e, 6), rrotate(e, 11)), rrotate(e, 25))
            local t1 = (hh + s1 + xor2(band(e, f), band(bnot(e), g)) + K[t] + w[t]) % TWO32
            local s0 = xor2(xor2(rrotate(a, 2), rrotate(a, 13)), rrotate(a, 22))
            local t2 = s0 + xor2(xor2(band(a, b), band(a, c)), band(b, c))
            hh, g, f, e, d, c, b, a = g, f, e, (d + t1) % TWO32, c, b, a, (t1 + t2) % TWO32
        end
        for i, v in ipairs({ a, b, c, d, e, f, g, hh }) do h[i] = (h[i] + v) % TWO32 end
    end
    for i = 1, 8 do h[i] = word(h[i]) end
    return table.concat(h)
end

local function xor_bytes(s, n)
    return (s:gsub(".", function(c) return char(xor2(byte(c), n)) end))
end

local function hmac(key, message)
    key = key .. string.rep("\0", 64 - #key)
    return sha256(xor_bytes(key, 0x5c) .. sha256(xor_bytes(key, 0x36) .. message))
end

-- Up to 32 bytes: one block.
local function expand(secret, label, length)
    return sub(hmac(secret, label .. "\1"), 1, length)
end

---------------------------------------------------------------------------------------------------------------------
-- AES-128-GCM (FIPS 197, NIST SP 800-38D), with tables: for reading captures, not for secrets of others
---------------------------------------------------------------------------------------------------------------------

local function doubled(b)
    return b < 128 and 2 * b or xor2(2 * b, 0x11b)
end

local SBOX, T0, T1, T2, T3 = {}, {}, {}, {}, {}
do
    -- Powers of the generator 3 give inverses: 3^i and 3^(255 - i).
    local power, log = {}, {}
    local p = 1
    for i = 0, 255 do
        power[i] = p
        if i < 255 then log[p] = i end
        p = xor2(p, doubled(p))
    end
    for x = 0, 255 do
        local inverse = x == 0 and 0 or power[(255 - log[x]) % 255]
        local s = inverse
        for n = 1, 4 do
            local turned = inverse * 2 ^ n
            turned = turned % 256 + math.floor(turned / 256)
            s = xor2(s, math.floor(turned))
        end
        s = xor2(s, 0x63)
        SBOX[x] = s
        local s2 = doubled(s)
        local s3 = xor2(s2, s)
        local t = ((s2 * 256 + s) * 256 + s) * 256 + s3
        T0[x], T1[x], T2[x], T3[x] = t, rrotate(t, 8), rrotate(t, 16), rrotate(t, 24)
    end
end

local function sub_word(w)
    return ((SBOX[extract(w, 24, 8)] * 256 + SBOX[extract(w, 16, 8)]) * 256 + SBOX[extract(w, 8, 8)]) * 256
        + SBOX[extract(w, 0, 8)]
end

local function aes_key(key)
    local w, rcon = {}, 1
    for i = 1, 4 do w[i] = word_at(key, 4 * i - 3) end
    for i = 5, 44 do
        local t = w[i - 1]
        if (i - 1) % 4 == 0 then
            t = xor2(sub_word(rrotate(t, 24)), lshift(rcon, 24))
            rcon = doubled(rcon)
        end
        w[i] = xor2(w[i - 4], t)
    end
    return w
end

local function aes_block(w, a, b, c, d)
    a, b, c, d = xor2(a, w[1]), xor2(b, w[2]), xor2(c, w[3]), xor2(d, w[4])
    for r = 5, 37, 4 do
        a, b, c, d =
            xor5(T0[extract(a, 24, 8)], T1[extract(b, 16, 8)], T2[extract(c, 8, 8)], T3[extract(d, 0, 8)], w[r]),
            xor5(T0[extract(b, 24, 8)], T1[extract(c, 16, 8)], T2[extract(d, 8, 8)], T3[extract(a, 0, 8)], w[r + 1]),
            xor5(T0[extract(c, 24, 8)], T1[extract(d, 16, 8)], T2[extract(a, 8, 8)], T3[extract(b, 0, 8)], w[r + 2]),
            xor5(T0[extract(d, 24, 8)], T1[extract(a, 16, 8)], T2[extract(b, 8, 8)], T3[extract(c, 0, 8)], w[r + 3])
    end
    local function last(p, q, r, s, k)
        local v = ((SBOX[extract(p, 24, 8)] * 256 + SBOX[extract(q, 16, 8)]) * 256 + SBOX[extract(r, 8, 8)]) * 256
        return xor2(v + SBOX[extract(s, 0, 8)], k)
    end
    return last(a, b, c, d, w[41]), last(b, c, d, a, w[42]), last(c, d, a, b, w[43]), last(d, a, b, c, w[44])
end

-- For each of the 16 bytes of a block and each of its values, the product with H: four words in four tables.
local function ghash_tables(h1, h2, h3, h4)
    local tables = {}
    for position = 1, 16 do
        local t = { { [0] = 0 }, { [0] = 0 }, { [0] = 0 }, { [0] = 0 } }
        local bit_value = 128
        while bit_value >= 1 do
            -- What the values above this bit give is there already.
            for high = 0, 255, 2 * bit_value do
                local n = high + bit_value
                t[1][n], t[2][n] = xor2(t[1][high], h1), xor2(t[2][high], h2)
                t[3][n], t[4][n] = xor2(t[3][high], h3), xor2(t[4][high], h4)
            end
            local carry = h4 % 2
            h4 = rshift(h4, 1) + h3 % 2 * 0x80000000
            h3 = rshift(h3, 1) + h2 % 2 * 0x80000000
            h2 = rshift(h2, 1) + h1 % 2 * 0x80000000
            h1 = rshift(h1, 1)
            if carry == 1 then h1 = xor2(h1, 0xe1000000) end
            bit_value = bit_value / 2
        end
        tables[position] = t
    end
    return tables
end

local function ghash(tables, data, z1, z2, z3, z4)
    local t = tables
    for i = 1, #data, 16 do
        local b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, b14, b15, b16 = byte(data, i, i + 15)
        b1, b2 = xor2(b1, extract(z1, 24, 8)), xor2(b2, extract(z1, 16, 8))
        b3, b4 = xor2(b3, extract(z1, 8, 8)), xor2(b4, extract(z1, 0, 8))
        b5, b6 = xor2(b5, extract(z2, 24, 8)), xor2(b6, extract(z2, 16, 8))
        b7, b8 = xor2(b7, extract(z2, 8, 8)), xor2(b8, extract(z2, 0, 8))
        b9, b10 = xor2(b9, extract(z3, 24, 8)), xor2(b10, extract(z3, 16, 8))
        b11, b12 = xor2(b11, extract(z3, 8, 8)), xor2(b12, extract(z3, 0, 8))
        b13, b14 = xor2(b13, extract(z4, 24, 8)), xor2(b14, extract(z4, 16, 8))
        b15, b16 = xor2(b15, extract(z4, 8, 8)), xor2(b16, extract(z4, 0, 8))
        local function product(n)
            return xor16(
                t[1][n][b1], t[2][n][b2], t[3][n][b3], t[4][n][b4], t[5][n][b5], t[6][n][b6], t[7][n][b7], t[8][n][b8],
                t[9][n][b9], t[10][n][b10], t[11][n][b11], t[12][n][b12], t[13][n][b13], t[14][n][b14], t[15][n][b15],
                t[16][n][b16])
        end
        z1, z2, z3, z4 = product(1), product(2), product(3), product(4)
    end
    return z1, z2, z3, z4
end

local function padded(s)
    return s .. string.rep("\0", -#s % 16)
end

-- Keys of one generation of one direction.
local function packet_keys(secret)
    local w = aes_key(expand(secret, "fulmar1 key", 16))
    return { secret = secret, w = w, iv = expand(secret, "fulmar1 iv", 12), tables = ghash_tables(aes_block(w, 0, 0, 0, 0)) }
end

-- The payload, or nil if the tag does not fit.
local function gcm_open(keys, number, header, sealed)
    local n = #sealed - 16
    if n < 0 then return nil end
    local ciphertext, w = sub(sealed, 1, n), keys.w
    local i1 = word_at(keys.iv, 1)
    local i2 = xor2(word_at(keys.iv, 5), math.floor(number / TWO32))
    local i3 = xor2(word_at(keys.iv, 9), number % TWO32)
    local z1, z2, z3, z4 = ghash(keys.tables, padded(header) .. padded(ciphertext), 0, 0, 0, 0)
    z1, z2, z3, z4 = ghash(keys.tables, word64(#header * 8) .. word64(n * 8), z1, z2, z3, z4)
    local e1, e2, e3, e4 = aes_block(w, i1, i2, i3, 1)
    if word(xor2(z1, e1)) .. word(xor2(z2, e2)) .. word(xor2(z3, e3)) .. word(xor2(z4, e4)) ~= sub(sealed, n + 1) then
        return nil
    end
    local out, text = {}, padded(ciphertext)
    for block = 1, #text / 16 do
        local at = 16 * block - 15
        local k1, k2, k3, k4 = aes_block(w, i1, i2, i3, block + 1)
        out[block] = word(xor2(word_at(text, at), k1)) .. word(xor2(word_at(text, at + 4), k2))
            .. word(xor2(word_at(text, at + 8), k3)) .. word(xor2(word_at(text, at + 12), k4))
    end
    return sub(table.concat(out), 1, n)
end

---------------------------------------------------------------------------------------------------------------------
-- Fields
---------------------------------------------------------------------------------------------------------------------

local PACKETS = { [0xf0] = "Hello", [0xf1] = "Reply", [0xf2] = "Retry", [0xf3] = "Reject", [0xf4] = "Confirm",
    [0x40] = "Data", [0x41] = "Data" }
local SECURITY = { [0] = "none: a CRC-32 in every packet", [1] = "SPAKE2, AES-128-GCM" }
local REJECT = { [1] = "wrong key", [2] = "one side encrypts, the other does not", [3] = "version not spoken",
    [4] = "too many sessions" }
local CLOSE = { [0] = "done", [1] = "interrupted", [2] = "protocol error", [3] = "refused", [4] = "gave up repeating" }
local MESSAGES = { [1] = "REQUEST", [2] = "ENTRY", [3] = "ENTRY_FAILED", [4] = "MANIFEST_END", [5] = "DIGEST", [6] = "ABANDON",
    [7] = "HAVE", [8] = "RESULT", [9] = "RESEND", [10] = "REQUEST_FAILED" }
local REQUESTS = { [1] = "PUT", [2] = "GET", [3] = "LIST", [4] = "ECHO" }
local ENTRIES = { [0] = "file", [1] = "directory", [2] = "end of directory", [3] = "symbolic link" }
local ERRORS = { [0] = "none", [1] = "not found", [2] = "exists already", [3] = "permission denied", [4] = "no space",
    [5] = "quota exhausted", [6] = "wrong kind", [7] = "name too long", [8] = "forbidden path", [9] = "busy",
    [10] = "source changed", [11] = "SHA-256 differs", [12] = "limit of the server", [13] = "I/O error" }
local CODECS = { [1] = "LZ4", [2] = "zstd" }
local PARAMETERS = { [1] = "idle_timeout_ms", [2] = "max_datagram_bytes", [3] = "control_credit_bytes",
    [4] = "receive_window_bytes", [5] = "features" }

local F = {}
local function field(kind, name, title, ...)
    F[name] = ProtoField[kind]("fulmar." .. name, title, ...)
end

-- Packets
field("uint8", "type", "Packet type", base.HEX, PACKETS)
field("bytes", "dcid", "Connection ID of the receiver")
field("uint32", "number_low", "Packet number, low 32 bits")
field("uint64", "number", "Packet number")
field("bool", "key_phase", "Key phase", 8, nil, 0x01)
field("uint64", "generation", "Generation of keys")
field("bytes", "confirmation", "Key confirmation")
field("bytes", "sealed", "Sealed payload")
field("bytes", "tag", "Tag")
field("uint32", "crc32", "CRC-32", base.HEX)
field("bool", "corrupted", "Corrupted on the way")
field("framenum", "duplicate_of", "The same packet number came in", base.NONE)
field("framenum", "named_missing_in", "First named missing in", base.NONE)
field("uint64", "gap", "Packet numbers left out before this packet")
-- Handshake
field("string", "magic", "Magic")
field("uint8", "version", "Version")
field("bytes", "client_cid", "Client's connection ID")
field("bytes", "server_cid", "Server's connection ID")
field("uint8", "security", "Security", base.DEC, SECURITY)
field("bytes", "share", "Share")
field("none", "parameter", "Parameter")
field("uint64", "parameter.id", "Id")
for id = 1, 5 do field("uint64", "parameter." .. PARAMETERS[id], PARAMETERS[id]) end
field("bytes", "parameter.unknown", "Unknown value")
field("uint8", "attempt", "Attempt")
field("bytes", "cookie", "Cookie")
field("uint8", "reject.code", "Reason", base.DEC, REJECT)
field("string", "reject.text", "Text")
-- Frames
field("uint64", "frame.type", "Frame type", base.HEX)
for _, name in ipairs({ "padding", "ping", "floor", "feedback", "control", "close", "path_challenge", "path_response",
    "segment", "extension" }) do
    field("none", name, name:upper())
end
field("uint64", "padding.length", "Bytes")
field("uint64", "floor.distance", "Distance")
field("uint64", "floor.number", "Lowest number still tracked")
field("uint64", "floor.max_packets", "Feedback wanted after packets")
field("uint64", "floor.max_delay_us", "Feedback wanted after microseconds")
field("uint64", "feedback.largest", "Largest packet number received")
field("uint64", "feedback.received_us", "Received at, microseconds of the receiver's clock")
field("uint64", "feedback.delay_us", "Microseconds ago")
field("uint64", "feedback.received_bytes", "Bytes received in all")
field("uint64", "feedback.ce_count", "Packets with a CE mark")
field("uint64", "feedback.receive_window_bytes", "Receive window")
field("uint64", "feedback.control_credit", "Control-stream credit")
field("uint8", "feedback.blocks", "Blocks")
field("none", "feedback.block", "Block")
field("uint64", "feedback.block.skip", "Skip")
field("uint64", "feedback.block.count", "Count")
field("uint8", "feedback.block.kind", "Kind", base.DEC, { [0] = "runs", [1] = "bits" })
field("uint64", "feedback.block.run", "Run")
field("bytes", "feedback.block.bits", "Bits")
field("string", "ack", "Received")
field("string", "nack", "Missing")
field("uint64", "nack.first", "First")
field("uint64", "nack.last", "Last")
field("uint64", "nack.packets", "Packets missing")
field("uint64", "control.offset", "Offset")
field("uint64", "control.length", "Length")
field("bytes", "control.data", "Data")
field("uint64", "close.code", "Reason", base.DEC, CLOSE)
field("string", "close.text", "Text")
field("bytes", "path.data", "Challenge")
field("uint64", "segment.file", "File")
field("string", "segment.path", "Path")
field("uint64", "segment.chunk", "Chunk")
field("uint64", "segment.offset", "Offset in the chunk")
field("uint64", "segment.generation", "Generation of the encoding")
field("uint8", "segment.codec", "Codec", base.DEC, CODECS)
field("uint64", "segment.encoded_length", "Length of the encoded chunk")
field("uint32", "segment.crc32", "CRC-32 of the plain chunk", base.HEX)
field("uint64", "segment.length", "Length")
field("bytes", "segment.data", "Data")
field("uint64", "extension.length", "Length")
field("bytes", "extension.data", "Data")
field("bool", "repair", "Sent before (a repair, a probe, or a copy of the tail)")
field("framenum", "repair.original", "Sent before in", base.NONE)
field("framenum", "repair.nack", "Named missing in", base.NONE)
-- Control messages
field("none", "message", "Message")
field("uint64", "message.type", "Message type", base.DEC)
field("uint64", "message.length", "Length of the body")
field("bytes", "message.unknown", "Unknown body")
field("string", "request.label", "Client's label")
field("uint8", "request.kind", "Request", base.DEC, REQUESTS)
field("uint8", "request.flags", "Flags", base.HEX)
field("bool", "request.into_dir", "Into a directory", 8, nil, 0x01)
field("bool", "request.keep", "Keep the server's copy", 8, nil, 0x01)
field("bool", "request.overwrite", "Overwrite", 8, nil, 0x02)
field("bool", "request.no_resume", "Do not resume", 8, nil, 0x04)
field("string", "request.path", "Path")
field("uint8", "request.compression", "Compression (0 auto, 1 LZ4, 2 none, n + 2: zstd level n)")
field("uint64", "request.chunk_size", "Chunk size")
field("uint64", "request.paths", "Paths")
field("string", "request.impairment", "Impairment of the way back")
field("uint64", "file", "File")
field("uint8", "entry.kind", "Kind", base.DEC, ENTRIES)
field("string", "entry.path", "Path")
field("uint64", "entry.mode", "Mode", base.OCT)
field("int64", "entry.mtime", "mtime, seconds since 1970")
field("uint64", "entry.mtime_ns", "mtime, nanoseconds")
field("uint64", "entry.size", "Size")
field("uint8", "entry.form", "Form", base.DEC, { [0] = "contents in segments", [1] = "contents follow" })
field("uint64", "entry.chunk_size", "Chunk size")
field("bytes", "entry.contents", "Contents")
field("string", "entry.target", "Target")
field("bytes", "sha256", "SHA-256")
field("uint8", "error.code", "Error", base.DEC, ERRORS)
field("string", "error.text", "Text")
field("uint64", "have.ranges", "Ranges")
field("uint64", "have.first", "First chunk")
field("uint64", "have.count", "Chunks")
field("uint64", "resend.chunk", "Chunk")
do
    local list = {}
    for _, f in pairs(F) do list[#list + 1] = f end
    fulmar.fields = list
end

local E = {
    corrupted = ProtoExpert.new("fulmar.expert.corrupted", "Corrupted on the way", expert.group.CHECKSUM, expert.severity.ERROR),
    unknown = ProtoExpert.new("fulmar.expert.unknown", "Not a packet", expert.group.MALFORMED, expert.severity.WARN),
    malformed = ProtoExpert.new("fulmar.expert.malformed", "Violation of the protocol", expert.group.MALFORMED, expert.severity.ERROR),
    no_key = ProtoExpert.new("fulmar.expert.no_key", "No key", expert.group.DECRYPTION, expert.severity.NOTE),
    duplicate = ProtoExpert.new("fulmar.expert.duplicate", "Duplicate", expert.group.SEQUENCE, expert.severity.NOTE),
    gap = ProtoExpert.new("fulmar.expert.gap", "Packet numbers left out", expert.group.SEQUENCE, expert.severity.NOTE),
    nack = ProtoExpert.new("fulmar.expert.nack", "Packets named missing", expert.group.SEQUENCE, expert.severity.NOTE),
    repair = ProtoExpert.new("fulmar.expert.repair", "Sent before", expert.group.SEQUENCE, expert.severity.NOTE),
    cut = ProtoExpert.new("fulmar.expert.cut", "Cut off by the capture", expert.group.UNDECODED, expert.severity.NOTE),
    reject = ProtoExpert.new("fulmar.expert.reject", "Rejected", expert.group.RESPONSE_CODE, expert.severity.WARN),
}
do
    local list = {}
    for _, e in pairs(E) do list[#list + 1] = e end
    fulmar.experts = list
end

fulmar.prefs.keylog = Pref.string("Key log", os.getenv("FULMAR_KEYLOG") or "",
    "The file that fulmar wrote with FULMAR_KEYLOG. By default that of the environment.")

---------------------------------------------------------------------------------------------------------------------
-- What is known across packets. A direction is named by the connection ID in its packets.
---------------------------------------------------------------------------------------------------------------------

local directions, records, by_addresses = {}, {}, {}
local secrets, log_bytes = {}, -1

local function read_key_log()
    local file = fulmar.prefs.keylog ~= "" and io.open(fulmar.prefs.keylog, "rb")
    if not file then return end
    -- It grows while a capture runs.
    local bytes = file:seek("end")
    if bytes ~= log_bytes then
        log_bytes = bytes
        file:seek("set")
        for line in file:lines() do
            local cid, secret = line:match("^FULMAR1_%u+_SECRET%s+(%x+)%s+(%x+)")
            if cid and #cid == 16 and #secret == 64 then secrets[unhex(cid)] = unhex(secret) end
        end
    end
    file:close()
end

local function forget_all()
    directions, records, by_addresses = {}, {}, {}
    secrets, log_bytes = {}, -1
    read_key_log()
end
fulmar.init = forget_all
fulmar.prefs_changed = forget_all

local function direction(cid)
    local d = directions[cid]
    if not d then
        d = { cid = cid, expected = 0, seen = {}, nacked = {}, generation = 0, files = {}, sent = {}, top = {},
            stream = { next = 0, ready = "", ahead = {}, sent = {}, top = 0, top_number = -1 } }
        directions[cid] = d
    end
    if not d.keys and not d.crc then
        if not secrets[cid] then read_key_log() end
        if secrets[cid] then d.keys = packet_keys(secrets[cid]) end
    end
    return d
end

-- Opens a packet and follows key updates. Returns payload and generation, or nil.
local function open(d, phase, number, header, sealed)
    if d.crc or not d.keys then
        local n = #sealed - 4
        if n >= 0 and crc32(word64(number), header, sub(sealed, 1, n)) == word_at(sealed, n + 1) then
            d.crc = true
            return sub(sealed, 1, n), 0
        end
        return nil
    end
    if phase == d.generation % 2 then
        local payload = gcm_open(d.keys, number, header, sealed)
        if payload and (not d.lowest or number < d.lowest) then d.lowest = number end
        return payload, d.generation
    end
    if d.previous and number < d.lowest then
        return gcm_open(d.previous, number, header, sealed), d.generation - 1
    end
    d.following = d.following or packet_keys(expand(d.keys.secret, "fulmar1 update", 32))
    local payload = gcm_open(d.following, number, header, sealed)
    if payload then
        d.previous, d.keys, d.following = d.keys, d.following, nil
        d.generation, d.lowest = d.generation + 1, number
    end
    return payload, d.generation
end

-- The number nearest to the expected one with these low 32 bits.
local function expand_number(expected, low)
    local candidate = expected - expected % TWO32 + low
    if candidate + TWO32 / 2 <= expected then
        candidate = candidate + TWO32
    elseif candidate > expected + TWO32 / 2 and candidate >= TWO32 then
        candidate = candidate - TWO32
    end
    return candidate
end

---------------------------------------------------------------------------------------------------------------------
-- Reading: a cursor over a string that notes, as it goes, what is to be shown where.
---------------------------------------------------------------------------------------------------------------------

local Reader = {}
Reader.__index = Reader

local function new_reader(s, first, last, node)
    return setmetatable({ s = s, at = first or 1, last = last or #s, node = node or { items = {} } }, Reader)
end

function Reader:fail(what)
    error({ violation = what }, 0)
end

function Reader:note(name, from, value, label)
    local items = self.node.items
    local item = { field = F[name], pos = from, len = self.at - from, value = value, label = label }
    items[#items + 1] = item
    return item
end

-- Something that follows from what was read.
function Reader:derive(name, value)
    local items = self.node.items
    items[#items + 1] = { field = F[name], value = value, derived = true }
end

function Reader:open_node(name, label)
    local node = { field = F[name], pos = self.at, label = label, items = {}, above = self.node }
    self.node.items[#self.node.items + 1] = node
    self.node = node
    return node
end

function Reader:close_node(label)
    local node = self.node
    node.len, node.label = self.at - node.pos, label or node.label
    self.node, node.above = node.above, nil
    return node
end

function Reader:left()
    return self.last - self.at + 1
end

function Reader:raw(n)
    if self:left() < n then self:fail("truncated") end
    local from = self.at
    self.at = from + n
    return sub(self.s, from, self.at - 1), from
end

function Reader:u8(name)
    local s, from = self:raw(1)
    local v = byte(s)
    if name then self:note(name, from, v) end
    return v
end

function Reader:u32(name)
    local s, from = self:raw(4)
    local v = word_at(s, 1)
    self:note(name, from, v)
    return v
end

function Reader:fixed(name, n)
    local s, from = self:raw(n)
    self:note(name, from)
    return s
end

-- A varint of at most `max`. Above 2^53, which nothing real reaches, a number of Lua 5.2 is not exact; what is shown is.
function Reader:varint(name, max)
    if self:left() < 1 then self:fail("truncated") end
    local first = byte(self.s, self.at)
    local n = 2 ^ math.floor(first / 64)
    local s, from = self:raw(n)
    local high, low = 0, first % 64
    for i = 2, n do
        high, low = (high * 256 + math.floor(low / 16777216)) % TWO32, low % 16777216 * 256 + byte(s, i)
    end
    local v = math.floor(high * TWO32 + low)
    if name then self:note(name, from, UInt64.new(math.floor(low), math.floor(high))) end
    if max and v > max then self:fail((name or "length") .. " out of bounds") end
    return v
end

function Reader:zigzag(name)
    local from = self.at
    local v = self:varint()
    v = v % 2 == 0 and math.floor(v / 2) or -math.floor(v / 2) - 1
    self:note(name, from, Int64.new(v))
end

-- A length of at most `max`, and so many bytes; text if `as_text`.
function Reader:counted(name, max, as_text)
    local n = self:varint(nil, max)
    local s, from = self:raw(n)
    self:note(name, from, as_text and s or nil)
    return s
end

---------------------------------------------------------------------------------------------------------------------
-- Control messages
---------------------------------------------------------------------------------------------------------------------

local MAX_FILE = 2 ^ 48

local function read_error(r)
    local code = r:u8("error.code")
    r:counted("error.text", 512, true)
    return ERRORS[code] or ("error " .. code)
end

local function read_request(r)
    r:counted("request.label", 64, true)
    local kind = r:u8("request.kind")
    local function flags(first)
        local from = r.at
        local v = r:u8("request.flags")
        for _, name in ipairs({ first, "request.overwrite", "request.no_resume" }) do r:note(name, from, v) end
    end
    local shown = ""
    if kind == 1 then
        flags("request.into_dir")
        shown = r:counted("request.path", 4096, true)
    elseif kind == 2 then
        r:u8("request.compression")
        r:varint("request.chunk_size")
        local n = r:varint("request.paths", 1024)
        for _ = 1, n do shown = r:counted("request.path", 4096, true) end
    elseif kind == 3 then
        shown = r:counted("request.path", 4096, true)
    elseif kind == 4 then
        flags("request.keep")
        shown = r:counted("request.impairment", 512, true)
    else
        r:fail("unknown request")
    end
    return REQUESTS[kind] .. " " .. shown
end

local function read_entry(r, d)
    local file = r:varint("file", MAX_FILE)
    local kind = r:u8("entry.kind")
    local path = r:counted("entry.path", 4096, true)
    r:varint("entry.mode", 4095)
    r:zigzag("entry.mtime")
    r:varint("entry.mtime_ns", 999999999)
    if kind == 0 then
        local size = r:varint("entry.size", 2 ^ 60)
        local form = r:u8("entry.form")
        if form == 0 then
            r:varint("entry.chunk_size")
        elseif form == 1 and size <= 16384 then
            r:fixed("entry.contents", size)
            r:fixed("sha256", 32)
        else
            r:fail("form out of bounds")
        end
    elseif kind == 3 then
        r:counted("entry.target", 4096, true)
    elseif kind > 3 then
        r:fail("unknown kind of entry")
    end
    d.files[file] = path
    return file .. " " .. path
end

local MESSAGE_BODIES = {
    read_request,
    read_entry,
    function(r)
        local path = r:counted("entry.path", 4096, true)
        return path .. ": " .. read_error(r)
    end,
    function() return "" end,
    function(r)
        local file = r:varint("file", MAX_FILE)
        r:fixed("sha256", 32)
        return file
    end,
    function(r)
        local file = r:varint("file", MAX_FILE)
        return file .. ": " .. read_error(r)
    end,
    function(r)
        local file = r:varint("file", MAX_FILE)
        local n = r:varint("have.ranges", 2048)
        for _ = 1, n do
            r:varint("have.first", 2 ^ 60)
            r:varint("have.count", 2 ^ 60)
        end
        return file .. ", " .. n .. " ranges"
    end,
    function(r)
        local file = r:varint("file", MAX_FILE)
        if byte(r.s, r.at) ~= 0 then return file .. ": " .. read_error(r) end
        r:u8("error.code")
        local n = r:varint(nil, 32)
        if n > 0 then r:fixed("sha256", n) end
        return file .. " done"
    end,
    function(r)
        local file = r:varint("file", MAX_FILE)
        return file .. "/" .. r:varint("resend.chunk", 2 ^ 60)
    end,
    function(r) return read_error(r) end,
}

-- Takes in a stretch of a control stream; returns the bytes of messages that are whole now.
local function extend_stream(stream, offset, data)
    if offset > stream.next then
        if #data > #(stream.ahead[offset] or "") then stream.ahead[offset] = data end
        return nil
    end
    local grown = true
    while grown do
        if offset + #data > stream.next then
            stream.ready = stream.ready .. sub(data, stream.next - offset + 1)
            stream.next = offset + #data
        end
        grown = false
        for at, piece in pairs(stream.ahead) do
            if at <= stream.next then
                stream.ahead[at], offset, data, grown = nil, at, piece, true
                break
            end
        end
    end
    local whole, r = 0, new_reader(stream.ready)
    while pcall(function()
        r:varint()
        r:raw(r:varint())
    end) do
        whole = r.at - 1
    end
    if whole == 0 then return nil end
    local messages = sub(stream.ready, 1, whole)
    stream.ready = sub(stream.ready, whole + 1)
    return messages
end

-- The nodes of whole messages, and a word about each for the info column.
local function read_messages(s, d)
    local r, words = new_reader(s), {}
    while r:left() > 0 do
        local node = r:open_node("message")
        local kind = r:varint("message.type")
        local length = r:varint("message.length")
        local body = new_reader(s, r.at, r.at + length - 1, node)
        local name = MESSAGES[kind] or ("message " .. kind)
        local ok, shown
        if MESSAGE_BODIES[kind] then
            ok, shown = pcall(MESSAGE_BODIES[kind], body, d)
            if not ok then
                if type(shown) ~= "table" then error(shown, 0) end
                node.violation = shown.violation
                shown = "(" .. shown.violation .. ")"
            elseif body:left() > 0 then
                node.violation = "bytes left over"
            end
        elseif length > 0 then
            body:fixed("message.unknown", length)
        end
        r.at = r.at + length
        r:close_node((name .. " " .. (shown or "")):gsub("%c", "?"):gsub(" $", ""), nil)
        words[#words + 1] = name
    end
    return r.node, words
end

---------------------------------------------------------------------------------------------------------------------
-- Frames
---------------------------------------------------------------------------------------------------------------------

local function range_text(first, last)
    return first == last and string.format("%.0f", first) or string.format("%.0f-%.0f", first, last)
end

-- Notes a stretch of equal state; what is missing is remembered for the packets themselves. At most so many numbers of
-- one stretch: a long one is a dead path, not news.
local MAX_REMEMBERED = 4096

local function note_run(r, x, from, first, last, received)
    if received then
        r:note("ack", from, range_text(first, last))
        return
    end
    local item = r:note("nack", from, range_text(first, last))
    item.items = {
        { field = F["nack.first"], value = UInt64.new(first % TWO32, math.floor(first / TWO32)), derived = true },
        { field = F["nack.last"], value = UInt64.new(last % TWO32, math.floor(last / TWO32)), derived = true },
    }
    x.missing = x.missing + last - first + 1
    x.nacks[#x.nacks + 1] = range_text(first, last)
    for n = last, math.max(first, last - MAX_REMEMBERED), -1 do
        if x.peer and not x.peer.nacked[n] then x.peer.nacked[n] = x.frame end
    end
end

local function read_block(r, x, above)
    r:open_node("feedback.block")
    local top = above - 1 - r:varint("feedback.block.skip")
    local count = r:varint("feedback.block.count", 2 ^ 19)
    local low = top - count + 1
    if count == 0 or low < 0 then r:fail("block out of bounds") end
    local kind = r:u8("feedback.block.kind")
    if kind == 0 then
        local stop = r:varint(nil, 65535) + r.at
        if stop > r.last + 1 then r:fail("truncated") end
        local at, received = top, true
        while r.at < stop do
            local from = r.at
            local n = r:varint("feedback.block.run")
            if n > 0 then note_run(r, x, from, at - n + 1, at, received) end
            at, received = at - n, not received
        end
        if at ~= low - 1 or r.at ~= stop then r:fail("runs do not add up") end
    elseif kind == 1 then
        local bits, from = r:raw(math.ceil(count / 8))
        r:note("feedback.block.bits", from)
        local function bit_of(i) return extract(byte(bits, math.floor(i / 8) + 1), i % 8, 1) == 1 end
        local i = 0
        while i < count do
            local state, start = bit_of(i), i
            while i < count and bit_of(i) == state do i = i + 1 end
            note_run(r, x, from, top - i + 1, top - start, state)
        end
    else
        r:fail("unknown kind of block")
    end
    r:close_node(string.format("Block %s", range_text(low, top)))
    return low
end

local function read_feedback(r, x)
    local node = r.node
    local largest = r:varint("feedback.largest")
    for _, name in ipairs({ "received_us", "delay_us", "received_bytes", "ce_count", "receive_window_bytes", "control_credit" }) do
        r:varint("feedback." .. name)
    end
    local blocks = r:u8("feedback.blocks")
    if blocks > 4 then r:fail("too many blocks") end
    x.missing, x.nacks = 0, {}
    local above = largest + 1
    for _ = 1, blocks do above = read_block(r, x, above) end
    r:derive("nack.packets", UInt64.new(x.missing % TWO32, math.floor(x.missing / TWO32)))
    local shown = string.format("largest %.0f", largest)
    if x.missing > 0 then
        local list = table.concat(x.nacks, " ", 1, math.min(#x.nacks, 8)) .. (#x.nacks > 8 and " ..." or "")
        shown = shown .. ", missing " .. list
        node.expert = { E.nack, string.format("%.0f packets missing: %s", x.missing, list) }
    end
    return "FEEDBACK(" .. shown .. ")"
end

-- Marks a frame that carries what was sent before: the same piece, or one that lies before what a packet with a lower
-- number has carried already, since what is new goes out in order.
local function mark_repair(r, x, seen, key, place, top)
    local known = seen[key]
    local again = known and known.number ~= x.number
    local behind = top.place and place < top.place and x.number > top.number
    if again or behind then
        local original = again and known.frame or nil
        local nack = again and x.d.nacked[known.number] or nil
        r:derive("repair", true)
        if original then r:derive("repair.original", original) end
        if nack then r:derive("repair.nack", nack) end
        r.node.expert = { E.repair, (again and "sent before in frame " .. original or "sent before, but not in this capture")
            .. (nack and ", named missing in frame " .. nack or "") }
        x.repair = true
    end
    if not known or x.number < known.number then seen[key] = { number = x.number, frame = x.frame } end
    if not top.place or place > top.place then top.place, top.number = place, x.number end
    return again or behind
end

local function read_segment(r, x, kind)
    local from = r.at
    local file = r:varint("segment.file", MAX_FILE)
    local chunk = r:varint("segment.chunk", 2 ^ 60)
    local offset = r:varint("segment.offset", 2 ^ 22)
    local generation = extract(kind, 2, 1) == 1 and r:varint("segment.generation", 1000) or 0
    if extract(kind, 1, 1) == 1 then
        r:u8("segment.codec")
        r:varint("segment.encoded_length", 2 ^ 22)
    end
    if extract(kind, 3, 1) == 1 then r:u32("segment.crc32") end
    local n = extract(kind, 0, 1) == 1 and r:varint("segment.length", 2 ^ 22) or r:left()
    r:fixed("segment.data", n)
    r.node.file = file
    local d = x.d
    local key = string.format("%.0f/%.0f", file, generation) .. (generation > 0 and string.format("/%.0f", chunk) or "")
    d.sent[key], d.top[key] = d.sent[key] or {}, d.top[key] or {}
    -- Offsets are below 2^22, and chunk numbers far below 2^31: their order in one number.
    local repair = mark_repair(r, x, d.sent[key], string.format("%.0f/%.0f", chunk, offset), chunk * 2 ^ 22 + offset, d.top[key])
    return string.format("SEGMENT(%.0f/%.0f+%.0f, %.0f%s)", file, chunk, offset, n, repair and ", repair" or "")
end

local function read_control(r, x)
    local offset = r:varint("control.offset", 2 ^ 60)
    local n = r:varint("control.length", 65535)
    local data = r:fixed("control.data", n)
    local stream = x.d.stream
    local repair = mark_repair(r, x, stream.sent, offset, offset, stream)
    local words = {}
    if not x.duplicate then
        local messages = extend_stream(stream, offset, data)
        if messages then
            local nodes
            nodes, words = read_messages(messages, x.d)
            x.messages[#x.messages + 1] = { bytes = messages, node = nodes }
        end
    end
    local list = table.concat(words, " ", 1, math.min(#words, 6)) .. (#words > 6 and " ..." or "")
    return string.format("CONTROL(%.0f, %.0f%s)", offset, n, repair and ", repair" or "") .. (#words > 0 and " [" .. list .. "]" or "")
end

local FRAMES = {
    [1] = { "ping", function() return "PING" end },
    [2] = { "floor", function(r, x)
        local distance = r:varint("floor.distance")
        r:varint("floor.max_packets")
        r:varint("floor.max_delay_us")
        local floor = math.max(x.number - distance, 0)
        r:derive("floor.number", UInt64.new(floor % TWO32, math.floor(floor / TWO32)))
        return string.format("FLOOR(%.0f)", floor)
    end },
    [3] = { "feedback", read_feedback },
    [4] = { "control", read_control },
    [5] = { "close", function(r)
        local code = r:varint("close.code")
        local text = r:counted("close.text", 512, true)
        return "CLOSE(" .. (CLOSE[code] or code) .. ": " .. text .. ")"
    end },
    [6] = { "path_challenge", function(r)
        r:fixed("path.data", 8)
        return "PATH_CHALLENGE"
    end },
    [7] = { "path_response", function(r)
        r:fixed("path.data", 8)
        return "PATH_RESPONSE"
    end },
}

local function read_frame(r, x)
    local from = r.at
    if byte(r.s, from) == 0 then
        r:open_node("padding")
        r.at = (r.s:find("[^%z]", from) or r.last + 1)
        r:note("padding.length", from, UInt64.new(r.at - from, 0))
        r:close_node(string.format("PADDING, %d bytes", r.at - from))
        return nil
    end
    local kind = r:varint()
    r.at = from
    local known, shown = FRAMES[kind]
    r:open_node(known and known[1] or kind >= 32 and kind < 48 and "segment" or "extension")
    r:varint("frame.type")
    r.node.items[1].label = string.format("Frame type: 0x%02x", kind)
    if known then
        shown = known[2](r, x)
    elseif kind >= 32 and kind < 48 then
        shown = read_segment(r, x, kind)
    elseif kind >= 64 then
        r:counted("extension.data", 65535)
        shown = string.format("EXTENSION(%.0f)", kind)
    else
        r:fail(string.format("unknown frame type %.0f", kind))
    end
    r:close_node(shown:gsub("%c", "?"), nil)
    return shown
end

-- All frames of a payload: nodes, and words for the info column. A violation leaves what was read before it.
local function read_payload(payload, x)
    local r, words, violation = new_reader(payload), {}, nil
    local root = r.node
    while r:left() > 0 and not violation do
        local ok, shown = pcall(read_frame, r, x)
        if not ok then
            if type(shown) ~= "table" then error(shown, 0) end
            violation = shown.violation
            while r.node ~= root do r:close_node() end
        elseif shown then
            words[#words + 1] = shown
        end
    end
    return root, words, violation
end

---------------------------------------------------------------------------------------------------------------------
-- Packets
---------------------------------------------------------------------------------------------------------------------

local function read_parameters(r)
    local stop = r:varint(nil, 512) + r.at
    if stop > r.last + 1 then r:fail("truncated") end
    while r.at < stop do
        r:open_node("parameter")
        local id = r:varint("parameter.id")
        local n = r:varint(nil, 512)
        local name = PARAMETERS[id]
        if name then
            local v = r:varint("parameter." .. name)
            r:close_node(string.format("%s: %.0f", name, v))
        else
            r:fixed("parameter.unknown", n)
            r:close_node(string.format("Parameter %.0f", id))
        end
    end
end

local HANDSHAKE = {
    [0xf0] = function(r, x)
        local magic, from = r:raw(4)
        r:note("magic", from, magic)
        local version = r:u8("version")
        local cid = r:fixed("client_cid", 8)
        if version ~= 1 then return "version " .. version end
        local security = r:u8("security")
        r:fixed("share", 32)
        read_parameters(r)
        local attempt = r:u8("attempt")
        local n = r:varint(nil, 16)
        if n > 0 then r:fixed("cookie", n) end
        if x.intact then direction(cid).crc = security == 0 or nil end
        return "attempt " .. attempt .. (n > 0 and ", with a cookie" or "")
    end,
    [0xf1] = function(r, x)
        local client = r:fixed("client_cid", 8)
        local server = r:fixed("server_cid", 8)
        r:fixed("share", 32)
        read_parameters(r)
        local attempt = r:u8("attempt")
        if x.intact then
            local a, b = direction(client), direction(server)
            a.peer, b.peer, b.crc = b, a, a.crc
        end
        return "to attempt " .. attempt
    end,
    [0xf2] = function(r)
        r:fixed("client_cid", 8)
        r:fixed("cookie", 16)
        return "come again with a cookie"
    end,
    [0xf3] = function(r)
        r:fixed("client_cid", 8)
        local code = r:u8("reject.code")
        local text = r:counted("reject.text", 512, true)
        r.node.expert = { E.reject, text }
        return REJECT[code] or ("code " .. code)
    end,
}

local function analyse_handshake(s, kind)
    local r = new_reader(s)
    r:u8("type")
    local x = { intact = #s >= 5 and crc32(sub(s, 1, -5)) == word_at(s, #s - 3) }
    local rec = { node = r.node, name = PACKETS[kind], corrupted = not x.intact }
    r.last = r.last - 4
    local ok, shown = pcall(HANDSHAKE[kind], r, x)
    if ok then
        rec.info = rec.name .. " (" .. shown .. ")"
        if r:left() ~= 0 then rec.violation = "bytes left over" end
    else
        if type(shown) ~= "table" then error(shown, 0) end
        rec.violation, rec.info = shown.violation, rec.name
    end
    r.last = r.last + 4
    if r:left() >= 4 then
        r.at = r.last - 3
        r:u32("crc32")
    end
    return rec
end

local function analyse_protected(s, kind, addresses, frame)
    local r = new_reader(s)
    local rec = { node = r.node, name = PACKETS[kind] }
    local header_bytes = kind == 0xf4 and 29 or 13
    if #s < header_bytes + 4 then
        rec.violation, rec.info = "truncated", rec.name
        return rec
    end
    r:u8("type")
    if kind ~= 0xf4 then r:note("key_phase", 1, kind) end
    local d = direction(r:fixed("dcid", 8))
    rec.direction = d
    -- The other direction, if the handshake is not in the capture: what goes between the same addresses the other way.
    by_addresses[addresses.forth] = d
    d.peer = d.peer or by_addresses[addresses.back]
    local low = r:u32("number_low")
    local last = #s
    if kind == 0xf4 then
        r:fixed("confirmation", 16)
        last = last - 4
        rec.corrupted = crc32(sub(s, 1, last)) ~= word_at(s, last + 1)
    end
    local number = expand_number(d.expected, low)
    local sealed = sub(s, header_bytes + 1, last)
    local payload, generation
    if not rec.corrupted then payload, generation = open(d, kind % 2, number, sub(s, 1, header_bytes), sealed) end
    local tag_bytes = (d.crc or not d.keys) and 4 or 16
    if payload then
        r.at = last - tag_bytes + 1
        r:fixed("tag", tag_bytes)
    else
        r:fixed("sealed", #sealed)
    end
    if kind == 0xf4 then r:u32("crc32") end
    rec.number = number
    if not payload then
        -- Without a key nobody can tell, except of a session that is known to have none.
        rec.corrupted = rec.corrupted or d.keys ~= nil or d.crc == true
        rec.no_key = not rec.corrupted
        rec.info = string.format("%s #%.0f", rec.name, number)
        return rec
    end
    rec.generation, rec.payload, rec.opened = generation, payload, true
    local x = { d = d, peer = d.peer, number = number, frame = frame, messages = {}, duplicate = d.seen[number] ~= nil }
    rec.duplicate_of = d.seen[number]
    if number > d.expected and d.seen[d.expected - 1] then rec.gap = number - d.expected end
    if number >= d.expected then d.expected = number + 1 end
    d.seen[number] = d.seen[number] or frame
    local words
    rec.payload_node, words, rec.violation = read_payload(payload, x)
    rec.messages, rec.repair = x.messages, x.repair
    rec.info = string.format("%s #%.0f", rec.name, number) .. (#words > 0 and "  " .. table.concat(words, " ") or "")
    return rec
end

local function analyse(s, addresses, frame)
    local kind = byte(s, 1)
    if HANDSHAKE[kind] then return analyse_handshake(s, kind) end
    if PACKETS[kind] then return analyse_protected(s, kind, addresses, frame) end
    local r = new_reader(s)
    if #s > 0 then r:u8("type") end
    return { node = r.node, unknown = true, name = "?", info = "not a fulmar packet" }
end

-- A train that was captured before it was cut into datagrams, or after they were joined (segmentation offload): equal
-- sizes but for the last, the same connection ID at the same place in each. Returns the size, or nil for one datagram.
local function train_size(s)
    local kind = byte(s, 1)
    if #s < 2 * 17 or not (kind == 0x40 or kind == 0x41 or kind == 0xf4) then return nil end
    local cid = sub(s, 2, 9)
    local at = s:find(cid, 14, true)
    while at do
        local next_kind = byte(s, at - 1)
        local step = (word_at(s, at + 8 <= #s - 3 and at + 8 or 1) - word_at(s, 10)) % TWO32
        if at + 11 <= #s and PACKETS[next_kind] and step > 0 and step < 1000 then return at - 2 end
        at = s:find(cid, at + 1, true)
    end
    return nil
end

---------------------------------------------------------------------------------------------------------------------
-- Showing
---------------------------------------------------------------------------------------------------------------------

local function show(items, tvb, tree)
    for _, item in ipairs(items) do
        local node
        if item.derived or not item.pos then
            node = tree:add(item.field, item.value):set_generated()
        elseif item.len == 0 or item.pos + item.len - 1 > tvb:len() then
            node = item.value ~= nil and tree:add(item.field, item.value) or nil
        else
            local range = tvb:range(item.pos - 1, item.len)
            if item.value ~= nil then
                node = tree:add(item.field, range, item.value)
            else
                node = tree:add(item.field, range)
            end
        end
        if node then
            if item.label then node:set_text(item.label) end
            if item.file and item.path_of then
                local path = item.path_of.files[item.file]
                if path then node:add(F["segment.path"], path):set_generated() end
            end
            if item.expert then node:add_proto_expert_info(item.expert[1], item.expert[2]) end
            if item.violation then node:add_proto_expert_info(E.malformed, item.violation) end
            if item.items then show(item.items, tvb, node) end
        end
    end
end

local function uint64(n)
    return UInt64.new(n % TWO32, math.floor(n / TWO32))
end

local function show_packet(rec, tvb, tree, cut)
    local t = tree:add(fulmar, tvb:range())
    t:set_text("fulmar, " .. rec.info)
    if rec.node.expert then t:add_proto_expert_info(rec.node.expert[1], rec.node.expert[2]) end
    if rec.number then t:add(F.number, uint64(rec.number)):set_generated() end
    if rec.generation and rec.generation > 0 then t:add(F.generation, uint64(rec.generation)):set_generated() end
    show(rec.node.items, tvb, t)
    if rec.corrupted then
        t:add(F.corrupted, true):set_generated()
        if cut then
            t:add_proto_expert_info(E.cut, "the capture has not all of this packet: it cannot be opened")
        else
            t:add_proto_expert_info(E.corrupted, rec.number and "corrupted on the way: the packet does not open"
                or "corrupted on the way: the CRC-32 does not fit")
        end
    end
    if rec.unknown then t:add_proto_expert_info(E.unknown, "unknown first byte: corrupted, or not of fulmar") end
    if rec.no_key then t:add_proto_expert_info(E.no_key, "no secret for this connection ID in the key log") end
    if rec.duplicate_of then
        t:add(F.duplicate_of, rec.duplicate_of):set_generated()
        t:add_proto_expert_info(E.duplicate, "this packet number was seen in frame " .. rec.duplicate_of)
    end
    if rec.gap then
        t:add(F.gap, uint64(rec.gap)):set_generated()
        t:add_proto_expert_info(E.gap, string.format("%.0f packet numbers before this one are not in the capture so far: lost, late, or skipped by the sender", rec.gap))
    end
    local named = rec.direction and rec.opened and rec.direction.nacked[rec.number]
    if named then t:add(F.named_missing_in, named):set_generated() end
    if rec.violation then t:add_proto_expert_info(E.malformed, "violation: " .. rec.violation) end
    if rec.payload and #rec.payload > 0 then
        local plain = ByteArray.new(rec.payload, true):tvb("Payload of packet " .. string.format("%.0f", rec.number))
        for _, item in ipairs(rec.payload_node.items) do item.path_of = rec.direction end
        show(rec.payload_node.items, plain, t)
    end
    for _, m in ipairs(rec.messages or {}) do
        show(m.node.items, ByteArray.new(m.bytes, true):tvb("Control messages"), t)
    end
end

function fulmar.dissector(tvb, pinfo, tree)
    pinfo.cols.protocol = "fulmar"
    local s = tvb:raw()
    local recs = records[pinfo.number]
    if not recs then
        local src, dst = tostring(pinfo.src) .. ":" .. pinfo.src_port, tostring(pinfo.dst) .. ":" .. pinfo.dst_port
        local addresses = { forth = src .. ">" .. dst, back = dst .. ">" .. src }
        recs = {}
        local size = train_size(s) or math.max(#s, 1)
        for from = 1, math.max(#s, 1), size do
            local rec = analyse(sub(s, from, from + size - 1), addresses, pinfo.number)
            rec.from, rec.bytes = from - 1, math.min(size, #s - from + 1)
            recs[#recs + 1] = rec
        end
        records[pinfo.number] = recs
    end
    local infos = {}
    local cut = tvb:len() < tvb:reported_len()
    for i, rec in ipairs(recs) do
        show_packet(rec, tvb:range(rec.from, rec.bytes):tvb(), tree, cut and i == #recs)
        infos[i] = (rec.corrupted and "[corrupted] " or "") .. (rec.repair and "[repair] " or "") .. rec.info
    end
    local train = #infos > 1 and string.format("[%d datagrams] ", #infos) or ""
    pinfo.cols.info = (train .. table.concat(infos, " | ")):gsub("%c", "?")
    return tvb:len()
end

-- Any port: a Hello speaks for itself, other packets by a connection ID that is known or in the key log.
local function heuristic(tvb, pinfo, tree)
    if tvb:len() < 17 then return false end
    local kind = tvb:range(0, 1):uint()
    if not PACKETS[kind] then return false end
    if kind == 0xf0 then
        if tvb:range(1, 4):raw() ~= "flmr" then return false end
    else
        local cid = tvb:range(1, 8):raw()
        if not directions[cid] and not secrets[cid] then
            read_key_log()
            if not secrets[cid] then return false end
        end
    end
    pinfo.conversation = fulmar
    fulmar.dissector(tvb, pinfo, tree)
    return true
end

fulmar:register_heuristic("udp", heuristic)
DissectorTable.get("udp.port"):add(5770, fulmar)
