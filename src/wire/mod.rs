//! Role: see docs. (being written)
