//! Role: arguments, progress, tables, JSON, exit codes.
//! Owns: the terminal.
