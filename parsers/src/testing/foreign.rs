//! Images that qemu-img can't make, written from their specifications: nothing here is shared with the readers.

/// Bytes with fields at their places.
pub fn fields(len: usize, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, field) in fields {
        bytes[*at..*at + field.len()].copy_from_slice(field);
    }
    bytes
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    file.resize(file.len().max(at + bytes.len()), 0);
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A sparse extent of ESX with the content's grains that are not zero.
pub fn cowd(content: &[u8], grain_sectors: usize) -> Vec<u8> {
    let grain = grain_sectors * 512;
    let tables = content.len().div_ceil(grain * 4096);
    let le32 = |number: usize| (number as u32).to_le_bytes();
    let mut file = Vec::new();
    let header = [1, 3, content.len() / 512, grain_sectors, 4, tables].map(le32).concat();
    put(&mut file, 0, &[b"COWD".as_slice(), &header].concat());
    let first_table = 4 + (tables * 4).div_ceil(512);
    let mut next = first_table + tables * 32;
    for (index, bytes) in content.chunks(grain).enumerate() {
        let table = first_table + index / 4096 * 32;
        if bytes.iter().any(|&byte| byte != 0) {
            put(&mut file, 2048 + index / 4096 * 4, &le32(table));
            put(&mut file, table * 512 + index % 4096 * 4, &le32(next));
            put(&mut file, next * 512, bytes);
            next += grain_sectors;
        }
    }
    file.resize(next * 512, 0);
    file
}

/// A space-efficient sparse extent; grains of zeros are by turns not there, unmapped, and zero by their entries.
pub fn se_sparse(content: &[u8]) -> Vec<u8> {
    const GRAIN: usize = 4096;
    let tables = content.len().div_ceil(GRAIN * 4096);
    let grains_at = 32 + tables * 64;
    let le64 = u64::to_le_bytes;
    let mut header = fields(512, &[(0, &le64(0xcafe_babe)), (8, &le64(0x2_0000_0001))]);
    for (at, number) in [
        (16, content.len() / 512),
        (24, 8),
        (32, 64),
        (80, 1),
        (88, 1),
        (128, 16),
        (136, 1),
        (144, 32),
        (152, tables * 64),
        (192, grains_at),
    ] {
        put(&mut header, at, &le64(number as u64));
    }
    let mut file = header;
    put(&mut file, 512, &le64(0xcafe_cafe));
    let mut next = 0u64;
    for (index, bytes) in content.chunks(GRAIN).enumerate() {
        let entry = if bytes.iter().any(|&byte| byte != 0) {
            put(&mut file, grains_at * 512 + next as usize * GRAIN, bytes);
            next += 1;
            3 << 60 | ((next - 1) & 0xfff) << 48 | (next - 1) >> 12
        } else {
            [0, 1 << 60, 2 << 60][index % 3]
        };
        put(&mut file, 16 * 512 + index / 4096 * 8, &le64(0x1000_0000 << 32 | (index / 4096) as u64));
        put(&mut file, (32 + index / 4096 * 64) * 512 + index % 4096 * 8, &le64(entry));
    }
    file.resize(file.len().max(grains_at * 512 + 512).next_multiple_of(512), 0);
    file
}

fn utf16(text: &str, high_first: bool) -> Vec<u8> {
    text.encode_utf16().flat_map(|unit| if high_first { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
}

/// A differencing VHD of blocks of 64 KiB. `sector(n)`: what sector n is, where it is not the parent's.
pub fn vhd_child(
    len: u64,
    parent_id: [u8; 16],
    locator: (&[u8; 4], &str),
    sector: impl Fn(u64) -> Option<[u8; 512]>,
) -> Vec<u8> {
    const BLOCK_SECTORS: u64 = 128;
    let (be32, be64) = (u32::to_be_bytes, u64::to_be_bytes);
    let sum = |bytes: &[u8]| be32(!bytes.iter().fold(0u32, |sum, &byte| sum.wrapping_add(byte.into())));
    let mut footer = fields(
        512,
        &[
            (0, b"conectix"),
            (12, &be32(0x1_0000)),
            (16, &be64(512)),
            (28, b"win "),
            (40, &be64(len)),
            (48, &be64(len)),
            (60, &be32(4)),
        ],
    );
    footer[68..84].copy_from_slice(b"child identifier");
    let check = sum(&footer);
    footer[64..68].copy_from_slice(&check);
    let blocks = len.div_ceil(BLOCK_SECTORS * 512);
    let words = utf16(locator.1, false);
    let mut header = fields(
        1024,
        &[
            (0, b"cxsparse"),
            (16, &be64(2048)),
            (24, &be32(0x1_0000)),
            (28, &be32(blocks as u32)),
            (32, &be32(BLOCK_SECTORS as u32 * 512)),
            (40, &parent_id),
            (576 + 24, locator.0),
            (576 + 28, &be32(1)),
            (576 + 32, &be32(words.len() as u32)),
            (576 + 40, &be64(1536)),
        ],
    );
    let check = sum(&header);
    header[36..40].copy_from_slice(&check);
    let mut file = [footer.clone(), header, words].concat();
    let mut next = 2048 + (blocks as usize * 4).next_multiple_of(512);
    for block in 0..blocks {
        let sectors: Vec<_> = (0..BLOCK_SECTORS).map(|index| sector(block * BLOCK_SECTORS + index)).collect();
        let at = 2048 + block as usize * 4;
        if sectors.iter().all(Option::is_none) {
            put(&mut file, at, &[0xff; 4]);
            continue;
        }
        put(&mut file, at, &be32(next as u32 / 512));
        // What the bitmap says to be the parent's is there, and must not be read.
        put(&mut file, next, &[0; 512]);
        put(&mut file, next + 512, &[0xee; BLOCK_SECTORS as usize * 512]);
        for (index, bytes) in sectors.iter().enumerate() {
            if let Some(bytes) = bytes {
                file[next + index / 8] |= 0x80 >> (index % 8);
                put(&mut file, next + 512 + index * 512, bytes);
            }
        }
        next += 512 + BLOCK_SECTORS as usize * 512;
    }
    put(&mut file, next, &footer);
    file
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ 0x82f6_3b78 })
    })
}

/// Gives `len` bytes at `at` their checksum, four bytes further on.
pub fn sign_crc32c(bytes: &mut [u8], at: usize, len: usize) {
    bytes[at + 4..at + 8].fill(0);
    let sum = crc32c(&bytes[at..at + len]);
    bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
}

/// A GUID as it lies on disk, by its text without braces.
fn guid(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(|&digit| digit != '-').collect();
    let bytes: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect();
    [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map(|at| bytes[at]).to_vec()
}

/// Identifier of the content of images that [`vhdx`] makes.
pub const VHDX_DATA_ID: &str = "00112233-4455-6677-8899-aabbccddeeff";
const LOG_ID: [u8; 16] = *b"the log's entry!";

/// A VHDX of blocks of 1 MiB. `block(n)`: what block n is; `parent`: keys and values of the locator.
pub fn vhdx(len: u64, sector_size: u32, parent: Option<&[(&str, &str)]>, block: impl Fn(u64) -> VhdxBlock) -> Vec<u8> {
    let (le16, le32, le64) = (u16::to_le_bytes, u32::to_le_bytes, u64::to_le_bytes);
    let mut file = vec![0; 4 << 20];
    put(&mut file, 0, b"vhdxfile");
    for (at, sequence) in [(64 << 10, 5), (128 << 10, 6)] {
        let data_id = guid(VHDX_DATA_ID);
        let header = fields(
            80,
            &[
                (0, b"head"),
                (8, &le64(sequence)),
                (16, &[7; 16]),
                (32, &data_id),
                (66, &le16(1)),
                (68, &le32(1 << 20)),
                (72, &le64(1 << 20)),
            ],
        );
        put(&mut file, at, &header);
        sign_crc32c(&mut file, at, 4096);
    }
    for at in [192 << 10, 256 << 10] {
        put(&mut file, at, &[b"regi".as_slice(), &[0; 4], &le64(2)].concat());
        for (index, (id, place)) in
            [("2dc27766-f623-4200-9d64-115e9bfd4a08", 3u64 << 20), ("8b7ca206-4790-4b9a-b8fe-575f050f886e", 2 << 20)]
                .iter()
                .enumerate()
        {
            let region = [guid(id), le64(*place).to_vec(), le32(1 << 20).to_vec(), le32(1).to_vec()].concat();
            put(&mut file, at + 16 + 32 * index, &region);
        }
        sign_crc32c(&mut file, at, 64 << 10);
    }
    let mut locator = guid("b04aefb7-d19e-4a81-b789-25b8e9445913");
    let pairs = parent.unwrap_or_default();
    locator.extend([le16(0), le16(pairs.len() as u16)].concat());
    let mut texts = Vec::new();
    for (key, value) in pairs {
        let (key, value) = (utf16(key, false), utf16(value, false));
        let at = 20 + 12 * pairs.len() + texts.len();
        locator.extend([le32(at as u32), le32((at + key.len()) as u32)].concat());
        locator.extend([le16(key.len() as u16), le16(value.len() as u16)].concat());
        texts.extend([key, value].concat());
    }
    locator.extend(texts);
    let items: [(&str, Vec<u8>); 6] = [
        ("caa16737-fa36-4d43-b3b6-33f0aa44e76b", [le32(1 << 20), le32(if parent.is_some() { 2 } else { 0 })].concat()),
        ("2fa54224-cd1b-4876-b211-5dbed83bf4b8", le64(len).to_vec()),
        ("beca12ab-b2e6-4523-93ef-c309e000c746", vec![9; 16]),
        ("8141bf1d-a96f-4709-ba47-f233a8faab5f", le32(sector_size).to_vec()),
        ("cda348c7-445d-4471-9cc9-e9885251c556", le32(4096).to_vec()),
        ("a8d35f2d-b30b-454d-abf7-d3d84834ab0c", locator),
    ];
    let count = if parent.is_some() { 6u16 } else { 5 };
    put(&mut file, 2 << 20, &[b"metadata".as_slice(), &[0; 2], &le16(count)].concat());
    let mut at = 64 << 10;
    for (index, (id, value)) in items.iter().take(count.into()).enumerate() {
        let item = [guid(id), [at as u32, value.len() as u32, 4, 0].map(le32).concat()].concat();
        put(&mut file, (2 << 20) + 32 + 32 * index, &item);
        put(&mut file, (2 << 20) + at, value);
        at += value.len().next_multiple_of(8);
    }
    let chunk = (1u64 << 23) * u64::from(sector_size) / (1 << 20);
    let blocks = len.div_ceil(1 << 20);
    assert!(blocks <= chunk, "one chunk");
    let bitmap = file.len();
    file.resize(bitmap + (1 << 20), 0);
    put(&mut file, (3 << 20) + chunk as usize * 8, &le64(bitmap as u64 | 6));
    for index in 0..blocks {
        let (state, content) = match block(index) {
            VhdxBlock::State(state) => (state, None),
            VhdxBlock::Full(content) => (6, Some(content)),
            VhdxBlock::Partial(content, here) => {
                let sectors = (1 << 20) / sector_size as usize;
                for sector in (0..sectors).filter(|&sector| here(sector)) {
                    let bit = index as usize * sectors + sector;
                    file[bitmap + bit / 8] |= 1 << (bit % 8);
                }
                (7, Some(content))
            }
        };
        let place = content.map_or(0, |content| {
            let at = file.len();
            file.extend(content);
            file.resize(at + (1 << 20), 0);
            at as u64
        });
        put(&mut file, (3 << 20) + index as usize * 8, &le64(place | state));
    }
    file
}

/// What a block of a VHDX is.
pub enum VhdxBlock {
    /// Nothing, in this state.
    State(u64),
    /// Content.
    Full(Vec<u8>),
    /// Content of those sectors for which the function holds.
    Partial(Vec<u8>, fn(usize) -> bool),
}

/// Changes of 4 KiB sectors of a file: where, and what; `None`: zeros.
pub type Changes<'a> = &'a [(u64, Option<Vec<u8>>)];

/// Gives a VHDX entries in its log, from byte `at` of the log on, which are one sequence.
pub fn with_log(mut file: Vec<u8>, at: usize, first: u64, entries: &[Changes<'_>]) -> Vec<u8> {
    const LOG: usize = 1 << 20;
    let (le32, le64) = (u32::to_le_bytes, u64::to_le_bytes);
    for header in [64 << 10, 128 << 10] {
        file[header + 48..header + 64].copy_from_slice(&LOG_ID);
        sign_crc32c(&mut file, header, 4096);
    }
    let file_len = le64(file.len() as u64);
    let mut next = at;
    for (sequence, changes) in (first..).zip(entries) {
        let table = (64 + 32 * changes.len()).next_multiple_of(4096);
        let data = changes.iter().filter(|(_, bytes)| bytes.is_some()).count();
        let mut entry = vec![0; table + 4096 * data];
        let [len, tail, count] = [entry.len(), at, changes.len()].map(|number| le32(number as u32));
        let head =
            [b"loge".as_slice(), &[0; 4], &len, &tail, &le64(sequence), &count, &[0; 4], &LOG_ID, &file_len, &file_len];
        put(&mut entry, 0, &head.concat());
        let mut sector = table;
        for (index, (offset, bytes)) in changes.iter().enumerate() {
            let place = [le64(*offset), le64(sequence)].concat();
            let descriptor = match bytes {
                None => [b"zero".as_slice(), &[0; 4], &le64(4096), &place].concat(),
                Some(bytes) => {
                    let high = le32((sequence >> 32) as u32);
                    let framed = [b"data".as_slice(), &high, &bytes[8..4092], &le32(sequence as u32)].concat();
                    put(&mut entry, sector, &framed);
                    sector += 4096;
                    [b"desc".as_slice(), &bytes[4092..], &bytes[..8], &place].concat()
                }
            };
            put(&mut entry, 64 + 32 * index, &descriptor);
        }
        let len = entry.len();
        sign_crc32c(&mut entry, 0, len);
        for (index, chunk) in entry.chunks(4096).enumerate() {
            put(&mut file, LOG + (next + index * 4096) % LOG, chunk);
        }
        next = (next + len) % LOG;
    }
    file
}
