//! check: tell what is wrong with the metadata of an image.

mod session;

#[cfg(test)]
mod tests;

use super::Reply;
use crate::detect::detect;
use crate::image::Findings;
use crate::parallels::Parallels;
use crate::qcow2::{self, Qcow2};
use crate::qed::Qed;
use crate::store::Part;
use crate::vdi::Vdi;
use alloc::vec::Vec;
use instar_abi::check::Checked;
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame};
use instar_abi::request::{Layer, LayerId, Op, Request};
use instar_io::Env;
use session::Session;

/// Sends [`Frame::Findings`] and [`Frame::Checked`]. What the image names is not opened.
///
/// # Errors
/// [`Error::WrongOp`] for another operation; [`Error::NoCheck`]; what qemu-img does not open; those of the reads and of
/// the reply.
pub fn check<E: Env>(request: &Request, env: &mut E) -> Result<End, Error> {
    let Op::Check { image: id } = request.op else { return Err(Error::WrongOp) };
    // The request is checked: every id is in range.
    let layer = usize::try_from(id.0).ok().and_then(|index| request.layers.get(index)).ok_or(Error::WrongOp)?;
    let mut session = Session::new(request, env);
    let checked = layer_checked(&mut session, id, layer)?;
    let checked = session.finish(checked)?;
    let mut reply = Reply::default();
    reply.push(env, &Frame::Checked(checked))?;
    reply.flush(env)?;
    Ok(End::Done { lengths: Vec::new() })
}

fn layer_checked<E: Env>(session: &mut Session<'_, E>, id: LayerId, layer: &Layer) -> Result<Checked, Error> {
    let format = detect(session, id, layer)?;
    session.set_part(Part::of(session, id, layer)?);
    let io: &mut dyn Findings = session;
    match format {
        Format::Qcow2 => {
            let image = Qcow2::open_for_check(io, id, layer.disk)?;
            qcow2::check(io, &image)
        }
        Format::Vdi => Vdi::open(io, id, layer.disk)?.check(io),
        Format::Qed => Qed::open(io, id, layer.disk)?.check(io),
        Format::Parallels => Parallels::open(io, id, layer.disk)?.check(io),
        Format::Raw | Format::Iso | Format::Luks | Format::Qcow | Format::Vpc => Err(Error::NoCheck { format }),
        format => Err(Error::UnsupportedFormat { layer: id, format }),
    }
}
