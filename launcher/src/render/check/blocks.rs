//! What a check found in formats whose disk is in blocks, and in LUKS volumes. Lines that qemu-img has none of are ours.
#![forbid(unsafe_code)]

use instar_abi::check::{LuksFinding, ParallelsFinding, VdiFinding, VhdxFinding, VmdkFinding, VpcFinding};

pub fn vdi(finding: VdiFinding) -> String {
    match finding {
        VdiFinding::BlockTwice { block } => format!("ERROR: block index {block} also used by {block}"),
        VdiFinding::BlockTooLarge { index, block } => format!("ERROR: block index {index} too large, is {block}"),
        VdiFinding::Allocated { found, expected } => {
            format!("ERROR: allocated blocks mismatch, is {found}, should be {expected}")
        }
    }
}

pub fn parallels(finding: ParallelsFinding) -> String {
    match finding {
        ParallelsFinding::Unclean => "ERROR image was not closed correctly".to_owned(),
        ParallelsFinding::DataOffset => "ERROR data_off field has incorrect value".to_owned(),
        ParallelsFinding::PastEnd { index } => format!("ERROR cluster {index} is outside image"),
        ParallelsFinding::Leaked { len } => format!("ERROR space leaked at the end of the image {len}"),
        ParallelsFinding::Twice { index } => format!("ERROR duplicate offset in BAT entry {index}"),
    }
}

pub fn vmdk(finding: VmdkFinding) -> String {
    use VmdkFinding as F;
    match finding {
        F::GrainUnreadable { sector } => format!("ERROR: could not get cluster_offset for sector {sector}"),
        F::GrainPastEnd { sector } => format!("ERROR: cluster offset for sector {sector} points after EOF"),
        F::GrainShared { sector, at } => {
            format!("ERROR: the grain of sector {sector} and something else use sector {at} of the file")
        }
        F::TablePastEnd { extent, index } => {
            format!("ERROR: grain table {index} of extent {extent} is not within the file")
        }
        F::TableShared { extent, index, at } => {
            format!("ERROR: grain table {index} of extent {extent} and something else use sector {at} of the file")
        }
        F::MetadataShared { extent, at } => {
            format!("ERROR: two structures of extent {extent} use sector {at} of the file")
        }
        F::RedundantDirectory { extent } => {
            format!("ERROR: the redundant grain directory of extent {extent} is not within the file")
        }
        F::RedundantTable { extent, index } => {
            format!("ERROR: grain table {index} of extent {extent} and its redundant copy differ")
        }
        F::MarkerPlace { sector, found } => {
            format!("ERROR: the marker of the grain of sector {sector} names sector {found} of the extent")
        }
        F::MarkerLen { sector, len } => {
            format!("ERROR: the marker of the grain of sector {sector} has an impossible length of {len} bytes")
        }
        F::Footer { extent } => format!("ERROR: the header of extent {extent} and its footer differ"),
        F::Unclean { extent } => format!("ERROR: extent {extent} was not closed correctly"),
        F::LineEnds { extent } => format!("ERROR: extent {extent} was transferred as text, and is damaged"),
        F::ExtentLen { extent, found, expected } => {
            format!("ERROR: extent {extent} has {found} sectors, and the descriptor says {expected}")
        }
        F::FlatShort { extent, found, expected } => {
            format!("ERROR: the file of extent {extent} has {found} bytes, and should have {expected}")
        }
    }
}

/// qemu-img signs its lines with its name.
pub fn vhdx(finding: VhdxFinding, program: &str) -> String {
    use VhdxFinding as F;
    const TRUNCATED: &str = "Image has probably been truncated.";
    match finding {
        F::Overflow { index } => format!("{program}: VHDX BAT entry {index} offset overflow."),
        F::StartPastEnd { index, offset, file_len } => format!(
            "{program}: VHDX BAT entry {index} start offset {offset} points after end of file ({file_len}). {TRUNCATED}"
        ),
        F::EndPastEnd { index, last, file_len } => format!(
            "{program}: VHDX BAT entry {index} end offset {last} points after end of file ({file_len}). {TRUNCATED}"
        ),
        F::RegionOverlap { start, end, region_start, region_end } => {
            format!("{program}: VHDX region {start}-{end} overlaps with region {region_start}-{region_end}")
        }
        F::Header { number } => format!("ERROR: header {number} is broken; the other one is in use"),
        F::RegionTable { number } => format!("ERROR: region table {number} is broken; the other one is in use"),
        F::RegionTablesDiffer => "ERROR: the two region tables differ".to_owned(),
        F::Log => "ERROR: the log holds changes that were not made".to_owned(),
        F::State { index, state } => format!("ERROR: BAT entry {index} has the state {state}, which it can't have"),
        F::Reserved { index, entry } => format!("ERROR: BAT entry {index} has reserved bits set: {entry:#x}"),
        F::Shared { index, offset } => {
            format!("ERROR: BAT entry {index} and one before it use the file at offset {offset}")
        }
        F::NoBitmap { index } => format!("ERROR: BAT entry {index} is there in part, and its sector bitmap is missing"),
    }
}

pub fn vpc(finding: VpcFinding) -> String {
    use VpcFinding as F;
    match finding {
        F::FooterCopy => "ERROR: the footer and its copy at the front differ".to_owned(),
        F::HeaderChecksum => "ERROR: the checksum of the dynamic header is wrong".to_owned(),
        F::Version { found } => format!("ERROR: unknown version {found:#x}"),
        F::Kind { found } => format!("ERROR: unknown disk type {found}"),
        F::FixedShort { found, expected } => {
            format!("ERROR: the file has {found} bytes of content, and should have {expected}")
        }
        F::PastEnd { index } => format!("ERROR: block {index} is not within the file"),
        F::Shared { index, at } => format!("ERROR: block {index} and something else use sector {at} of the file"),
        F::MetadataShared { at } => format!("ERROR: two structures use sector {at} of the file"),
    }
}

pub fn luks(finding: LuksFinding) -> String {
    match finding {
        LuksFinding::NoSlot => "ERROR: no key slot is in use: no key opens the volume".to_owned(),
        LuksFinding::SlotPastEnd { slot } => format!("ERROR: the key material of slot {slot} is not within the file"),
        LuksFinding::PayloadPastEnd { offset, file_len } => {
            format!("ERROR: the payload starts at offset {offset}, past the end of the file ({file_len})")
        }
    }
}
