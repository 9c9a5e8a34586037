use super::check_error;
use crate::image::{BUDGET, FuzzImage, FuzzReader};
use crate::layout::Script;
use crate::model::content::{Layer as Model, SECTOR_LEN, Sector};
use crate::model::qcow2::{self, lookup};
use instar_abi::error::{Error, ReadError};
use instar_abi::format::Format;
use instar_abi::reply::Need;
use instar_abi::request::{Answer, Disk, DiskId, Given, Layer, LayerId, NeedKind, Op, RawGate, Request};
use instar_parsers::image::{Chain, Driver, Image as _, Kind, Resolved, open};
use instar_parsers::qcow2::Crypt;
use instar_parsers::store::ReadAt;

/// Most images of an input.
const IMAGES_MAX: usize = 16;
/// Layers of a chain, as the launcher has it by default.
const DEPTH_MAX: u32 = 16;

/// Images that name each other. Byte 0: how many (mod 17), bit 7: a read of the last one fails; each image then is its
/// length (4), format (1, mod 3: qcow2, raw, detected), the length of its name (1), name and bytes.
///
/// The launcher's part is played here: a name is looked up among the images of the input, and one that leaves its
/// directory is refused.
pub fn chain_resolve(data: &[u8]) {
    let mut script = Script::new(data);
    let Some(first) = script.u8() else { return };
    let mut images = Vec::new();
    for _ in 0..usize::from(first & 0x7f) % (IMAGES_MAX + 1) {
        let (Some(len), Some(format), Some(name_len)) = (script.u32(), script.u8(), script.u8()) else { break };
        let name = script.bytes(name_len.into());
        let format = [Some(Format::Qcow2), Some(Format::Raw), None][usize::from(format % 3)];
        images.push(Image { name, format, bytes: script.bytes(len as usize) });
    }
    if images.is_empty() {
        return;
    }
    let mut job = Job::new(&images);
    if let Some(mut chain) = job.resolve(None) {
        job.flatten(&mut chain);
    }
    if first & 0x80 != 0 {
        job.fail();
    }
}

/// An image of the input.
struct Image<'a> {
    name: &'a [u8],
    format: Option<Format>,
    bytes: &'a [u8],
}

/// What the model says of a sector.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, and is looked at once")]
enum Byte {
    Known([u8; SECTOR_LEN as usize]),
    Broken,
    /// It does not know the layer's format.
    Foreign,
}

/// The job as it grows; image n of the input is disk n, and a layer each time that it is named.
struct Job<'a> {
    images: &'a [Image<'a>],
    request: Request,
    depths: Vec<u32>, // of each layer
}

impl<'a> Job<'a> {
    fn new(images: &'a [Image<'a>]) -> Self {
        let disk = |image: &Image<'_>| Disk::read_only(image.bytes.len() as u64);
        let request = Request {
            op: Op::Info { image: LayerId(0), details: false },
            disks: images.iter().map(disk).collect(),
            layers: vec![layer(0, images[0].format)],
            answers: vec![],
            budget: instar_abi::request::Budget { depth: DEPTH_MAX, ..BUDGET },
            seed: [7; 32],
            now: 1,
            lanes: 1,
        };
        Self { images, request, depths: vec![0] }
    }

    fn reader(&self) -> FuzzReader<'a> {
        let disks = self.images.iter().map(|image| FuzzImage::new(image.bytes)).collect();
        FuzzReader::new(disks).with_budget(self.request.budget)
    }

    /// Opens the chain, answering what it asks for, as often as it asks; a read of `fails_at` on the way fails.
    fn resolve(&mut self, fails_at: Option<u64>) -> Option<Chain> {
        for _ in 0..=2 * DEPTH_MAX {
            let mut reader = self.reader();
            if let Some(fails_at) = fails_at {
                reader = reader.with_fault(fails_at);
            }
            match Chain::open(&mut reader, &self.request, LayerId(0)) {
                Ok(Resolved::Complete(chain)) => return Some(chain),
                Ok(Resolved::Incomplete(needs)) => {
                    assert!(!needs.is_empty(), "asks for nothing");
                    if !needs.iter().all(|need| self.answer(need)) {
                        return None;
                    }
                }
                Err(error) => {
                    check_error(&error);
                    return None;
                }
            }
        }
        panic!("a chain without end");
    }

    /// What the launcher does for a name; `false`: it refuses.
    fn answer(&mut self, need: &Need) -> bool {
        let asked = self.request.answers.iter().any(|answer| {
            let is_it = need.kind != NeedKind::Extent || answer.name == need.name;
            is_it && (answer.layer, answer.kind) == (need.layer, need.kind)
        });
        assert!(!asked, "asks again for {need:?}");
        let depth = *self.depths.get(need.layer.0 as usize).expect("asks for a layer of the job");
        assert!(depth < DEPTH_MAX, "asks below the deepest layer");
        assert!(need.name.len() <= 1023, "a name of {} bytes", need.name.len());
        let leaves = need.name.starts_with(b"/") || need.name.windows(2).any(|pair| pair == b"..");
        let Some(index) = self.images.iter().position(|image| image.name == need.name).filter(|_| !leaves) else {
            return false;
        };
        let given = match need.kind {
            NeedKind::DataFile | NeedKind::Extent => Given::Disk(DiskId(index as u32)),
            NeedKind::Backing => {
                let recorded = need.format.as_deref().and_then(Format::from_name);
                self.request.layers.push(layer(index, recorded.or(self.images[index].format)));
                self.depths.push(depth + 1);
                Given::Layer(LayerId(self.request.layers.len() as u32 - 1))
            }
        };
        let Need { layer, kind, name, .. } = need.clone();
        self.request.answers.push(Answer { layer, kind, name, given });
        true
    }

    /// Holds some places of the disk against a reader that asks each layer in turn.
    fn flatten(&self, chain: &mut Chain) {
        let mut reader = self.reader();
        let size = chain.virtual_size();
        let mut places: Vec<u64> = (0..64).map(|index| index * SECTOR_LEN).collect();
        places.extend((1..16u64).map(|part| (u128::from(size) * u128::from(part) / 16) as u64 & !511));
        places.push(size.saturating_sub(SECTOR_LEN) & !511);
        for at in places.into_iter().filter(|&at| at < size) {
            let end = size.min(at + SECTOR_LEN);
            match chain.map(&mut reader, at..end) {
                Ok(mapped) => {
                    assert!(mapped.extent.start == at && (at + 1..=end).contains(&mapped.extent.end()), "{mapped:?}");
                    assert!(mapped.depth < DEPTH_MAX && (mapped.layer.0 as usize) < self.request.layers.len());
                    match self.model(at) {
                        Byte::Known(expected) => self.compare(&mut reader, &mapped.extent.kind, &expected, at),
                        Byte::Broken => panic!("what is broken at {at:#x} is mapped: {mapped:?}"),
                        Byte::Foreign => return,
                    }
                }
                Err(Error::OutOfBudget(_)) => return,
                Err(error) => {
                    check_error(&error);
                    assert!(!matches!(self.model(at), Byte::Known(_)), "{at:#x}: {error:?}");
                }
            }
        }
    }

    fn compare(&self, reader: &mut FuzzReader<'_>, kind: &Kind, expected: &[u8; SECTOR_LEN as usize], at: u64) {
        let mut found = [0; SECTOR_LEN as usize];
        match *kind {
            Kind::Zero | Kind::Hole | Kind::Reserved { .. } => {}
            Kind::Data { disk, offset } => {
                let io: &mut dyn ReadAt = reader;
                io.read_padded(disk, offset, &mut found).expect("the budget is for metadata of a few sectors");
            }
            // The decoders have a target of their own.
            Kind::Encoded { .. } => return,
        }
        assert!(found == *expected, "other content at {at:#x}: {kind:?}");
    }

    /// A sector as each layer in turn gives it.
    fn model(&self, at: u64) -> Byte {
        let zeros = [0; SECTOR_LEN as usize];
        let mut next = Some(LayerId(0));
        while let Some(id) = next.take() {
            let layer = &self.request.layers[id.0 as usize];
            let bytes = self.images[layer.disk.0 as usize].bytes;
            let image = FuzzImage::new(bytes);
            let answer = |kind| self.request.answers.iter().find(|answer| (answer.layer, answer.kind) == (id, kind));
            let opened = match open(&mut self.reader(), id, layer).expect("it has been opened").driver {
                Driver::Qcow2(opened) => opened,
                Driver::Raw(_) => {
                    let mut found = zeros;
                    image.fill(at, &mut found);
                    return Byte::Known(found);
                }
                _ => return Byte::Foreign,
            };
            assert_eq!(opened.header().crypt(), Crypt::None, "encrypted content is opened");
            if at >= opened.virtual_size() {
                return Byte::Known(zeros);
            }
            let data_file = answer(NeedKind::DataFile).and_then(|answer| match answer.given {
                Given::Disk(disk) => Some(FuzzImage::new(self.images[disk.0 as usize].bytes)),
                Given::Layer(_) | Given::Refused => None,
            });
            match Model::new(image.clone(), opened.header(), data_file).sector(at) {
                Sector::Bytes(found) => return Byte::Known(found),
                // Streams are not decoded by mapping: they have a target of their own.
                Sector::Broken if matches!(lookup(&image, opened.header(), at), qcow2::Byte::Compressed(..)) => {
                    return Byte::Foreign;
                }
                Sector::Broken => return Byte::Broken,
                Sector::Hole => {
                    next = answer(NeedKind::Backing).and_then(|answer| match answer.given {
                        Given::Layer(below) => Some(below),
                        Given::Disk(_) | Given::Refused => None,
                    });
                }
            }
        }
        Byte::Known(zeros)
    }

    /// A read that fails is told, of the disk that it is of.
    fn fail(&mut self) {
        for fails_at in 0..8 {
            let mut reader = self.reader().with_fault(fails_at);
            let opened = Chain::open(&mut reader, &self.request, LayerId(0));
            if let Err(Error::Read(ReadError::Io { disk, .. })) = opened {
                let used = self.request.layers.iter().any(|layer| layer.disk == disk);
                assert!(used, "a fault of disk {disk:?}, which no layer is on");
                assert!(reader.calls() == fails_at + 1, "read on after a fault");
            }
        }
    }
}

fn layer(disk: usize, format: Option<Format>) -> Layer {
    Layer::new(DiskId(disk as u32), format, RawGate::Open)
}
