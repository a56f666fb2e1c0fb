//! Load generator, peers and benchmarks.
