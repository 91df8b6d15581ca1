//! Role: several sockets on one UDP port, one for each worker process, and the rule by which the kernel chooses among them.
//! Owns: nothing; the sockets are the caller's.
//! Implements: docs/ARCHITECTURE.md, "Workers"; docs/PROTOCOL.md, "Connection IDs".
//!
//! The choice is made by a classic BPF program on the datagram's payload, so that a session's packets come to its worker
//! from whatever address: by the first byte of the server's connection ID, and for a Hello, which has none yet, by the
//! client's. A repeated Hello, with a cookie or from another address, comes to the same worker as the first.
//! Datagrams that the kernel joined (GRO) go where the first one of them goes; should they belong to several workers,
//! the others count as lost.

use super::udp::unbound;
use socket2::Socket;
use std::io;
use std::net::SocketAddr;

/// Most workers. The first byte of a connection ID can tell 256 apart; own choice, twice the cores of large machines.
pub const MAX_WORKERS: u8 = 128;

/// Binds one socket for each worker. Their order is that of the workers' numbers, as long as all of them stay open.
///
/// # Errors
/// What the kernel says: the address is in use (by anybody, another fulmar with workers too) or not ours; no classic
/// BPF for sockets that share a port (Linux before 4.5, and other systems).
pub fn bind_group(address: SocketAddr, count: u8) -> io::Result<Vec<Socket>> {
    // The first one is bound alone: nobody has the port then, and whoever comes now must be of the same mind (SO_REUSEPORT), which
    // a second fulmar is not.
    let first = unbound(address)?;
    first.bind(&address.into())?;
    share_port(&first)?;
    let address = first.local_addr()?;
    let mut group = vec![first];
    for _ in 1..count {
        let socket = Socket::new(address.domain(), socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(group[0].only_v6()?)?;
        }
        socket.set_nonblocking(true)?;
        share_port(&socket)?;
        socket.bind(&address)?;
        group.push(socket);
    }
    steer(&group[0], count)?;
    Ok(group)
}

#[cfg(target_os = "linux")]
fn share_port(socket: &Socket) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_reuseport(socket, true)?)
}

/// Gives the group of this socket its rule. Offsets count from the UDP payload, a load beyond the datagram's end ends the
/// program with 0, and a number without a socket makes the kernel choose by addresses and ports (socket(7),
/// SO_ATTACH_REUSEPORT_CBPF).
#[cfg(target_os = "linux")]
fn steer(socket: &Socket, count: u8) -> io::Result<()> {
    use crate::wire::packet::TYPE_HELLO;
    use nix::libc;
    /// Where the client's connection ID stands in a Hello: type, magic, version before it.
    const HELLO_CID_AT: u32 = 1 + crate::wire::MAGIC.len() as u32 + 1;
    let op = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |size: u32, at: u32| op(libc::BPF_LD | size | libc::BPF_ABS, at);
    let give = || op(libc::BPF_RET | libc::BPF_A, 0);
    let is_hello = op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, TYPE_HELLO.into());
    let mut program = [
        load(libc::BPF_B, 0),
        libc::sock_filter { jf: 3, ..is_hello },
        load(libc::BPF_W, HELLO_CID_AT),
        op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, count.into()),
        give(),
        load(libc::BPF_B, 1),
        give(),
    ];
    // The kernel copies the program within the call.
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::AttachReusePortCbpf, &program)?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn share_port(_: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn steer(_: &Socket, _: u8) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
