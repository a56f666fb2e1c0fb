//! The wire: protocol definitions and the Rust code generated from them.
