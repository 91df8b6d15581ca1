#!/usr/bin/env bash
# Kills client and server at random moments of a transfer, and has it go on each time: the end must equal the source, and
# all that was sent on the way must stay within 1.25 x file / (1 - loss).
#
#   tests/soak/kill-resume.sh --linkem PATH      through the link emulator (root)
#   tests/soak/kill-resume.sh                    on the loopback interface of a namespace of its own (root), with --sim
#
# Options: --kills N (20)  --bytes N (500000000)  --rate R (200mbit)  --rtt MS (50)  --loss PERCENT (5)  --seed N
#          --direction put|get|both (both)  --victim client|server|random (random)  --fulmar BINARY  --name NAMESPACE
#
# A killed client is run again; a killed server is started again, and the client goes on by itself.
# Exit codes: 0 all well; 1 not; 2 usage; 3 nothing to run it on.
set -euo pipefail

kills=20 bytes=500000000 rate=200mbit rtt=50 loss=5 seed=$RANDOM direction=both victim=random
linkem='' fulmar='' name=killresume inside=''
usage() {
  sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case $1 in
    --kills) kills=$2 ;;
    --bytes) bytes=$2 ;;
    --rate) rate=$2 ;;
    --rtt) rtt=$2 ;;
    --loss) loss=$2 ;;
    --seed) seed=$2 ;;
    --direction) direction=$2 ;;
    --victim) victim=$2 ;;
    --linkem) linkem=$2 ;;
    --fulmar) fulmar=$2 ;;
    --name) name=$2 ;;
    --inside) inside=$2 ;;
    *) usage ;;
  esac
  shift 2
done
here=$(cd "$(dirname "$0")" && pwd)
fulmar=${fulmar:-$here/../../target/release/fulmar}
[ -x "$fulmar" ] || {
  echo "$fulmar is not there: cargo build --release, or --fulmar BINARY" >&2
  exit 3
}
[ "$(id -u)" = 0 ] || {
  echo "needs root, for network namespaces and their counters" >&2
  exit 3
}

if [ -z "$inside" ]; then
  again=("$0" --kills "$kills" --bytes "$bytes" --rate "$rate" --rtt "$rtt" --loss "$loss" --seed "$seed"
    --direction "$direction" --victim "$victim" --fulmar "$fulmar" --name "$name")
  if [ -n "$linkem" ]; then
    exec "$linkem" --name "$name" --rate "$rate" --rtt "$rtt" --loss "$loss" --queue "$rtt" --seed "$seed" \
      -- "${again[@]}" --inside linkem
  fi
  exec unshare --net -- "${again[@]}" --inside sim
fi

RANDOM=$((seed % 32768))
sim=()
if [ "$inside" = linkem ]; then
  server_ip=10.77.0.2
  at_client=(ip netns exec "$name-a")
  at_server=(ip netns exec "$name-b")
  # What the sender hands to its interface, lost or not.
  sent_bytes() {
    local side=a
    [ "$1" = put ] || side=b
    ip netns exec "$name-$side" cat /proc/net/dev |
      awk 'NF == 17 && $1 != "lo:" { sum += $10 } END { print sum }'
  }
  allowed=$(awk "BEGIN { print int(1.25 * $bytes / (1 - $loss / 100)) }")
else
  ip link set lo mtu 1500 up
  server_ip=127.0.0.1
  at_client=() at_server=()
  half=$((rtt * 1000 / 2))
  sim=(--sim "loss=$loss%,delay=${half}us,rate=$rate,loss-in=$loss%,delay-in=${half}us,rate-in=$rate")
  # Both directions share the interface; what --sim loses does not come to it, or comes and is dropped afterwards.
  sent_bytes() { cat /sys/class/net/lo/statistics/tx_bytes; }
  allowed=$(awk "BEGIN { print int(1.25 * $bytes / (1 - $loss / 100)) }")
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/fulmar-kill-resume.XXXXXX")
server=0 client=0
finish() {
  [ "$client" = 0 ] || kill -9 "$client" 2>/dev/null || true
  [ "$server" = 0 ] || kill -9 "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
export FULMAR_KEY_FILE=$work/key
(umask 077 && echo "a key for this run" >"$FULMAR_KEY_FILE")
mkdir "$work/served" "$work/here"

start_server() {
  "${at_server[@]}" "$fulmar" serve --listen "$server_ip:5770" "$work/served" >/dev/null 2>>"$work/server.log" &
  server=$!
}
start_client() {
  if [ "$1" = put ]; then
    "${at_client[@]}" "$fulmar" put --json "${sim[@]}" "$work/here/file" "$server_ip" \
      >"$work/out.json" 2>>"$work/client.log" &
  else
    "${at_client[@]}" "$fulmar" get --json "${sim[@]}" "$server_ip/file" "$work/here/" \
      >"$work/out.json" 2>>"$work/client.log" &
  fi
  client=$!
}
gone() { ! kill -0 "$1" 2>/dev/null; }
# ip netns exec replaces itself by the command, so that the process started is the one to be killed.
strike() {
  kill -9 "$1"
  wait "$1" 2>/dev/null || true
}

run() {
  local way=$1 done_kills=0 runs=1 by_itself=0 status source target before after start
  if [ "$way" = put ]; then source=$work/here/file target=$work/served/file; else source=$work/served/file target=$work/here/file; fi
  rm -rf "$work"/served/* "$work"/here/* "$work"/served/.fulmar* "$work"/here/.fulmar*
  head -c "$bytes" /dev/urandom >"$source"
  start_server
  sleep 0.3
  before=$(sent_bytes "$way")
  start=$(date +%s.%N)
  start_client "$way"
  while [ "$done_kills" -lt "$kills" ]; do
    sleep "$(awk "BEGIN { print 0.2 + 1.8 * $RANDOM / 32768 }")"
    if gone "$client"; then
      status=0
      wait "$client" || status=$?
      client=0
      # It is done before all kills were; or the server was gone for too long.
      [ "$status" != 0 ] || break
      start_client "$way" && runs=$((runs + 1))
      continue
    fi
    done_kills=$((done_kills + 1))
    if [ "$victim" = server ] || { [ "$victim" = random ] && [ $((RANDOM % 2)) = 0 ]; }; then
      strike "$server"
      start_server
      by_itself=$((by_itself + 1))
    else
      strike "$client"
      start_client "$way"
      runs=$((runs + 1))
    fi
  done
  while [ "$client" != 0 ]; do
    status=0
    wait "$client" || status=$?
    client=0
    if [ "$status" != 0 ]; then
      echo "$way: exit code $status: $(tail -n 1 "$work/client.log")" >&2
      [ "$runs" -lt $((kills * 2)) ] || return 1
      start_client "$way" && runs=$((runs + 1))
    fi
  done
  after=$(sent_bytes "$way")
  local seconds total verdict=0
  seconds=$(awk "BEGIN { print $(date +%s.%N) - $start }")
  total=$((after - before))
  kill -TERM "$server" && wait "$server" 2>/dev/null || true
  server=0
  cmp "$source" "$target" || verdict=1
  [ "$(find "$work/served" "$work/here" -name '.fulmar-*' | wc -l)" = 0 ] || {
    echo "$way: something hidden was left" >&2
    verdict=1
  }
  [ "$total" -le "$allowed" ] || verdict=1
  awk -v way="$way" -v kills="$done_kills" -v s="$by_itself" -v runs="$runs" -v total="$total" -v allowed="$allowed" \
    -v bytes="$bytes" -v seconds="$seconds" -v loss="$loss" -v verdict="$verdict" 'BEGIN {
      printf "%s: %d kills (%d of the server), %d runs, %.1f s, %.1f MB sent = %.3f x file / (1 - loss), allowed 1.25: %s\n",
        way, kills, s, runs, seconds, total / 1e6, total / (bytes / (1 - loss / 100)), verdict ? "FAILED" : "ok"
    }'
  return $verdict
}

echo "seed $seed, $bytes bytes, $rate, $rtt ms, $loss % loss, $inside"
result=0
for way in put get; do
  if [ "$direction" = both ] || [ "$direction" = "$way" ]; then
    run "$way" || result=1
  fi
done
exit $result
