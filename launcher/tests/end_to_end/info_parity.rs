//! `info` beside the installed qemu-img, byte for byte, over images that qemu-img and qemu-io made.

use crate::common::{binaries, has, make, run, scratch};
use std::path::Path;

/// An image: a name, and the script that makes `$name.img` in the current directory.
struct Image {
    name: String,
    script: String,
}

fn image(name: impl Into<String>, script: impl Into<String>) -> Image {
    Image { name: name.into(), script: script.into() }
}

/// `qemu-img create` with options.
fn create(name: String, options: &str, size: &str) -> Image {
    let script = format!("qemu-img create -q -f qcow2 {options} {name}.img {size}");
    Image { name, script }
}

fn geometries() -> Vec<Image> {
    let mut images = Vec::new();
    for cluster in ["512", "4k", "64k", "256k", "2M"] {
        images.push(create(format!("v2-{cluster}"), &format!("-o compat=0.10,cluster_size={cluster}"), "8M"));
        for bits in [1, 2, 4, 8, 16, 32, 64] {
            let options = format!("-o cluster_size={cluster},refcount_bits={bits}");
            images.push(create(format!("v3-{cluster}-{bits}"), &options, "8M"));
        }
        images.push(create(format!("lazy-{cluster}"), &format!("-o lazy_refcounts=on,cluster_size={cluster}"), "8M"));
        images.push(create(
            format!("zstd-{cluster}"),
            &format!("-o compression_type=zstd,cluster_size={cluster}"),
            "8M",
        ));
    }
    for cluster in ["16k", "32k", "128k", "1M", "2M"] {
        images.push(create(format!("ext-{cluster}"), &format!("-o extended_l2=on,cluster_size={cluster}"), "8M"));
    }
    for (index, size) in
        ["0", "512", "1000", "1536", "65535", "1M", "1025k", "1G", "999G", "1T", "63T", "1234567890"].iter().enumerate()
    {
        images.push(create(format!("size-{index}"), "", size));
        images.push(create(format!("size-v2-{index}"), "-o compat=0.10", size));
    }
    for cluster in ["1k", "2k", "8k", "16k", "32k", "128k", "512k", "1M"] {
        images.push(create(format!("cluster-{cluster}"), &format!("-o cluster_size={cluster}"), "16M"));
    }
    for kind in ["metadata", "falloc", "full"] {
        images.push(create(format!("prealloc-{kind}"), &format!("-o preallocation={kind}"), "4M"));
        images.push(create(format!("prealloc-v2-{kind}"), &format!("-o preallocation={kind},compat=0.10"), "4M"));
    }
    images
}

fn contents() -> Vec<Image> {
    let write = |name: &str, commands: &str| {
        let commands: String = commands.split(';').map(|command| format!(" -c '{command}'")).collect();
        image(name, format!("qemu-img create -q -f qcow2 {name}.img 8M; qemu-io{commands} {name}.img >/dev/null"))
    };
    let compressed = |name: &str, options: &str| {
        image(
            name,
            format!(
                "seq 1 200000 >{name}.raw; \
                 qemu-img convert -c -f raw -O qcow2 -o {options} {name}.raw {name}.img"
            ),
        )
    };
    vec![
        write("written", "write -P 7 0 64k;write -P 8 1M 3M"),
        write("zeroed", "write -z 0 128k;write -z -u 1M 64k"),
        write("discarded", "write 0 1M;discard 64k 128k"),
        compressed("packed-zlib", "compression_type=zlib"),
        compressed("packed-zstd", "compression_type=zstd"),
        compressed("packed-v2", "compat=0.10"),
        image(
            "dirty",
            "qemu-img create -q -f qcow2 -o lazy_refcounts=on dirty.img 8M; \
             qemu-io -c 'write 0 64k' -c 'sigraise 9' dirty.img >/dev/null 2>&1 || true",
        ),
        image(
            "corrupt-bit",
            "qemu-img create -q -f qcow2 corrupt-bit.img 8M; \
             printf '\\2' | dd of=corrupt-bit.img bs=1 seek=79 conv=notrunc 2>/dev/null",
        ),
        image(
            "odd-length",
            "qemu-img create -q -f qcow2 odd-length.img 8M; printf 'x%.0s' $(seq 1 700) >>odd-length.img",
        ),
    ]
}

fn references() -> Vec<Image> {
    let mut images = Vec::new();
    images.push(image("base-raw", "qemu-img create -q -f raw base-raw.img 4M"));
    images.push(create("base-qcow2".into(), "", "4M"));
    for (name, options) in [
        ("raw", "-b base-raw.img -F raw"),
        ("qcow2", "-b base-qcow2.img -F qcow2"),
        ("dot", "-b ./base-qcow2.img -F qcow2"),
        ("absolute", "-b $PWD/base-qcow2.img -F qcow2"),
        ("unsafe", "-u -b gone.img -F qcow2"),
        ("unsafe-nbd", "-u -b nbd:localhost:10809 -F raw"),
        ("unsafe-colon", "-u -b strange:name -F raw"),
        ("larger", "-b base-qcow2.img -F qcow2"),
    ] {
        images.push(create(format!("over-{name}"), options, "8M"));
        images.push(create(format!("over-v2-{name}"), &format!("-o compat=0.10 {options}"), "8M"));
    }
    // Without a recorded format.
    images.push(image(
        "over-noformat",
        "qemu-img create -q -f qcow2 -b base-raw.img -F raw over-noformat.img 8M; \
         qemu-img rebase -u -b base-raw.img -F '' over-noformat.img 2>/dev/null || true",
    ));
    images.push(image(
        "over-json",
        r#"qemu-img create -q -f qcow2 -u -F raw \
           -b 'json:{"driver":"raw","file":{"driver":"file","filename":"base-raw.img"}}' over-json.img 8M"#,
    ));
    for (name, options) in [("plain", "data_file=data-plain.raw"), ("raw", "data_file=data-raw.raw,data_file_raw=on")] {
        images.push(create(format!("data-{name}"), &format!("-o {options}"), "8M"));
        images.push(create(format!("data-ext-{name}"), &format!("-o {options},extended_l2=on"), "8M"));
    }
    images
}

fn encryption() -> Vec<Image> {
    let secret = "--object secret,id=s,data=geheim -o encrypt.key-secret=s,encrypt.iter-time=10";
    let mut images = vec![create(
        "aes".into(),
        &format!("{secret} -o encrypt.format=aes").replace(",encrypt.iter-time=10", ""),
        "4M",
    )];
    for (name, options) in [
        ("default", ""),
        ("aes128", ",encrypt.cipher-alg=aes-128"),
        ("cbc", ",encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256"),
        ("serpent", ",encrypt.cipher-alg=serpent-256"),
        ("twofish", ",encrypt.cipher-alg=twofish-256"),
        ("sha1", ",encrypt.hash-alg=sha1"),
        ("sha512", ",encrypt.hash-alg=sha512"),
        ("plain", ",encrypt.ivgen-alg=plain"),
    ] {
        images.push(create(format!("luks-{name}"), &format!("{secret} -o encrypt.format=luks{options}"), "4M"));
    }
    images
}

fn snapshots_and_bitmaps() -> Vec<Image> {
    let mut images = Vec::new();
    for (name, names) in [
        ("one", vec!["first"]),
        ("two", vec!["first", "second"]),
        ("many", (0..20).map(|_| "again").collect()),
        ("odd", vec!["with space", "2", "äöü-日本語", "a\"quote", "back\\slash", "x"]),
    ] {
        for (compat, size) in [("0.10", "8M"), ("1.1", "8M")] {
            let name = format!("snap-{name}-{compat}");
            let mut script = format!("qemu-img create -q -f qcow2 -o compat={compat} {name}.img {size}");
            for snapshot in &names {
                script += &format!("; qemu-img snapshot -c '{snapshot}' {name}.img");
            }
            images.push(image(name, script));
        }
    }
    images.push(image(
        "snap-deleted",
        "qemu-img create -q -f qcow2 snap-deleted.img 8M; for n in a b c; do qemu-img snapshot -c $n snap-deleted.img; \
         done; qemu-img snapshot -d b snap-deleted.img",
    ));
    for (name, actions) in [
        ("one", vec!["--add $I b0"]),
        ("disabled", vec!["--add --disable $I b0"]),
        ("granular", vec!["--add -g 512 $I small", "--add -g 2M $I large"]),
        ("many", vec!["--add $I a", "--add $I b", "--add --disable $I c", "--add -g 4k $I 日本"]),
        ("removed", vec!["--add $I a", "--add $I b", "--remove $I a"]),
        ("merged", vec!["--add $I a", "--add $I b", "--merge a $I b"]),
    ] {
        let name = format!("bitmap-{name}");
        let mut script = format!("I={name}.img; qemu-img create -q -f qcow2 $I 8M");
        for action in actions {
            script += &format!("; qemu-img bitmap {action}");
        }
        images.push(image(name, script));
    }
    images.push(image(
        "bitmap-in-use",
        "I=bitmap-in-use.img; qemu-img create -q -f qcow2 $I 8M; qemu-img bitmap --add $I b; \
         qemu-io -c 'write 0 64k' -c 'sigraise 9' $I >/dev/null 2>&1 || true",
    ));
    images
}

fn raw() -> Vec<Image> {
    let mut images: Vec<Image> = ["0", "1", "511", "512", "513", "1000", "1M", "1G", "1T"]
        .iter()
        .map(|size| image(format!("raw-{size}"), format!("truncate -s {size} raw-{size}.img")))
        .collect();
    images.push(image("raw-text", "seq 1 1000 >raw-text.img"));
    images.push(image("raw-random", "head -c 1234567 /dev/urandom >raw-random.img"));
    images.push(image(
        "raw-mbr",
        "truncate -s 4M raw-mbr.img; printf '\\200\\0\\2\\0\\203\\0\\1\\0\\1\\0\\0\\0\\1\\0\\0\\0' | \
         dd of=raw-mbr.img bs=1 seek=446 conv=notrunc 2>/dev/null; \
         printf '\\125\\252' | dd of=raw-mbr.img bs=1 seek=510 conv=notrunc 2>/dev/null",
    ));
    images
}

/// Compares one call of both programs: stdout, stderr and exit code.
fn same(directory: &Path, ours: &Path, arguments: &[&str]) -> Result<(), String> {
    let (ours, theirs) = (run(directory, ours, arguments), run(directory, Path::new("qemu-img"), arguments));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if (ours.status.code(), &ours.stdout, &ours.stderr) == (theirs.status.code(), &theirs.stdout, &theirs.stderr) {
        return Ok(());
    }
    Err(format!(
        "{arguments:?}\n--- ours, {}\n{}{}\n--- qemu-img, {}\n{}{}\n",
        ours.status,
        text(&ours.stdout),
        text(&ours.stderr),
        theirs.status,
        text(&theirs.stdout),
        text(&theirs.stderr)
    ))
}

/// Makes images, runs `calls` on each, and reports every difference.
fn check(images: &[Image], calls: &[&[&str]]) {
    let Some(binaries) = binaries() else { return };
    if !has("qemu-img") || !has("qemu-io") {
        return;
    }
    let (directory, ours) = (scratch(), binaries.join("qemu-img"));
    let mut differences = Vec::new();
    for Image { name, script } in images {
        make(directory.path(), script);
        let file = format!("{name}.img");
        for call in calls {
            let arguments: Vec<&str> = call.iter().map(|&word| if word == "$I" { &file } else { word }).collect();
            differences.extend(same(directory.path(), &ours, &arguments).err());
        }
    }
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.concat());
}

const HUMAN: &[&str] = &["info", "$I"];
const JSON: &[&str] = &["info", "--output=json", "$I"];

#[test]
fn every_qcow2_geometry_looks_the_same() {
    check(&geometries(), &[HUMAN, JSON, &["info", "$I", "-f", "qcow2", "--output", "json"]]);
}

#[test]
fn every_kind_of_content_looks_the_same() {
    check(&contents(), &[HUMAN, JSON, &["info", "-U", "$I"]]);
}

#[test]
fn backing_and_data_files_look_the_same() {
    check(&references(), &[HUMAN, JSON]);
}

#[test]
fn encrypted_images_look_the_same() {
    check(&encryption(), &[HUMAN, JSON]);
}

#[test]
fn snapshots_and_bitmaps_look_the_same() {
    check(&snapshots_and_bitmaps(), &[HUMAN, JSON]);
}

#[test]
fn raw_images_look_the_same() {
    check(&raw(), &[HUMAN, JSON, &["info", "-f", "raw", "$I"], &["info", "-f", "raw", "--output=json", "$I"]]);
}

#[test]
fn the_images_are_at_least_150() {
    let lists = [geometries(), contents(), references(), encryption(), snapshots_and_bitmaps(), raw()];
    let count: usize = lists.iter().map(Vec::len).sum();
    assert!(count >= 150, "{count}");
}

#[test]
fn chains_look_the_same() {
    let mut images = vec![image("c0", "qemu-img create -q -f raw c0.img 4M")];
    for layer in 1..16 {
        let format = if layer == 1 { "raw" } else { "qcow2" };
        let below = layer - 1;
        images.push(image(
            format!("c{layer}"),
            format!("qemu-img create -q -f qcow2 -b c{below}.img -F {format} c{layer}.img"),
        ));
    }
    check(&images, &[&["info", "--backing-chain", "$I"], &["info", "--backing-chain", "--output=json", "$I"]]);
}

#[test]
fn names_typed_as_json_and_options_look_the_same() {
    let images = [image("named", "qemu-img create -q -f qcow2 named.img 4M; cp named.img 'na me.img'")];
    check(
        &images,
        &[
            &["info", r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"named.img"}}"#],
            &["info", r#"json:{"driver":"qcow2","file.filename":"named.img"}"#],
            &["info", "--output=json", r#"json:{"file":{"driver":"file","filename":"named.img"},"driver":"raw"}"#],
            &["info", r#"json:{"file":{"driver":"raw","offset":512,"size":512,"file":{"filename":"named.img"}}}"#],
            &["info", "--image-opts", "driver=qcow2,file.filename=named.img"],
            &["info", "--image-opts", "driver=raw,offset=1024,size=2048,file.filename=named.img"],
            &["info", "--image-opts", "driver=raw,offset=1024,file.filename=named.img", "--output=json"],
            &["info", "file:named.img"],
            &["info", "./na me.img"],
        ],
    );
}

#[test]
fn mistakes_sound_the_same() {
    let images =
        [image("here", "qemu-img create -q -f qcow2 here.img 4M; mkdir -p folder; qemu-img create -q -f vdi x.vdi 1M")];
    check(
        &images,
        &[
            &["info"],
            &["info", "gone.img"],
            &["info", "folder"],
            &["info", "here.img", "more"],
            &["info", "-Z", "here.img"],
            &["info", "--nonsense", "here.img"],
            &["info", "--output=xml", "here.img"],
            &["info", "-f"],
            &["info", "--format"],
            &["info", "-f", "nonsense", "here.img"],
            &["info", "-f", "qcow2", "x.vdi"],
            &["nonsense"],
            &[],
        ],
    );
}

#[test]
fn snapshot_dates_follow_the_time_zone() {
    let Some(binaries) = binaries() else { return };
    if !has("qemu-img") {
        return;
    }
    let directory = scratch();
    make(directory.path(), "qemu-img create -q -f qcow2 s.img 1M; qemu-img snapshot -c s s.img");
    for zone in
        ["UTC", "America/New_York", "Asia/Kathmandu", "EST5EDT,M3.2.0,M11.1.0", ":Europe/Berlin", "nonsense", ""]
    {
        let list = |program: &Path| {
            let mut command = std::process::Command::new(program);
            let output = command.args(["info", "s.img"]).env("TZ", zone).current_dir(directory.path()).output();
            String::from_utf8(output.expect("it runs").stdout).expect("UTF-8")
        };
        assert_eq!(list(&binaries.join("qemu-img")), list(Path::new("qemu-img")), "TZ={zone}");
    }
}
