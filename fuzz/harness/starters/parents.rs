//! Images that name others, and a log: what `ro_formats` has no room for.

use super::blocks::{fields, guid, images, input};

/// An input of `ro_formats` without its first byte.
fn file(sectors: u32, pieces: &[(u32, Vec<u8>)]) -> Vec<u8> {
    input(0, sectors, pieces).split_off(1)
}

/// Texts that describe a VMDK, each with the file that its extents are in.
pub fn texts() -> Vec<(String, Vec<u8>)> {
    let le32 = u32::to_le_bytes;
    let le64 = u64::to_le_bytes;
    let cowd = [le32(1), le32(3), le32(64), le32(8), le32(4), le32(1)].concat();
    let cowd =
        [(0, [b"COWD".as_slice(), &cowd].concat()), (4, le32(5).to_vec()), (5, [le32(40), le32(0), le32(48)].concat())];
    let se = fields(
        200,
        &[
            (0, &le64(0xcafe_babe)),
            (8, &le64(0x2_0000_0001)),
            (16, &le64(64)),
            (24, &le64(8)),
            (32, &le64(64)),
            (80, &le64(1)),
            (128, &le64(2)),
            (136, &le64(1)),
            (144, &le64(4)),
            (192, &le64(68)),
        ],
    );
    let entries = [3 << 60, 1 << 60, 2 << 60, 0, 3 << 60 | 1 << 48].map(le64).concat();
    let se = [(0, se), (1, le64(0xcafe_cafe).to_vec()), (2, le64(0x1000_0000 << 32).to_vec()), (4, entries)];
    let text = |kind: &str, lines: &str, sectors, pieces: &[(u32, Vec<u8>)]| {
        let text =
            format!("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"{kind}\"\n{lines}\n");
        [&(text.len() as u16).to_le_bytes()[..], text.as_bytes(), &file(sectors, pieces)].concat()
    };
    let flat = "RW 16 FLAT \"f\" 8\nRW 7 ZERO\nRDONLY 16 VMFS \"f\"";
    let huge = "RW 16 FLAT \"f\" 8\nRW 9223372036854775807 ZERO";
    [
        ("flat", text("twoGbMaxExtentFlat", flat, 32, &[(8, b"content".to_vec())])),
        ("huge", text("monolithicFlat", huge, 8, &[])),
        ("cowd", text("vmfsSparse", "RW 64 VMFSSPARSE \"c\"", 64, &cowd)),
        ("se-sparse", text("seSparse", "RW 64 SESPARSE \"s\"\nRW 3 ZERO", 96, &se)),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}

/// Differencing VHDs with a name in the header and with a locator.
pub fn vhds() -> Vec<(String, Vec<u8>)> {
    let be32 = u32::to_be_bytes;
    let be64 = u64::to_be_bytes;
    let name = |units: fn(u16) -> [u8; 2]| "C:\\x\\b.vhd".encode_utf16().flat_map(units).collect::<Vec<u8>>();
    let footer = fields(
        84,
        &[(0, b"conectix"), (16, &be64(512)), (28, b"win "), (48, &be64(1 << 20)), (60, &be32(4)), (68, b"id")],
    );
    let header = |name: &[u8], platform: &[u8; 4]| {
        fields(
            1024,
            &[
                (0, b"cxsparse"),
                (16, &be64(2048)),
                (28, &be32(8)),
                (32, &be32(128 << 10)),
                (40, b"parent"),
                (64, name),
                (576, platform),
                (584, &be32(22)),
                (592, &be64(1536)),
            ],
        )
    };
    let table = [[0xff; 4], be32(5), [0xff; 4], be32(263)].concat();
    let bitmap = vec![0xf0, 0x0f, 0xff, 0x00, 0xaa];
    let pieces = |header: Vec<u8>| {
        file(
            1024,
            &[
                (0, footer.clone()),
                (1, header),
                (3, name(u16::to_le_bytes)),
                (4, [table.clone(), vec![0xff; 16]].concat()),
                (5, bitmap.clone()),
            ],
        )
    };
    [("by-locator", pieces(header(b"", b"W2ku"))), ("by-name", pieces(header(&name(u16::to_be_bytes), &[0; 4])))]
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .into()
}

/// Pieces, as they stand in an input.
pub(super) fn pieces(pieces: &[(u32, Vec<u8>)]) -> Vec<u8> {
    file(0, pieces).split_off(4)
}

/// The first piece at a sector.
pub(super) fn piece(file: &[u8], sector: u32) -> Option<Vec<u8>> {
    let mut rest = file.get(4..)?;
    loop {
        let (at, after) = rest.split_first_chunk()?;
        let (len, after) = after.split_first_chunk()?;
        let (bytes, after) = after.split_at_checked(u16::from_le_bytes(*len).into())?;
        if u32::from_le_bytes(*at) == sector {
            return Some(bytes.to_vec());
        }
        rest = after;
    }
}

/// The VHDX of `ro_formats` with an entry in its log; or with a locator, and blocks that are there in part.
pub fn vhdxs(of_child: bool) -> Vec<(String, Vec<u8>)> {
    let le16 = u16::to_le_bytes;
    let le32 = u32::to_le_bytes;
    let le64 = u64::to_le_bytes;
    let plain = images().into_iter().find(|(name, _)| name == "vhdx").map(|(_, bytes)| bytes[1..].to_vec());
    let mut image = plain.expect("there is one");
    let mut add = |more: &[(u32, Vec<u8>)]| image.extend(pieces(more));
    if of_child {
        let pairs = [("relative_path", ".\\b.vhdx"), ("parent_linkage", "{00112233-4455-6677-8899-aabbccddeeff}")];
        let mut locator = guid(0xb04a_efb7, 0xd19e, 0x4a81, *b"\xb7\x89\x25\xb8\xe9\x44\x59\x13");
        locator.extend([le16(0), le16(2)].concat());
        let mut texts = Vec::new();
        for (key, value) in pairs {
            let text = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
            let (key, value) = (text(key), text(value));
            let at = (44 + texts.len()) as u32;
            locator.extend([le32(at), le32(at + key.len() as u32)].concat());
            locator.extend([le16(key.len() as u16), le16(value.len() as u16)].concat());
            texts.extend([key, value].concat());
        }
        locator.extend(texts);
        let id = guid(0xa8d3_5f2d, 0xb30b, 0x454d, *b"\xab\xf7\xd3\xd8\x48\x34\xab\x0c");
        let item = [id, le32(0x11000).to_vec(), le32(locator.len() as u32).to_vec(), le64(4).to_vec()].concat();
        add(&[
            (4096 + 136, locator),
            (6144, [le64(4 << 20 | 7), le64(0), le64(5 << 20 | 6), le64(2)].concat()),
            (6144 + 64, le64(6 << 20 | 6).to_vec()),
            (12288, vec![0xf0, 0x0f, 0xff, 0x00, 0xaa]),
        ]);
        // The table's sixth entry begins within a sector.
        let mut table = piece(&image, 4096).expect("the metadata");
        table[10] = 6;
        table.extend(item);
        image.extend(pieces(&[(4096, table)]));
    } else {
        let header = fields(
            80,
            &[(0, b"head"), (8, &le64(9)), (48, b"log"), (66, &[1]), (68, &le32(1 << 20)), (72, &le64(1 << 20))],
        );
        let entry = fields(
            128,
            &[
                (0, b"loge"),
                (8, &le32(8192)),
                (16, &le64(3)),
                (24, &le32(2)),
                (32, b"log"),
                (64, b"desc"),
                (72, &le64(4 << 20 | 6)),
                (80, &le64(3 << 20)),
                (88, &le64(3)),
                (96, b"zero"),
                (104, &le64(4096)),
                (112, &le64((3 << 20) + 4096)),
                (120, &le64(3)),
            ],
        );
        let sector = fields(4096, &[(0, b"data"), (4092, &le32(3))]);
        add(&[(128, header), (2048, entry), (2056, sector)]);
    }
    let mut set = vec![(if of_child { "child" } else { "log" }.to_owned(), image.clone())];
    if of_child {
        let mut locator = piece(&image, 4096 + 136).expect("the locator");
        locator[24..28].copy_from_slice(&5000u32.to_le_bytes());
        image.extend(pieces(&[(4096 + 136, locator)]));
        set.push(("a-value-past-the-end".to_owned(), image));
    }
    set
}
