//! What is copied out of every image.

use super::images::IMAGES;
use super::{Programs, directory_of_images};
use crate::common::make;

/// Parts of an image, in dd's words; the first two are all of it.
const PARTS: &[&str] =
    &["", "bs=1M", "bs=64k skip=3 count=40", "bs=1000 skip=66 count=5000", "bs=7 count=1000 skip=93"];
/// Images of some GiB, every byte of which qemu-img's dd writes.
const LARGE: &[&str] = &["vmdk-2gb-sparse", "vmdk-2gb-flat"];

#[test]
fn every_image_is_copied_as_by_qemu_img() {
    let Some(programs) = Programs::find() else { return };
    let directory = directory_of_images();
    let directory = directory.path();
    for image in IMAGES {
        let of = image.format.map_or(String::new(), |format| format!("-f {format} "));
        for target in ["raw", "qcow2"] {
            let convert = programs.ours(directory, &format!("convert {of}-O {target} {} out", image.file));
            assert_eq!(convert.code, Some(0), "convert of {}: {}", image.name, convert.err);
            make(directory, &format!("qemu-img compare {of}-F {target} {} out >/dev/null; rm out", image.file));
        }
    }
}

/// What measure says is what convert needs at most, whatever the source and the target's options.
#[test]
fn no_copy_is_longer_than_what_measure_says() {
    let Some(programs) = Programs::find() else { return };
    let directory = directory_of_images();
    let directory = directory.path();
    for image in IMAGES {
        let of = image.format.map_or(String::new(), |format| format!("-f {format} "));
        for options in ["", "-o cluster_size=4k", "-o cluster_size=2M,refcount_bits=1", "-o extended_l2=on"] {
            let measure =
                programs.ours(directory, &format!("measure {of}--output=json -O qcow2 {options} {}", image.file));
            let measured: serde_json::Value = serde_json::from_str(&measure.out).expect("JSON");
            let of_key = |key: &str| measured[key].as_u64().expect("a number");
            let (required, full) = (of_key("required"), of_key("fully-allocated"));
            let convert = programs.ours(directory, &format!("convert {of}-O qcow2 {options} {} out", image.file));
            assert_eq!(convert.code, Some(0), "{}: {}", image.name, convert.err);
            let len = std::fs::metadata(directory.join("out")).expect("the copy").len();
            assert!(len <= required && required <= full, "{} {options}: {len}, {required}, {full}", image.name);
            make(directory, "rm out");
        }
    }
}

#[test]
fn every_part_of_an_image_is_copied_as_by_qemu_img() {
    let Some(programs) = Programs::find() else { return };
    let directory = directory_of_images();
    let directory = directory.path();
    for image in IMAGES {
        let of = image.format.map_or(String::new(), |format| format!("-f {format} "));
        let is_large = LARGE.contains(&image.name);
        for part in PARTS.iter().skip(if is_large { 2 } else { 0 }) {
            let command = |target: &str| format!("dd {of}-O raw if={} of={target} {part}", image.file);
            let (ours, theirs) =
                (programs.ours(directory, &command("out")), Programs::theirs(directory, &command("theirs")));
            assert_eq!((ours.code, &ours.err), (theirs.code, &theirs.err), "{}: {part}", image.name);
            make(directory, "cmp out theirs; rm out theirs");
        }
        if is_large {
            continue;
        }
        let dd = programs.ours(directory, &format!("dd {of}-O qcow2 if={} of=out bs=1000 skip=66", image.file));
        assert_eq!(dd.code, Some(0), "{}: {}", image.name, dd.err);
        make(directory, &format!("qemu-img dd {of}-O qcow2 if={} of=theirs bs=1000 skip=66 2>/dev/null", image.file));
        make(directory, "qemu-img compare out theirs >/dev/null; qemu-img check -q out; rm out theirs");
    }
}
