//! Role: SPAKE2, transcript and key schedule.
//! Owns: the secret state of one handshake.
