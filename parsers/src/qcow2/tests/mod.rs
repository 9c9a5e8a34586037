//! Images by hand, field by field; mutations; parity with qemu-img.

mod bent;
mod budget;
mod fields;
mod mapping;
mod snapshots;
mod writer;

use crate::ops;
use crate::testing::{INFO, Machine, MemoryDisk, request};
use instar_abi::error::{Error, Qcow2Error};
use instar_abi::format::Format;
use instar_abi::reply::End;

/// What `info -f qcow2` says of these bytes.
fn info(bytes: Vec<u8>) -> Result<(), Error> {
    let disks = [MemoryDisk::new(bytes)];
    let mut request = request(INFO, &disks);
    request.layers[0].format = Some(Format::Qcow2);
    let mut machine = Machine::new(&request, &disks);
    ops::info(&request, &mut machine).map(|end| assert_eq!(end, End::Done { lengths: vec![] }))
}

/// The qcow2 error in a result.
fn qcow2_error<T>(result: Result<T, Error>) -> Option<Qcow2Error> {
    match result {
        Ok(_) => None,
        Err(Error::Qcow2 { error, .. }) => Some(error),
        Err(other) => panic!("{other:?}"),
    }
}
