//! The traits that every inference engine implements; no vendor, no runtime.
