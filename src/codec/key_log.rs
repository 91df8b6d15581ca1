//! Role: hands out the secrets of sessions, on request, so that captures of them can be decrypted.
//! Owns: where the lines go, which the caller chose.
//! Implements: docs/PROTOCOL.md, "Packet protection" (key log).

use super::handshake::SessionKeys;
use crate::wire::Cid;
use std::fmt::Write;
use std::sync::Arc;

/// Takes the lines of a key log. Whoever reads them can decrypt the sessions: there is none unless somebody asks for it.
#[derive(Clone)]
pub struct KeyLog(Arc<dyn Fn(&str) + Send + Sync>);

impl std::fmt::Debug for KeyLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyLog(..)")
    }
}

impl KeyLog {
    /// `sink` gets the lines of one session at a time, each with its line end.
    pub fn new(sink: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Tells of a session whose handshake is done. A session without encryption has no secrets.
    pub fn session(&self, keys: &SessionKeys, client_cid: Cid, server_cid: Cid) {
        let (Some(client), Some(server)) = (keys.client.secret(), keys.server.secret()) else { return };
        let mut lines = zeroize::Zeroizing::new(String::with_capacity(256));
        // Packets bear the connection ID of their receiver.
        for (label, cid, secret) in [("CLIENT", server_cid, client), ("SERVER", client_cid, server)] {
            let _ = write!(lines, "FULMAR1_{label}_SECRET {cid:?} ");
            secret.iter().for_each(|byte| {
                let _ = write!(lines, "{byte:02x}");
            });
            lines.push('\n');
        }
        (self.0)(&lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::aead::PacketKeys;
    use std::sync::Mutex;

    #[test]
    fn lines_name_the_packets_that_the_secret_opens() {
        let lines = Arc::new(Mutex::new(String::new()));
        let sink = lines.clone();
        let log = KeyLog::new(move |line| sink.lock().expect("one thread").push_str(line));
        let keys = |client, server| SessionKeys { client, server, confirm: [0; 16] };
        let aead = |byte| PacketKeys::from_secret(&[byte; 32]);
        log.session(&keys(aead(0x0a), aead(0xb0)), Cid([1; 8]), Cid([2; 8]));
        log.session(&keys(PacketKeys::crc(), PacketKeys::crc()), Cid([3; 8]), Cid([4; 8]));
        let expected = format!(
            "FULMAR1_CLIENT_SECRET {} {}\nFULMAR1_SERVER_SECRET {} {}\n",
            "02".repeat(8),
            "0a".repeat(32),
            "01".repeat(8),
            "b0".repeat(32)
        );
        assert_eq!(*lines.lock().expect("one thread"), expected);
    }
}
