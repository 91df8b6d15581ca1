#!/usr/bin/env bash
# Checks what is shipped: manual pages, completions, the systemd unit, the package of the crate; with --long also the
# Debian package (installed, run and removed in a copy of this system), and the static binary in an empty root.
#
#   packaging/check.sh [--long] [BINARY]        default: target/debug/fulmar
#
# What needs a tool that is not there is skipped and named; ci.sh counts it. Exits with 1 if something is wrong.
set -euo pipefail
cd "$(dirname "$0")/.."

long=false binary=
for argument in "$@"; do
    case $argument in
        --long) long=true ;;
        *) binary=$argument ;;
    esac
done
if [ -z "$binary" ]; then
    cargo build --quiet --locked
    binary=target/debug/fulmar
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# For a quick look: FULMAR_PROFILE=dev.
profile=${FULMAR_PROFILE:-release}
wrong=0
good() { echo "ok: $*"; }
bad() {
    echo "WRONG: $*"
    wrong=1
}
skip() {
    echo "SKIPPED: packaging/check.sh: $*"
    if [ -n "${FULMAR_SKIP_LIST:-}" ]; then
        echo "SKIPPED: packaging/check.sh: $*" >> "$FULMAR_SKIP_LIST"
    fi
}
has() { command -v "$1" > /dev/null 2>&1; }

check_scripts() {
    local script
    for script in ci.sh .ci/run packaging/*.sh packaging/homebrew/*.sh netem-scripts/*.sh docs/*.sh tests/*.sh tests/soak/*.sh; do
        if [ -e "$script" ]; then bash -n "$script" || bad "$script does not parse"; fi
    done
    for script in packaging/debian/postinst packaging/debian/postrm; do
        sh -n "$script" || bad "$script does not parse"
    done
    good "scripts parse"
}

check_man_pages() {
    packaging/assets.sh "$binary"
    if ! has man; then
        skip "manual pages: needs man"
        return
    fi
    local page
    for page in target/assets/man/*.1; do
        man --warnings -l "$page" > "$work/page" 2> "$work/warnings" || bad "$page cannot be shown"
        if [ -s "$work/warnings" ]; then
            bad "$page: $(head -n 3 "$work/warnings")"
        fi
    done
    man -l target/assets/man/fulmar-put.1 2> /dev/null | col -bx > "$work/page"
    # Examples keep their lines.
    if grep -q '^ *fulmar put a b dir server.org/in/  *into in/' "$work/page"; then
        good "manual pages"
    else
        bad "the examples of fulmar-put.1 are not there as they were written"
    fi
}

check_completions() {
    local found
    found=$(bash -c '
        source target/assets/completions/fulmar
        COMP_WORDS=(fulmar put --over) COMP_CWORD=2
        _fulmar fulmar --over put
        echo "${COMPREPLY[*]}"')
    if [ "$found" = --overwrite ]; then good "bash completes options"; else bad "bash completes '$found'"; fi
    if has zsh; then
        # compinit reads the function and binds it to the command.
        found=$(zsh -f -c 'fpath=($PWD/target/assets/completions $fpath); autoload -U compinit; compinit -u -D
            print -r -- ${_comps[fulmar]}; autoload -U +X _fulmar && print -r -- ${+functions[_fulmar]}' 2>&1)
        if [ "$found" = "_fulmar
1" ]; then good "zsh loads its completions"; else bad "zsh: $found"; fi
    else
        skip "completions of zsh: needs zsh"
    fi
    if has fish; then
        found=$(HOME=$work fish --no-config -c 'source target/assets/completions/fulmar.fish
            complete -C "fulmar put --overw"' | cut -f 1)
        if [ "$found" = --overwrite ]; then good "fish completes options"; else bad "fish completes '$found'"; fi
    else
        skip "completions of fish: needs fish"
    fi
}

check_unit() {
    if ! has systemd-analyze; then
        skip "the systemd unit: needs systemd-analyze"
        return
    fi
    cp packaging/debian/service "$work/fulmar.service"
    # 2.0 of 10 and below is "OK"; the option counts in tenths.
    if systemd-analyze security --no-pager --offline=true --threshold=20 "$work/fulmar.service" > "$work/security"; then
        good "systemd unit: $(tail -n 1 "$work/security")"
    else
        bad "systemd unit: $(tail -n 1 "$work/security")"
    fi
    # That the program is not installed here is no fault of the unit.
    sed -i 's|^ExecStart=/usr/bin/fulmar|ExecStart=/bin/true|; /^Documentation=/d' "$work/fulmar.service"
    if ! systemd-analyze verify --man=no "$work/fulmar.service" 2> "$work/verify" || [ -s "$work/verify" ]; then
        bad "systemd unit: $(cat "$work/verify")"
    fi
}

check_crate() {
    local list
    list=$(cargo package --locked --allow-dirty --list)
    for wanted in Cargo.lock README.md LICENSE-MIT LICENSE-APACHE docs/PROTOCOL.md src/lib.rs examples/channels.rs \
        contrib/wireshark/fulmar.lua; do
        grep -qx "$wanted" <<< "$list" || bad "cargo package leaves out $wanted"
    done
    if grep -qE '^(target|packaging|\.ci|\.github)/' <<< "$list"; then
        bad "cargo package takes in what is only the repository's"
    fi
    cargo package --locked --allow-dirty --no-verify --target-dir "$work/package" > "$work/cargo" 2>&1 ||
        bad "cargo package: $(tail -n 3 "$work/cargo")"
    if grep -q '^warning' "$work/cargo"; then
        bad "cargo package warns: $(grep -A 2 '^warning' "$work/cargo")"
    fi
    good "cargo package: $(grep -c . <<< "$list") files"
}

# Runs a script in a copy of this system that is thrown away: what it installs is never seen outside.
in_copy() {
    local script=$1
    cat > "$work/copy.sh" << 'COPY'
set -eu
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount --rbind /proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
cp -r "$2" "$1/root/packages"
cp "$3" "$1/root/script.sh"
chroot "$1/root" bash /script.sh
COPY
    mkdir -p "$work/copy"
    unshare --mount --propagation private bash "$work/copy.sh" "$work/copy" "$work/packages" "$script"
}

check_deb() {
    if ! has dpkg || ! has cargo-deb || [ "$(id -u)" != 0 ]; then
        skip "the Debian package: needs root, dpkg, and cargo-deb (cargo install --locked cargo-deb)"
        return
    fi
    packaging/assets.sh "target/${profile/#dev/debug}/fulmar"
    mkdir -p "$work/packages"
    cargo deb --quiet --no-build --locked --profile "$profile" --output "$work/packages/fulmar.deb" || { bad "cargo deb fails"; return; }
    cat > "$work/install.sh" << 'INSTALL'
set -eux
dpkg --install /packages/fulmar.deb
getent passwd fulmar
dpkg --verify fulmar
test "$(man -w fulmar)" = /usr/share/man/man1/fulmar.1.gz
test -f /lib/systemd/system/fulmar.service -o -f /usr/lib/systemd/system/fulmar.service
# What systemd would do, as the unit says: its directories, its user, its command.
unit=$(ls /lib/systemd/system/fulmar.service /usr/lib/systemd/system/fulmar.service 2> /dev/null | head -n 1)
user=$(sed -n 's/^User=//p' "$unit")
install -d -m 750 -o "$user" -g "$user" /var/lib/fulmar /var/lib/fulmar/drop /var/lib/fulmar/state
command=$(sed -n 's/^ExecStart=//p' "$unit" | sed 's|\$FULMAR_OPTIONS|--listen 127.0.0.1:0|; s|\${FULMAR_DIR}|/var/lib/fulmar/drop|')
cd /var/lib/fulmar
HOME=/var/lib/fulmar XDG_STATE_HOME=/var/lib/fulmar/state RUST_LOG=fulmar=info \
    setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs --bounding-set -all $command > /tmp/out 2> /tmp/err &
server=$!
for _ in $(seq 100); do grep -q '^listening on' /tmp/out && break; sleep 0.1; done
address=$(sed -n 's/^listening on //p' /tmp/out)
test -n "$address" || { cat /tmp/err; exit 1; }
test "$(stat -c %U "/proc/$server")" = "$user"
echo contents > /tmp/file
fulmar put /tmp/file "$address/" --key-file /var/lib/fulmar/state/fulmar/server.key -q
test "$(stat -c %U /var/lib/fulmar/drop/file)" = "$user"
kill "$server"
wait "$server"
dpkg --purge fulmar
test -f /var/lib/fulmar/drop/file
test ! -e /var/lib/fulmar/state
test ! -e /usr/bin/fulmar
INSTALL
    if in_copy "$work/install.sh" > "$work/log" 2>&1; then
        good "Debian package: installed, served as its own user, purged"
    elif grep -q "^mount: .*overlay" "$work/log"; then
        skip "the Debian package is built, and not installed: needs overlay mounts"
    else
        bad "Debian package: $(tail -n 12 "$work/log")"
    fi
}

check_static() {
    local target=target/static host
    host=$(rustc -vV | sed -n 's/^host: //p')
    # Its own target folder: other flags would build everything else anew each time.
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --quiet --locked --profile "$profile" \
        --target "$host" --target-dir "$target" --bin fulmar || { bad "the static build fails"; return; }
    local built
    built=$(ls -t "$target/$host"/*/fulmar | head -n 1)
    if file -L "$built" 2> /dev/null | grep -q "dynamically linked\|interpreter"; then
        bad "the static binary is not static"
    fi
    if [ "$(id -u)" != 0 ]; then
        skip "the static binary is built, and not run in an empty root: needs root"
        return
    fi
    # The steps of packaging/docker/Dockerfile.
    local root=$work/empty
    mkdir -p "$root/drop" "$root/state"
    cp "$built" "$root/fulmar"
    chown -R 65532:65532 "$root"
    as_image() { XDG_STATE_HOME=/state HOME=/ chroot --userspec=65532:65532 "$root" "$@"; }
    as_image /fulmar serve /drop --listen 127.0.0.1:0 > "$work/out" 2> "$work/err" &
    local server=$! address=
    for _ in $(seq 100); do
        address=$(sed -n 's/^listening on //p' "$work/out")
        if [ -n "$address" ]; then break; fi
        sleep 0.1
    done
    head -c 3000000 /dev/urandom > "$root/file"
    # The client has an empty root of its own, in which there is nothing but its binary, its key and the file.
    local client=$work/client
    mkdir -p "$client/in"
    cp "$built" "$client/fulmar"
    cp "$root/file" "$client/a file"
    cp "$root/state/fulmar/server.key" "$client/key"
    chown -R 65532:65532 "$client" "$root/file"
    as_client() { HOME=/ chroot --userspec=65532:65532 "$client" /fulmar "$@"; }
    # A timetable: local time is UTC where there is no zone.
    as_client put '/a file' "$address/new/" --key-file /key -q --sim loss=5% --limit '00:00,1gbit 12:00,off' ||
        bad "static binary: put fails in an empty root"
    cmp "$root/file" "$root/drop/new/a file" || bad "static binary: what was put is not the same"
    as_client get "$address/new" /in/ --key-file /key -q --sim loss=5% ||
        bad "static binary: get fails in an empty root"
    cmp "$root/file" "$client/in/new/a file" || bad "static binary: what was got is not the same"
    as_image /fulmar demo /file --progress never > "$work/demo" 2>&1 || {
        grep -q "TMPDIR\|/tmp" "$work/demo" || bad "static binary: demo fails: $(tail -n 1 "$work/demo")"
    }
    kill "$server"
    if wait "$server"; then good "static binary: runs in an empty root without rights"; else bad "static binary: serve"; fi
}

check_scripts
check_man_pages
check_completions
check_unit
check_crate
if has ruby; then
    ruby -c packaging/homebrew/fulmar.rb.in > /dev/null && good "formula parses"
fi
if $long; then
    cargo build --quiet --locked --profile "$profile"
    check_deb
    check_static
fi
exit "$wrong"
