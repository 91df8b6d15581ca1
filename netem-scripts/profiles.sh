# shellcheck shell=bash disable=SC2034
# Named links. Each function sets, for the way from the sender to the receiver:
#   RATE_KBIT   bottleneck, kbit/s of IP bytes        QUEUE_MS  its drop-tail queue, at that rate
#   BACK_KBIT   the same for the way back              RTT_MS    round trip without any queue
#   LOSS_PCT    mean share lost on the way forward, for what is to be expected
#   FORWARD, BACK  arguments of `tc netem` behind the bottleneck (no rate here)
# The rates stay between 10 and 50 Mbit/s, which user-mode-linux can carry.
# Where a source names a range, a middling value was taken; the shapes (distribution, bursts) are our choice.

PROFILES="geo-satellite leo lte transatlantic bad-wifi dsl"

# Not a real link: independent loss and nothing else, to prove that losses fall on single datagrams.
profile_plain() {
  RATE_KBIT=20000 BACK_KBIT=20000 QUEUE_MS=100 RTT_MS=40 LOSS_PCT=5
  FORWARD="delay 20ms loss 5%"
  BACK="delay 20ms"
}

# RFC 2488 section 2: 239.6 ms up and down again, so 479.2 ms for a round trip, 558 ms from the edge of the
# footprint; users measure about 600 ms (Michel et al., "A first look at Starlink performance", IMC 2022, as the
# satellite it is compared to, sold as 100 Mbit/s down and 10 up). Loss: a weak link in rain.
profile_geo-satellite() {
  RATE_KBIT=10000 BACK_KBIT=20000 QUEUE_MS=300 RTT_MS=600 LOSS_PCT=1
  FORWARD="delay 300ms 3ms distribution normal loss 1%"
  BACK="delay 300ms 3ms distribution normal loss 0.5%"
}

# Michel et al., IMC 2022 (above): round trip 50 ms at the median, 40 to 60 ms between the quartiles, 20 ms at
# least. Loss in bursts at handovers, as Kassem et al., "A browser-side view of Starlink connectivity", IMC 2022,
# found; here runs of 10 on average in 1 % of the packets.
profile_leo() {
  RATE_KBIT=20000 BACK_KBIT=40000 QUEUE_MS=100 RTT_MS=50 LOSS_PCT=1
  FORWARD="delay 25ms 3ms distribution normal loss gemodel 0.1% 10%"
  BACK="delay 25ms 3ms distribution normal loss gemodel 0.05% 10%"
}

# Huang et al., "A close examination of performance and power characteristics of 4G LTE networks", MobiSys 2012:
# medians of 69.5 ms round trip, 12.7 Mbit/s down, 5.6 up (taken as 10 for today's). Link-layer repeats turn
# losses into delay with a long tail, hence the Pareto distribution, and grants come in slots.
profile_lte() {
  RATE_KBIT=10000 BACK_KBIT=12700 QUEUE_MS=400 RTT_MS=70 LOSS_PCT=0.1
  FORWARD="delay 35ms 5ms distribution pareto loss 0.1% slot 1ms 5ms"
  BACK="delay 35ms 5ms distribution pareto loss 0.1%"
}

# Carriers promise at most 90 ms between London and New York in their service level agreements and keep to
# about 75 ms. Loss: one flow in a busy exchange.
profile_transatlantic() {
  RATE_KBIT=50000 BACK_KBIT=50000 QUEUE_MS=75 RTT_MS=75 LOSS_PCT=0.5
  FORWARD="delay 37.5ms loss 0.5%"
  BACK="delay 37.5ms loss 0.5%"
}

# A station at the edge: retries exhausted in bursts (a Gilbert model with runs of 4 in 7.4 % of the packets, our
# own choice of bad), aggregates sent in slots, and every other fault that netem knows, so that all are exercised.
profile_bad-wifi() {
  RATE_KBIT=20000 BACK_KBIT=20000 QUEUE_MS=150 RTT_MS=20 LOSS_PCT=7.6
  FORWARD="delay 10ms 4ms distribution paretonormal loss gemodel 2% 25% corrupt 0.2% duplicate 0.5% reorder 98% 25% slot 1ms 4ms packets 32"
  BACK="delay 10ms 4ms distribution paretonormal loss gemodel 1% 25% corrupt 0.2% duplicate 0.5%"
}

# Interleaving adds up to about 20 ms each way (ITU-T G.992.5); the buffer before the uplink is far too deep
# (Kreibich et al., "Netalyzr: illuminating the edge network", IMC 2010: 600 ms and more are common).
profile_dsl() {
  RATE_KBIT=10000 BACK_KBIT=50000 QUEUE_MS=600 RTT_MS=30 LOSS_PCT=0.1
  FORWARD="delay 15ms 1ms loss 0.1%"
  BACK="delay 15ms 1ms loss 0.1%"
}
