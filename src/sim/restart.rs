//! Role: servers that end and begin again, and requests that outlive them.
//! Owns: nothing beyond `World`.
//! Implements: docs/SIMULATION.md.

use super::{Node, Report, World, local_roots};
use crate::endpoint::Endpoint;
use crate::endpoint::config::EndpointConfig;
use crate::endpoint::pursuit::{Notice, Pursuit};
use crate::impair::derive_seed;
use crate::session::event::CloseReason;
use crate::transfer::Request;
use crate::transfer::job::Dest;
use std::time::Instant;

/// Random streams of servers after the first one.
const RESTART_STREAM: u64 = 3_000_000;

impl World {
    /// Begins a request that is carried through over as many sessions as it takes; one for each client.
    pub fn pursue(
        &mut self,
        client: usize,
        request: Request,
        roots: &[&[u8]],
        dest: Option<Dest>,
        retries: u32,
    ) {
        let server = self.nodes[0].addr;
        let roots = local_roots(roots);
        let node = &mut self.nodes[client + 1];
        node.pursuit = Some(Pursuit::new(vec![server], request, roots, dest, retries));
        node.pursue(self.now);
        self.serve(client + 1);
    }

    /// What the request made by `pursue` has reported so far.
    pub fn pursuit_report(&self, client: usize) -> Report {
        self.nodes[client + 1].reports.get(&0).cloned().unwrap_or_default()
    }

    /// What the user was told of trouble.
    pub fn notices(&self, client: usize) -> &[Notice] {
        &self.nodes[client + 1].notices
    }

    /// The server is killed, and another one takes its place at once: it knows no session, but has the files and what
    /// was left of those under way.
    pub fn restart_server(&mut self) {
        self.restarts += 1;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&derive_seed(self.seed, RESTART_STREAM + self.restarts).to_le_bytes());
        let node = &mut self.nodes[0];
        node.endpoint = Endpoint::new(self.server.clone(), seed, self.now);
        node.store.reopen();
    }

    /// As `restart_server`, with other settings.
    pub fn replace_server(&mut self, config: &EndpointConfig) {
        self.server = config.clone();
        self.restart_server();
    }

    /// The server tells its clients that it stops, as on SIGTERM.
    pub fn stop_server(&mut self) {
        self.nodes[0].endpoint.close_all(self.now, CloseReason::Interrupted);
        self.serve(0);
    }
}

impl Node {
    pub(super) fn is_done(&self) -> bool {
        self.endpoint.session_count() == 0 && self.pursuit.as_ref().is_none_or(Pursuit::is_over)
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        let endpoint = self.endpoint.poll_timeout();
        endpoint.into_iter().chain(self.pursuit.as_ref().and_then(Pursuit::poll_timeout)).min()
    }

    pub(super) fn pursue(&mut self, now: Instant) {
        if let Some(pursuit) = &mut self.pursuit {
            pursuit.poll(now, &mut self.endpoint);
            while let Some(notice) = pursuit.poll_notice() {
                self.notices.push(notice);
            }
        }
    }
}
