//! Role: the UDP socket as a `DatagramPipe`: GSO trains out, GRO batches in, errors turned into lost datagrams.
//! Owns: the socket, its receive buffers, the local address that each remote of a wildcard socket talks to.
//! Implements: docs/ARCHITECTURE.md, "The pipe".

use super::pipe::{DatagramPipe, MAX_TRAIN_BYTES, Received, RecvReport, SendReport, Train};
use crate::endpoint::Ecn;
use quinn_udp::{EcnCodepoint, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::{Duration, Instant};

/// Messages per `recvmmsg`; quinn-udp takes at most 32 (`quinn_udp::BATCH_SIZE`). 16 buffers of 64 KiB are 1 MiB,
/// which still fits the L2 cache of common processors.
const RECV_BATCH: usize = if quinn_udp::BATCH_SIZE < 16 { quinn_udp::BATCH_SIZE } else { 16 };
/// One receive buffer: the largest GRO aggregate (the kernel never joins more than 65,535 bytes).
const RECV_BUFFER_BYTES: usize = 65_536;
/// Wanted SO_RCVBUF and SO_SNDBUF: 4 MiB holds 30 ms of 1 Gbit/s while the loop does other work.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Remotes whose local address is remembered, in each of two generations: a flood from ever new addresses drives out only
/// those that have not been heard of for a whole generation (the kernel's choice of source address serves them then).
const MAX_LOCAL_IPS: usize = 8192;
/// A send error is warned about once in this time.
const WARN_INTERVAL: Duration = Duration::from_secs(10);
/// How often, at most, segmentation offload is turned on again after an error that it did not cause.
const RESTORE_INTERVAL: Duration = Duration::from_secs(1);
/// IP and UDP headers (RFC 791, RFC 8200, RFC 768) before the payload, by address family.
const HEADERS_V4_BYTES: u32 = 28;
const HEADERS_V6_BYTES: u32 = 48;
/// Payload over Ethernet (MTU 1,500, RFC 894), by address family: what is assumed when the MTU cannot be found.
const FALLBACK_PAYLOAD_V4: u32 = 1500 - HEADERS_V4_BYTES;
const FALLBACK_PAYLOAD_V6: u32 = 1500 - HEADERS_V6_BYTES;

/// A non-blocking UDP socket.
#[derive(Debug)]
pub struct UdpPipe {
    socket: mio::net::UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    buffers: Vec<Box<[u8]>>,
    meta: [RecvMeta; RECV_BATCH],
    local_ips: LocalIps,
    trouble: WarnLimit,
    /// When segmentation, turned off by an error that it did not cause, may be turned on again.
    restore_at: Option<Instant>,
    restored: Option<Instant>,
}

impl UdpPipe {
    /// Binds a socket. An IPv6 wildcard takes IPv4 too.
    ///
    /// # Errors
    /// What the kernel says: the address is in use or not ours, or the family is not there.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = unbound(address)?;
        socket.bind(&address.into())?;
        Self::from_socket(socket)
    }

    /// Takes a socket that is bound already, and does not block.
    ///
    /// # Errors
    /// It is no UDP socket, or the kernel lacks what quinn-udp needs.
    pub fn from_socket(socket: Socket) -> io::Result<Self> {
        let state = new_state(&socket)?;
        raise_buffers(&socket, &state);
        let socket = mio::net::UdpSocket::from_std(socket.into());
        let local = socket.local_addr()?;
        Ok(Self {
            socket,
            state,
            local,
            buffers: (0..RECV_BATCH).map(|_| vec![0; RECV_BUFFER_BYTES].into_boxed_slice()).collect(),
            meta: [RecvMeta::default(); RECV_BATCH],
            local_ips: LocalIps::new(local.ip().is_unspecified()),
            trouble: WarnLimit::default(),
            restore_at: None,
            restored: None,
        })
    }

    /// Leaves the choice of the source address to the kernel even if the socket is bound to a wildcard: a client, which
    /// speaks first, then follows its routes when its network changes.
    #[must_use]
    pub fn with_routed_source(mut self) -> Self {
        self.local_ips.wanted = false;
        self
    }

    /// Bytes of the kernel's receive and send buffers, as it counts them.
    pub fn buffer_sizes(&self) -> io::Result<(usize, usize)> {
        let socket = &self.socket;
        Ok((self.state.recv_buffer_size(socket.into())?, self.state.send_buffer_size(socket.into())?))
    }

    /// One `sendmsg`. `Ok(true)`: gone or lost; `Ok(false)`: EMSGSIZE; `Err`: blocked, or (`EINVAL`, `EIO`) the
    /// kernel does not like the message.
    fn send_once(&mut self, train: &Train<'_>, src_ip: Option<IpAddr>) -> io::Result<bool> {
        let Self { socket, state, .. } = self;
        let transmit = quinn_udp::Transmit {
            destination: to_socket_family(train.remote, self.local.is_ipv6()),
            ecn: train.ecn.map(|ecn| match ecn {
                Ecn::Ect0 => EcnCodepoint::Ect0,
                Ecn::Ce => EcnCodepoint::Ce,
            }),
            contents: train.bytes,
            segment_size: train.segment_size,
            src_ip,
        };
        match socket.try_io(|| state.try_send((&*socket).into(), &transmit)) {
            Ok(()) => Ok(true),
            Err(e) if quinn_udp::is_msg_size_err(&e) => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock || is_rejected(&e) => Err(e),
            Err(e) => {
                self.trouble.warn(|| format!("sending to {}: {e}", train.remote));
                self.local_ips.forget(train.remote);
                Ok(true)
            }
        }
    }

    /// Sends what fits one message.
    fn send_part(&mut self, train: Train<'_>, src_ip: Option<IpAddr>) -> SendReport {
        if self.state.max_gso_segments() == 1 {
            return self.send_split(train, src_ip);
        }
        let consumed_bytes = train.bytes.len();
        match self.send_once(&train, src_ip) {
            Ok(sent) => SendReport { consumed_bytes, too_large: !sent },
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => SendReport::default(),
            Err(_) => {
                let report = self.send_split(train, src_ip);
                if report.too_large {
                    // Older kernels say EINVAL where the datagrams of a train exceed the MTU.
                    self.restore_soon();
                }
                report
            }
        }
    }

    /// Sends datagram by datagram, for a kernel or interface without segmentation.
    fn send_split(&mut self, train: Train<'_>, src_ip: Option<IpAddr>) -> SendReport {
        let mut report = SendReport::default();
        let size = train.segment_size.unwrap_or(train.bytes.len()).max(1);
        for bytes in train.bytes.chunks(size) {
            let single = Train { segment_size: None, bytes, ..train };
            match self.send_once(&single, src_ip) {
                Ok(sent) => report.too_large |= !sent,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return report,
                Err(e) => self.rejected(train.remote, &e),
            }
            report.consumed_bytes += bytes.len();
        }
        report
    }

    /// A single datagram met EINVAL or EIO: its address is to blame, not segmentation. quinn-udp has turned
    /// segmentation and ECN off all the same; a fresh state turns them on again, or one odd peer would slow all
    /// others.
    fn rejected(&mut self, remote: SocketAddr, error: &io::Error) {
        self.trouble.warn(|| format!("sending to {remote}: {error}"));
        self.local_ips.forget(remote);
        self.restore_soon();
    }

    fn restore_soon(&mut self) {
        let now = clock();
        self.restore_at = Some(self.restored.map_or(now, |last| now.max(last + RESTORE_INTERVAL)));
        self.restore_if_due(now);
    }

    fn restore_if_due(&mut self, now: Instant) {
        if self.restore_at.is_some_and(|at| at <= now) {
            self.restore_at = None;
            self.restored = Some(now);
            if let Ok(state) = new_state(&self.socket) {
                self.state = state;
            }
        }
    }
}

impl DatagramPipe for UdpPipe {
    fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, mio::Interest::READABLE | mio::Interest::WRITABLE)
    }

    fn recv(&mut self, sink: &mut dyn FnMut(Received<'_>)) -> io::Result<RecvReport> {
        let Self { socket, state, buffers, meta, local_ips, .. } = self;
        let mut buffers = buffers.iter_mut();
        let mut slices: [IoSliceMut<'_>; RECV_BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(buffers.next().map_or(&mut [], |b| &mut b[..])));
        let count = socket.try_io(|| state.recv((&*socket).into(), &mut slices, &mut meta[..]))?;
        let mut bytes_in = 0;
        for (slice, meta) in slices.iter_mut().zip(meta.iter()).take(count) {
            let remote = from_socket_family(meta.addr);
            // Nobody can be answered at port 0, and trying makes the kernel say EINVAL.
            if meta.len == 0 || remote.port() == 0 {
                continue;
            }
            local_ips.learn(remote, meta.dst_ip);
            let ecn = meta.ecn.and_then(|ecn| match ecn {
                EcnCodepoint::Ect0 => Some(Ecn::Ect0),
                EcnCodepoint::Ce => Some(Ecn::Ce),
                EcnCodepoint::Ect1 => None,
            });
            let filled = &mut slice[..meta.len.min(RECV_BUFFER_BYTES)];
            bytes_in += filled.len();
            for bytes in filled.chunks_mut(meta.stride.max(1)) {
                sink(Received { remote, ecn, bytes });
            }
        }
        // recvmmsg stops short only when the queue is empty; what comes later makes a new edge.
        Ok(RecvReport { bytes: bytes_in, drained: count < RECV_BATCH })
    }

    fn send(&mut self, train: Train<'_>) -> SendReport {
        if self.restore_at.is_some() {
            self.restore_if_due(clock());
        }
        let src_ip = self.local_ips.get(train.remote);
        let size = train.segment_size.unwrap_or(usize::MAX).max(1);
        if size >= train.bytes.len() {
            return self.send_split(Train { segment_size: None, ..train }, src_ip);
        }
        let mut report = SendReport::default();
        // One message holds less than a train may: 64 datagrams, and what one IP packet can describe.
        let most = (MAX_TRAIN_BYTES / size).clamp(1, self.state.max_gso_segments().max(1)) * size;
        for bytes in train.bytes.chunks(most) {
            let part = self.send_part(Train { bytes, ..train }, src_ip);
            report.consumed_bytes += part.consumed_bytes;
            report.too_large |= part.too_large;
            if part.consumed_bytes < bytes.len() {
                break;
            }
        }
        report
    }

    fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

/// A socket for this address, not bound yet. An IPv6 wildcard takes IPv4 too.
pub(super) fn unbound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Which local address each remote sends to, so that answers of a wildcard socket on a host with several addresses
/// leave from there: firewalls, NATs and the peer expect it.
#[derive(Debug)]
struct LocalIps {
    wanted: bool,
    last: Option<(SocketAddr, IpAddr)>,
    by_remote: HashMap<SocketAddr, IpAddr>,
    /// The generation before.
    older: HashMap<SocketAddr, IpAddr>,
}

impl LocalIps {
    fn new(wanted: bool) -> Self {
        Self { wanted, last: None, by_remote: HashMap::new(), older: HashMap::new() }
    }

    fn learn(&mut self, remote: SocketAddr, dst_ip: Option<IpAddr>) {
        let Some(ip) = dst_ip else { return };
        if !self.wanted || self.last == Some((remote, ip)) {
            return;
        }
        // A datagram to a group or to everybody came from somebody, but cannot be answered from there.
        let canonical = ip.to_canonical();
        if canonical.is_multicast() || canonical == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return;
        }
        if self.by_remote.len() >= MAX_LOCAL_IPS && !self.by_remote.contains_key(&remote) {
            // Swapped, so that the memory is used again.
            std::mem::swap(&mut self.by_remote, &mut self.older);
            self.by_remote.clear();
        }
        self.by_remote.insert(remote, ip);
        self.last = Some((remote, ip));
    }

    fn get(&self, remote: SocketAddr) -> Option<IpAddr> {
        match self.last {
            Some((last, ip)) if last == remote => Some(ip),
            _ => self.by_remote.get(&remote).or_else(|| self.older.get(&remote)).copied(),
        }
    }

    fn forget(&mut self, remote: SocketAddr) {
        self.by_remote.remove(&remote);
        self.older.remove(&remote);
        self.last = None;
    }
}

/// Warns at most once in `WARN_INTERVAL`, and says how often it kept silent.
#[derive(Debug, Default)]
pub(super) struct WarnLimit {
    next: Option<Instant>,
    suppressed: u64,
}

impl WarnLimit {
    pub(super) fn warn(&mut self, text: impl FnOnce() -> String) {
        let now = clock();
        if self.next.is_some_and(|next| now < next) {
            self.suppressed += 1;
            return;
        }
        match self.suppressed {
            0 => log::warn!("{}", text()),
            more => log::warn!("{} ({more} more like it since the last warning)", text()),
        }
        self.next = Some(now + WARN_INTERVAL);
        self.suppressed = 0;
    }
}

/// Largest UDP payload that the interface towards `remote` takes without fragmenting, in bytes.
pub fn path_payload(remote: SocketAddr) -> u32 {
    let fallback = if remote.is_ipv4() { FALLBACK_PAYLOAD_V4 } else { FALLBACK_PAYLOAD_V6 };
    route_mtu(remote).map_or(fallback, |mtu| payload_for_mtu(mtu, remote.is_ipv4()))
}

/// Largest UDP payload that any interface takes that a socket bound to `local` may use, in bytes.
pub fn local_payload(local: SocketAddr) -> u32 {
    let v4 = local.ip().to_canonical().is_ipv4();
    let fallback = if v4 { FALLBACK_PAYLOAD_V4 } else { FALLBACK_PAYLOAD_V6 };
    if !local.ip().is_unspecified() {
        // A route to oneself always goes through loopback, so ask for the MTU of the interface instead: only
        // loopback addresses are known to lie on a wide one.
        if local.ip().to_canonical().is_loopback() {
            return path_payload(local);
        }
        return largest_mtu(|name| name != "lo").map_or(fallback, |mtu| payload_for_mtu(mtu, v4));
    }
    // A dual-stack socket may talk IPv4, whose headers are the smaller ones.
    largest_mtu(|_| true).map_or(FALLBACK_PAYLOAD_V4, |mtu| payload_for_mtu(mtu, true))
}

fn payload_for_mtu(mtu: u32, v4: bool) -> u32 {
    let headers = if v4 { HEADERS_V4_BYTES } else { HEADERS_V6_BYTES };
    // RFC 8200 section 5: no link takes less than 1,280 bytes; what claims to is not believed.
    mtu.max(1280).saturating_sub(headers).min(MAX_TRAIN_BYTES as u32)
}

/// The MTU that the kernel would use towards `remote`: it is asked with a socket that is connected and thrown away.
fn route_mtu(remote: SocketAddr) -> io::Result<u32> {
    let any: SocketAddr =
        if remote.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(remote)?;
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        Ok(if remote.is_ipv4() { sockopt::ip_mtu(&socket)? } else { sockopt::ipv6_mtu(&socket)? })
    }
    #[cfg(not(target_os = "linux"))]
    Err(io::ErrorKind::Unsupported.into())
}

/// The largest MTU among the interfaces whose names are `wanted`.
fn largest_mtu(wanted: impl Fn(&str) -> bool) -> Option<u32> {
    std::fs::read_dir("/sys/class/net")
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            if !wanted(entry.file_name().to_str()?) {
                return None;
            }
            std::fs::read_to_string(entry.path().join("mtu")).ok()?.trim().parse::<u32>().ok()
        })
        .max()
}

/// quinn-udp's state of a socket, with ECN put right: it asks for receive timestamps, which fill the space it has for
/// control messages, so that with GRO the last one, the traffic class, is cut off (0.6.3; MSG_CTRUNC). Nobody here
/// reads the timestamps.
fn new_state<S: std::os::fd::AsFd>(socket: &S) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(socket.into())?;
    #[cfg(target_os = "linux")]
    if let Err(e) =
        nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::ReceiveTimestampns, &false)
    {
        log::debug!("turning receive timestamps off: {e}; ECN marks may be missed");
    }
    Ok(state)
}

/// Raises the kernel's buffers as far as we may. The forced variants need CAP_NET_ADMIN, so their failing is normal.
fn raise_buffers(socket: &Socket, state: &UdpSocketState) {
    let wanted = SOCKET_BUFFER_BYTES;
    // The kernel doubles what it is asked for, to account for its own overhead, and reports the double.
    if state.recv_buffer_size(socket.into()).is_ok_and(|now| now < 2 * wanted) {
        let _ = state.set_recv_buffer_size(socket.into(), wanted);
    }
    if state.send_buffer_size(socket.into()).is_ok_and(|now| now < 2 * wanted) {
        let _ = state.set_send_buffer_size(socket.into(), wanted);
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        if state.recv_buffer_size(socket.into()).is_ok_and(|now| now < 2 * wanted) {
            let _ = sockopt::set_socket_recv_buffer_size_force(socket, wanted);
        }
        if state.send_buffer_size(socket.into()).is_ok_and(|now| now < 2 * wanted) {
            let _ = sockopt::set_socket_send_buffer_size_force(socket, wanted);
        }
    }
}

/// EINVAL and EIO: the message itself is refused (segmentation that the interface lacks, an impossible address).
fn is_rejected(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(rustix::io::Errno::INVAL.raw_os_error())
        || code == Some(rustix::io::Errno::IO.raw_os_error())
}

/// IPv4-mapped addresses of a dual-stack socket become IPv4 addresses; flow labels are dropped, since they are no
/// part of who the peer is.
fn from_socket_family(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddrV4::new(ip, v6.port()).into(),
            None => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
        },
    }
}

/// The other way round: an IPv6 socket reaches IPv4 through mapped addresses.
fn to_socket_family(address: SocketAddr, v6_socket: bool) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v6_socket => {
            SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
        }
        _ => address,
    }
}

#[allow(clippy::disallowed_methods, reason = "net is the layer that reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
