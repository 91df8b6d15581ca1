//! Role: the store in memory.
//! Owns: its files.
