//! `info --details`: partition tables beside sfdisk's, and what is said of an image.

use crate::common::{binaries, has, make, run, scratch};
use serde_json::{Value, json};
use std::path::Path;

/// What `instar info --details` adds.
fn details(directory: &Path, image: &[&str]) -> Value {
    let instar = binaries().expect("looked for before").join("instar");
    let output = run(directory, &instar, &[&["info", "--details", "--output=json"], image].concat());
    assert!(output.status.success(), "{image:?}: {}", String::from_utf8_lossy(&output.stderr));
    let mut all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    all["instar"].take()
}

/// sfdisk's table in our words.
fn by_sfdisk(directory: &Path, disk: &str) -> Value {
    let output = run(directory, Path::new("sfdisk"), &["--json", disk]);
    let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let table = &all["partitiontable"];
    let is_gpt = table["label"] == "gpt";
    let unit = table["sectorsize"].as_u64().expect("a number");
    let partitions = table["partitions"].as_array().expect("a list").iter().map(|part| {
        let number: u64 =
            part["node"].as_str().and_then(|node| node.strip_prefix(disk)?.parse().ok()).expect("a number");
        let bytes = |key: &str| part[key].as_u64().expect("a number") * unit;
        let mut ours = json!({
            "number": number, "start": bytes("start"), "size": bytes("size"), "type": part["type"],
        });
        if is_gpt {
            ours["guid"] = part["uuid"].clone();
            ours["name"] = part.get("name").cloned().unwrap_or(json!(""));
            ours["attributes"] = json!(match part["attrs"].as_str() {
                Some("LegacyBIOSBootable") => 4,
                Some(other) => panic!("{other}"),
                None => 0,
            });
        } else {
            ours["bootable"] = json!(part["bootable"] == true);
        }
        ours
    });
    json!({
        "type": if is_gpt { "gpt" } else { "mbr" },
        "id": table["id"],
        "sector-size": unit,
        "partitions": partitions.collect::<Vec<_>>(),
        "problems": [],
    })
}

#[test]
fn partitions_are_those_that_sfdisk_sees_in_every_format() {
    if binaries().is_none() || !has("sfdisk") || !has("qemu-img") {
        return;
    }
    let directory = scratch();
    make(
        directory.path(),
        r#"
        truncate -s 64M mbr.raw gpt.raw
        printf 'label: dos\nsize=8M,type=83,bootable\nsize=8M,type=82\ntype=5\nsize=4M\nsize=5M\nsize=6M\n' | sfdisk -q mbr.raw
        printf 'label: gpt\nsize=8M,type=L,name="root fs"\nsize=8M,type=U,attrs=LegacyBIOSBootable\ntype=S\n' | sfdisk -q gpt.raw
        for disk in mbr gpt; do
            for format in qcow2 vmdk vhdx vdi qed; do qemu-img convert -f raw -O $format $disk.raw $disk.$format; done
            qemu-img convert -f raw -c -O qcow2 $disk.raw $disk.zlib
            qemu-img convert -f raw -c -O qcow2 -o compression_type=zstd,cluster_size=2M $disk.raw $disk.zstd
            qemu-img convert -f raw -O vmdk -o subformat=streamOptimized $disk.raw $disk.stream
            qemu-img convert -f raw -O vmdk -o subformat=monolithicFlat $disk.raw $disk.flat
        done
        "#,
    );
    for disk in ["mbr", "gpt"] {
        let expected = by_sfdisk(directory.path(), &format!("{disk}.raw"));
        for format in ["raw", "qcow2", "vmdk", "vhdx", "vdi", "qed", "zlib", "zstd", "stream", "flat"] {
            let found = details(directory.path(), &[&format!("{disk}.{format}")]);
            assert_eq!(found["partition-table"], expected, "{disk}.{format}");
        }
    }
}

#[test]
fn a_disk_that_was_made_longer_or_was_bent_is_told() {
    if binaries().is_none() || !has("sfdisk") {
        return;
    }
    let directory = scratch();
    make(
        directory.path(),
        "truncate -s 64M gpt.raw; printf 'label: gpt\\nsize=8M\\nsize=9M\\n' | sfdisk -q gpt.raw
         cp gpt.raw longer.raw; truncate -s 80M longer.raw
         cp gpt.raw bent.raw; printf x | dd of=bent.raw bs=1 seek=530 conv=notrunc status=none",
    );
    let table = |disk: &str| details(directory.path(), &[disk])["partition-table"].take();
    assert_eq!(table("longer.raw")["problems"], json!(["last-header-not-at-end"]));
    assert_eq!(table("bent.raw")["problems"], json!(["first-header"]));
    // sfdisk falls back on the last header, too.
    assert_eq!(table("bent.raw")["partitions"], by_sfdisk(directory.path(), "bent.raw")["partitions"]);
}

#[test]
fn what_is_risky_is_said_with_its_reasons() {
    if binaries().is_none() || !has("qemu-img") {
        return;
    }
    let directory = scratch();
    make(
        directory.path(),
        r"
        qemu-img create -q -f qcow2 plain.qcow2 8M
        qemu-img create -q -f qcow2 -u -b /etc/base.raw -F raw absolute.qcow2 8M
        qemu-img create -q -f qcow2 -u -b ../../base.raw -F raw up.qcow2 8M
        qemu-img create -q -f qcow2 -u -b nbd:host:1 -F raw remote.qcow2 8M
        qemu-img create -q -f qcow2 -o data_file=data.raw split.qcow2 8M
        qemu-img create -q -f qcow2 huge.qcow2 1T
        cp plain.qcow2 corrupt.qcow2; printf '\002' | dd of=corrupt.qcow2 bs=1 seek=79 conv=notrunc status=none
        cp plain.qcow2 both.qcow2; truncate -s 1M both.qcow2
        printf conectix | dd of=both.qcow2 bs=1 seek=1048064 conv=notrunc status=none
        qemu-img create -q -f vmdk -o subformat=twoGbMaxExtentFlat parts.vmdk 8M
        ",
    );
    for (image, verdict, reasons) in [
        ("plain.qcow2", "safe", &[][..]),
        ("absolute.qcow2", "caution", &["backing-file", "absolute-name"]),
        ("up.qcow2", "unsafe", &["backing-file", "name-leaves-directory"]),
        ("remote.qcow2", "unsafe", &["backing-file", "name-with-protocol"]),
        ("split.qcow2", "caution", &["data-file"]),
        ("huge.qcow2", "caution", &["expansion"]),
        ("corrupt.qcow2", "unsafe", &["corrupt"]),
        ("both.qcow2", "unsafe", &["several-formats"]),
        ("parts.vmdk", "caution", &["extents"]),
    ] {
        let found = details(directory.path(), &[image]);
        assert_eq!((&found["verdict"], &found["reasons"]), (&json!(verdict), &json!(reasons)), "{image}");
    }
    let below = details(directory.path(), &["absolute.qcow2"]);
    assert_eq!(below["partition-table"], json!({"unread": "in a file below"}));
    assert_eq!(
        details(directory.path(), &["both.qcow2"])["signs"],
        json!([{"of": "qcow2", "offset": 0}, {"of": "vpc", "offset": 1_048_064}])
    );
}

#[test]
fn qemu_img_has_no_details() {
    if binaries().is_none() {
        return;
    }
    let directory = scratch();
    make(directory.path(), "truncate -s 1M a.raw");
    let qemu_img = binaries().expect("looked for before").join("qemu-img");
    let output = run(directory.path(), &qemu_img, &["info", "--details", "a.raw"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("unrecognized option '--details'"));
}
