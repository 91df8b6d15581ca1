#!/usr/bin/env bash
# `fulmar cp -r` beside scp, rsync and qcp over a bad link with a real sshd at its other end: the time of each, there and
# back, every tree compared with diff -r. Then the time to the first byte beside that of `ssh HOST true`, and what happens
# when UDP is blocked. Prints tables; exit code 1 if a copy of fulmar fails or differs, or a bar is missed.
#
#   tests/soak/ssh-race.sh [options]
#     --fulmar PATH   the binary (target/release/fulmar)
#     --linkem PATH   a link emulator that makes the namespaces NAME-a (10.77.0.1) and NAME-b (10.77.0.2) while it runs,
#                     and takes --name, --rate, --rtt, --loss and --seed (linkem)
#     --rate R        of the link (200mbit)
#     --rtt MS        (100)
#     --loss P        percent, both ways (2)
#     --files N       in the tree (2000), in directories of 50
#     --kib N         mean size of a file (56)
#     --tools LIST    which, of fulmar,scp,rsync,qcp,qcp-bbr (all of them)
#     --timeout S     for one copy; what has not ended then is "not done" (120)
#     --starts N      how often the start is measured; 0: not at all (7)
#     --seed N        of the link (1)
#     --dir DIR       where the trees are (a new one in /dev/shm: a disk would not make all tools pay alike)
#
# Needs root, sshd, and what is to be compared. Everything is removed at the end, whatever the end.
set -euo pipefail

fulmar=target/release/fulmar linkem=linkem rate=200mbit rtt=100 loss=2 files=2000 kib=56
tools=fulmar,scp,rsync,qcp,qcp-bbr timeout=120 starts=7 seed=1 dir=""
while [ $# -gt 0 ]; do
  case $1 in
    --fulmar) fulmar=$2 ;;
    --linkem) linkem=$2 ;;
    --rate) rate=$2 ;;
    --rtt) rtt=$2 ;;
    --loss) loss=$2 ;;
    --files) files=$2 ;;
    --kib) kib=$2 ;;
    --tools) tools=$2 ;;
    --timeout) timeout=$2 ;;
    --starts) starts=$2 ;;
    --seed) seed=$2 ;;
    --dir) dir=$2 ;;
    *) echo "ssh-race.sh: unknown option '$1'" >&2; exit 2 ;;
  esac
  shift 2
done
fulmar=$(realpath "$fulmar")
# The last digits of the process id: two runs at once do not meet.
name=fr$(($$ % 10000))
parent=${dir:-$([ -d /dev/shm ] && echo /dev/shm || echo /tmp)}
dir=$(mktemp -d "$parent/ssh-race.XXXXXX")
link="" wrong=0

down() {
  if [ -n "$link" ]; then
    # All that runs in the namespaces: sshd, and what a copy that was broken off has left.
    local pids
    pids=$(for side in a b; do ip netns pids "$name-$side" 2> /dev/null || true; done)
    # shellcheck disable=SC2086
    [ -z "$pids" ] || kill -KILL $pids 2> /dev/null || true
    kill -TERM "$link" 2> /dev/null || true
    wait "$link" 2> /dev/null || true
    link=""
  fi
}
cleanup() {
  down
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A new link, the same loss again, and an sshd behind it.
up() {
  down
  "$linkem" --name "$name" --rate "$rate" --rtt "$rtt" --loss "$loss" --seed "$seed" > "$dir/link.log" 2>&1 &
  link=$!
  for _ in $(seq 50); do
    ip -n "$name-b" addr show 2> /dev/null | grep -q 10.77.0.2 && break
    sleep 0.1
  done
  ip netns exec "$name-b" /usr/sbin/sshd -D -e -f "$dir/sshd_config" 2> "$dir/sshd.log" &
  for _ in $(seq 50); do
    ip netns exec "$name-b" ss -Hltn 2> /dev/null | grep -q ':2222 ' && return
    sleep 0.1
  done
  echo "ssh-race.sh: the link or sshd does not start:" >&2
  cat "$dir/link.log" "$dir/sshd.log" >&2
  exit 1
}
near() { ip netns exec "$name-a" "$@"; }
now() { date +%s%N; }
seconds() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", (b - a) / 1e9 }'; }
bad() {
  echo "WRONG: $*"
  wrong=1
}

mkdir -p /run/sshd
ssh-keygen -q -t ed25519 -N '' -f "$dir/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$dir/user_key"
cat > "$dir/sshd_config" << END
Port 2222
ListenAddress 10.77.0.2
HostKey $dir/host_key
AuthorizedKeysFile $dir/user_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
Subsystem sftp internal-sftp
SetEnv PATH=$(dirname "$fulmar"):/usr/local/bin:/usr/bin:/bin
END
cat > "$dir/ssh_config" << END
Host far
  HostName 10.77.0.2
  Port 2222
  User root
  IdentityFile $dir/user_key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  GlobalKnownHostsFile /dev/null
  BatchMode yes
  LogLevel ERROR
END

# Sizes from a seventh of the mean to 13/7 of it, in another order in each directory.
make_tree() {
  local i size pool=$((kib * 1024 * 2 + files))
  head -c "$pool" /dev/urandom > "$dir/pool"
  for ((i = 0; i < files; i++)); do
    [ $((i % 50)) -ne 0 ] || mkdir -p "$dir/tree/d$((i / 50))"
    size=$((kib * 1024 * (1 + i * 7919 % 13) / 7))
    tail -c +$((i + 1)) "$dir/pool" | head -c "$size" > "$dir/tree/d$((i / 50))/file$i" || true
  done
  rm "$dir/pool"
}

# copy TOOL FROM TO
copy() {
  local bytes congestion=cubic
  [ "$1" != qcp-bbr ] || congestion=bbr
  case $1 in
    fulmar) near timeout "$timeout" "$fulmar" cp -F "$dir/ssh_config" -q -r "$2" "$3" ;;
    scp) near timeout "$timeout" scp -F "$dir/ssh_config" -q -r "$2" "$3" ;;
    rsync) near timeout "$timeout" rsync -a -e "ssh -F $dir/ssh_config" "$2" "$3" ;;
    qcp*)
      # With --congestion cubic, its default, or bbr. It is told what it asks for: rates in bytes per second, the round trip, and several files at once.
      bytes=$(awk -v r="${rate%bit}" 'BEGIN { u = substr(r, length(r)); print int(r * (u == "g" ? 1e9 : u == "m" ? 1e6 : 1e3) / 8) }')
      near timeout "$timeout" qcp -q -r -j 8 --rx "$bytes" --tx "$bytes" --rtt "${rtt%.*}" \
        --congestion "$congestion" --ssh-config "$dir/ssh_config" \
        -S -F -S "$dir/ssh_config" "$2" "$3" ;;
  esac > "$dir/out" 2>&1 < /dev/null
}

# one TOOL FROM TO COPY: its line's cell, as "12.34 s", "not done" or what is wrong. COPY is compared with the tree.
one() {
  local start status=0 took
  start=$(now)
  copy "$1" "$2" "$3" || status=$?
  took=$(seconds "$start" "$(now)")
  if [ "$status" = 124 ]; then
    cell="not done in $timeout s ($(find "$4" -type f 2> /dev/null | wc -l) files)"
  elif [ "$status" != 0 ]; then
    cell="failed after $took s: $(tail -n 1 "$dir/out" | cut -c 1-80)"
  elif ! diff -r "$dir/tree" "$4" > "$dir/diff"; then
    cell="differs after $took s: $(head -n 1 "$dir/diff" | cut -c 1-80)"
  else
    cell="$took s"
  fi
  took_s=$took
}

race() {
  local tool there back first_there="" first_back=""
  printf '\n%-8s  %-34s  %s\n' tool "there" "and back"
  for tool in ${tools//,/ }; do
    if [ "$tool" != fulmar ] && ! command -v "${tool%-bbr}" > /dev/null; then
      printf '%-8s  not installed\n' "$tool"
      continue
    fi
    mkdir -p "$dir/far" "$dir/back"
    up
    one "$tool" "$dir/tree" far:"$dir/far/" "$dir/far/tree"
    there=$cell
    if [ "$tool" = fulmar ]; then first_there=$took_s; fi
    case "$tool $cell" in fulmar\ [0-9]*) ;; fulmar*) bad "$tool there: $cell" ;; esac
    if [[ $cell =~ ^[0-9] ]] && [ -n "$first_there" ] && awk "BEGIN { exit !($took_s < $first_there) }"; then
      bad "$tool is faster than fulmar there"
    fi
    # The way back is measured whether the way there was done or not.
    rm -rf "$dir/far"
    up
    one "$tool" far:"$dir/tree" "$dir/back/" "$dir/back/tree"
    back=$cell
    if [ "$tool" = fulmar ]; then first_back=$took_s; fi
    case "$tool $cell" in fulmar\ [0-9]*) ;; fulmar*) bad "$tool back: $cell" ;; esac
    if [[ $cell =~ ^[0-9] ]] && [ -n "$first_back" ] && awk "BEGIN { exit !($took_s < $first_back) }"; then
      bad "$tool is faster than fulmar back"
    fi
    rm -rf "$dir/back"
    printf '%-8s  %-34s  %s\n' "$tool" "$there" "$back"
  done
}

median() { sort -n | awk '{ a[NR] = $1 } END { if (NR) printf "%.2f", a[int((NR + 1) / 2)] }'; }

# From the start of the command to the first packet with bytes of a file, and what ssh needs for nothing at all.
first_byte() {
  local i start plain=() byte=()
  head -c 1000000 /dev/urandom > "$dir/one"
  for ((i = 0; i < starts; i++)); do
    seed=$((seed + 1000))
    up
    start=$(now)
    near timeout 60 ssh -F "$dir/ssh_config" far true || continue
    plain+=("$(seconds "$start" "$(now)")")
    # The same losses again.
    up
    near timeout 60 "$fulmar" cp -F "$dir/ssh_config" -q --trace "$dir/trace" "$dir/one" far:"$dir/one.copy" || {
      bad "fulmar cp of one file fails"
      continue
    }
    cmp -s "$dir/one" "$dir/one.copy" || bad "one file arrived and differs"
    # Not a pipe: jq leaves when it has seen enough.
    byte+=("$(jq -n 'first(inputs | select(.name == "fulmar:packet_sent" and .data.stream == "chunks")).time / 1000' \
      < <(tr -d '\036' < "$dir/trace"))")
    rm -f "$dir/one.copy" "$dir/trace"
  done
  local ssh_s byte_s bar
  ssh_s=$(printf '%s\n' "${plain[@]}" | median)
  byte_s=$(printf '%s\n' "${byte[@]}" | median)
  bar=$(awk -v s="$ssh_s" -v rtt="$rtt" 'BEGIN { printf "%.2f", s + 3 * rtt / 1000 }')
  printf '\nstart to first byte: %s s (ssh far true: %s s, with 3 RTTs: %s s; medians of %s)\n  each: %s; ssh: %s\n' \
    "$byte_s" "$ssh_s" "$bar" "${#byte[@]}" "${byte[*]}" "${plain[*]}"
  awk "BEGIN { exit !($byte_s <= $bar) }" || bad "the first byte comes later than ssh's set-up and 3 RTTs"
}

blocked() {
  local start status=0 took
  mkdir -p "$dir/far"
  up
  ip netns exec "$name-b" nft -f - << 'END'
table inet race {
  chain in {
    type filter hook input priority 0;
    meta l4proto udp drop
  }
}
END
  start=$(now)
  near timeout 60 "$fulmar" cp -F "$dir/ssh_config" -r "$dir/tree/d0" far:"$dir/far/" > "$dir/out" 2>&1 < /dev/null || status=$?
  took=$(seconds "$start" "$(now)")
  printf '\nUDP blocked: exit code %s after %s s\n' "$status" "$took"
  sed 's/^/  /' "$dir/out"
  [ "$status" = 3 ] || bad "blocked UDP is not exit code 3"
  awk "BEGIN { exit !($took < 10) }" || bad "blocked UDP is told after more than 10 s"
  start=$(now)
  near timeout "$timeout" "$fulmar" cp -F "$dir/ssh_config" -r --fallback ssh "$dir/tree/d0" far:"$dir/far/" > "$dir/out" 2>&1 \
    < /dev/null || bad "--fallback ssh fails"
  took=$(seconds "$start" "$(now)")
  printf '%s\n' "--fallback ssh: one directory of the tree after $took s"
  head -n 6 "$dir/out" | sed 's/^/  /'
  diff -r "$dir/tree/d0" "$dir/far/d0" > /dev/null || bad "what --fallback ssh has copied differs"
}

make_tree
echo "$(find "$dir/tree" -type f | wc -l) files, $(find "$dir/tree" -type f -printf '%s\n' | awk '{ n += $1 } END { printf "%.1f", n / 1e6 }') MB;" \
  "$rate, RTT $rtt ms, $loss % lost each way; $("$fulmar" --version), $(ssh -V 2>&1 | cut -d , -f 1)," \
  "$(rsync --version 2> /dev/null | awk 'NR == 1 { print $1, $3 }'), $(qcp --version 2> /dev/null | head -n 1 | cut -c 1-40)"
race
[ "$starts" = 0 ] || first_byte
blocked
exit "$wrong"
