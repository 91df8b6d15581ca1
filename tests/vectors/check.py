#!/usr/bin/env python3
"""Checks handshake.json with code that shares none with fulmar. Usage: pip install spake2 cryptography && python3 check.py"""

import hashlib
import hmac
import json
import pathlib
import sys
import zlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from spake2 import SPAKE2_A, SPAKE2_B

checks = 0


def equal(what, got, want):
    global checks
    checks += 1
    if got != want:
        sys.exit(f"{what}: computed {got.hex()}, the file says {want.hex()}")


def expand(secret, label, length):
    return HKDFExpand(algorithm=SHA256(), length=length, info=label).derive(secret)


def entropy_for_spake2(entropy):
    """fulmar reads its 64 bytes as a little-endian number, Python's spake2 as a big-endian one; both reduce it."""

    def draw(length):
        assert length == len(entropy) == 64
        return entropy[::-1]

    return draw


def spake2_output(session, identities):
    password = bytes.fromhex(session["password"])
    side_a = SPAKE2_A(password, *identities, entropy_f=entropy_for_spake2(bytes.fromhex(session["client_entropy"])))
    side_b = SPAKE2_B(password, *identities, entropy_f=entropy_for_spake2(bytes.fromhex(session["server_entropy"])))
    message_a, message_b = side_a.start(), side_b.start()
    equal("client_share", message_a, b"A" + bytes.fromhex(session["client_share"]))
    equal("server_share", message_b, b"B" + bytes.fromhex(session["server_share"]))
    output = bytes.fromhex(session["spake2_output"])
    equal("spake2_output of the client", side_a.finish(message_b), output)
    equal("spake2_output of the server", side_b.finish(message_a), output)
    return output


def packet(what, vector, secret):
    number = vector["number"].to_bytes(8, "big")
    header, payload, sealed = (bytes.fromhex(vector[k]) for k in ("header", "payload", "sealed"))
    if secret is None:
        crc = zlib.crc32(number + header + payload).to_bytes(4, "big")
        equal(what, payload + crc, sealed)
        return
    key, iv = expand(secret, b"fulmar1 key", 16), expand(secret, b"fulmar1 iv", 12)
    nonce = bytes(a ^ b for a, b in zip(iv, bytes(4) + number))
    equal(what, AESGCM(key).encrypt(nonce, payload, header), sealed)
    try:
        AESGCM(key).decrypt(nonce, sealed, header + b"x")
        sys.exit(f"{what}: opens with another header")
    except InvalidTag:
        pass


def direction(name, vector, secret):
    following = None
    if secret is not None:
        equal(f"{name} secret", secret, bytes.fromhex(vector["secret"]))
        equal(f"{name} key", expand(secret, b"fulmar1 key", 16), bytes.fromhex(vector["key"]))
        equal(f"{name} iv", expand(secret, b"fulmar1 iv", 12), bytes.fromhex(vector["iv"]))
        following = expand(secret, b"fulmar1 update", 32)
        equal(f"{name} next_secret", following, bytes.fromhex(vector["next_secret"]))
    packet(f"{name} packet", vector["packet"], secret)
    packet(f"{name} packet_after_update", vector["packet_after_update"], following)


def check(session, identities):
    transcript = hashlib.sha256()
    for message in (bytes.fromhex(session["hello"]), bytes.fromhex(session["reply"])):
        transcript.update(len(message).to_bytes(4, "big") + message)
    salt = transcript.digest()
    equal("transcript_hash", salt, bytes.fromhex(session["transcript_hash"]))
    encrypted = session["password"] is not None
    if encrypted:
        ikm = spake2_output(session, identities)
    else:
        equal("client_share", bytes.fromhex(session["client_entropy"])[:32], bytes.fromhex(session["client_share"]))
        equal("server_share", bytes.fromhex(session["server_entropy"])[:32], bytes.fromhex(session["server_share"]))
        ikm = bytes.fromhex(session["client_share"]) + bytes.fromhex(session["server_share"])
    prk = hmac.digest(salt, ikm, "sha256")  # HKDF-Extract, RFC 5869 section 2.2
    confirm = hmac.digest(expand(prk, b"fulmar1 confirm", 32), salt, "sha256")[:16]
    equal("confirm", confirm, bytes.fromhex(session["confirm"]))
    for name in ("client", "server"):
        direction(name, session[name], expand(prk, f"fulmar1 {name}".encode(), 32) if encrypted else None)


def main():
    vectors = json.loads((pathlib.Path(__file__).parent / "handshake.json").read_text())
    identities = bytes.fromhex(vectors["identity_client"]), bytes.fromhex(vectors["identity_server"])
    for session in vectors["sessions"]:
        before = checks
        check(session, identities)
        print(f"{session['name']}: {checks - before} values agree")
    print(f"ok: {checks} values in {len(vectors['sessions'])} sessions")


main()
