//! The door: see `instar::cli`.
fn main() {}
