//! check: tell what is wrong with the metadata of an image.

mod session;

#[cfg(test)]
mod tests;

use super::Reply;
use crate::detect::detect;
use crate::image::{Findings, Scope, attach_files};
use crate::luks;
use crate::parallels::Parallels;
use crate::qcow2::{self, Qcow2};
use crate::qed::Qed;
use crate::store::Part;
use crate::vdi::Vdi;
use crate::vhdx::Vhdx;
use crate::vmdk::Vmdk;
use crate::vpc::Vpc;
use alloc::vec::Vec;
use instar_abi::check::Checked;
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame, Need};
use instar_abi::request::{Layer, LayerId, Op, Request};
use instar_io::Env;
use session::Session;

/// Sends [`Frame::Findings`] and [`Frame::Checked`], or [`Frame::Needs`] for the files that hold parts of the content. Nothing
/// else that the image names is opened.
///
/// # Errors
/// [`Error::WrongOp`] for another operation; [`Error::NoCheck`]; what qemu-img does not open; those of the reads and of
/// the reply.
pub fn check<E: Env>(request: &Request, env: &mut E) -> Result<End, Error> {
    let Op::Check(wanted) = &request.op else { return Err(Error::WrongOp) };
    let id = wanted.image;
    // The request is checked: every id is in range.
    let layer = request.layer(id).ok_or(Error::WrongOp)?;
    let scope = if wanted.as_qemu_img { Scope::AsQemuImg } else { Scope::Whole };
    let mut session = Session::new(request, env);
    let checked = match layer_checked(&mut session, request, (id, layer), scope)? {
        Outcome::Checked(checked) => session.finish(checked)?,
        Outcome::Incomplete(needs) => return super::ask(env, needs),
    };
    let mut reply = Reply::default();
    reply.push(env, &Frame::Checked(checked))?;
    reply.flush(env)?;
    Ok(End::Done { lengths: Vec::new() })
}

/// What came of a layer.
enum Outcome {
    Checked(Checked),
    /// Files that hold its content, and that the job has no answer for yet.
    Incomplete(Vec<Need>),
}

fn layer_checked<E: Env>(
    session: &mut Session<'_, E>,
    request: &Request,
    (id, layer): (LayerId, &Layer),
    scope: Scope,
) -> Result<Outcome, Error> {
    let format = detect(session, id, layer)?;
    session.set_part(Part::of(session, id, layer)?);
    let (io, disk) = (session as &mut dyn Findings, layer.disk);
    let checked = match format {
        Format::Qcow2 => {
            let image = Qcow2::open_for_check(io, id, disk)?;
            qcow2::check(io, &image)
        }
        Format::Vdi => Vdi::open(io, id, disk)?.check(io),
        Format::Qed => Qed::open(io, id, disk)?.check(io),
        Format::Parallels => Parallels::open(io, id, disk)?.check(io),
        Format::Vhdx => Vhdx::open(io, id, disk)?.check(io, scope),
        Format::Vmdk => {
            let mut image = Vmdk::open(io, id, disk)?;
            let mut needs = Vec::new();
            for need in attach_files(io, request, id, &mut image)? {
                // A file may hold several parts of the content.
                if !needs.contains(&need) {
                    needs.push(need);
                }
            }
            if !needs.is_empty() {
                return Ok(Outcome::Incomplete(needs));
            }
            image.check(io, scope)
        }
        Format::Vpc if scope == Scope::Whole => Vpc::open_for_check(io, id, disk)?.check(io),
        Format::Luks if scope == Scope::Whole => luks::check(io, disk, |error| Error::Luks { layer: id, error }),
        Format::Raw | Format::Iso | Format::Luks | Format::Qcow | Format::Vpc => Err(Error::NoCheck { format }),
        format => Err(Error::UnsupportedFormat { layer: id, format }),
    };
    checked.map(Outcome::Checked)
}
