//! Ends without an answer: the epitaph, then power-off.

use crate::arch::epitaph;
use instar_abi::control::HeaderError;
use instar_abi::epitaph::{Death, Epitaph};
use zerocopy::FromZeros;
use zerocopy::little_endian::U32;

/// Ends the run with a few words of the kernel's own.
pub fn die(death: Death, words: &str) -> ! {
    die_at(death, words, 0)
}

/// Ends the run at a place in the source; of a long file name the end is kept.
pub fn die_at(death: Death, file: &str, line: u32) -> ! {
    let mut page = Epitaph::new_zeroed();
    let bytes = file.as_bytes();
    let kept = &bytes[bytes.len().saturating_sub(page.text.len())..];
    page.text[..kept.len()].copy_from_slice(kept);
    page.text_len = U32::new(kept.len() as u32);
    page.vector_or_line = U32::new(line);
    page.kind = U32::new(death.code());
    epitaph::write(&page);
    epitaph::power_off()
}

/// What was wrong with a control header, for the epitaph.
pub(crate) fn header_fault(error: HeaderError) -> &'static str {
    match error {
        HeaderError::Magic => "magic",
        HeaderError::Nonce => "nonce",
        HeaderError::BuildId { .. } => "build id",
        HeaderError::RequestLen { .. } => "request length",
    }
}
