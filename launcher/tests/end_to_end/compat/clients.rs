//! Well-known programs' own command lines, unchanged, and what they take from the answers.

use super::Programs;
use crate::common::{make, scratch, shell};
use std::path::Path;

/// Answers that programs parse.
const ANSWERS: &[&str] = &[
    // Nova, Glance, Cinder, Ironic: options before and after the name.
    "info a.qcow2 --force-share --output=json",
    "info a.qcow2 --force-share --output=json -f qcow2",
    "info -f qcow2 --output=json a.qcow2",
    "info -f luks --output=json a.raw",
    // Proxmox VE, vdsm, lima, CDI, Incus, libguestfs, CoreOS assembler.
    "info --output=json a.qcow2 -f qcow2 --backing-chain",
    "info --output json -f qcow2 -U --backing-chain top.qcow2",
    "info --output=json --force-share a.vmdk",
    "info --output=json file:a.qcow2",
    "info -U --backing-chain --output=json top.qcow2",
    "info -U --output json ./a.qcow2",
    // Ganeti, cloud-utils, scripts of Cloud Hypervisor read the human form.
    "info a.qcow2",
    "info a.vmdk",
    // virt-v2v asks whether offset and size are known.
    r#"info json:{"file":{"driver":"raw","offset":512,"size":512,"file":{"filename":"a.raw"}}}"#,
    "measure --output=json --size 4194304K -O qcow2",
    "measure --output=json --size 4194304K -O raw",
    "measure --output=json -O qcow2 --size 10737418240",
    r#"measure --output json --force-share -O qcow2 json:{"file":{"driver":"file","filename":"top.qcow2"},"driver":"qcow2"}"#,
    r#"measure --output json -O qcow2 json:{"file":{"driver":"file","filename":"a.raw"},"driver":"raw"}"#,
    r#"measure --output json -O qcow2 json:{"file":{"driver":"file","filename":"top.qcow2"},"driver":"qcow2","backing":null}"#,
    r#"measure --output json -O qcow2 json:{"file":{"driver":"file","filename":"top.qcow2"},"driver":"qcow2","backing":{"file":{"driver":"file","filename":"a.raw"},"driver":"raw"}}"#,
    r#"map --output json json:{"file":{"driver":"file","filename":"top.qcow2"},"driver":"qcow2","backing":{"file":{"driver":"file","filename":"a.qcow2"},"driver":"qcow2","backing":null}}"#,
    r#"compare a.raw json:{"file":{"driver":"file","filename":"top.qcow2"},"driver":"qcow2","backing":{"file":{"driver":"file","filename":"none"},"driver":"raw"}}"#,
    "map --output json a.qcow2",
    "map --output json top.qcow2",
    "compare a.raw a.qcow2",
    "compare -f raw -F qcow2 a.raw a.qcow2",
    "compare -f qcow2 -F qcow2 -s a.qcow2 a.qcow2",
];

/// Copies: what they are called with, but for the target.
const COPIES: &[(&str, &str)] = &[
    ("raw", "convert -t none -O raw -f qcow2 a.qcow2"),
    ("qcow2", "convert -t writeback -O qcow2 -f raw -c a.raw"),
    ("qcow2", "convert -f raw -O qcow2 a.raw"),
    ("raw", "convert -O raw -t none -S 0 -f qcow2 a.qcow2"),
    ("raw", "convert -O raw -t writeback -S 4096 -f qcow2 -W a.qcow2"),
    ("raw", "convert -p -t none -T none -f qcow2 -O raw top.qcow2"),
    ("qcow2", "convert -p -t none -T none -f qcow2 -O qcow2 -o compat=1.1,preallocation=metadata a.qcow2"),
    ("raw", "convert -o preallocation=falloc -t writeback -p -O raw a.qcow2"),
    ("raw", "convert -f qcow2 -O raw a.qcow2"),
    ("raw", "convert -p -f qcow2 -O raw -t writeback -T none -t none -W a.qcow2"),
    ("qcow2", "convert -O qcow2 -m 4 a.raw"),
    ("raw", "convert -O raw a.vmdk"),
];

fn images(directory: &Path) {
    make(
        directory,
        "truncate -s 4M a.raw; qemu-io -f raw -c 'write -P 1 0 700k' -c 'write -P 2 2M 1M' a.raw >/dev/null; \
         qemu-img convert -f raw -O qcow2 a.raw a.qcow2; qemu-img convert -f raw -O vmdk a.raw a.vmdk; \
         qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 top.qcow2; qemu-io -c 'write -P 3 64k 64k' top.qcow2 >/dev/null",
    );
}

#[test]
fn every_client_gets_the_answer_it_parses() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    images(directory);
    let differ: Vec<String> = ANSWERS.iter().filter_map(|line| programs.compare(directory, line).err()).collect();
    assert!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), ANSWERS.len(), differ.concat());
}

#[test]
fn every_client_s_copy_is_silent_and_right() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    images(directory);
    for (format, line) in COPIES {
        let ours = programs.ours(directory, &format!("{line} out"));
        // Glance takes any text of a good run on standard error for a failure.
        assert_eq!((ours.code, ours.err.as_str()), (Some(0), ""), "{line}");
        // vdsm takes the last record before the last carriage return, and wants a percentage there.
        let last = ours.out.rsplit('\r').nth(1).map(|record| record.trim().to_owned());
        let expected = line.contains(" -p ").then(|| "(100.00/100%)".to_owned());
        assert_eq!(last, expected, "{line}: {:?}", ours.out);
        let source = line.rsplit(' ').next().expect("a source");
        make(directory, &format!("qemu-img compare -F {format} {source} out >/dev/null; rm out"));
    }
}

/// OpenStack's parser, the real one.
#[test]
fn oslo_utils_reads_ours_as_it_reads_qemu_img_s() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    if !shell(directory, "/usr/bin/python3 -c 'import oslo_utils.imageutils' 2>/dev/null").status.success() {
        println!("skipped: needs python3-oslo.utils");
        return;
    }
    images(directory);
    make(directory, "qemu-img snapshot -c s1 a.qcow2");
    let script = "import sys; from oslo_utils import imageutils\n\
        info = imageutils.QemuImgInfo(sys.stdin.read(), format='json')\n\
        print({k: getattr(info, k) for k in ('image', 'backing_file', 'backing_file_format', 'file_format', \
        'virtual_size', 'cluster_size', 'disk_size', 'snapshots', 'encrypted', 'format_specific')})";
    std::fs::write(directory.join("read.py"), script).expect("writable");
    for image in ["a.raw", "a.qcow2", "top.qcow2", "a.vmdk"] {
        let command = format!("info {image} --force-share --output=json");
        let read = |answer: &str| {
            std::fs::write(directory.join("answer"), answer).expect("writable");
            let output = shell(directory, "/usr/bin/python3 read.py <answer");
            assert!(output.status.success(), "{image}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("UTF-8")
        };
        let theirs = read(&Programs::theirs(directory, &command).out);
        assert!(theirs.contains("'virtual_size': 4194304"), "{theirs}");
        assert_eq!(read(&programs.ours(directory, &command).out), theirs);
    }
}
