use super::{DISK, LAYER, check_error};
use crate::image::{FuzzImage, FuzzReader, Sectors};
use crate::layout::le64;
use crate::model::qcow2::{Byte, check_header, compressed, to_wire};
use instar_abi::error::Error;
use instar_parsers::luks;
use instar_parsers::qcow2::{Extensions, Header, L2Entry, L2Mapping, Qcow2, Snapshots, facts};
use zerocopy::IntoBytes as _;

/// Header, extensions, snapshots, bitmaps and facts of the input as an image; the number at bytes 105 to 112 as
/// a compressed L2 entry; all of it as a LUKS header.
pub fn qcow2_header(data: &[u8]) {
    let image = FuzzImage::new(data);
    if let Some(bytes) = data.first_chunk() {
        let _ = luks::Header::parse(bytes);
    }
    let header = match read(&image) {
        Ok(header) => header,
        Err(error) => return check_error(&error),
    };
    check_header(&header, &image);
    check_reparse(&header);
    if let Some(word) = le64(data, 105) {
        check_compressed(&header, word);
    }
    let mut reader = FuzzReader::new(vec![image.clone()]);
    let extensions = Extensions::read(&mut reader, LAYER, DISK, &header);
    match &extensions {
        Ok(extensions) => check_extensions(extensions, &header),
        Err(error) => check_error(error),
    }
    let opened = Qcow2::open(&mut reader, LAYER, DISK);
    assert!(extensions.is_ok() || opened.is_err(), "opens although its extensions don't");
    check_snapshots(&header, &mut reader);
    if let Ok(image) = opened.inspect_err(check_error) {
        let _ = image.data_file().inspect_err(check_error);
        assert_eq!(image.header(), &header);
        assert!(image.backing().is_none_or(|name| !name.is_empty() && name.len() <= 1023 && !name.contains(&0)));
        for node in facts(&image).1 {
            assert!(node.depth <= instar_abi::facts::DEPTH_MAX, "{node:?}");
        }
    }
    check_sectors(&image, &header);
}

fn read(image: &FuzzImage<'_>) -> Result<Header, Error> {
    Header::read(&mut FuzzReader::new(vec![image.clone()]), LAYER, DISK)
}

/// The header written again is the header.
fn check_reparse(header: &Header) {
    let wire = to_wire(header);
    let again = FuzzImage::placed(header.cluster_size().into()).with(0, wire.as_bytes().to_vec());
    let again = read(&again).expect("what was accepted once");
    assert_eq!(to_wire(&again), wire);
}

fn check_compressed(header: &Header, word: u64) {
    let mut bytes = (word & !(1 << 63) | 1 << 62).to_be_bytes().to_vec();
    bytes.extend([0; 8]);
    let entry = L2Entry::parse(header, &bytes).expect("16 bytes");
    let L2Mapping::Compressed { offset, len } = entry.mapping(header) else { panic!("a compressed entry is none") };
    assert_eq!(Byte::Compressed(offset, len), compressed(header, word & !(1 << 63)));
    let cluster = u64::from(header.cluster_size());
    assert!(len > 0 && u64::from(len) <= cluster * 2, "a stream of {len} bytes");
}

fn check_extensions(extensions: &Extensions, header: &Header) {
    assert!(extensions.backing_format.as_ref().is_none_or(|name| name.len() <= 15));
    let aligned = |offset: u64| offset.is_multiple_of(header.cluster_size().into());
    assert!(extensions.crypto.is_none_or(|place| aligned(place.offset)));
    if let Some(place) = extensions.bitmaps {
        assert!(aligned(place.offset) && (1..=65535).contains(&place.count) && place.len <= 64 << 20);
    }
}

fn check_snapshots(header: &Header, reader: &mut FuzzReader<'_>) {
    let mut snapshots = Snapshots::new(LAYER, DISK, header);
    let mut count = 0;
    // Past a thousand entries the walk is the same again and again; QEMU's limit is 65,536.
    while count <= 1024 {
        match snapshots.next(reader) {
            Ok(Some(snapshot)) => {
                count += 1;
                assert!(!snapshot.id.contains(&0) && !snapshot.name.contains(&0));
            }
            Ok(None) => return assert_eq!(count, header.snapshots().count),
            Err(error) => return check_error(&error),
        }
    }
}

/// Any size of sector gives the same header.
fn check_sectors(image: &FuzzImage<'_>, header: &Header) {
    for sectors in [Sectors::Bytes, Sectors::Of4096] {
        let mut reader = FuzzReader::new(vec![image.clone().with_sectors(sectors)]);
        assert_eq!(Header::read(&mut reader, LAYER, DISK).as_ref(), Ok(header), "{sectors:?}");
    }
}
