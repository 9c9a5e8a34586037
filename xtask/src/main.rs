//! The project's workbench.
fn main() {}
