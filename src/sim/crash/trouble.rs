//! Role: what goes wrong: links, clocks, users, strangers, and the ends of processes and machines.
//! Owns: nothing beyond the world.
//! Implements: docs/SIMULATION.md, "What goes wrong".

use super::model::Version;
use super::plan::{Fault, Hostile, LinkFault, Mutation, NodeId, What};
use super::world::{IDLE, World};
use crate::impair::Profile;
use crate::transfer::job::Meta;
use crate::wire::frame::{CloseCode, Frame};
use crate::wire::packet::ProtectedHeader;
use rand::{Rng, RngExt};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

impl World<'_> {
    pub(super) fn heal(&mut self) {
        self.say(|| "everything heals".into());
        self.healed = true;
        self.link_faults.clear();
        for client in 1..self.nodes.len() {
            self.apply_link(client);
        }
        for node in &mut self.nodes {
            node.disk.heal();
            node.slow_until = None;
        }
        // Sources that somebody took away are there again.
        for (i, task) in self.plan.tasks.iter().enumerate() {
            for file in &task.files {
                let (node, path) = Self::source_of(i + 1, task.way, file);
                if self.nodes[node].disk.read(&path).is_none() {
                    self.make_source(i + 1, task, file);
                    self.mutated_at.insert(i + 1, self.now);
                }
            }
        }
    }

    pub(super) fn update_links(&mut self) {
        let now = self.now;
        let ended: Vec<NodeId> =
            self.link_faults.iter().filter(|(_, _, until)| *until <= now).map(|(c, _, _)| *c).collect();
        self.link_faults.retain(|(_, _, until)| *until > now);
        for client in ended {
            self.apply_link(client);
        }
    }

    fn apply_link(&mut self, client: NodeId) {
        let mut ways = [self.plan.link.clone(), self.plan.link.clone()];
        let dead = |p: &mut Profile| p.loss = 1.0;
        for (_, fault, _) in self.link_faults.iter().filter(|(c, _, _)| *c == client) {
            match fault {
                LinkFault::Partition => ways.iter_mut().for_each(dead),
                LinkFault::DeafServer => dead(&mut ways[0]),
                LinkFault::DeafClient => dead(&mut ways[1]),
                LinkFault::Lossy => ways.iter_mut().for_each(|p| (p.loss, p.burst) = (p.loss.max(0.3), 5.0)),
                LinkFault::Corrupting => ways.iter_mut().for_each(|p| p.corrupt = 0.3),
                LinkFault::Unruly => ways.iter_mut().for_each(|p| {
                    (p.duplicate, p.reorder, p.jitter) = (0.4, 0.4, Duration::from_millis(40));
                }),
            }
        }
        let [up, down] = ways;
        self.links[client - 1][0].set_profile(up, self.now);
        self.links[client - 1][1].set_profile(down, self.now);
    }

    /// A fault's time has come.
    pub(super) fn strike(&mut self, fault: &Fault) -> Result<(), String> {
        self.say(|| format!("FAULT {:?}", fault.what));
        match fault.what {
            What::Kill { node, pause } => self.crash(node, false, pause)?,
            What::PowerCut { node, pause } => self.crash(node, true, pause)?,
            What::Stop { node, pause } => self.stop(node, pause)?,
            What::Disk { node, fault, pause } => {
                self.nodes[node].crash_pause = pause;
                self.nodes[node].disk.add_fault(fault);
            }
            What::Rot { node, at } => {
                if let Some((place, partial, offset)) = self.model.unhashed(node) {
                    self.nodes[node].disk.rot_at(&partial, offset);
                    let owner = self.model.owner.get(&place).copied().unwrap_or_default();
                    let rival = self.causes[owner].rival;
                    self.causes[owner].rotten = true;
                    self.causes.iter_mut().for_each(|c| c.rotten |= c.rival && rival);
                    self.model.forget_stored(node);
                    return Ok(());
                }
                // Bytes that were hashed already may rot unseen, under an open file as after a rename.
                if self.nodes[node].process.is_some() {
                    self.crash(node, false, Duration::from_millis(50))?;
                }
                self.nodes[node].disk.rot(at);
                self.model.forget_stored(node);
            }
            What::Flip { node, nth } => {
                if let Some(p) = &mut self.nodes[node].process {
                    p.flips.push(nth);
                }
            }
            What::Link { client, fault, length } => {
                self.link_faults.push((client, fault, self.now + length));
                self.causes[client].link = true;
                self.coverage.link[fault as usize] += 1;
                self.apply_link(client);
            }
            What::Move { client } => {
                let addr = &mut self.nodes[client].addr;
                addr.set_port(addr.port() + 1000);
                self.coverage.moves += 1;
            }
            What::Clock { node, by_secs } => {
                self.nodes[node].clock_secs += by_secs;
                self.set_clock(node);
                self.model.forget_stored(node);
                self.coverage.clock_steps += 1;
            }
            What::Mutate { client, file, how } => self.mutate(client, file, how),
            What::RemoveDest { client } => {
                let way = self.plan.tasks[client - 1].way;
                let (node, path) = self.place_of(client, way, b"");
                let dir = crate::store::names::split_first(&path).0.to_vec();
                self.nodes[node].disk.remove(&dir);
                self.model.forget_below(node, &dir);
                self.causes[client].dest_removed = true;
                let rival = self.causes[client].rival;
                self.causes.iter_mut().for_each(|c| c.dest_removed |= c.rival && rival);
                self.coverage.removed_dirs += 1;
            }
            What::SlowDisk { node, length } => {
                self.nodes[node].slow_until = Some(self.now + length);
                self.causes.iter_mut().for_each(|c| c.slow |= length > IDLE / 2);
                self.coverage.slow_disks += 1;
            }
            What::Hostile { node, how, count } => self.attack(node, how, count),
        }
        Ok(())
    }

    pub(super) fn set_clock(&mut self, node: NodeId) {
        let elapsed = self.elapsed();
        let n = &self.nodes[node];
        // Far enough from 1970 for every step back.
        let secs = (i64::from(u32::MAX) / 8 + n.clock_secs).max(0) as u64;
        n.disk.set_now(Duration::from_secs(secs) + elapsed);
    }

    fn mutate(&mut self, client: NodeId, file: usize, how: Mutation) {
        use Mutation as M;
        let task = &self.plan.tasks[client - 1];
        let file = &task.files[file.min(task.files.len() - 1)];
        let (node, path) = Self::source_of(client, task.way, file);
        let Some(seen) = self.nodes[node].disk.read(&path) else { return };
        self.mutations += 1;
        // Every change has a time of its own, as on a file system with fine timestamps.
        let meta = Meta { mtime_s: 1_650_000_000 + i64::from(self.mutations), ..seen.meta };
        let mut bytes = seen.bytes;
        let disk = &self.nodes[node].disk;
        match how {
            M::Truncate => bytes.truncate(bytes.len() / 2),
            M::Grow => bytes.extend_from_slice(b"and something more, at the end"),
            // At both ends: whoever has read one of them before and reads the other one now has neither version.
            M::Change => {
                if let Some(first) = bytes.first_mut() {
                    *first ^= 1;
                }
                if let Some(last) = bytes.last_mut() {
                    *last ^= 2;
                }
            }
            M::Replace => bytes.iter_mut().for_each(|b| *b = b.wrapping_add(1)),
            M::Remove => {
                disk.remove(&path);
                self.causes[client].source_removed = true;
                self.mutated_at.insert(client, self.now);
                self.coverage.mutations += 1;
                return;
            }
        }
        match how {
            M::Replace => disk.insert(&path, bytes.clone(), meta),
            _ => disk.alter(&path, |b| b.clone_from(&bytes), meta),
        }
        self.causes[client].source_changed = true;
        self.mutated_at.insert(client, self.now);
        self.coverage.mutations += 1;
        let place = self.place_of(client, task.way, &Self::manifest_path(client, task.way, file));
        self.model.expected.entry(place).or_default().push(Version::new(bytes, meta));
    }

    fn attack(&mut self, node: NodeId, how: Hostile, count: u32) {
        if how == Hostile::StaleKeys {
            self.nodes[node].forgeries += count;
            return;
        }
        let now = self.now;
        let to = self.nodes[node].addr;
        for n in 0..count {
            let elsewhere = SocketAddr::from((Ipv4Addr::new(10, 6, 6, 6), 666 + n as u16));
            let known = (!self.seen.is_empty()).then(|| {
                let at = self.rng.random_range(0..self.seen.len());
                self.seen[at].clone()
            });
            let (mut datagram, from) = match (how, known) {
                (Hostile::Garbage, _) | (_, None) => {
                    let mut bytes = vec![0; self.rng.random_range(0..1400)];
                    self.rng.fill_bytes(&mut bytes);
                    (bytes, elsewhere)
                }
                (Hostile::Replay | Hostile::StaleKeys, Some((d, from, _))) => (d, from),
                (Hostile::ReplayFromElsewhere, Some((d, _, _))) => (d, elsewhere),
                (Hostile::Mutate, Some((mut d, from, _))) => {
                    if !d.is_empty() {
                        let at = self.rng.random_range(0..d.len());
                        d[at] ^= 1 << self.rng.random_range(0..8);
                    }
                    (d, from)
                }
            };
            // Nobody but the attacker himself may be talked to from there.
            if let Some(p) = self.nodes.iter_mut().find(|m| m.addr == to).and_then(|m| m.process.as_mut()) {
                p.endpoint.handle_datagram(now, from, None, &mut datagram);
            }
        }
        self.coverage.hostile[how as usize] += u64::from(count);
    }

    /// Somebody who has copied the keys of a machine's sessions at their beginning comes back with them.
    pub(super) fn forge(&mut self, node: NodeId) {
        let Some(p) = &self.nodes[node].process else { return };
        let (now, from) = (self.now, self.nodes[node].addr);
        let mut forged = Vec::new();
        for (session, stolen) in &p.stolen {
            let Some(present) = p.endpoint.copied_keys(*session) else { continue };
            // Until the peer has heard of the new ones, the old ones are not stale.
            if present.first_number == stolen.first_number || !present.confirmed {
                continue;
            }
            let number = present.next_number + 3;
            let header = ProtectedHeader {
                cid: stolen.cid,
                truncated_number: number as u32,
                key_phase: stolen.phase,
                confirm: None,
            };
            let mut packet = Vec::new();
            header.encode(&mut packet);
            let start = packet.len();
            Frame::Close { code: CloseCode::Done as u64, text: b"forged" }.encode(&mut packet);
            stolen.keys.seal_packet(number, &mut packet, 0, start);
            forged.push(packet);
        }
        self.nodes[node].forgeries = self.nodes[node].forgeries.saturating_sub(forged.len() as u32);
        self.coverage.hostile[Hostile::StaleKeys as usize] += forged.len() as u64;
        for packet in forged {
            // Its receiver is told by the connection ID.
            for i in (0..self.nodes.len()).filter(|i| *i != node && (*i == 0 || node == 0)) {
                if let Some(p) = &mut self.nodes[i].process {
                    p.endpoint.handle_datagram(now, from, None, &mut packet.clone());
                }
            }
        }
    }

    /// A process or a whole machine ends at once.
    pub(super) fn crash(&mut self, node: NodeId, power: bool, pause: Duration) -> Result<(), String> {
        self.say(|| format!("node {node}: {}", if power { "power cut" } else { "killed" }));
        // What the last operation did is there, though nobody has heard of it.
        self.check_disk_changes(node)?;
        if power {
            self.nodes[node].disk.power_cut();
            self.model.forget_stored(node);
            self.coverage.power_cuts += 1;
        } else {
            self.nodes[node].disk.kill();
            self.coverage.kills += 1;
        }
        self.model.check_disk(node, &self.nodes[node].disk)?;
        self.note_two_names(node);
        self.end_process(node, pause);
        Ok(())
    }

    fn note_two_names(&mut self, node: NodeId) {
        if self.plan.quirks[node].no_noreplace {
            self.causes.iter_mut().for_each(|c| c.two_names = true);
        }
    }

    /// The process is gone; whatever it still wanted has no effect.
    pub(super) fn end_process(&mut self, node: NodeId, pause: Duration) {
        let was = self.nodes[node].process.take();
        if node == 0 {
            self.causes.iter_mut().for_each(|c| c.server_gone = true);
        }
        if was.is_some() {
            self.nodes[node].start_at = Some(self.now + pause.max(Duration::from_millis(1)));
        }
    }

    /// A crash came out of the disk, in the middle of an operation.
    pub(super) fn crash_if_dead(&mut self, node: NodeId) -> Result<bool, String> {
        let Some(power) = self.nodes[node].disk.is_dead() else { return Ok(false) };
        let pause = self.nodes[node].crash_pause;
        self.crash(node, power, pause)?;
        Ok(true)
    }

    fn stop(&mut self, node: NodeId, pause: Duration) -> Result<(), String> {
        let now = self.now;
        let Some(p) = &mut self.nodes[node].process else { return Ok(()) };
        p.endpoint.close_all(now, crate::session::event::CloseReason::Interrupted);
        self.coverage.stops += 1;
        if node == 0 {
            self.causes.iter_mut().for_each(|c| c.server_stopped = true);
        } else {
            self.causes[node].stopped = true;
        }
        self.serve(node)?;
        if self.nodes[node].process.is_some() {
            self.leave(node)?;
            self.end_process(node, pause);
        }
        Ok(())
    }
}
