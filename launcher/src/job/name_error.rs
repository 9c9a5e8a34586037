//! What can be wrong with the user's words for an image.
#![forbid(unsafe_code)]

/// Words that name no image we can open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// No text where a name is needed.
    Empty,
    /// `json:` is followed by something else.
    Json {
        /// Where, counted from 1.
        column: usize,
    },
    /// `json:` is followed by a list or a scalar.
    JsonNoObject,
    /// Hundreds of options.
    TooManyOptions,
    /// A driver for something that is no local file.
    Protocol {
        /// Its name.
        name: Vec<u8>,
    },
    /// A driver that nobody knows.
    Driver {
        /// Its name.
        name: Vec<u8>,
    },
    /// A driver that qemu-img takes here and this version does not.
    UnsupportedDriver {
        /// Its name.
        name: Vec<u8>,
    },
    /// A driver that can't stand at this place in this version: anything but raw below another.
    DriverPlace {
        /// Its name.
        name: &'static str,
    },
    /// Neither driver nor file.
    NoDriverNorFile,
    /// A driver without a file below it.
    NoFile,
    /// A file without a name.
    NoFileName,
    /// A reference to a node that was never defined.
    NodeReference {
        /// What it names.
        name: Vec<u8>,
    },
    /// An option that the driver does not have.
    UnknownOption {
        /// The driver.
        driver: &'static str,
        /// The option's key.
        key: String,
    },
    /// An option that qemu-img has and this version does not.
    UnsupportedOption {
        /// The option's key.
        key: String,
    },
    /// A value that is no number, or out of range.
    BadNumber {
        /// The option's key.
        key: String,
    },
    /// More nodes upon each other than we follow.
    TooDeep,
    /// A raw node's `size` is no multiple of 512.
    SizeAlignment,
    /// A raw node starts past the end of what is below it.
    OffsetPastEnd {
        /// Where it starts.
        offset: u64,
        /// Length of what is below.
        below: u64,
    },
    /// A raw node ends past the end of what is below it.
    SizePastEnd {
        /// Where it starts.
        offset: u64,
        /// How long it is.
        size: u64,
        /// Length of what is below.
        below: u64,
    },
}
