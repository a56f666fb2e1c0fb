//! Load generator, peers and benchmarks.

pub mod cpu;
pub mod load;
pub mod null_engine;
pub mod peer;
pub mod plot;
pub mod server;
pub mod serving;
pub mod table;
