//! The kernel's choice, seen from outside: which socket gets which datagram.

use super::*;
use crate::wire::Cid;
use crate::wire::packet::{TYPE_CONFIRM, TYPE_DATA, TYPE_HELLO};
use std::net::UdpSocket;
use std::time::Duration;

const COUNT: u8 = 5;

fn group(address: &str) -> (Vec<UdpSocket>, SocketAddr) {
    let group = bind_group(address.parse().unwrap(), COUNT).unwrap();
    let group: Vec<UdpSocket> = group.into_iter().map(Into::into).collect();
    let address = group[0].local_addr().unwrap();
    (group, address)
}

/// Sends from a port that is new each time; which socket has got it, none other has.
fn where_goes(group: &[UdpSocket], to: SocketAddr, datagram: &[u8]) -> usize {
    let from = UdpSocket::bind("127.0.0.1:0").unwrap();
    from.send_to(datagram, (std::net::Ipv4Addr::LOCALHOST, to.port())).unwrap();
    let mut found = Vec::new();
    // Loopback delivers within the call that sends; the time-out is for a kernel that does not.
    for _ in 0..100 {
        for (i, socket) in group.iter().enumerate() {
            let mut buf = [0; 2048];
            if socket.recv_from(&mut buf).is_ok() {
                found.push(i);
            }
        }
        if !found.is_empty() {
            break;
        }
        group[0].set_nonblocking(false).unwrap();
        group[0].set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let _ = group[0].peek(&mut [0; 1]);
        group[0].set_nonblocking(true).unwrap();
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

fn packet(kind: u8, cid: Cid, len: usize) -> Vec<u8> {
    let mut packet = vec![0xa5; len];
    packet[0] = kind;
    packet[1..9].copy_from_slice(&cid.0);
    packet
}

#[test]
fn connection_ids_lead_to_their_worker_from_any_port() {
    for listen in ["127.0.0.1:0", "[::]:0"] {
        let (group, address) = group(listen);
        for round in 0..4 {
            for index in 0..COUNT {
                for kind in [TYPE_DATA, TYPE_DATA | 1, TYPE_CONFIRM] {
                    let cid = Cid([index, round, 3, 4, 5, 6, 7, 8]);
                    let to = where_goes(&group, address, &packet(kind, cid, 100));
                    assert_eq!(to, usize::from(index), "{listen}");
                }
            }
        }
    }
}

#[test]
fn hellos_go_by_the_client_and_all_workers_get_some() {
    let (group, address) = group("127.0.0.1:0");
    let mut seen = [0; COUNT as usize];
    for n in 0..40u32 {
        let mut hello = packet(TYPE_HELLO, Cid([0; 8]), 200);
        hello[6..10].copy_from_slice(&(n * 7919).to_be_bytes());
        let to = where_goes(&group, address, &hello);
        assert_eq!(to as u32, n * 7919 % u32::from(COUNT));
        assert_eq!(where_goes(&group, address, &hello), to, "the same again, from another port");
        seen[to] += 1;
    }
    assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
}

#[test]
fn what_is_too_short_or_of_no_worker_goes_somewhere() {
    let (group, address) = group("127.0.0.1:0");
    for datagram in [&[TYPE_HELLO][..], &[TYPE_HELLO, 1, 2, 3], &[TYPE_DATA], &[TYPE_DATA, 200, 1]] {
        where_goes(&group, address, datagram);
    }
}

#[test]
fn a_group_takes_no_port_that_anybody_has_and_lets_nobody_in() {
    let alone = UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = bind_group(alone.local_addr().unwrap(), 2).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let (_group, address) = group("127.0.0.1:0");
    for error in [bind_group(address, 2).map(drop), UdpSocket::bind(address).map(drop)] {
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
