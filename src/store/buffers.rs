//! Role: room for chunks being read, used again when the last reader of a chunk is done with it.
//! Owns: the buffers that wait for their next use.
//! Implements: nothing of the protocol; without it every chunk's pages are given back to the system and faulted in again.

use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes that wait. Own choice: 32 chunks of the default size, more than what a loop takes at once.
const MAX_WAITING_BYTES: usize = 8 << 20;

/// Clones share the same buffers, across threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    free: Vec<Vec<u8>>,
    bytes: usize,
}

impl Buffers {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty buffer, used before if one waits.
    pub(crate) fn take(&self) -> Vec<u8> {
        let mut waiting = self.waiting();
        let buffer = waiting.free.pop().unwrap_or_default();
        waiting.bytes -= buffer.capacity();
        buffer
    }

    /// Bytes that come back here, once nobody holds them.
    pub(crate) fn share(&self, data: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { data, home: self.clone() })
    }

    fn give_back(&self, mut data: Vec<u8>) {
        let mut waiting = self.waiting();
        if waiting.bytes + data.capacity() <= MAX_WAITING_BYTES {
            waiting.bytes += data.capacity();
            data.clear();
            waiting.free.push(data);
        }
    }
}

#[derive(Debug)]
struct Lent {
    data: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_after_its_last_reader() {
        let buffers = Buffers::default();
        let mut data = buffers.take();
        data.extend_from_slice(&[7; 1000]);
        let address = data.as_ptr();
        let shared = buffers.share(data);
        let piece = shared.slice(10..20);
        drop(shared);
        assert!(buffers.take().is_empty(), "a slice is still read");
        assert_eq!(&piece[..], &[7; 10]);
        drop(piece);
        let again = buffers.take();
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
    }

    #[test]
    fn no_more_waits_than_the_bound() {
        let buffers = Buffers::default();
        let many: Vec<Bytes> = (0..20).map(|_| buffers.share(vec![0; 1 << 20])).collect();
        drop(many);
        let waiting = buffers.waiting();
        assert_eq!((waiting.free.len(), waiting.bytes), (8, 8 << 20));
    }
}
