//! The same request on every engine gives the same bytes; guests that misbehave are found out on every engine.
//!
//! Each run is a process of its own: the test starts this very binary again, which is then the launcher on the engine
//! that it is told. An engine whose program is missing says so.

#[path = "../common/mod.rs"]
mod common;
mod guests;
mod killed;
mod launch;
mod page;
mod place;
mod programs;
#[path = "../common/provoke.rs"]
mod provoke;
mod same_answer;
