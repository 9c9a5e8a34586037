//! The op images, embedded in the launcher.

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The op images this launcher carries.
#[derive(Debug, Clone, Copy)]
pub struct Images;

/// An op that this build has no image for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingImage;

impl Images {
    /// Names of all ops, in alphabetical order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        EMBEDDED.iter().map(|(name, _)| *name)
    }

    /// The ELF of an op.
    ///
    /// # Errors
    /// [`MissingImage`]: a build by plain `cargo build`, without `INSTAR_IMAGES`, has none.
    pub fn find(op: &str) -> Result<&'static [u8], MissingImage> {
        EMBEDDED.iter().find(|(name, _)| *name == op).map(|(_, bytes)| *bytes).ok_or(MissingImage)
    }
}
