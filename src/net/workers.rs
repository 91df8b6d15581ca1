//! Role: what the parent of worker processes and a worker tell each other.
//! Owns: one end of their channel, a socket of whole messages (SOCK_SEQPACKET).
//! Implements: docs/ARCHITECTURE.md, "Workers".
//!
//! | message | direction | |
//! |---|---|---|
//! | `K`, `S` | to a worker, first | the key, or none (`--insecure`); its UDP socket goes with it (SCM_RIGHTS) |
//! | `R` | from a worker, once | it is ready to serve |
//! | `C` | both | a claim to a file under way (see `store::neighbours`); the parent hands it to all others |
//!
//! The end of the channel is the worker's order to stop: it comes too when the parent is killed.

use crate::endpoint::config::Secret;
use crate::store::CLAIM_BYTES;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Longest message: a type and a key (`cli::key` takes no longer one than 4,096 bytes).
const MAX_MESSAGE_BYTES: usize = 1 + 4096;

/// A message, as it was received.
#[derive(Debug)]
pub enum Message {
    /// What a worker needs to begin.
    Start(Secret, OwnedFd),
    /// A worker is ready.
    Ready,
    /// A claim.
    Claim([u8; CLAIM_BYTES]),
}

/// One end.
#[derive(Clone, Debug)]
pub struct Channel(Arc<OwnedFd>);

impl Channel {
    /// Both ends: one to keep, one to give away. Neither is inherited by accident.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, theirs) = rustix::net::socketpair(kind.0, kind.1, kind.2, None)?;
        Ok((Self(Arc::new(ours)), theirs))
    }

    /// The end that was inherited as this descriptor.
    ///
    /// # Errors
    /// It is none: the process was not started as a worker.
    pub fn inherited(fd: &impl AsFd) -> io::Result<Self> {
        let fd = fd.as_fd().try_clone_to_owned()?;
        if rustix::net::sockopt::socket_type(&fd)? != SocketType::SEQPACKET {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self(Arc::new(fd)))
    }

    /// Sends what a worker needs.
    ///
    /// # Errors
    /// The worker is gone.
    pub fn send_start(&self, secret: &Secret, socket: &impl AsFd) -> io::Result<()> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_MESSAGE_BYTES));
        match secret {
            Secret::Key(key) => {
                bytes.push(b'K');
                bytes.extend_from_slice(key);
            }
            Secret::Insecure => bytes.push(b'S'),
        }
        let fds = [socket.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        rustix::net::sendmsg(&*self.0, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Says that this worker is ready.
    ///
    /// # Errors
    /// The parent is gone.
    pub fn send_ready(&self) -> io::Result<()> {
        rustix::net::send(&*self.0, b"R", SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Hands on a claim. It gets lost if the other side does not read: nobody may be held up by that.
    pub fn send_claim(&self, claim: &[u8; CLAIM_BYTES]) {
        let mut bytes = [b'C'; 1 + CLAIM_BYTES];
        bytes[1..].copy_from_slice(claim);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if let Err(e) = rustix::net::send(&*self.0, &bytes, flags) {
            log::debug!("a claim was not handed on: {e}");
        }
    }

    /// Tells the other side that nothing more comes.
    pub fn close(&self) {
        // Fails only when the other side is gone, which is as good.
        let _ = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Both);
    }

    /// Waits for the next message; `None`: the other side has closed the channel or is gone.
    pub fn receive(&self) -> Option<Message> {
        let mut bytes = Zeroizing::new(vec![0; MAX_MESSAGE_BYTES]);
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = match rustix::net::recvmsg(&*self.0, &mut slices, &mut ancillary, flags) {
                Ok(received) => received,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return None,
            };
            let fd = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            let (kind, rest) = bytes[..received.bytes].split_first()?;
            let claim = || rest.try_into().ok();
            match (kind, fd) {
                (b'K', Some(socket)) => {
                    return Some(Message::Start(Secret::Key(Zeroizing::new(rest.to_vec())), socket));
                }
                (b'S', Some(socket)) => return Some(Message::Start(Secret::Insecure, socket)),
                (b'R', None) => return Some(Message::Ready),
                (b'C', None) => match claim() {
                    Some(claim) => return Some(Message::Claim(claim)),
                    None => continue,
                },
                // Both ends are the same program: there is nothing else.
                _ => continue,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_the_end_is_seen() {
        let (parent, theirs) = Channel::pair().unwrap();
        let worker = Channel::inherited(&theirs).unwrap();
        drop(theirs);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let key = Secret::Key(Zeroizing::new(b"correct horse".to_vec()));
        parent.send_start(&key, &socket).unwrap();
        match worker.receive() {
            Some(Message::Start(Secret::Key(key), fd)) => {
                assert_eq!(*key, b"correct horse");
                let same = std::net::UdpSocket::from(fd).local_addr().unwrap();
                assert_eq!(same, socket.local_addr().unwrap());
            }
            other => panic!("{other:?}"),
        }
        worker.send_ready().unwrap();
        assert!(matches!(parent.receive(), Some(Message::Ready)));
        worker.send_claim(&[7; CLAIM_BYTES]);
        assert!(matches!(parent.receive(), Some(Message::Claim(c)) if c == [7; CLAIM_BYTES]));
        parent.close();
        assert!(worker.receive().is_none());
        assert!(worker.send_ready().is_err(), "an error, no signal");
    }

    #[test]
    fn what_is_no_channel_is_refused() {
        assert!(Channel::inherited(&std::fs::File::open("/dev/null").unwrap()).is_err());
        assert!(Channel::inherited(&std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).is_err());
    }
}
