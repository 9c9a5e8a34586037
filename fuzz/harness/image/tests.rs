use super::*;
use instar_abi::error::Resource;

const DISK: DiskId = DiskId(0);

fn sector(image: &FuzzImage<'_>, index: u64) -> Result<Vec<u8>, PastEnd> {
    let mut buf = vec![0xEE; image.sectors.len() as usize];
    let result = image.read_sector(index, &mut buf);
    if result.is_err() {
        assert!(buf.iter().all(|&byte| byte == 0), "a refused sector leaves zeros");
    }
    result.map(|()| buf)
}

fn read(reader: &mut FuzzReader<'_>, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
    let mut buf = vec![0xEE; len];
    reader.read_at(DISK, offset, &mut buf).map(|()| buf)
}

#[test]
fn an_empty_input_has_no_sector() {
    let image = FuzzImage::new(&[]);
    assert_eq!((image.len(), sector(&image, 0)), (0, Err(PastEnd)));
    assert!(read(&mut FuzzReader::new(vec![image]), 0, 0).is_ok());
}

#[test]
fn partial_sectors_are_padded_with_zeros() {
    for len in [1, 511, 512, 513, 1023] {
        let data = vec![7; len];
        let image = FuzzImage::new(&data);
        let mut all = Vec::new();
        for index in 0.. {
            match sector(&image, index) {
                Ok(bytes) => all.extend(bytes),
                Err(PastEnd) => break,
            }
        }
        assert_eq!(all.len(), len.next_multiple_of(512));
        assert_eq!(all[..len], data);
        assert!(all[len..].iter().all(|&byte| byte == 0), "{len}");
    }
}

#[test]
fn sectors_past_the_end_are_refused() {
    let image = FuzzImage::new(&[7; 513]);
    assert!(sector(&image, 1).is_ok());
    assert_eq!(sector(&image, 2), Err(PastEnd));
    assert_eq!(sector(&image, u64::MAX), Err(PastEnd));
    let image = image.with_sectors(Sectors::Of4096);
    assert!(sector(&image, 0).is_ok());
    assert_eq!(sector(&image, 1), Err(PastEnd));
}

#[test]
fn every_sector_shape_reads_the_same_bytes() {
    let data: Vec<u8> = (0..10_000u32).map(|at| (at % 251) as u8).collect();
    for sectors in [Sectors::Bytes, Sectors::Of512, Sectors::Of4096] {
        let mut reader = FuzzReader::new(vec![FuzzImage::new(&data).with_sectors(sectors)]);
        for (offset, len) in [(0, 1), (511, 2), (4095, 4098), (0, 10_000), (9_999, 1), (10_000, 0)] {
            assert_eq!(read(&mut reader, offset, len).as_deref(), Ok(&data[offset as usize..][..len]));
        }
        assert!(matches!(read(&mut reader, 9_999, 2), Err(Error::Read(ReadError::OutOfRange { .. }))));
        assert!(matches!(read(&mut reader, u64::MAX, 2), Err(Error::Read(ReadError::OutOfRange { .. }))));
    }
}

#[test]
fn pieces_lie_over_each_other_and_end_with_the_disk() {
    let image = FuzzImage::placed(20).with(0, vec![1; 10]).with(5, vec![2; 3]).with(18, vec![3; 10]);
    let mut buf = [0xEE; 24];
    image.fill(0, &mut buf);
    assert_eq!(buf[..10], [1, 1, 1, 1, 1, 2, 2, 2, 1, 1]);
    assert_eq!(buf[10..], [0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0]);
    assert_eq!(image.with_len(u64::MAX).be64(u64::MAX - 3), 0);
}

#[test]
fn a_replaced_input_leaves_nothing_behind() {
    let mut reader = FuzzReader::new(vec![FuzzImage::new(&[7; 1024])]).with_fault(1);
    read(&mut reader, 0, 1024).expect("the first");
    reader.replace(vec![FuzzImage::placed(1024).with(0, vec![1])]);
    assert_eq!(reader.calls(), 0);
    let bytes = read(&mut reader, 0, 1024).expect("in range");
    assert!(bytes[0] == 1 && bytes[1..].iter().all(|&byte| byte == 0));
    assert!(read(&mut reader, 0, 1).is_ok(), "the fault is gone as well");
}

#[test]
fn a_budget_ends_and_reading_on_is_a_finding() {
    let budget = request::Budget { read_bytes: 1024, ..BUDGET };
    let mut reader = FuzzReader::new(vec![FuzzImage::new(&[7; 4096])]).with_budget(budget);
    assert!(read(&mut reader, 511, 2).is_ok());
    let refused = Err(Error::OutOfBudget(Resource::ReadBytes));
    for _ in 0..=READS_AFTER_REFUSAL_MAX {
        assert_eq!(read(&mut reader, 0, 1), refused);
    }
    let goes_on = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&mut reader, 0, 1)));
    assert!(goes_on.is_err());
}

#[test]
fn the_nth_read_fails() {
    let mut reader = FuzzReader::new(vec![FuzzImage::new(&[7; 512])]).with_fault(2);
    let results = [(); 4].map(|()| read(&mut reader, 0, 1).is_ok());
    assert_eq!(results, [true, true, false, true]);
}

#[test]
fn a_disk_that_does_not_exist_is_empty() {
    let mut reader = FuzzReader::new(vec![]);
    assert_eq!(ReadAt::len(&reader, DISK), 0);
    assert!(read(&mut reader, 0, 1).is_err());
}
