//! Servers come up, hold their port, and end.

mod common;

use common::TestServer;
use std::net::UdpSocket;

#[test]
fn a_server_holds_its_port_and_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    assert!(UdpSocket::bind(server.addr).is_err());
    let addr = server.addr;
    server.stop().unwrap();
    UdpSocket::bind(addr).unwrap();
}

#[test]
fn noise_does_not_end_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let noise = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    for len in [0, 1, 2, 20, 1200, 9000, 65_507] {
        for fill in [0, 0x40, 0xff] {
            noise.send_to(&vec![fill; len], server.addr).unwrap();
        }
    }
    server.stop().unwrap();
}
