//! The request of a conversion: the user's images, and what is written.
#![forbid(unsafe_code)]

use super::inputs::Inputs;
use super::outputs::{DATA_FILE, Output, Outputs, TARGET};
use super::{Meant, News};
use crate::gate::policy::{Policy, PolicyError};
use crate::job::failure::Failure;
use crate::job::layers::{Layers, Reading};
use crate::job::{Machine, limits};
use crate::render::report::Lie;
use instar_abi::format::Format;
use instar_abi::reply::{FinalLength, Frame};
use instar_abi::request::{Access, Convert, Disk, NewBacking, NewDataFile, Op, TargetFormat};
use std::sync::Arc;

/// The job of the user's images and of what is written: [`TARGET`] and [`DATA_FILE`].
pub(super) fn layers(meant: &Meant, inputs: Inputs, outputs: &Outputs) -> Result<Layers, Failure> {
    let mut convert = Convert {
        sources: Vec::new(),
        snapshot: meant.snapshot.clone(),
        target: TARGET,
        target_format: meant.format.clone(),
        top_only: meant.top_only,
        before: outputs.target.before,
        sparse_len: meant.sparse_len,
        any_order: meant.any_order,
        salvage: meant.salvage,
        // What goes down a pipe goes in order, past no other way.
        offload: meant.offload && !outputs.target.is_pipe(),
        part: meant.part,
    };
    // One lane writes in order.
    let lanes = if outputs.target.is_pipe() { 1 } else { meant.lanes };
    let reading = Reading { claim: inputs.claim, cache: meant.source_cache, raw_gate: meant.raw_gate };
    let op = Op::Convert(convert.clone());
    let mut layers = Layers::new(op, limits::CONVERT, lanes, reading)?;
    layers.names_mut().target_format = Some(meant.format_name());
    layers.names_mut().asked.clone_from(&meant.asked);
    for (index, (name, opened)) in meant.sources.iter().zip(inputs.sources).enumerate() {
        convert.sources.push(layers.add_named(name, opened)?);
        if index == 0 {
            add_output(&mut layers, &outputs.target);
            outputs.data.iter().for_each(|data| add_output(&mut layers, data));
        }
    }
    let new_backing = meant.backing.as_ref().zip(inputs.backing).map(|(backing, opened)| {
        // To the user it is what the target names.
        let layer = layers.add_image((1, &meant.target), opened, Some(backing.format), None)?;
        Ok(NewBacking { name: backing.name.clone(), format: backing.format.name().into(), layer })
    });
    let new_backing = new_backing.transpose()?;
    let new_data_file =
        meant.data_file.as_ref().map(|file| NewDataFile { name: file.name.clone(), disk: DATA_FILE, raw: file.raw });
    let there = outputs.target.there.as_ref();
    let there =
        there.map(|(path, id)| layers.add_image_on(TARGET, Format::Qcow2, path.clone(), (0, &meant.target), *id));
    match (&mut convert.target_format, there) {
        (TargetFormat::Qcow2(options), _) => {
            options.backing = new_backing;
            options.data_file = new_data_file;
        }
        (TargetFormat::Existing { image, .. }, Some(there)) => *image = there,
        (TargetFormat::Raw | TargetFormat::Existing { .. }, _) => {}
    }
    *layers.op_mut() = Op::Convert(convert);
    Ok(layers)
}

fn add_output(layers: &mut Layers, output: &Output) {
    let access = Access::Output { capacity: output.capacity };
    layers.add_output(
        &output.name,
        Disk { len: output.len, access, data: None, allocated: None },
        Arc::clone(&output.bytes),
    );
}

/// Runs it to its end; the outputs' lengths.
pub(super) fn run(
    mut layers: Layers,
    meant: &Meant,
    policy: impl FnOnce() -> Result<Policy, PolicyError>,
    machine: &mut dyn Machine,
    on_news: &mut dyn FnMut(News),
) -> Result<Vec<FinalLength>, Failure> {
    layers.run(policy, machine, &mut |frame, _| {
        match frame {
            Frame::Progress { done, total } => on_news(News::Progress { done, total }),
            Frame::PastEnd if meant.part.is_some() => on_news(News::PastEnd),
            Frame::Unreadable(parts) if meant.salvage => {
                parts.iter().for_each(|part| on_news(News::Unreadable { offset: part.offset, len: part.len }));
            }
            _ => return Err(Lie::OutOfPlace),
        }
        Ok(())
    })
}
