//! The launcher: command line to job to machine to text.
//!
//! # As a library
//!
//! A program of one's own gives a [`Job`] to an [`Engine`] and gets an [`End`](instar_abi::reply::End). The run is locked
//! down in a child of this process, which therefore has one thread; whatever the guest says on the way comes as frames,
//! whose numbers are to be believed as far as the image is. `launcher/examples/embed.rs` is a whole program.
//!
//! ```no_run
//! use instar::disk::file::SourceFile;
//! use instar::job::{Machine as _, Then, limits};
//! use instar::{Choice, Engine, Job};
//! use instar_abi::request::{Disk, DiskId, Layer, LayerId, Op, RawGate, Request};
//! use std::sync::Arc;
//!
//! let file = std::fs::File::open("disk.qcow2")?;
//! let len = file.metadata()?.len();
//! let op = Op::Info { image: LayerId(0), details: false };
//! let layers = vec![Layer::new(DiskId(0), None, RawGate::Partitioned)];
//! let request = Request::new(op, vec![Disk::read_only(len)], layers, limits::INFO_BUDGET);
//! let job = Job { op: "info", disks: vec![Arc::new(SourceFile::new(file, len))], request, limits: limits::INFO };
//! let mut engine = Engine::new(instar::words);
//! engine.choose(Choice::Auto);
//! let end = engine.run(&job, Then::GoOn, &mut |frame| println!("{frame:?}"));
//! println!("{end:?}");
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod cli;
#[doc(hidden)]
pub mod config;
pub mod disk;
#[doc(hidden)]
pub mod doctor;
#[doc(hidden)]
pub mod gate;
pub mod job;
pub mod machine;
#[doc(hidden)]
pub mod render;
#[doc(hidden)]
pub mod vmm;

pub use job::Job;
pub use machine::{Choice, Engine};
pub use render::errors::words;
