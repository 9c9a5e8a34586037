//! Sizes as they are typed, near the ends of what a number can say.

use super::Programs;
use crate::common::scratch;

/// As typed: one word each.
const SIZES: &[&str] = &[
    // Around 2^63, in bytes.
    "9223372036854775807",
    "9223372036854775806",
    "9223372036854775297",
    "9223372036854775296",
    "9223372036854775295",
    "9223372036854774784",
    "9223372036854771712",
    "9223372036854710272",
    "9223372036852678656",
    "9223372036854775808",
    "9223372036854775809",
    "18446744073709551104",
    "18446744073709551615",
    "18446744073709551616",
    "4611686018427387903",
    "4611686018427387904",
    "0x7fffffffffffffff",
    "0x7ffffffffffffe00",
    "0x8000000000000000",
    "0xffffffffffffffff",
    "0x1ffffffffffffffff",
    // With suffixes.
    "9223372036854775807b",
    "9223372036854775296B",
    "9223372036854775808B",
    "9007199254740991k",
    "9007199254740992K",
    "8796093022207M",
    "8796093022208M",
    "8589934591G",
    "8388607T",
    "8388608T",
    "8191P",
    "8192P",
    "7E",
    "7.5e",
    "7.9999999999999999E",
    "7.99999999999999999E",
    "8191.9999999999P",
    "8191.99999999999999999P",
    "8E",
    "15E",
    "16E",
    "99999999999999999999k",
    // Little, and less than that.
    "0",
    "1",
    "511",
    "513",
    ".5k",
    "+1",
    "1.",
    "1.e",
    "1.5",
    "1.99999999999999999999",
    "1.00000000000000000000001",
    "-0",
    "-1",
    "-1k",
    "-.5",
    "-9223372036854775808",
    "0x",
    "0x10k",
    "1e18",
];

/// What measure is asked for, with each size.
const TARGETS: &[&str] = &[
    "-O raw",
    "--output=json -O raw",
    "-O qcow2",
    "--output=json -O qcow2 -o cluster_size=2M",
    "-O qcow2 -o cluster_size=512",
    "-O qcow2 -o cluster_size=2M,extended_l2=on",
    "-O qcow2 -o cluster_size=2M,refcount_bits=1,preallocation=falloc",
    "-O vmdk",
];

/// The same with the first of them only: to make a key takes time.
const SLOW: (&str, usize) = ("-O luks --object secret,id=s,data=x -o key-secret=s,iter-time=10", 12);

#[test]
fn sizes_at_the_edge_are_measured_as_qemu_img_measures_them() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let command = |target: &str, size: &str| format!("measure {target} --size {size}");
    let slow = SIZES[..SLOW.1].iter().map(|size| command(SLOW.0, size));
    let commands = TARGETS.iter().flat_map(|target| SIZES.iter().map(move |size| command(target, size))).chain(slow);
    let differ: Vec<String> =
        commands.filter_map(|command| programs.compare(directory.path(), &command).err()).collect();
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.concat());
}
