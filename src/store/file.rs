//! Role: the store on disk.
//! Owns: open files.
