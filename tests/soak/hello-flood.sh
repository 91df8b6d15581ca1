#!/usr/bin/env bash
# What a flood of Hellos does to a running transfer, and what a server answers to strangers.
#
#   tests/soak/hello-flood.sh [options]          root, for two network namespaces and a veth pair between them
#
# Options: --rate PACKETS_PER_SECOND (50000)  --bytes N (400000000)  --rounds N (3)  --kinds "KIND..." (all)
#          --fulmar BINARY  --flood BINARY (target/release/examples/hello_flood)  --name NAMESPACES (helloflood)
#
# A transfer runs beside the flood twice in each round: once the flood goes to a port that nobody reads, once to the server.
# The second must have at least 70 % of the first's goodput (median of the rounds). Then floods of each kind, alone: what the
# server answers must be at most three times what it received (RFC 9000, section 8.1), by the bytes that its interface counts
# and by UDP payload.
# Exit codes: 0 all well; 1 not; 2 usage; 3 nothing to run it on.
set -euo pipefail

rate=50000 bytes=400000000 rounds=3 kinds='fresh repeat cookie junk confirm version' fulmar='' flood='' name=helloflood
usage() {
  sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case $1 in
    --rate) rate=$2 ;;
    --bytes) bytes=$2 ;;
    --rounds) rounds=$2 ;;
    --kinds) kinds=$2 ;;
    --fulmar) fulmar=$2 ;;
    --flood) flood=$2 ;;
    --name) name=$2 ;;
    *) usage ;;
  esac
  shift 2
done
here=$(cd "$(dirname "$0")" && pwd)
fulmar=${fulmar:-$here/../../target/release/fulmar}
flood=${flood:-$here/../../target/release/examples/hello_flood}
for binary in "$fulmar" "$flood"; do
  [ -x "$binary" ] || {
    echo "$binary is not there: cargo build --release --bin fulmar --example hello_flood" >&2
    exit 3
  }
done
if [ "$(id -u)" != 0 ] || ! command -v python3 >/dev/null; then
  echo "needs root, for network namespaces, and python3" >&2
  exit 3
fi

# Both sides in memory: no disk is to decide.
base=/dev/shm
[ -d $base ] || base=${TMPDIR:-/tmp}
work=$(mktemp -d "$base/fulmar-hello-flood.XXXXXX")
started=()
finish() {
  [ ${#started[@]} = 0 ] || kill -9 "${started[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  ip netns del "$name-a" 2>/dev/null || true
  ip netns del "$name-b" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
ip netns add "$name-a"
ip netns add "$name-b"
ip -n "$name-a" link add veth0 type veth peer name veth0 netns "$name-b"
ip -n "$name-a" addr add 10.77.9.1/24 dev veth0
ip -n "$name-b" addr add 10.77.9.2/24 dev veth0
ip -n "$name-b" link set lo up
ip -n "$name-a" link set veth0 up
ip -n "$name-b" link set veth0 up
at_a=(ip netns exec "$name-a")
at_b=(ip netns exec "$name-b")

export XDG_STATE_HOME=$work/state FULMAR_KEY_FILE=$work/key
(umask 077 && echo "a key for this run" >"$FULMAR_KEY_FILE")
mkdir "$work/served"
head -c "$bytes" /dev/urandom >"$work/file"
"${at_b[@]}" "$fulmar" serve --listen 10.77.9.2:5770 --metrics 127.0.0.1:9571 "$work/served" \
  >"$work/server.out" 2>"$work/server.log" &
server=$!
started+=("$server")
# The port that nobody reads: what comes fills its buffer and is dropped.
"${at_b[@]}" python3 -c '
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.77.9.2", 5771))
time.sleep(100000)' &
started+=("$!")
for _ in $(seq 100); do
  grep -q listening "$work/server.out" && break
  sleep 0.1
done

# A transfer beside a flood to this port: its goodput in bit/s.
beside() {
  "${at_a[@]}" "$flood" "10.77.9.2:$1" rate="$rate" seconds=600 >/dev/null 2>&1 &
  local flooder=$! goodput
  started+=("$flooder")
  sleep 0.5
  goodput=$("${at_a[@]}" "$fulmar" put --overwrite always --json "$work/file" 10.77.9.2:5770 2>>"$work/client.log" |
    sed -n 's/.*"goodput_bits_per_sec": *\([0-9]*\).*/\1/p')
  kill -9 "$flooder"
  wait "$flooder" 2>/dev/null || true
  cmp "$work/file" "$work/served/file" >&2 || goodput=0
  echo "${goodput:-0}"
}
# What the server's interface has received and sent so far, in bytes of frames.
interface() { "${at_b[@]}" awk '$1 == "veth0:" { print $2, $10 }' /proc/net/dev; }
metrics() {
  "${at_b[@]}" python3 -c '
import urllib.request
text = urllib.request.urlopen("http://127.0.0.1:9571/metrics").read().decode()
for line in text.splitlines():
    if line.startswith("fulmar_refusals_total") and not line.endswith(" 0"): print("   ", line)'
}

result=0
ratios=()
for ((round = 1; round <= rounds; round++)); do
  dummy=$(beside 5771)
  real=$(beside 5770)
  ratio=$(awk "BEGIN { print (${dummy:-0} > 0 ? ${real:-0} / $dummy : 0) }")
  ratios+=("$ratio")
  awk "BEGIN { printf \"round $round: %.0f Mbit/s beside a flood to a dummy port, %.0f beside one to the server: %.0f %%\\n\", \
    $dummy / 1e6, $real / 1e6, $ratio * 100 }"
done
median=$(printf '%s\n' "${ratios[@]}" | sort -g | awk '{ r[NR] = $1 } END { print r[int((NR + 1) / 2)] }')
awk "BEGIN { printf \"goodput beside $rate Hellos/s: %.0f %% of that beside the same flood to a dummy port (median of $rounds), at least 70 %%: %s\\n\", \
  $median * 100, ($median >= 0.7 ? \"ok\" : \"FAILED\"); exit ($median < 0.7) }" || result=1

for kind in $kinds; do
  read -r in_before out_before < <(interface)
  # Exit code 1: more than three times as much payload came back.
  said=$("${at_a[@]}" "$flood" 10.77.9.2:5770 rate="$rate" seconds=3 kind="$kind") || result=1
  sleep 0.3
  read -r in_after out_after < <(interface)
  awk -v said="$said" -v kind="$kind" "BEGIN {
    received = $in_after - $in_before; sent = $out_after - $out_before
    rate = said; sub(/.*packets_per_sec\":/, \"\", rate); sub(/,.*/, \"\", rate)
    payload = said; sub(/.*amplification\":/, \"\", payload); sub(/}.*/, \"\", payload)
    printf \"%-8s %6d packets/s: %.1f MB received, %.1f MB sent by the interface: %.3f x; payload %.3f x, at most 3: %s\\n\", \
      kind, rate, received / 1e6, sent / 1e6, sent / received, payload, (sent <= 3 * received ? \"ok\" : \"FAILED\")
    exit (sent > 3 * received)
  }" || result=1
done
echo "what the server refused, by its own count:"
metrics
kill -TERM "$server"
wait "$server" || {
  echo "the server ended badly" >&2
  result=1
}
exit $result
