#!/usr/bin/env bash
# Makes docs/report.png: two traces of the same upload through a lossy link, as `fulmar report` shows them.
#
#   docs/report.sh [FULMAR]      FULMAR: the binary, target/release/fulmar by default
#
# Needs chromium, and unshare (util-linux) for a loopback interface with the MTU of an Ethernet; no root.
set -euo pipefail
cd "$(dirname "$0")/.."
fulmar=$(realpath "${1:-target/release/fulmar}")
here=$PWD
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

# Both ways take 40 ms and carry 50 Mbit/s; 1 % of the packets to the server are lost.
cat > transfers.sh << 'EOT'
set -euo pipefail
ip link set lo up mtu 1500
mkdir drop
head -c 20000000 /dev/urandom > data.bin
"$1" keygen key > keygen.log 2>&1
"$1" serve drop --listen 127.0.0.1:5770 --key-file key --sim delay=40ms,rate=50mbit > server.log 2>&1 &
server=$!
trap 'kill "$server"; wait "$server"' EXIT
until grep -q '^listening on' server.log; do sleep 0.1; done
for cc in adaptive cubic; do
    "$1" put data.bin "127.0.0.1:5770/$cc" --key-file key --cc "$cc" -q --trace "$cc.sqlog" \
        --sim loss=1%,delay=40ms,rate=50mbit,seed=1
done
EOT
unshare --net --map-root-user bash transfers.sh "$fulmar"
"$fulmar" report adaptive.sqlog cubic.sqlog -o page.html --title 'Two uploads of 20 MB: 80 ms, 50 Mbit/s, 1 % loss'
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$dir/profile" \
    --window-size=1100,1865 --screenshot="$here/docs/report.png" "file://$dir/page.html" > /dev/null 2>&1
ls -l "$here/docs/report.png"
