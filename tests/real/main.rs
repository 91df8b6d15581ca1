//! The program as users meet it: real processes, real sockets on the loopback interface, real disks.
//!
//! Every test has a server of its own on a free port, and a directory of its own. Tests that need root or a tool
//! that is not there say `SKIPPED: ...` and count as skipped in the summary of `ci.sh`.

mod browser;
mod copy;
mod copysync;
mod crowd;
mod disk;
mod echo;
mod exits;
mod faults;
mod interrupted;
mod keys;
mod limits;
mod lists;
mod names;
mod output;
mod pipes;
mod quota;
mod restart;
mod rules;
mod serving;
mod settings;
mod sshd;
mod support;
mod sync;
mod transfer;
mod watching;
mod wireshark;
mod workers;
