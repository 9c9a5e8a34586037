//! Words, held against those of qemu-img.

use super::*;
use crate::disk::lock::{LockError, Permission};
use crate::gate::Refusal;
use crate::job::failure::{GuestFailure, NamedFailure, Names};
use crate::job::name::NameError;
use crate::job::open::OpenError;
use instar_abi::error::{DetectError, Error, FeatureName, Qcow2Error, ReadError, Table, WriteError};
use instar_abi::format::Format;
use instar_abi::request::{DiskId, LayerId};

fn words(of: Failure) -> String {
    let message = failure(&of).expect("words");
    [vec![message.text], message.more].concat().join("\n")
}

fn qcow2_at(layer: u32, error: Qcow2Error) -> String {
    let names = Names { top: b"x.qcow2".to_vec(), depths: vec![0, 1, 2], disks: vec![], ..Names::default() };
    words(Failure::Guest(Box::new(GuestFailure {
        names,
        error: Error::Qcow2 { layer: LayerId(layer), error },
        errno: None,
    })))
}

/// What qemu-img 10.0.2 printed for images with these faults.
#[test]
fn broken_headers_read_as_in_qemu_img() {
    let table =
        |table| (Qcow2Error::TableTooLarge { table, found: 1, max: 0 }, Qcow2Error::TableOffset { table, found: 3 });
    for (error, expected) in [
        (Qcow2Error::Version { found: 9 }, "Unsupported qcow2 version 9"),
        (Qcow2Error::FileTooShort { len: 60 }, "qcow2 header too short"),
        (Qcow2Error::ClusterBits { found: 63 }, "Unsupported cluster size: 2^63"),
        (Qcow2Error::CryptMethod { found: 7 }, "Unsupported encryption method 7"),
        (Qcow2Error::BackingOffset { found: 1 }, "Invalid backing file offset"),
        (Qcow2Error::BackingNameLen { found: 5000, max: 1023 }, "Backing file name too long"),
        (Qcow2Error::L1TooSmall { found: 0, needed: 1 }, "L1 table is too small"),
        (Qcow2Error::NoRefcountTable, "Image does not contain a reference count table"),
        (Qcow2Error::RefcountOrder { found: 9 }, "Reference count entry width too large; may not exceed 64 bits"),
        (table(Table::Refcount).1, "Reference count table offset invalid"),
        (table(Table::Refcount).0, "Reference count table too large"),
        (table(Table::Snapshot).0, "Snapshot table too large"),
        (table(Table::ActiveL1).0, "Active L1 table too large"),
        (
            Qcow2Error::IncompatibleFeatures { names: vec![FeatureName::Unnamed(1 << 40)] },
            "Unsupported qcow2 feature(s): Unknown incompatible feature: 10000000000",
        ),
    ] {
        assert_eq!(qcow2_at(0, error), format!("Could not open 'x.qcow2': {expected}"));
    }
}

#[test]
fn reasons_deep_in_a_chain_are_nested_as_in_qemu_img() {
    let below = "Could not open backing file: ";
    let version = || Qcow2Error::Version { found: 9 };
    let expected = |nesting: &str| format!("Could not open 'x.qcow2': {nesting}Unsupported qcow2 version 9");
    assert_eq!(qcow2_at(1, version()), expected(below));
    assert_eq!(qcow2_at(2, version()), expected(&below.repeat(2)));
    // A guest may name a layer that does not exist.
    assert_eq!(qcow2_at(99, version()), expected(""));
}

#[test]
fn files_that_do_not_open_read_as_in_qemu_img() {
    let open = |error| words(Failure::Open { typed: b"nope".to_vec(), path: b"nope".to_vec(), error });
    assert_eq!(open(OpenError::Host(2)), "Could not open 'nope': Could not open 'nope': No such file or directory");
    assert_eq!(open(OpenError::Kind), "Could not open 'nope': 'file' driver requires 'nope' to be a regular file");
    assert_eq!(
        open(OpenError::Lock(LockError::InUse(Permission::Write))),
        "Could not open 'nope': Failed to get shared \"write\" lock\nIs another process using the image [nope]?"
    );
    let create =
        |error| words(Failure::Create { typed: b"o".to_vec(), name: b"o".to_vec(), making: "converting raw", error });
    assert_eq!(
        create(OpenError::Host(2)),
        "o: error while converting raw: Could not create 'o': No such file or directory"
    );
    let locked = "o: error while converting raw: Failed to get \"write\" lock\nIs another process using the image [o]?";
    assert_eq!(create(OpenError::SameFile), locked);
    let named = |kind, error| {
        let (top, name, path) = (b"c".to_vec(), b"a".to_vec(), "sub/a".into());
        let error = NamedError::Refused(error);
        words(Failure::Named(Box::new(NamedFailure { top, depth: 0, kind, name, path, error })))
    };
    let missing = "Could not open 'sub/a': No such file or directory";
    let found = named(NeedKind::Backing, Refusal::Host(2));
    assert_eq!(found, format!("Could not open 'c': Could not open backing file: {missing}"));
    assert_eq!(named(NeedKind::DataFile, Refusal::Host(2)), format!("Could not open 'c': {missing}"));
}

#[test]
fn wrong_formats_and_names_read_as_in_qemu_img() {
    let names = || Names { top: b"r".to_vec(), depths: vec![0], ..Names::default() };
    let error = DetectError::Mismatch { given: Format::Qcow2, found: None };
    let error = Error::Detect { layer: LayerId(0), error };
    let guest = Failure::Guest(Box::new(GuestFailure { names: names(), error, errno: None }));
    assert_eq!(words(guest), "Could not open 'r': Image is not in qcow2 format");
    let name = |error| words(Failure::Name { typed: b"r".to_vec(), error });
    assert_eq!(name(NameError::Protocol { name: b"foo".to_vec() }), "Could not open 'r': Unknown protocol 'foo'");
    assert_eq!(name(NameError::NoFile), "Could not open 'r': A block device must be specified for \"file\"");
}

#[test]
fn no_name_acts_on_a_terminal() {
    let hostile = b"\x1b[2J\xE2\x80\xAE\xff".to_vec();
    let escaped = "\\x1b[2J\\u{202e}\\xff";
    for refusal in [Refusal::Outside, Refusal::Protocol, Refusal::Cycle, Refusal::Host(2), Refusal::Closed] {
        let found = words(Failure::Named(Box::new(NamedFailure {
            top: hostile.clone(),
            depth: 1,
            kind: NeedKind::Backing,
            name: hostile.clone(),
            path: std::path::PathBuf::from(std::ffi::OsString::from("x\x1b")),
            error: NamedError::Refused(refusal),
        })));
        assert!(!found.contains('\x1b') && found.contains(escaped), "{found}");
    }
}

#[test]
fn a_refusal_outside_tells_nothing_of_what_is_there() {
    let found = words(Failure::Named(Box::new(NamedFailure {
        top: b"t".to_vec(),
        depth: 0,
        kind: NeedKind::Backing,
        name: b"/etc/x".to_vec(),
        path: "/etc/x".into(),
        error: NamedError::Refused(Refusal::Outside),
    })));
    assert_eq!(
        found,
        "Could not open 't': Could not open backing file: backing file '/etc/x' is outside the directories that this image may use"
    );
}

#[test]
fn the_host_s_errno_is_told_in_qemu_imgs_words() {
    let told = |error, errno| {
        let disks = vec![b"a".to_vec(), b"out".to_vec()];
        let names = Names { top: b"a".to_vec(), depths: vec![0], disks, ..Names::default() };
        words(Failure::Guest(Box::new(GuestFailure { names, error, errno })))
    };
    let write = || Error::Write(WriteError::Io { disk: DiskId(1), offset: 4096 });
    assert_eq!(told(write(), Some(28)), "error while writing at byte 4096: No space left on device");
    assert_eq!(told(write(), None), "error while writing at byte 4096: Input/output error");
    let read = || Error::Read(ReadError::Io { disk: DiskId(0), offset: 512 });
    assert_eq!(told(read(), Some(116)), "error while reading at byte 512 of 'a': Stale file handle");
    assert_eq!(told(read(), Some(5)), "error while reading at byte 512 of 'a': Input/output error");
}

/// A crate's own words for `EIO` were said here once, and no client knew them.
#[test]
fn an_errno_is_told_in_c_s_words() {
    for (errno, words) in [(5, "Input/output error"), (2, "No such file or directory"), (4095, "Unknown error 4095")] {
        assert_eq!(errno_text(errno), words);
    }
}
