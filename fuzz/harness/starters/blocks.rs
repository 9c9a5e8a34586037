//! Small images of the formats that are only read: headers, tables with an entry or two.

/// An input of `ro_formats`.
pub(super) fn input(kind: u8, sectors: u32, pieces: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut input = vec![kind];
    input.extend(sectors.to_le_bytes());
    for (sector, bytes) in pieces {
        input.extend(sector.to_le_bytes());
        input.extend((bytes.len() as u16).to_le_bytes());
        input.extend(bytes);
    }
    input
}

/// Bytes with fields at their places.
pub(super) fn fields(len: usize, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, field) in fields {
        bytes[*at..*at + field.len()].copy_from_slice(field);
    }
    bytes
}

pub(super) fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> Vec<u8> {
    [a.to_le_bytes().as_slice(), &b.to_le_bytes(), &c.to_le_bytes(), &d].concat()
}

/// One or two inputs a format.
pub fn images() -> Vec<(String, Vec<u8>)> {
    let le32 = u32::to_le_bytes;
    let le64 = u64::to_le_bytes;
    let be32 = u32::to_be_bytes;
    let be64 = u64::to_be_bytes;
    let vmdk = |gd_offset: u64, compression: u16, flags: u32| {
        fields(
            512,
            &[
                (0, b"KDMV"),
                (4, &le32(1)),
                (8, &le32(flags)),
                (12, &le64(1024)),
                (20, &le64(128)),
                (28, &le64(1)),
                (36, &le64(20)),
                (44, &le32(512)),
                (56, &le64(gd_offset)),
                (64, &le64(128)),
                (73, b"\n \r\n"),
                (77, &compression.to_le_bytes()),
            ],
        )
    };
    let descriptor = b"# Disk DescriptorFile\nversion=1\nCID=1a6dde02\nparentCID=c1cc1356\n\
        createType=\"monolithicSparse\"\nparentFileNameHint=\"base.vmdk\"\n"
        .to_vec();
    let directory = le32(32).to_vec();
    let grains = [le32(128), le32(0), le32(1), le32(256)].concat();
    let stream = fields(8, &[(0, &[0x78, 0x01, 0x01, 0, 0, 0xff, 0xff])]);
    let vdi = fields(
        512,
        &[
            (64, &le32(0xbeda_107f)),
            (68, &le32(0x0001_0001)),
            (0x154, &le32(512)),
            (0x158, &le32(1024)),
            (0x168, &le32(512)),
            (0x170, &le64(5 << 20)),
            (0x178, &le32(1 << 20)),
            (0x180, &le32(5)),
        ],
    );
    let vdi_table = [le32(0), le32(u32::MAX), le32(1), le32(u32::MAX - 1), le32(u32::MAX)].concat();
    let footer = fields(
        512,
        &[
            (0, b"conectix"),
            (12, &be32(0x0001_0000)),
            (16, &be64(512)),
            (28, b"win "),
            (48, &be64(8 << 20)),
            (60, &be32(3)),
        ],
    );
    let fixed = {
        let unsigned = fields(512, &[(0, b"conectix"), (28, b"win "), (48, &be64(63 * 512)), (60, &be32(2))]);
        let sum = !unsigned.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        fields(512, &[(0, &unsigned[..64]), (64, &be32(sum))])
    };
    let dynamic = fields(
        1024,
        &[(0, b"cxsparse"), (16, &be64(1536)), (24, &be32(0x0001_0000)), (28, &be32(4)), (32, &be32(2 << 20))],
    );
    let vpc_table = [be32(4), be32(u32::MAX), be32(4101), be32(u32::MAX)].concat();
    let parallels = |magic: &[u8; 16]| {
        fields(
            80,
            &[
                (0, magic),
                (16, &le32(2)),
                (28, &le32(2048)),
                (32, &le32(4)),
                (36, &le64(8192)),
                (64, &le32(1)),
                (72, &le32(3)),
            ],
        )
    };
    let qed = fields(
        64,
        &[
            (0, b"QED\0"),
            (4, &le32(4096)),
            (8, &le32(2)),
            (12, &le32(1)),
            (16, &le64(5)),
            (40, &le64(4096)),
            (48, &le64(1 << 20)),
            (56, &le32(100)),
            (60, &le32(4)),
        ],
    );
    let qcow = fields(
        48,
        &[
            (0, b"QFI\xfb\0\0\0\x01"),
            (8, &be64(48)),
            (16, &be32(4)),
            (24, &be64(1 << 20)),
            (32, &[12, 9]),
            (40, &be64(512)),
        ],
    );
    let qcow_table = [be64(4096), be64(0), be64(1 << 63 | 100 << 51 | 5000), be64(8192)].concat();
    let header = |sequence: u64| {
        fields(80, &[(0, b"head"), (8, &le64(sequence)), (66, &[1]), (68, &le32(1 << 20)), (72, &le64(1 << 20))])
    };
    let regions = fields(
        80,
        &[
            (0, b"regi"),
            (8, &le32(2)),
            (16, &guid(0x2dc2_7766, 0xf623, 0x4200, *b"\x9d\x64\x11\x5e\x9b\xfd\x4a\x08")),
            (32, &le64(3 << 20)),
            (40, &le32(1 << 20)),
            (48, &guid(0x8b7c_a206, 0x4790, 0x4b9a, *b"\xb8\xfe\x57\x5f\x05\x0f\x88\x6e")),
            (64, &le64(2 << 20)),
            (72, &le32(1 << 20)),
        ],
    );
    let items = [
        guid(0xcaa1_6737, 0xfa36, 0x4d43, *b"\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b"),
        guid(0x2fa5_4224, 0xcd1b, 0x4876, *b"\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8"),
        guid(0xbeca_12ab, 0xb2e6, 0x4523, *b"\x93\xef\xc3\x09\xe0\x00\xc7\x46"),
        guid(0x8141_bf1d, 0xa96f, 0x4709, *b"\xba\x47\xf2\x33\xa8\xfa\xab\x5f"),
        guid(0xcda3_48c7, 0x445d, 0x4471, *b"\x9c\xc9\xe9\x88\x52\x51\xc5\x56"),
    ];
    let mut metadata = fields(32, &[(0, b"metadata"), (10, &[5])]);
    for (index, item) in (0u32..).zip(items) {
        metadata.extend(
            [item, le32(0x10000 + 16 * index).to_vec(), le32(8).to_vec(), vec![4, 0, 0, 0, 0, 0, 0, 0]].concat(),
        );
    }
    let values = fields(80, &[(0, &le32(1 << 20)), (16, &le64(4 << 20)), (48, &le32(512)), (64, &le32(4096))]);
    let vhdx_table = [le64(4 << 20 | 6), le64(0), le64(5 << 20 | 6), le64(2)].concat();
    let vhdx = [
        (0, b"vhdxfile".to_vec()),
        (128, header(7)),
        (256, header(8)),
        (384, regions.clone()),
        (4096, metadata),
        (4096 + 128, values),
        (6144, vhdx_table),
    ];
    // With its second region table; two blocks of it are one.
    let twice = (6144, [le64(4 << 20 | 6), le64(0), le64(4 << 20 | 6), le64(2)].concat());
    let vhdx_shared = [&vhdx[..], &[(512, regions), twice]].concat();
    let shared = [(0, vmdk(21, 0, 4)), (21, directory.clone()), (32, [le32(128), le32(128)].concat())];
    let sparse = [(0, vmdk(21, 0, 4)), (1, descriptor.clone()), (21, directory.clone()), (32, grains.clone())];
    let compressed = [
        (0, vmdk(u64::MAX, 1, 1 << 17)),
        (1, descriptor),
        (21, directory),
        (32, grains),
        (128, [&[0; 12][..], &stream].concat()),
        (600, fields(512, &[(0, &[1]), (12, &[3])])),
        (601, vmdk(21, 1, 1 << 17)),
    ];
    let qed_tables = [le64(0x3000), le64(0)].concat();
    let qed_clusters = [le64(0x6000), le64(1), le64(0), le64(0x7000)].concat();
    [
        ("vmdk-sparse", input(0, 1024, &sparse)),
        ("vmdk-stream", input(0, 603, &compressed)),
        ("vmdk-shared", input(0, 1024, &shared)),
        ("vdi", input(1, 8192, &[(0, vdi.clone()), (1, vdi_table.clone())])),
        ("vpc-dynamic", input(0x82, 16384, &[(0, footer.clone()), (1, dynamic), (3, vpc_table)])),
        ("vpc-fixed", input(2, 64, &[(63, fixed)])),
        ("vhdx", input(0x83, 16384, &vhdx)),
        ("vhdx-shared", input(0x83, 16384, &vhdx_shared)),
        ("parallels", input(4, 8192, &[(0, parallels(b"WithoutFreeSpace"))])),
        ("parallels-extended", input(4, 8192, &[(0, parallels(b"WithouFreSpacExt"))])),
        ("qed", input(5, 128, &[(0, qed), (8, qed_tables), (24, qed_clusters)])),
        ("qcow", input(6, 64, &[(0, qcow), (1, be64(2048).to_vec()), (4, qcow_table)])),
        // The file ends before its second block.
        ("vdi-cut", input(1, 2000, &[(0, vdi), (1, vdi_table)])),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}
