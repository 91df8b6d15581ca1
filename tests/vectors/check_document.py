#!/usr/bin/env python3
"""Runs the SPAKE2 of docs/PROTOCOL.md against handshake.json. Needs nothing but Python."""

import json
import pathlib
import re

here = pathlib.Path(__file__).parent
document = (here / "../../docs/PROTOCOL.md").read_text()
spake2 = {}
exec(re.search(r"```python\n(.*?)```", document, re.S).group(1), spake2)

for session in json.loads((here / "handshake.json").read_text())["sessions"]:
    if session["password"] is None:
        continue
    values = {k: bytes.fromhex(v) for k, v in session.items() if isinstance(v, str) and k != "name"}
    x, y = (int.from_bytes(values[k], "little") % spake2["L"] for k in ("client_entropy", "server_entropy"))
    password = values["password"]
    client_share = spake2["start"](password, x, spake2["M"])
    server_share = spake2["start"](password, y, spake2["N"])
    assert (client_share, server_share) == (values["client_share"], values["server_share"])
    for scalar, is_client in ((x, True), (y, False)):
        output = spake2["finish"](password, scalar, is_client, client_share, server_share)
        assert output == values["spake2_output"]
    print(f"{session['name']}: agrees")
