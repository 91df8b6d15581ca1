//! The bodies of all fuzz targets; `tests/fuzz_corpus.rs` of fulmar itself runs the same ones over the corpora.

pub mod targets;
