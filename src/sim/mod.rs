//! Role: endpoints on a virtual clock, joined by impaired links.
//! Owns: the virtual world.
