//! convert's options, held against qemu-img's reading of them.

use super::*;

#[test]
fn options_of_a_new_image_are_read_as_qemu_img_reads_them() {
    let files = Files::new();
    let (raw, out) = (files.add("raw", &[7; 8192]), files.name("out"));
    for options in [
        "foo=1",
        "foo",
        "cluster_size=1000",
        "cluster_size=4M",
        "cluster_size=0",
        "cluster_size=abc",
        "cluster_size=",
        "cluster_size",
        "cluster_size=-1",
        "cluster_size=16E",
        "refcount_bits=3",
        "refcount_bits=128",
        "refcount_bits=0",
        "refcount_bits=abc",
        "refcount_bits=4k",
        "refcount_bits",
        "refcount_bits=99999999999999999999999",
        "refcount_bits=8,compat=0.10",
        "lazy_refcounts,compat=0.10",
        "lazy_refcounts=foo",
        "extended_l2=on,compat=v2",
        "extended_l2=on,cluster_size=8k",
        "compression_type=foo",
        "compression_type=zstd,compat=0.10",
        "compat=2",
        "preallocation=foo",
        "data_file_raw=on",
        "backing_fmt=raw",
        "backing_file=x",
        "",
        ",cluster_size=4k",
        "cluster_size=4k,",
        "help",
        "?",
        "cluster_size=4k,help",
    ] {
        agree(&["convert", "-f", "raw", "-O", "qcow2", "-o", options, &raw, &out]);
        assert!(!files.path("out").exists(), "{options}");
    }
    for options in ["help", "foo=1", "cluster_size=4k", "preallocation=metadata", "preallocation=foo"] {
        agree(&["convert", "-f", "raw", "-o", options, &raw, &out]);
    }
    agree(&["convert", "-O", "qcow2", "-o", "help"]);
    agree(&["convert", "-O", "qcow2", "-o", "cluster_size=4k", "-o", "help", &raw, &out]);
}

#[test]
fn options_that_do_not_go_together_are_told_in_qemu_imgs_words() {
    let files = Files::new();
    let (raw, out) = (files.add("raw", &[7; 8192]), files.name("out"));
    for options in [
        &["-c"][..],
        &["-B", "x"],
        &["-B", "x", "-F", "raw"],
        &["-F", "raw"],
        &["-O", "qcow2", "-B", "x"],
        &["-O", "qcow2", "-F", "raw"],
        &["-O", "qcow2", "-B", &raw, "-F", "foo"],
        &["-O", "qcow2", "-B", &raw, "-F", "raw", &raw],
        &["--target-is-zero"],
        &["--target-image-opts"],
        &["-n", "--target-image-opts", "-O", "raw"],
        &["-n", "-o", "size=1M"],
        &["-n"],
        &["-l", "x", &raw],
        &["-C", "-S", "4k"],
        &["-C", "-c", "-O", "qcow2"],
        &["-C", "--salvage"],
        &["-r", "foo"],
        &["-r", "10X"],
        &["-m", "17"],
        &["-O", "raw", "zeroinit:x"],
    ] {
        let args = [&["convert", "-f", "raw"], options, &[&raw, &out]].concat();
        agree(&args);
        assert!(!files.path("out").exists(), "{options:?}");
    }
}

#[test]
fn a_missing_backing_file_is_told_in_qemu_imgs_words_and_leaves_nothing() {
    let files = Files::new();
    let (raw, out) = (files.add("raw", &[7; 8192]), files.name("out"));
    let args = ["convert", "-f", "raw", "-O", "qcow2", "-B", "nope", "-F", "raw", &raw, &out];
    let ours = ours("qemu-img", &args, &mut Guest::default());
    assert!(!files.path("out").exists());
    if let Some(theirs) = theirs(&args) {
        assert_eq!(ours, theirs);
    }
}
