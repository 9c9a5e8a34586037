//! The files that a run writes: the target, and with a data file the file beside it.
#![forbid(unsafe_code)]

use super::Meant;
use crate::disk::Disk as DiskBytes;
use crate::disk::bytes::FileBytes;
use crate::disk::existing::{Content, ExistingFile};
use crate::disk::output::OutputFile;
use crate::disk::pipe::PipeOutput;
use crate::disk::throttle::Throttled;
use crate::job::failure::Failure;
use crate::job::open::{self, FileId, OpenError, path_of};
use crate::job::pipe;
use crate::job::reserve::{self, Preallocation};
use crate::job::target::Target;
use crate::job::{Machine, NoEnd, limits};
use crate::render::image_file::Protocol;
use crate::render::report::Lie;
use instar_abi::reply::FinalLength;
use instar_abi::request::{Before, DiskId, TargetFormat};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

/// The job's disk for the target; its data file is the one behind it.
pub(super) const TARGET: DiskId = DiskId(1);
/// The job's disk for the data file of the target.
pub(super) const DATA_FILE: DiskId = DiskId(2);

/// The files that the job writes, on their way to their names.
pub(super) struct Outputs {
    pub target: Output,
    pub data: Option<Output>,
}

/// One of them, as a disk of the job.
pub(super) struct Output {
    /// The user's words for it.
    pub name: Vec<u8>,
    pub bytes: Arc<dyn DiskBytes>,
    /// Bytes it holds now, as the guest is to see it.
    pub len: u64,
    /// Most bytes it may come to hold.
    pub capacity: u64,
    pub before: Before,
    /// Where and which file it is, if it was there.
    pub there: Option<(PathBuf, FileId)>,
    place: Place,
}

enum Place {
    New(Target),
    There(File),
    Pipe(File),
}

impl Outputs {
    /// Opens or makes them. `inputs`: what none of them may be.
    pub fn open(meant: &Meant, inputs: &[FileId], machine: &dyn Machine) -> Result<Self, Failure> {
        if let Some(content) = meant.existing {
            return Ok(Self { target: Output::existing(meant, content, inputs)?, data: None });
        }
        let stop = || machine.stop_signal().is_some();
        let piped = pipe::open(path_of(&meant.target_path), &stop);
        if let Some(file) = piped.map_err(|error| create_failed(meant, &meant.target, error))? {
            return Ok(Self { target: Output::pipe(meant, file)?, data: None });
        }
        let target = Output::new(meant, &meant.target, &meant.target_path, inputs)?;
        let data = meant.data_file.as_ref().map(|file| {
            let data = Output::new(meant, &file.name, &file.name, inputs)?;
            match (&target.place, &data.place) {
                (Place::New(one), Place::New(other)) if one.is_same(other) => {
                    Err(create_failed(meant, &file.name, OpenError::SameFile))
                }
                _ => Ok(data),
            }
        });
        let data = data.transpose()?;
        Ok(Self { target, data })
    }

    fn by_disk(&self) -> impl Iterator<Item = (DiskId, &Output)> {
        [TARGET, DATA_FILE].into_iter().zip(std::iter::once(&self.target).chain(&self.data))
    }

    /// After a run that went well: their lengths, room for them, and their names, the image's last.
    pub fn keep(self, lengths: &[FinalLength], meant: &Meant, machine: &mut dyn Machine) -> Result<(), Failure> {
        if lengths.len() != self.by_disk().count() {
            return Err(Failure::Lie(Lie::OutOfPlace));
        }
        for (disk, output) in self.by_disk() {
            let found = lengths.iter().find(|length| length.disk == disk);
            let len = found.map(|length| length.len).filter(|&len| len <= output.capacity);
            let len = len.ok_or(Failure::Lie(Lie::OutOfPlace))?;
            output
                .bytes
                .finish(len)
                .map_err(|error| Failure::Finish { typed: output.name.clone(), errno: errno(&error) })?;
            // What is mapped is to have room; with a data file that is all in there.
            if self.data.is_none() || disk == DATA_FILE {
                output.reserve(len, meant, machine)?;
            }
        }
        if let Some(signal) = machine.stop_signal() {
            return Err(Failure::NoEnd(NoEnd::Stopped(signal)));
        }
        // The image names its data file, so that must be there first.
        let data = match self.data {
            Some(Output { place: Place::New(target), name, .. }) => {
                Some(target.keep(meant.cache.is_durable()).map_err(|error| keep_failed(&name, &error))?)
            }
            _ => None,
        };
        let kept = match self.target.place {
            Place::New(target) => target.keep(meant.cache.is_durable()).map(drop),
            Place::There(file) if meant.cache.is_durable() => file.sync_all(),
            Place::There(_) | Place::Pipe(_) => Ok(()),
        };
        if let (Err(_), Some(data)) = (&kept, data) {
            data.take_back();
        }
        kept.map_err(|error| keep_failed(&self.target.name, &error))
    }
}

impl Output {
    fn new(meant: &Meant, name: &[u8], path: &[u8], inputs: &[FileId]) -> Result<Self, Failure> {
        let failed = |error| create_failed(meant, name, error);
        let target = Target::create(path_of(path), inputs).map_err(failed)?;
        let file = target.file().try_clone().map_err(|error| failed(OpenError::Host(errno(&error))))?;
        let capacity = limits::OUTPUT_CAPACITY;
        Ok(Self {
            name: name.to_vec(),
            bytes: throttled(meant, Arc::new(OutputFile::new(in_cache_mode(meant, path, file)?, capacity))),
            len: 0,
            capacity,
            before: Before::Empty,
            there: None,
            place: Place::New(target),
        })
    }

    /// A pipe: only raw can be written without going back, every byte of it.
    fn pipe(meant: &Meant, file: File) -> Result<Self, Failure> {
        if meant.format != TargetFormat::Raw || meant.data_file.is_some() {
            return Err(create_failed(meant, &meant.target, OpenError::Pipe));
        }
        let errno = |error: io::Error| create_failed(meant, &meant.target, OpenError::Host(errno(&error)));
        let capacity = limits::OUTPUT_CAPACITY;
        Ok(Self {
            name: meant.target.clone(),
            bytes: throttled(meant, Arc::new(PipeOutput::new(file.try_clone().map_err(errno)?, capacity))),
            len: capacity,
            capacity,
            // Zeros are written, too.
            before: Before::Unknown { len: capacity },
            there: None,
            place: Place::Pipe(file),
        })
    }

    /// Whether it is a pipe that nobody reads from any more.
    pub fn is_deserted(&self) -> bool {
        matches!(&self.place, Place::Pipe(file) if pipe::is_deserted(file.as_fd()))
    }

    /// Whether its bytes must come in order.
    pub fn is_pipe(&self) -> bool {
        matches!(self.place, Place::Pipe(_))
    }

    /// What is there: raw keeps its length, an image on a file may grow.
    fn existing(meant: &Meant, content: Content, inputs: &[FileId]) -> Result<Self, Failure> {
        let open_failed = |error| Failure::Open { typed: meant.target.clone(), path: meant.target_path.clone(), error };
        let there = open::existing(path_of(&meant.target_path), inputs).map_err(open_failed)?;
        let file = there.file.try_clone().map_err(|error| open_failed(OpenError::Host(errno(&error))))?;
        let bytes = in_cache_mode(meant, &meant.target_path, there.file)?;
        let is_image = matches!(meant.format, TargetFormat::Existing { .. });
        let len = if is_image { there.len } else { there.len / 512 * 512 };
        let capacity = if is_image && there.protocol == Protocol::File { limits::OUTPUT_CAPACITY } else { len };
        let before = match content {
            Content::Unknown => Before::Unknown { len },
            Content::Zeros => Before::Zeros { len },
        };
        Ok(Self {
            name: meant.target.clone(),
            bytes: throttled(meant, Arc::new(ExistingFile::new(bytes, capacity))),
            len,
            capacity,
            before,
            there: Some((there.path, there.id)),
            place: Place::There(file),
        })
    }

    fn reserve(&self, len: u64, meant: &Meant, machine: &dyn Machine) -> Result<(), Failure> {
        let Place::New(target) = &self.place else { return Ok(()) };
        let mut stop = || machine.stop_signal().is_some();
        reserve::reserve(target.file(), len, meant.preallocation, &mut stop).map_err(|errno| Failure::Reserve {
            typed: meant.target.clone(),
            format: meant.format_name(),
            of_data_file: meant.data_file.is_some(),
            by_zeros: meant.preallocation == Preallocation::Full,
            errno,
        })
    }
}

fn throttled(meant: &Meant, bytes: Arc<dyn DiskBytes>) -> Arc<dyn DiskBytes> {
    match meant.rate {
        Some(rate) => Arc::new(Throttled::new(bytes, rate)),
        None => bytes,
    }
}

fn in_cache_mode(meant: &Meant, path: &[u8], file: File) -> Result<FileBytes, Failure> {
    // qemu-img makes a target first and opens it then.
    open::in_cache_mode(FileBytes::output(file, meant.cache)).map_err(|error| Failure::Open {
        typed: meant.target.clone(),
        path: path.to_vec(),
        error,
    })
}

fn create_failed(meant: &Meant, name: &[u8], error: OpenError) -> Failure {
    Failure::Create { typed: meant.target.clone(), name: name.to_vec(), making: meant.making(), error }
}

fn keep_failed(name: &[u8], error: &io::Error) -> Failure {
    Failure::Keep { typed: name.to_vec(), errno: errno(error) }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}
