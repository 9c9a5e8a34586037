//! From bytes to numbers, by hand: a reproducer stays decodable for ever.

/// Takes fields off an input, little-endian.
#[derive(Clone, Debug)]
pub struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    /// A script of these bytes.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// What has not been taken.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `N` bytes; `None` where fewer are left, and then nothing is taken.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next `len` bytes, or what is left of them.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}

/// The little-endian number at byte `at`; `None` past the end.
#[must_use]
pub fn le64(data: &[u8], at: usize) -> Option<u64> {
    data.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The offset that an input asks about: little-endian at bytes 512 to 519; `None` in shorter inputs.
#[must_use]
pub fn dyn_offset(data: &[u8]) -> Option<u64> {
    le64(data, 512)
}

/// CRC-32 of IEEE 802.3, bit by bit.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dynamic_offset_needs_520_bytes() {
        assert_eq!(dyn_offset(&[7; 519]), None);
        assert_eq!(dyn_offset(&[7; 520]), Some(0x0707_0707_0707_0707));
        let mut long = [0; 1024];
        long[512] = 1;
        long[520] = 9;
        assert_eq!(dyn_offset(&long), Some(1));
    }

    #[test]
    fn a_script_gives_whole_fields_only() {
        let mut script = Script::new(&[1, 2, 0, 3, 4]);
        assert_eq!((script.u8(), script.u16(), script.u32()), (Some(1), Some(2), None));
        assert_eq!((script.bytes(9), script.rest()), ([3, 4].as_slice(), [].as_slice()));
        assert_eq!(script.u8(), None);
    }
}
