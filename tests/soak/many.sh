#!/usr/bin/env bash
# Many client processes at once, up (and down), against one server; optionally through network namespaces that a link
# emulator has set up. Checks that every file arrived equal, and prints one line of JSON with what it cost.
#
#   tests/soak/many.sh [options]
#     --clients N     client processes (1000)
#     --size BYTES    of each file (1048576)
#     --down N        of them, so many download instead of uploading (0)
#     --stagger MS    pause between the starts of two clients (0)
#     --together      all wait until the last one is there, and begin at once
#     --fulmar PATH   the binary (target/release/fulmar)
#     --in-server C   command that runs the server, such as "ip netns exec lk-b"
#     --in-client C   command that runs the clients
#     --addr IP       where the clients find the server (127.0.0.1)
#     --serve "OPTS"  more options for serve
#     --put "OPTS"    more options for put and get
#     --keep          keep the temporary directory
#
# Through 5 % loss, with a link emulator that makes namespaces lk-a and lk-b:
#   linkem --rate 1gbit --rtt 50 --loss 5 -- tests/soak/many.sh \
#     --in-server "ip netns exec lk-b" --in-client "ip netns exec lk-a" --addr 10.77.0.2
#
# fairness_jain: Jain's index over the goodputs of all clients (1: all equal). Exit code 1 if anything is not as it should be.
set -euo pipefail

clients=1000 size=1048576 down=0 stagger=0 fulmar=target/release/fulmar in_server="" in_client="" addr=127.0.0.1 serve_opts="" put_opts="" keep="" together=0
while [ $# -gt 0 ]; do
  case $1 in
    --clients) clients=$2; shift ;;
    --size) size=$2; shift ;;
    --down) down=$2; shift ;;
    --stagger) stagger=$2; shift ;;
    --fulmar) fulmar=$2; shift ;;
    --in-server) in_server=$2; shift ;;
    --in-client) in_client=$2; shift ;;
    --addr) addr=$2; shift ;;
    --serve) serve_opts=$2; shift ;;
    --put) put_opts=$2; shift ;;
    --keep) keep=1 ;;
    --together) together=1 ;;
    *) echo "many.sh: unknown option '$1'" >&2; exit 2 ;;
  esac
  shift
done
fulmar=$(realpath "$fulmar")
dir=$(mktemp -d)
server=""
cleanup() {
  [ -n "$server" ] && kill "$server" 2>/dev/null || true
  [ -n "$keep" ] && echo "kept: $dir" >&2 || rm -rf "$dir"
}
trap cleanup EXIT
cd "$dir"
mkdir drop up got out
"$fulmar" keygen key > /dev/null 2>&1
export XDG_STATE_HOME="$dir/state" FULMAR_KEY_FILE="$dir/key"

# One pool of noise, of which every file is another piece.
head -c $((size + clients)) /dev/urandom > pool
# Downloads and uploads take turns.
is_down() { (((${1} + 1) * down / clients > ${1} * down / clients)); }
for ((i = 0; i < clients; i++)); do
  if is_down $i; then to=drop/down$i; else to=up/up$i; fi
  tail -c +$((i + 1)) pool | head -c "$size" > $to || true
done

# $in_server and the options are several words on purpose.
# shellcheck disable=SC2086
$in_server "$fulmar" serve $serve_opts drop --listen "$addr:0" > listening 2> server.log &
server=$!
for _ in $(seq 100); do
  grep -q listening listening && break
  sleep 0.1
done
at=$(sed -n 's/^listening on //p' listening)
# `ip netns exec` replaces itself by the server, so the process is the same.
cpu() { awk '{print ($14 + $15) / 100}' "/proc/$server/stat"; }
rss() { awk -v k="$1:" '$1 == k {print $2}' "/proc/$server/status"; }
# Datagrams that found the server's socket full.
# shellcheck disable=SC2086
drops() { $in_server cat /proc/net/snmp | awk '$1 == "Udp:" && $6 ~ /^[0-9]/ {print $6}'; }
cpu_before=$(cpu) rss_before=$(rss VmRSS) drops_before=$(drops)

started=$(date +%s.%N)
# One shell inside the namespace starts all of them: `ip netns exec` for each would cost more than the client.
cat > start.sh <<'INNER'
# Whoever is to wait asks for a lock that is held until all are there.
gate() { [ "$TOGETHER" = 0 ] || { : > "there/$1"; flock -s gate true; }; }
mkdir there
exec 9> gate
flock 9
i=0
while [ "$i" -lt "$CLIENTS" ]; do
  if [ $(((i + 1) * DOWN / CLIENTS)) -gt $((i * DOWN / CLIENTS)) ]; then
    { gate "$i"; exec 9>&- "$FULMAR" get --json $OPTS "$AT/down$i" "got/down$i" > "out/$i" 2> "out/$i.err"; } &
  else
    { gate "$i"; exec 9>&- "$FULMAR" put --json $OPTS "up/up$i" "$AT" > "out/$i" 2> "out/$i.err"; } &
  fi
  i=$((i + 1))
  [ "$STAGGER" = 0 ] || sleep "$STAGGER"
done
while [ "$TOGETHER" = 1 ] && [ "$(ls there | wc -l)" -lt "$CLIENTS" ]; do sleep 0.2; done
date +%s.%N > begun
flock -u 9
wait
times > client_times
INNER
# shellcheck disable=SC2086
CLIENTS=$clients DOWN=$down FULMAR=$fulmar TOGETHER=$together OPTS=$put_opts AT=$at STAGGER=$(awk "BEGIN{print $stagger/1000}") \
  $in_client sh start.sh
ended=$(date +%s.%N)
((together == 0)) || started=$(cat begun)

good=0
for ((i = 0; i < clients; i++)); do
  if is_down $i; then a=drop/down$i b=got/down$i; else a=up/up$i b=drop/up$i; fi
  if cmp -s $a $b; then good=$((good + 1)); else echo "client $i: $(head -c 300 out/$i.err)" >&2; fi
done
left=$(find drop -name '.fulmar-*' | wc -l)
alive=0; kill -0 "$server" 2>/dev/null && alive=1
cat > sum.awk <<'AWK'
# Goodput of each client, from its JSON object.
match($0, /"goodput_bits_per_sec":[0-9.e+]+/) {
  split(substr($0, RSTART, RLENGTH), kv, ":"); x = kv[2] + 0; n++; sum += x; squares += x * x
}
END { printf "%.4f", n ? sum * sum / (n * squares) : 0 }
AWK
jain=$(cat out/*[0-9] | awk -f sum.awk)
# "1m2.5s 0m3.1s": user and system time of all clients.
client_cpu=$(sed -n '2s/[ms]/ /gp' client_times | awk '{printf "%.1f", 60 * $1 + $2 + 60 * $3 + $4}')
awk -v c="$clients" -v d="$down" -v g="$good" -v s="$size" -v t0="$started" -v t1="$ended" -v cpu0="$cpu_before" -v cpu1="$(cpu)" \
  -v hwm="$(rss VmHWM)" -v rss0="$rss_before" -v jain="$jain" -v left="$left" -v alive="$alive" \
  -v drops=$(($(drops) - drops_before)) -v ccpu="$client_cpu" 'BEGIN {
  wall = t1 - t0; gb = c * s / 1e9
  printf "{\"clients\":%d,\"down\":%d,\"equal\":%d,\"left_behind\":%d,\"seconds\":%.2f,\"goodput_mbit\":%.1f,\"server_cpu_s\":%.2f,", c, d, g, left, wall, 8e-6 * c * s / wall, cpu1 - cpu0
  printf "\"cpu_s_per_gb\":%.2f,\"server_peak_mib\":%.1f,\"server_idle_mib\":%.1f,\"fairness_jain\":%s,\"socket_drops\":%d,\"clients_cpu_s\":%s}\n", (cpu1 - cpu0) / gb, hwm / 1024, rss0 / 1024, jain, drops, ccpu
  exit !(g == c && left == 0 && alive)
}'
