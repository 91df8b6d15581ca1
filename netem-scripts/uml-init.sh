#!/bin/bash
# The first process inside user-mode-linux, started by netem-matrix.sh: mounts, modules, then the measurements.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
RUN=$FULMAR_NETEM_RUN
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run

# The package's modules; insmod is not everywhere, the system call (finit_module, x86-64) is.
load() {
  local file="/usr/lib/uml/modules/$(uname -r)/kernel/$1.ko"
  if command -v insmod >/dev/null; then
    insmod "$file"
  else
    perl -e 'open F, "<", $ARGV[0] or die "$ARGV[0]: $!\n"; my $none = "";
      syscall(313, fileno(F), $none, 0) == 0 or die "$ARGV[0]: $!\n"' "$file"
  fi
}

measurements() {
  load drivers/net/veth
  load net/sched/sch_netem
  . "$RUN/settings"
  # What is on disk outside is slow from here, and may be in /tmp outside, where OUT is: another place for ours.
  mkdir -p /run/tmp
  export TMPDIR=/run/tmp
  FULMAR_NETEM_LIBRARY=1 . "$HERE/netem-matrix.sh"
  # Sourcing has set the defaults again.
  . "$RUN/settings"
  measure
}

measurements 2>&1 | sed -u 's/^/| /'
echo "${PIPESTATUS[0]}" >"$RUN/status"
sync
# halt is not everywhere either: 0x4321fedc is the power-off of reboot(2), number 169 here.
halt -f 2>/dev/null || perl -e 'syscall(169, 0xfee1dead, 672274793, 0x4321fedc, 0)'
