//! Role: all peers of one socket.
//! Owns: the session table.
pub mod config;
