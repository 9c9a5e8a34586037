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
        "data_file=no/x",
        "data_file=/",
        "data_file=",
        "data_file=x,compat=0.10",
        "preallocation=metadata,backing_file=x,backing_fmt=raw",
        "data_file=x,data_file_raw=on,backing_file=x,backing_fmt=raw",
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
        &["-O", "qcow2", "-c", "-o", "preallocation=full"],
        &["-n", "-O", "qcow2"],
        &["-n", "-B", "x"],
        &["-n", "-B", "x", "-F", "foo", "-O", "qcow2"],
        &["-n", "-B", "x", "-O", "qcow2", &raw],
        &["-n", "-O", "qcow2", "-o", "cluster_size=4k"],
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

#[test]
fn a_data_file_is_made_with_its_image_or_not_at_all() {
    let files = Files::new();
    let (raw, out, data) = (files.add("raw", &[7; 8192]), files.name("out"), files.name("data"));
    let convert = |data: &str, guest: &mut Guest| {
        let options = format!("preallocation=full,data_file={data}");
        ours("instar", &["convert", "-f", "raw", "-O", "qcow2", "-o", &options, &raw, &out], guest)
    };
    let lied = convert(&data, &mut Guest { lies: true, ..Guest::default() });
    assert!(!lied.success && !files.path("out").exists() && !files.path("data").exists(), "{lied:?}");
    assert!(convert(&data, &mut Guest::default()).success);
    let blocks = |name: &str| {
        let metadata = std::fs::metadata(files.path(name)).expect("there");
        (metadata.len(), std::os::unix::fs::MetadataExt::blocks(&metadata) * 512)
    };
    assert_eq!(blocks("out").0, 100);
    assert!(blocks("data").0 == 1 << 20 && blocks("data").1 >= 1 << 20, "room is in the data file");
    // What can't hold compressed clusters.
    std::fs::remove_file(files.path("data")).expect("there");
    let options = format!("data_file={data}");
    let packed = instar(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options, &raw, &files.name("packed")]);
    assert_eq!(packed.err, "instar: error while writing at byte 0: Operation not supported\n");
    assert!(!files.path("packed").exists() && !files.path("data").exists());
    // One name for two files, and the source's.
    std::fs::remove_file(files.path("out")).expect("there");
    for name in [&out, &raw] {
        let refused = convert(name, &mut Guest::default());
        assert!(refused.err.contains("Failed to get \"write\" lock") && !files.path("out").exists(), "{refused:?}");
    }
    assert_eq!(std::fs::read(files.path("raw")).expect("there"), [7; 8192]);
}

#[test]
fn an_image_that_is_there_is_written_to_and_never_cut() {
    let files = Files::new();
    let (raw, out) = (files.add("raw", &[7; 8192]), files.add("out", &[9; 4096]));
    let outcome = instar(&["convert", "-n", "-f", "raw", "-O", "qcow2", &raw, &out]);
    assert!(outcome.success, "{outcome:?}");
    let content = std::fs::read(files.path("out")).expect("there");
    assert_eq!(content, [[b'x'; 512].as_slice(), &[9; 3584]].concat());
    // By an option string, its format is the string's.
    let string = format!("driver=qcow2,file.filename={out}");
    assert!(instar(&["convert", "-n", "-c", "-f", "raw", "--target-image-opts", &raw, &string]).success);
}
