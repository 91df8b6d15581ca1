#!/usr/bin/env bash
# Runs fulmar over links made by real `tc netem`: uploads over named profiles, and a sweep of window sizes.
# See README.md beside it, or --help.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH="$PATH:/usr/sbin:/sbin"
# shellcheck source=profiles.sh
. "$HERE/profiles.sh"
# shellcheck source=topology.sh
. "$HERE/topology.sh"

usage() {
  cat <<END
Usage: netem-matrix.sh [options]
  --quick              two profiles and two windows over the first of them, in about a minute (for CI)
  --profiles LIST      names with commas between, or none [default: all]: ${PROFILES// /, }
  --windows LIST       window sizes of the sweep, or none [default: 16KiB .. 4MiB]
  --window-profile P   the link of the sweep [default: transatlantic; with --quick leo]
  --seconds N          how long an upload should take [default: 12; with --quick 2]
  --runs N             uploads per profile [default: 1]
  --fulmar FILE        the binary [default: ../target/release/fulmar, else debug, else from PATH]
  --out DIR            where results.json and report.html go [default: netem-results]
  --uml, --no-uml      run inside user-mode-linux, or here [default: here if this kernel has netem]
  --keep-trains        leave segmentation offload on, to see the proof fail
Exit code: 0 if every upload arrived equal, losses fell on single datagrams and goodput grows with the window where it should;
1 if not; 2 usage; 3 no netem to be had.
END
}

# clean_up_by FUNCTION: however the script ends, nothing stays behind.
clean_up_by() {
  # shellcheck disable=SC2064 # the name as it is now
  trap "$1" EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# interruptible FILE COMMAND...: its output into FILE. A trap waits for a command, but not for `wait`.
interruptible() {
  local file=$1
  shift
  "$@" >"$file" &
  wait $!
}

die() {
  echo "netem-matrix: $2" >&2
  exit "$1"
}

QUICK='' CHOSEN='' WINDOWS='' WINDOW_PROFILE='' SECONDS_EACH='' RUNS=1 FULMAR='' OUT=netem-results WHERE=''
KEEP_TRAINS=''
parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      --profiles | --windows | --window-profile | --seconds | --runs | --fulmar | --out)
        [ $# -ge 2 ] || die 2 "$1 needs a value"
        ;;
    esac
    case $1 in
      --quick) QUICK=1 ;;
      --profiles) CHOSEN=$2 && shift ;;
      --windows) WINDOWS=$2 && shift ;;
      --window-profile) WINDOW_PROFILE=$2 && shift ;;
      --seconds) SECONDS_EACH=$2 && shift ;;
      --runs) RUNS=$2 && shift ;;
      --fulmar) FULMAR=$2 && shift ;;
      --out) OUT=$2 && shift ;;
      --uml) WHERE=uml ;;
      --no-uml) WHERE=here ;;
      --keep-trains) KEEP_TRAINS=1 ;;
      -h | --help) usage && exit 0 ;;
      *) die 2 "unknown option $1; see --help" ;;
    esac
    shift
  done
  if [ -n "$QUICK" ]; then
    CHOSEN=${CHOSEN:-leo,bad-wifi} WINDOWS=${WINDOWS:-16KiB,512KiB} SECONDS_EACH=${SECONDS_EACH:-2}
    WINDOW_PROFILE=${WINDOW_PROFILE:-leo}
  fi
  WINDOW_PROFILE=${WINDOW_PROFILE:-transatlantic}
  CHOSEN=${CHOSEN:-${PROFILES// /,}}
  WINDOWS=${WINDOWS:-16KiB,32KiB,64KiB,128KiB,256KiB,512KiB,1MiB,2MiB,4MiB}
  SECONDS_EACH=${SECONDS_EACH:-12}
  local number name
  for number in "$SECONDS_EACH" "$RUNS"; do
    [[ $number =~ ^[1-9][0-9]{0,3}$ ]] || die 2 "'$number' is not a whole number from 1 to 9999"
  done
  [ "$CHOSEN" != none ] || CHOSEN=''
  for name in ${CHOSEN//,/ } "$WINDOW_PROFILE"; do
    declare -F "profile_$name" >/dev/null || die 2 "there is no profile '$name'; there are ${PROFILES// /, }"
  done
}

find_fulmar() {
  local candidate
  for candidate in "$FULMAR" "$HERE/../target/release/fulmar" "$HERE/../target/debug/fulmar" \
    "$(command -v fulmar || true)"; do
    if [ -x "$candidate" ]; then
      FULMAR=$(readlink -f "$candidate")
      return
    fi
    [ -z "$FULMAR" ] || die 2 "$FULMAR cannot be run"
  done
  die 2 "no fulmar binary: run cargo build --release, or give --fulmar FILE"
}

# --- measurements; all below runs where netem is -----------------------------------------------------------------

WORK='' FAILED=0 PUT='' PROOF='' PROOF_PLAIN=''
fail() {
  echo "FAILED: $*"
  FAILED=1
}

# start_server: on the receiver, waits until it listens.
start_server() {
  mkdir -p "$WORK/served"
  in_receiver env XDG_STATE_HOME="$WORK" "$FULMAR" serve --key-file "$WORK/key" \
    --listen "$RECEIVER_IP:5770" "$WORK/served" >"$WORK/listening" 2>"$WORK/serve.log" &
  local waited=0
  until grep -qs listening "$WORK/listening"; do
    sleep 0.1
    waited=$((waited + 1))
    [ $waited -lt 100 ] || die 1 "the server does not start: $(cat "$WORK/serve.log")"
  done
}

# json_number OBJECT NAME
json_number() { sed -n "s/.*\"$2\":\([0-9.]*\).*/\1/p" <<<"$1"; }

# upload: one `fulmar put` over the profile applied; prints nothing, sets PUT to its JSON object.
upload() {
  local bytes=$((RATE_KBIT * 125 * SECONDS_EACH))
  head -c "$bytes" /dev/urandom >"$WORK/file"
  local code=0
  interruptible "$WORK/put.json" in_sender timeout $((SECONDS_EACH * 8 + 60)) "$FULMAR" put --json \
    --progress never --overwrite always --key-file "$WORK/key" "$WORK/file" "$RECEIVER_IP" 2>"$WORK/put.log" ||
    code=$?
  PUT=$(cat "$WORK/put.json")
  [ -n "$PUT" ] || PUT="{\"command\":\"put\",\"error\":\"ended with $code and without a word\",\"exit_code\":1}"
  if [ $code -ne 0 ]; then
    fail "$NAME: fulmar put ended with $code: $(cat "$WORK/put.log")"
  elif ! cmp -s "$WORK/file" "$WORK/served/file"; then
    fail "$NAME: the file that arrived is not the one that was sent"
  fi
}

# prove NAME: whether what went through netem since the profile was applied were single datagrams. Sets PROOF.
prove() {
  local bytes packets dropped queue_dropped frames reported mean verdict=single
  read -r bytes packets dropped <<<"$(qdisc_counters in_router2 d1)"
  read -r _ _ queue_dropped <<<"$(qdisc_counters in_router1 m0)"
  # The qdisc counts a train as its segments; the receiving interface counts it as what it is, one frame.
  frames=$(interface_counter in_router2 m1 rx_packets)
  mean=$(($(interface_counter in_router2 m1 rx_bytes) / (frames > 0 ? frames : 1)))
  reported=$(json_number "$PUT" packets_lost)
  if [ "$mean" -gt $FRAME_BYTES ]; then
    verdict=trains
    fail "$NAME: frames of $mean bytes on average came to netem: trains, not single datagrams"
  fi
  PROOF=$(printf '{"frames":%s,"mean_frame_bytes":%s,"netem_packets":%s,"netem_bytes":%s,"netem_dropped":%s,"queue_dropped":%s,"sender_packets_lost":%s,"verdict":"%s"}' \
    "$frames" "$mean" "$packets" "$bytes" "$dropped" "$queue_dropped" "${reported:-0}" $verdict)
  echo "  netem: $packets packets passed, $dropped lost, $queue_dropped dropped by the queue;" \
    "the sender counts ${reported:-0} lost; $mean bytes a frame"
}

# One loss, one datagram: with independent loss and nothing else, the sender must miss what netem dropped.
prove_single_losses() {
  NAME=plain
  profile_plain
  topology_up
  apply_profile
  start_server
  echo "proof: $FORWARD at $RATE_KBIT kbit/s"
  upload
  prove
  topology_down
  PROOF_PLAIN=$PROOF
  local dropped lost
  dropped=$(($(json_number "$PROOF" netem_dropped) + $(json_number "$PROOF" queue_dropped)))
  lost=$(json_number "$PROOF" sender_packets_lost)
  [ "$dropped" -gt 20 ] || fail "proof: netem dropped $dropped packets, too few to tell"
  if [ $((lost * 10)) -gt $((dropped * 13 + 100)) ] || [ $((lost * 13 + 100)) -lt $((dropped * 10)) ]; then
    fail "proof: netem dropped $dropped packets, and the sender misses $lost"
  fi
}

# profiles: uploads over each; writes a sweep whose values are names.
run_profiles() {
  local points='' n puts proofs expected
  for NAME in ${CHOSEN//,/ }; do
    "profile_$NAME"
    topology_up
    apply_profile
    start_server
    echo "$NAME: $RATE_KBIT kbit/s, RTT $RTT_MS ms, queue $QUEUE_MS ms, $FORWARD"
    puts='' proofs=''
    for ((n = 0; n < RUNS; n++)); do
      upload
      prove
      puts="${puts:+$puts,}$PUT" proofs="${proofs:+$proofs,}$PROOF"
    done
    topology_down
    # What headers of 63 bytes leave of 1,500, and loss behind the bottleneck leaves of the rate.
    expected=$(awk -v rate="$RATE_KBIT" -v loss="$LOSS_PCT" 'BEGIN { printf "%d", rate * 1000 * (1 - loss / 100) * 0.958 }')
    points="${points:+$points,}{\"value\":\"$NAME\",\"expected_bits_per_sec\":$expected,\"puts\":[$puts],\"proof\":[$proofs]}"
  done
  printf '{"command":"bench","sweep":"profile","title":"Uploads over named links","link_kind":"tc netem, Linux %s","points":[%s]}' \
    "$(uname -r)" "$points" >"$WORK/profiles.json"
}

run_windows() {
  NAME=$WINDOW_PROFILE
  "profile_$NAME"
  topology_up
  apply_profile
  start_server
  echo "windows over $NAME: $WINDOWS"
  local object code=0
  interruptible "$WORK/bench.json" in_sender "$FULMAR" bench window --server "$RECEIVER_IP" --key-file "$WORK/key" --values "$WINDOWS" \
    --seconds "$SECONDS_EACH" --rate "${RATE_KBIT}kbit" --rtt "${RTT_MS}ms" --loss "$LOSS_PCT%" \
    --queue "${QUEUE_MS}ms" --progress never --json 2>"$WORK/bench.log" || code=$?
  object=$(cat "$WORK/bench.json")
  topology_down
  [ $code -eq 0 ] || fail "window sweep: fulmar bench ended with $code: $(cat "$WORK/bench.log")"
  # A heading, put into the object.
  printf '%s' "${object/\{/\{\"title\":\"Window sizes over $NAME, tc netem\",}" >"$WORK/windows.json"
}

measure_down() {
  topology_down
  umount "$WORK" 2>/dev/null || true
  rm -rf "$WORK"
}

measure() {
  WORK=$(mktemp -d)
  mount -t tmpfs -o size=75% tmpfs "$WORK" 2>/dev/null || true
  clean_up_by measure_down
  "$FULMAR" keygen "$WORK/key" >/dev/null
  local parts=()
  prove_single_losses
  if [ -n "$CHOSEN" ]; then
    run_profiles
    parts+=("$WORK/profiles.json")
  fi
  if [ "$WINDOWS" != none ]; then
    run_windows
    parts+=("$WORK/windows.json")
  fi
  {
    printf '{"title":"fulmar over tc netem","proof":%s,"sweeps":[' "$PROOF_PLAIN"
    local part separator=''
    for part in "${parts[@]}"; do
      [ -s "$part" ] || continue
      printf '%s' "$separator"
      cat "$part"
      separator=,
    done
    printf ']}\n'
  } >"$OUT/results.json"
  return $FAILED
}

# --- user-mode-linux ---------------------------------------------------------------------------------------------

run_in_uml() {
  local uml
  uml=$(command -v linux.uml || true)
  [ -n "$uml" ] || die 3 "this kernel has no sch_netem for us; install user-mode-linux, iproute2 and ethtool, or run as root where netem is"
  echo "netem-matrix: running inside user-mode-linux"
  local run
  run=$(mktemp -d "$OUT/.uml.XXXXXX")
  declare -p QUICK CHOSEN WINDOWS WINDOW_PROFILE SECONDS_EACH RUNS FULMAR OUT KEEP_TRAINS >"$run/settings"
  # In a session of its own, so that all of its processes can be ended at once.
  setsid "$uml" mem=1G rootfstype=hostfs rootflags=/ rw "init=$HERE/uml-init.sh" con=null con0=fd:0,fd:1 quiet \
    "FULMAR_NETEM_RUN=$run" </dev/null > >(sed -un 's/^| //p') 2>"$run/uml.log" &
  local pid=$!
  # The function's variables are gone when it is called.
  eval "uml_down() { kill -KILL -- -$pid 2>/dev/null || true; rm -rf $(printf %q "$run"); }"
  clean_up_by uml_down
  wait $pid || true
  [ -s "$run/status" ] || die 1 "user-mode-linux ended early: $(tail -n 5 "$run/uml.log")"
  return "$(cat "$run/status")"
}

# A window from which three times as much is to be expected gives more: whatever else the machine does, the shape stays.
windows_in_order() {
  awk -F, '
    NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
    $1 == "window" { n++; name[n] = $2; got[n] = $column["goodput_bits_per_sec"]; due[n] = $column["expected_bits_per_sec"] }
    END {
      for (a = 1; a <= n; a++) for (b = 1; b <= n; b++)
        if (due[b] > 3 * due[a] && got[b] <= got[a]) {
          print "FAILED: a window of " name[b] " gave no more than one of " name[a]; bad = 1
        }
      exit bad
    }' "$1"
}

main() {
  parse "$@"
  find_fulmar
  mkdir -p "$OUT"
  OUT=$(readlink -f "$OUT")
  rm -f "$OUT/results.json" "$OUT/report.html"
  local code=0
  if [ "$WHERE" = here ] || { [ -z "$WHERE" ] && have_netem; }; then
    have_netem || die 3 "--no-uml: this needs root and a kernel with sch_netem"
    measure || code=$?
  else
    run_in_uml || code=$?
  fi
  [ -s "$OUT/results.json" ] || exit "$((code == 0 ? 1 : code))"
  "$FULMAR" bench report "$OUT/results.json" --html "$OUT/report.html" --csv "$OUT/results.csv" || code=1
  windows_in_order "$OUT/results.csv" || code=1
  echo "written: $OUT/results.json, results.csv, report.html"
  exit "$code"
}

[ -n "${FULMAR_NETEM_LIBRARY:-}" ] || main "$@"
