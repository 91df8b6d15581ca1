# shellcheck shell=bash
# Four network namespaces in a row, and real netem on the egress interfaces of the two in the middle:
#
#   sender s0 --- s1 router1 m0 --- m1 router2 d1 --- d0 receiver
#                 |          |      |          |
#      way back: impair   rate      rate(back) impair: way forward
#
# netem draws losses before it applies its rate. The two are therefore apart, the bottleneck first, so that what is
# lost has used the bottleneck, as on a radio link, and `limit` counts the queue alone.

SENDER_IP=10.77.1.1
RECEIVER_IP=10.77.3.2
NS_PREFIX="fulmar$$"
# Ethernet packets of full size: 1,500 bytes and a header of 14.
FRAME_BYTES=1514
# netem counts the Ethernet header; a rate in IP bytes leaves it out.
NO_FRAME_HEADER=-14
# Packets that netem may hold for their delay: 50 Mbit/s over a second and more.
IMPAIR_LIMIT=20000

in_sender() { ip netns exec "$NS_PREFIX-s" "$@"; }
in_router1() { ip netns exec "$NS_PREFIX-r1" "$@"; }
in_router2() { ip netns exec "$NS_PREFIX-r2" "$@"; }
in_receiver() { ip netns exec "$NS_PREFIX-d" "$@"; }

# True if namespaces and netem can be had here.
have_netem() {
  [ "$(id -u)" = 0 ] || return 1
  local probe="fulmar$$-probe" answer=1
  ip netns add "$probe" 2>/dev/null || return 1
  ip netns exec "$probe" tc qdisc add dev lo root netem delay 1ms 2>/dev/null && answer=0
  ip netns del "$probe"
  return $answer
}

# wire NAMESPACE DEVICE ADDRESS/LEN  NAMESPACE DEVICE ADDRESS/LEN  NUMBER
wire() {
  local a=$1 a_dev=$2 a_ip=$3 b=$4 b_dev=$5 b_ip=$6 n=$7
  local a_mac="02:00:00:00:0$n:01" b_mac="02:00:00:00:0$n:02"
  ip link add "$a_dev" netns "$NS_PREFIX-$a" address "$a_mac" mtu 1500 type veth \
    peer name "$b_dev" netns "$NS_PREFIX-$b" address "$b_mac" mtu 1500
  # Address resolution must not get lost on the way: a second of waiting is no figure of ours.
  end_of_wire "$a" "$a_dev" "$a_ip" "${b_ip%/*}" "$b_mac"
  end_of_wire "$b" "$b_dev" "$b_ip" "${a_ip%/*}" "$a_mac"
}

end_of_wire() {
  local ns="$NS_PREFIX-$1" dev=$2 address=$3 peer=$4 peer_mac=$5
  ip netns exec "$ns" ip addr add "$address" dev "$dev"
  # A train of datagrams must be taken apart before it comes to netem, and not be put together on the way.
  if [ -z "${KEEP_TRAINS:-}" ]; then
    local feature
    for feature in tso gso gro tx-udp-segmentation rx-gro-list rx-udp-gro-forwarding; do
      ip netns exec "$ns" ethtool -K "$dev" "$feature" off >/dev/null 2>&1 ||
        echo "note: $dev has no switch for $feature" >&2
    done
  fi
  ip netns exec "$ns" ip link set "$dev" up
  ip netns exec "$ns" ip neigh replace "$peer" lladdr "$peer_mac" dev "$dev" nud permanent
}

topology_up() {
  local ns
  for ns in s r1 r2 d; do
    ip netns add "$NS_PREFIX-$ns"
    ip netns exec "$NS_PREFIX-$ns" sh -c '
      echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
      echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
      echo 1 > /proc/sys/net/ipv4/ip_forward' 2>/dev/null || true
    ip netns exec "$NS_PREFIX-$ns" ip link set lo up
  done
  wire s s0 $SENDER_IP/24 r1 s1 10.77.1.2/24 1
  wire r1 m0 10.77.2.1/24 r2 m1 10.77.2.2/24 2
  wire r2 d1 10.77.3.1/24 d d0 $RECEIVER_IP/24 3
  in_sender ip route add default via 10.77.1.2
  in_router1 ip route add 10.77.3.0/24 via 10.77.2.2
  in_router2 ip route add 10.77.1.0/24 via 10.77.2.1
  in_receiver ip route add default via 10.77.3.1
}

topology_down() {
  local ns
  for ns in s r1 r2 d; do
    ip netns pids "$NS_PREFIX-$ns" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
    ip netns del "$NS_PREFIX-$ns" 2>/dev/null || true
  done
}

# Packets of 1,500 bytes that wait QUEUE_MS at this rate; at least a few.
queue_packets() {
  local packets=$(($1 * QUEUE_MS / 12000))
  echo $((packets < 5 ? 5 : packets))
}

# Puts the profile, whose variables are set, on the routers. The counters start at zero.
apply_profile() {
  local dev
  in_router1 tc qdisc del dev m0 root 2>/dev/null || true
  in_router1 tc qdisc del dev s1 root 2>/dev/null || true
  in_router2 tc qdisc del dev m1 root 2>/dev/null || true
  in_router2 tc qdisc del dev d1 root 2>/dev/null || true
  in_router1 tc qdisc add dev m0 root netem rate "${RATE_KBIT}kbit" $NO_FRAME_HEADER \
    limit "$(queue_packets "$RATE_KBIT")"
  in_router2 tc qdisc add dev m1 root netem rate "${BACK_KBIT}kbit" $NO_FRAME_HEADER \
    limit "$(queue_packets "$BACK_KBIT")"
  # shellcheck disable=SC2086 # several arguments each
  in_router2 tc qdisc add dev d1 root netem limit $IMPAIR_LIMIT $FORWARD
  # shellcheck disable=SC2086
  in_router1 tc qdisc add dev s1 root netem limit $IMPAIR_LIMIT $BACK
}

# counter NAMESPACE-FUNCTION DEVICE: bytes sent, packets sent, packets dropped by its qdisc
qdisc_counters() {
  "$1" tc -s qdisc show dev "$2" |
    sed -n 's/^ Sent \([0-9]*\) bytes \([0-9]*\) pkt (dropped \([0-9]*\),.*/\1 \2 \3/p' | head -n 1
}

# interface_counter NAMESPACE-FUNCTION DEVICE NAME
interface_counter() { "$1" cat "/sys/class/net/$2/statistics/$3"; }
