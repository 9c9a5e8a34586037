//! Words for what is wrong with a qcow2 image: QEMU's where it has some, then where and how much.
#![forbid(unsafe_code)]

use super::Message;
use crate::render::escape::shown;
use instar_abi::error::{CodecError, FeatureName, LuksError, Qcow2Error, Table};

/// The words for an error.
pub(super) fn error(error: &Qcow2Error) -> Message {
    match error {
        Qcow2Error::L2TablePastEnd { .. } | Qcow2Error::ClusterPastEnd { .. } => {
            Message::new(text(error)).with_hint("the image is truncated, or made to mislead its reader")
        }
        Qcow2Error::IncompatibleFeatures { .. } | Qcow2Error::Version { .. } => {
            Message::new(text(error)).with_hint("the image was made by something newer, or is damaged")
        }
        _ => Message::new(text(error)),
    }
}

/// One arm a variant, none left over: a new variant does not compile without its words.
fn text(error: &Qcow2Error) -> String {
    match error {
        Qcow2Error::Version { found } => format!("Unsupported qcow2 version {found}"),
        Qcow2Error::FileTooShort { .. } | Qcow2Error::HeaderTooShort { .. } => "qcow2 header too short".to_owned(),
        Qcow2Error::ClusterBits { found } => format!("Unsupported cluster size: 2^{found}"),
        Qcow2Error::HeaderExceedsCluster { .. } => "qcow2 header exceeds cluster size".to_owned(),
        Qcow2Error::BackingOffset { .. } => "Invalid backing file offset".to_owned(),
        Qcow2Error::BackingNameLen { .. } => "Backing file name too long".to_owned(),
        Qcow2Error::CompressionType { found } => format!("qcow2: unknown compression type: {found}"),
        Qcow2Error::CompressionBitMissing => "qcow2: Compression type incompatible feature bit must be set".to_owned(),
        Qcow2Error::CompressionBitSet => "qcow2: Compression type incompatible feature bit must not be set".to_owned(),
        Qcow2Error::IncompatibleFeatures { names } => {
            let names: Vec<String> = names.iter().map(feature).collect();
            format!("Unsupported qcow2 feature(s): {}", names.join(", "))
        }
        Qcow2Error::SubclusterSize { found } => format!("Unsupported subcluster size: {found}"),
        Qcow2Error::RefcountOrder { .. } => "Reference count entry width too large; may not exceed 64 bits".to_owned(),
        Qcow2Error::CryptMethod { found } => format!("Unsupported encryption method {found}"),
        Qcow2Error::NoRefcountTable => "Image does not contain a reference count table".to_owned(),
        Qcow2Error::TableTooLarge { table, .. } => format!("{} too large", name(*table)),
        Qcow2Error::TableOffset { table, .. } => format!("{} offset invalid", name(*table)),
        Qcow2Error::TooBig { .. } => "Image is too big".to_owned(),
        Qcow2Error::L1TooSmall { .. } => "L1 table is too small".to_owned(),
        Qcow2Error::ExtensionTooLarge { .. } => "Header extension too large".to_owned(),
        Qcow2Error::BackingFormatLen { found } => {
            format!("ERROR: ext_backing_format: len={found} too large (>=16)")
        }
        Qcow2Error::CryptoExtensionUnexpected => {
            "CRYPTO header extension only expected with LUKS encryption method".to_owned()
        }
        Qcow2Error::CryptoExtensionLen { found } => {
            format!("CRYPTO header extension size {found}, but expected size 16")
        }
        Qcow2Error::CryptoHeaderOffset { found } => {
            format!("Encryption header offset '{found}' is not a multiple of cluster size")
        }
        Qcow2Error::CryptoHeaderLen { found } => {
            format!("Encryption header of {found} bytes is longer than the space reserved for it")
        }
        Qcow2Error::CryptoHeaderMissing => "Missing CRYPTO header for crypt method 2".to_owned(),
        Qcow2Error::Luks(error) => luks(error),
        Qcow2Error::DataFileMissing => "'data-file' is required for this image".to_owned(),
        Qcow2Error::DataFileRawAlone => "data-file-raw requires a data file".to_owned(),
        // Bitmaps and snapshots, counted from 0.
        Qcow2Error::BitmapsExtensionLen { .. } => "bitmaps_ext: Invalid extension length".to_owned(),
        Qcow2Error::BitmapsExtensionReserved => "bitmaps_ext: Reserved field is not zero".to_owned(),
        Qcow2Error::BitmapCount { found: 0 } => "found bitmaps extension with zero bitmaps".to_owned(),
        Qcow2Error::BitmapCount { found } => {
            format!("bitmaps_ext: Image has {found} bitmaps, exceeding the QEMU supported maximum of 65535")
        }
        Qcow2Error::BitmapDirectoryOffset { .. } => "bitmaps_ext: invalid bitmap directory offset".to_owned(),
        Qcow2Error::BitmapDirectoryLen { found: 0 } => "Requested bitmap directory size is zero".to_owned(),
        Qcow2Error::BitmapDirectoryLen { found } => {
            format!("bitmaps_ext: bitmap directory size ({found}) exceeds the maximum supported size (67108864)")
        }
        Qcow2Error::BitmapDirectory { index } => format!("Broken bitmap directory: entry {index}"),
        Qcow2Error::BitmapExtraData { index } => format!("Bitmap extra data is not supported: bitmap {index}"),
        Qcow2Error::BitmapConstraint { index } => format!("Bitmap {index} doesn't satisfy the constraints"),
        Qcow2Error::BitmapTable { index } => format!("Bitmap {index} does not fit the disk"),
        Qcow2Error::BitmapNameTwice { index } => format!("Bitmap {index} has the name of an earlier one"),
        Qcow2Error::SnapshotExtraData { index, .. } => {
            format!("Too much extra metadata in snapshot table entry {index}")
        }
        Qcow2Error::SnapshotTableLen { .. } => "Snapshot table is too big".to_owned(),
        // Tables and clusters.
        Qcow2Error::L2TableOffset { l1_index, found } => {
            format!("L2 table offset {found:#x} unaligned (L1 index: {l1_index:#x})")
        }
        Qcow2Error::L2TablePastEnd { l1_index, offset, file_len } => {
            format!("L2 table {l1_index} is at {offset:#x}, past the end of the file ({file_len} bytes)")
        }
        Qcow2Error::ClusterOffset { virtual_offset, found } => {
            format!("Cluster allocation offset {found:#x} unaligned (virtual offset: {virtual_offset:#x})")
        }
        Qcow2Error::ClusterPastEnd { virtual_offset, offset, file_len } => format!(
            "the cluster at virtual offset {virtual_offset:#x} is at {offset:#x}, past the end of the file ({file_len} bytes)"
        ),
        Qcow2Error::DataFileOffset { virtual_offset, found } => format!(
            "External data file host cluster offset {found:#x} does not match guest cluster offset: {virtual_offset:#x}"
        ),
        Qcow2Error::ZeroFlagBeforeVersion3 { virtual_offset } => {
            format!("Zero cluster entry found in pre-v3 image (virtual offset: {virtual_offset:#x})")
        }
        Qcow2Error::Subclusters { virtual_offset, bitmap } => {
            format!("Invalid cluster entry found (virtual offset: {virtual_offset:#x}, bitmap: {bitmap:#x})")
        }
        Qcow2Error::CompressedWithDataFile { virtual_offset } => format!(
            "Compressed cluster entry found in image with external data file (virtual offset: {virtual_offset:#x})"
        ),
        Qcow2Error::Compressed { virtual_offset, offset, error } => {
            let why = match error {
                CodecError::Stream => "the stream is broken".to_owned(),
                CodecError::Short { found, expected } => format!("the stream holds {found} bytes of {expected}"),
                CodecError::Window => "the stream asks for too much memory".to_owned(),
            };
            format!(
                "the compressed cluster at virtual offset {virtual_offset:#x} ({offset:#x} in the file) can't be read: {why}"
            )
        }
    }
}

fn feature(name: &FeatureName) -> String {
    match name {
        FeatureName::Named(name) => shown(name),
        FeatureName::Unnamed(mask) => format!("Unknown incompatible feature: {mask:x}"),
    }
}

const fn name(table: Table) -> &'static str {
    match table {
        Table::Refcount => "Reference count table",
        Table::Snapshot => "Snapshot table",
        Table::ActiveL1 => "Active L1 table",
        Table::SnapshotL1 => "Snapshot L1 table",
    }
}

/// The words for a LUKS header that can't be used.
pub(super) fn luks(error: &LuksError) -> String {
    match error {
        LuksError::Magic => "Volume is not in LUKS format".to_owned(),
        LuksError::Version { found } => format!("LUKS version {found} is not supported"),
        LuksError::CipherNameUnterminated => "LUKS header cipher name is not NUL terminated".to_owned(),
        LuksError::CipherModeUnterminated => "LUKS header cipher mode is not NUL terminated".to_owned(),
        LuksError::HashUnterminated => "LUKS header hash spec is not NUL terminated".to_owned(),
        LuksError::PayloadInHeader { .. } => "LUKS payload is overlapping with the header".to_owned(),
        LuksError::MasterKeyIterations => "LUKS key iteration count is zero".to_owned(),
        LuksError::Stripes { slot, found } => format!("Keyslot {slot} is corrupted (stripes {found} != 4000)"),
        LuksError::SlotInHeader { slot } => format!("Keyslot {slot} is overlapping with the LUKS header"),
        LuksError::SlotState { slot } => format!("Keyslot {slot} state (active/disable) is corrupted"),
        LuksError::SlotIterations { slot } => format!("Keyslot {slot} iteration count is zero"),
        LuksError::SlotInPayload { slot } => format!("Keyslot {slot} is overlapping with the encrypted payload"),
        LuksError::SlotsOverlap { first, second } => {
            format!("Keyslots {first} and {second} are overlapping in the header")
        }
        LuksError::CipherModeFormat { found } => format!("Unexpected cipher mode string format '{}'", shown(found)),
        LuksError::Cipher { found, key_bytes } => {
            format!("Algorithm '{}' with key size {key_bytes} bytes is not supported", shown(found))
        }
        LuksError::Mode { found } => format!("Unsupported cipher mode '{}'", shown(found)),
        LuksError::Hash { found } => format!("Hash algorithm '{}' is not supported", shown(found)),
        LuksError::IvGenerator { found } => format!("IV generator '{}' is not supported", shown(found)),
        LuksError::IvHashMissing => "Missing IV generator hash specification".to_owned(),
    }
}
