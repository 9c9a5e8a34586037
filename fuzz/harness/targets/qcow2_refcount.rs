use super::{DISK, LAYER, check_error};
use crate::image::{FuzzImage, FuzzReader};
use crate::layout::dyn_offset;
use crate::model;
use instar_parsers::qcow2::{Header, Refcounts};

/// Refcounts of the input as an image at 0, 1, 2 and 100 clusters, at the end, and at the number at bytes 512
/// to 519; as the header has them, then with every other width in its place.
pub fn qcow2_refcount(data: &[u8]) {
    if data.len() < 512 {
        return;
    }
    let offset = dyn_offset(data).unwrap_or(0);
    judge(&FuzzImage::new(data), offset);
    for order in 0..=7u32 {
        judge(&FuzzImage::new(data).with(96, order.to_be_bytes().to_vec()), offset);
    }
}

fn judge(image: &FuzzImage<'_>, offset: u64) {
    let mut reader = FuzzReader::new(vec![image.clone()]);
    let header = match Header::read(&mut reader, LAYER, DISK) {
        Ok(header) => header,
        Err(error) => return check_error(&error),
    };
    let cluster = u64::from(header.cluster_size());
    let refcounts = Refcounts::new(&header, DISK);
    for at in [0, cluster, 2 * cluster, 7 * cluster, 100 * cluster, image.len(), offset, offset % image.len(), u64::MAX]
    {
        let count = refcounts.of(&mut reader, at).inspect_err(check_error).expect("two reads, far below the budget");
        assert_eq!(count, model::qcow2::refcount(image, &header, at), "refcount of {at:#x}");
        let bits = header.refcount_bits();
        assert!(bits == 64 || count >> bits == 0, "{count} has more than {bits} bits");
    }
}
