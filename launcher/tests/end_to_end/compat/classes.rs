//! Classes of defects that image tools are known to grow, held over every reading operation: each has a test of its name.

use super::images::{IMAGES, Image};
use super::{Outcome, Programs, directory_of_images};
use crate::common::{make, scratch};
use serde_json::Value as Json;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

/// Whether both programs do the same for every command; the differences.
fn same(programs: &Programs, directory: &Path, commands: &[&str]) {
    let differ: Vec<String> = commands
        .iter()
        .filter_map(|command| {
            make(directory, "rm -f out");
            let ours = programs.ours(directory, command);
            // Neither finds what the other left.
            make(directory, "rm -f out");
            let theirs = Programs::theirs(directory, command);
            (ours != theirs).then(|| {
                format!(
                    "{command}\n  {:?} {}{}  {:?} {}{}",
                    ours.code, ours.out, ours.err, theirs.code, theirs.out, theirs.err
                )
            })
        })
        .collect();
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.concat());
}

/// instar under its own name, where images are told by all signs that they have.
fn instar(programs: &Programs, directory: &Path, command: &str) -> Outcome {
    Programs::ask(&programs.instar(), directory, command)
}

fn json(outcome: &Outcome, command: &str) -> Json {
    serde_json::from_str(&outcome.out).unwrap_or_else(|_| panic!("{command}: {}{}", outcome.out, outcome.err))
}

fn number(json: &Json, key: &str) -> u64 {
    json[key].as_u64().unwrap_or_else(|| panic!("{key} of {json}"))
}

/// Every image that is told by what it holds, or by what it ends with.
fn told_by_content() -> impl Iterator<Item = &'static Image> {
    IMAGES.iter().filter(|image| image.format != Some("raw"))
}

/// B1b: the size that each operation sees is that of the format which `info` names.
#[test]
fn every_operation_detects_the_same_format() {
    let Some(programs) = Programs::find() else { return };
    let directory = directory_of_images();
    let directory = directory.path();
    for Image { name, file, .. } in told_by_content() {
        let ask = |command: &str| {
            let outcome = instar(&programs, directory, command);
            assert_eq!(outcome.code, Some(0), "{name}: {command}: {}", outcome.err);
            outcome
        };
        let told = json(&ask(&format!("info --output=json {file}")), name);
        let (format, size) = (told["format"].as_str().expect("a name"), number(&told, "virtual-size"));
        let theirs = Programs::theirs(directory, &format!("info --output=json -f {format} {file}"));
        assert_eq!(number(&json(&theirs, name), "virtual-size"), size, "{name}");
        let measured = json(&ask(&format!("measure --output=json -O raw {file}")), name);
        assert_eq!(number(&measured, "required"), size, "measure of {name}");
        let map = json(&ask(&format!("map --output=json {file}")), name);
        let len: u64 = map.as_array().expect("extents").iter().map(|extent| number(extent, "length")).sum();
        assert_eq!(len, size, "map of {name}");
        let same = instar(&programs, directory, &format!("compare {file} {file}"));
        assert_eq!(same.out, "Images are identical.\n", "{name}: {}", same.err);
        for command in [format!("convert -O raw {file} out"), format!("dd -O raw if={file} of=out bs=1M")] {
            // dd writes all of a disk.
            if size <= 1 << 30 {
                ask(&command);
                make(directory, &format!("qemu-img compare -f {format} -F raw {file} out >/dev/null; rm out"));
            }
        }
        let check = instar(&programs, directory, &format!("check --output=json {file}"));
        if check.code != Some(63) {
            assert_eq!(json(&check, name)["format"], format, "{name}");
        }
    }
}

/// C1: zero clusters with and without a place in the file, over a layer full of other bytes.
#[test]
fn zero_clusters_read_as_zeros_in_every_operation() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(
        directory,
        "truncate -s 4M base.raw; qemu-io -f raw -c 'write -P 7 0 4M' base.raw >/dev/null; cp base.raw expected.raw; \
         qemu-img create -q -f qcow2 -b base.raw -F raw top.qcow2; \
         qemu-io -c 'write -P 9 1M 256k' -c 'write -z 1M 128k' -c 'write -z 3M 512k' top.qcow2 >/dev/null; \
         qemu-io -f raw -c 'write -P 9 1M 256k' -c 'write -z 1M 128k' -c 'write -z 3M 512k' expected.raw >/dev/null",
    );
    same(
        &programs,
        directory,
        &[
            "map top.qcow2",
            "map --output=json top.qcow2",
            "measure -O qcow2 top.qcow2",
            "compare -F raw top.qcow2 expected.raw",
            "check top.qcow2",
            "convert -O raw top.qcow2 out",
            "dd -O raw if=top.qcow2 of=out bs=1M",
        ],
    );
    for command in ["convert -O raw top.qcow2 out", "dd -O raw if=top.qcow2 of=out bs=1M"] {
        make(directory, "rm -f out");
        assert_eq!(programs.ours(directory, command).code, Some(0));
        make(directory, "cmp out expected.raw");
    }
    let identical = programs.ours(directory, "compare -F raw top.qcow2 expected.raw");
    assert_eq!(identical.out, "Images are identical.\n");
}

/// C11: what is known and can't be read is named, and never taken for bytes as they are, wherever it is in a chain.
#[test]
fn a_detected_format_is_never_read_as_raw() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(
        directory,
        "truncate -s 1M a.cloop a.dmg a.luks; printf 'koly\\0\\0\\0\\4\\0\\0\\2\\0' | dd of=a.dmg bs=512 seek=2047 conv=notrunc status=none; \
         printf '#!/bin/sh\\n#V2.0 Format\\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\\n' | \
         dd of=a.cloop conv=notrunc status=none; printf 'LUKS\\272\\276\\0\\1' | dd of=a.luks conv=notrunc status=none",
    );
    for format in ["cloop", "dmg", "luks"] {
        make(
            directory,
            &format!(
                "qemu-img create -q -u -f qcow2 -b a.{format} -F {format} mid.{format} 1M; \
                 qemu-img create -q -u -f qcow2 -b mid.{format} -F qcow2 top.{format} 1M"
            ),
        );
        let reading =
            ["compare IMG IMG", "map IMG", "measure -O qcow2 IMG", "convert -O raw IMG out", "dd if=IMG of=out"];
        let alone = ["info IMG", "check IMG"].map(|template| ("a", template));
        let in_chains = ["a", "mid", "top"].into_iter().flat_map(|file| reading.map(|template| (file, template)));
        let all = alone.into_iter().chain(in_chains).chain([("top", "info --backing-chain IMG")]);
        for (file, template) in all {
            let command = template.replace("IMG", &format!("{file}.{format}"));
            let outcome = instar(&programs, directory, &command);
            // A LUKS volume can be checked; this one is none.
            let named =
                outcome.err.contains(&format!("format '{format}' is not supported")) || command == "check a.luks";
            assert!(
                outcome.code.is_some_and(|code| code > 0) && named,
                "{command}: {:?} {}",
                outcome.code,
                outcome.err
            );
            assert!(!directory.join("out").exists(), "{command} left a copy");
        }
    }
}

/// H5: whatever is printed before a table turns out to be broken can be parsed.
#[test]
fn a_failed_map_still_prints_valid_json() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    // 16,000 extents, and the last L2 table between clusters.
    make(
        directory,
        "yes 1 | tr -d '\\n' | head -c 4096 >half; truncate -s 8k half; for _ in $(seq 13); do cat half half >both; mv both half; done; \
         qemu-img convert -f raw -O qcow2 -o cluster_size=4k half a.qcow2",
    );
    let mut bytes = std::fs::read(directory.join("a.qcow2")).expect("it was made");
    let at =
        |at: usize, len: usize| bytes[at..at + len].iter().fold(0, |number, &byte| number << 8 | usize::from(byte));
    let last = at(40, 8) + 8 * (at(36, 4) - 1);
    bytes[last + 6] ^= 2;
    std::fs::write(directory.join("a.qcow2"), &bytes).expect("writable");
    for outcome in [
        programs.ours(directory, "map --output=json a.qcow2"),
        instar(&programs, directory, "map --output=json a.qcow2"),
    ] {
        let is_json = outcome.out.is_empty() || serde_json::from_str::<Json>(&outcome.out).is_ok();
        assert!(
            is_json,
            "{} bytes end with {:?}",
            outcome.out.len(),
            outcome.out.chars().rev().take(80).collect::<String>()
        );
        assert_eq!(outcome.code, Some(1));
        assert!(outcome.err.contains("L2 table offset"), "{}", outcome.err);
    }
}

/// O5.
#[test]
fn measure_prints_bitmaps_only_where_qemu_img_does() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(
        directory,
        "truncate -s 8M a.raw; for compat in 0.10 1.1; do qemu-img create -q -f qcow2 -o compat=$compat v$compat.qcow2 8M; done; \
         cp v1.1.qcow2 with.qcow2; qemu-img bitmap --add with.qcow2 b0; qemu-img bitmap --add -g 512 with.qcow2 b1; \
         qemu-img create -q -f qcow2 -b with.qcow2 -F qcow2 over.qcow2; qemu-img create -q -f vmdk a.vmdk 8M; \
         qemu-img create -q -f parallels a.parallels 8M",
    );
    let mut commands = Vec::new();
    for source in
        ["-f raw a.raw", "v0.10.qcow2", "v1.1.qcow2", "with.qcow2", "over.qcow2", "a.vmdk", "a.parallels", "--size 8M"]
    {
        for target in ["raw", "qcow2", "qcow2 -o compat=0.10", "qcow2 -o cluster_size=4k"] {
            commands.extend(["", "--output=json "].map(|output| format!("measure {output}-O {target} {source}")));
        }
    }
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    same(&programs, directory, &commands);
    let bitmaps = programs.ours(directory, "measure -O qcow2 with.qcow2").out;
    assert!(bitmaps.contains("\nbitmaps size: "), "{bitmaps}");
}

/// O8.
#[test]
fn usage_errors_exit_1_with_the_hint() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let commands =
        ["info", "check", "compare", "map", "info -f", "check -f", "compare a", "map a b", "info a b", "check --foo a"];
    same(&programs, directory.path(), &commands);
    for command in commands {
        let Outcome { code, out, err } = programs.ours(directory.path(), command);
        let operation = command.split(' ').next().expect("a word");
        let hint = format!("Try 'qemu-img {operation} --help' for more info");
        assert!(code == Some(1) && out.is_empty() && err.contains(&hint), "{command}: {code:?} {err}");
    }
}

/// L11.
#[test]
fn map_of_chains_compressed_partial_and_sparse() {
    let Some(programs) = Programs::find() else { return };
    let directory = directory_of_images();
    let directory = directory.path();
    let files =
        ["top.qcow2", "over.vmdk", "zlib.qcow2", "zstd.qcow2", "stream.vmdk", "split.vmdk", "-f raw a.raw", "a.vdi"];
    for file in files {
        same(&programs, directory, &[&format!("map --output=json {file}"), &format!("map {file}")]);
    }
    let map = |file: &str| json(&programs.ours(directory, &format!("map --output=json {file}")), file);
    let any = |file: &str, key: &str, value: Json| {
        map(file).as_array().is_some_and(|all| all.iter().any(|one| one[key] == value))
    };
    assert!(any("top.qcow2", "depth", 2.into()) && any("zlib.qcow2", "compressed", true.into()));
    assert!(any("-f raw a.raw", "zero", true.into()) && any("-f raw a.raw", "data", true.into()));
    // qemu-img does not look into a vhdx.
    let partial = json(&instar(&programs, directory, "map --output=json small.vhdx"), "small.vhdx");
    assert!(partial.as_array().is_some_and(|all| all.len() > 2), "{partial}");
}

/// L12.
#[test]
fn measure_of_chains_partial_blocks_and_holes() {
    let Some(programs) = Programs::find() else { return };
    let directory = directory_of_images();
    let directory = directory.path();
    for file in ["top.qcow2", "over.vmdk", "zeros.qcow2", "a.vpc", "forced.vpc", "-f raw a.raw", "a.vdi", "split.vmdk"]
    {
        for options in ["", "-o cluster_size=4k", "-o cluster_size=2M"] {
            same(&programs, directory, &[&format!("measure -O qcow2 {options} {file}")]);
        }
        let measured = json(&programs.ours(directory, &format!("measure --output=json -O qcow2 {file}")), file);
        // Its blocks of 2 MiB are all in use.
        let is_full = file == "forced.vpc";
        assert_eq!(is_full, number(&measured, "required") == number(&measured, "fully-allocated"), "{file}");
    }
}

/// Of a large qcow2 the host is asked for holes only where they can matter: full, with a hole, set aside, and made in advance.
#[test]
fn holes_under_a_large_qcow2_are_followed_as_by_qemu_img() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(directory, "head -c 96M /dev/urandom >a.raw && qemu-img convert -f raw -O qcow2 a.raw full.qcow2");
    make(directory, "cp full.qcow2 holed.qcow2 && fallocate -p -o 20M -l 30M holed.qcow2");
    for allocation in ["metadata", "falloc"] {
        make(directory, &format!("qemu-img create -q -f qcow2 -o preallocation={allocation} {allocation}.qcow2 96M"));
    }
    for file in ["full", "holed", "metadata", "falloc"] {
        let ask = |command: &str| format!("{command} -f qcow2 {file}.qcow2");
        let commands = ["map --output=json", "map", "measure -O qcow2", "measure --output=json -O raw"].map(ask);
        same(&programs, directory, &commands.each_ref().map(String::as_str));
    }
}

/// L15: what has metadata is checked; raw and the disk formats without a check of their own say so.
#[test]
fn check_of_every_format() {
    let Some(programs) = Programs::find() else { return };
    let directory = directory_of_images();
    let directory = directory.path();
    let mut checked = std::collections::BTreeSet::new();
    for Image { name, file, .. } in told_by_content() {
        let outcome = instar(&programs, directory, &format!("check --output=json {file}"));
        match outcome.code {
            Some(0) => {
                let told = json(&outcome, name);
                assert_eq!(number(&told, "check-errors"), 0, "{name}");
                checked.insert(told["format"].as_str().expect("a name").to_owned());
            }
            code => assert!(
                code == Some(63) && (name.starts_with("qcow") || name.starts_with("raw")),
                "{name}: {}",
                outcome.err
            ),
        }
    }
    let all = ["parallels", "qcow2", "qed", "vdi", "vhdx", "vmdk", "vpc"];
    assert!(all.iter().all(|format| checked.contains(*format)), "{checked:?}");
}

/// L16.
#[test]
fn dd_obeys_the_format_and_makes_readable_empty_images() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(
        directory,
        "truncate -s 3M a.raw; qemu-io -f raw -c 'write -P 1 0 700k' a.raw >/dev/null; qemu-img convert -f raw -O qcow2 a.raw a.qcow2",
    );
    let dd = |words: &str| {
        make(directory, "rm -f out");
        let outcome = programs.ours(directory, &format!("dd {words} if=a.qcow2 of=out bs=64k"));
        assert_eq!(outcome.code, Some(0), "{words}: {}", outcome.err);
    };
    dd("-f raw -O raw");
    make(directory, "cmp out a.qcow2");
    dd("-f qcow2 -O raw");
    make(directory, "cmp out a.raw");
    dd("-O qcow2 count=0");
    make(
        directory,
        "test \"$(qemu-img info -f qcow2 --output=json out | grep -c '\"virtual-size\": 0')\" = 1; qemu-img check -q out",
    );
}

/// L17.
#[test]
fn image_opts_and_objects() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(directory, "truncate -s 3M a.raw; qemu-img convert -f raw -O qcow2 a.raw a.qcow2");
    let (image, secret) = ("driver=qcow2,file.filename=a.qcow2", "--object secret,id=s,data=x");
    let mut commands = vec![
        format!("compare --image-opts {image} driver=raw,file.filename=a.raw"),
        format!("convert -O raw --image-opts {image} out"),
        format!("dd --image-opts if={image} of=out"),
        format!("compare {secret} a.qcow2 a.qcow2"),
        format!("convert {secret} -O raw a.qcow2 out"),
        format!("dd {secret} if=a.qcow2 of=out"),
    ];
    for operation in ["info", "check", "map", "measure"] {
        commands.extend([format!("{operation} --image-opts {image}"), format!("{operation} {secret} a.qcow2")]);
        commands.extend(["secret", "foo,id=a"].map(|object| format!("{operation} --object {object} a.qcow2")));
    }
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    same(&programs, directory, &commands);
}

/// L17.
#[test]
fn option_help() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let commands = [
        "convert -O qcow2 -o help",
        "convert -O raw -o help",
        "convert -O qcow2 -o help none out",
        "measure -O qcow2 -o help --size 1M",
    ];
    same(&programs, directory.path(), &commands);
    let help = programs.ours(directory.path(), "convert -O qcow2 -o help");
    assert!(help.code == Some(0) && help.out.contains("cluster_size=<size>"), "{}{}", help.out, help.err);
}

/// L22: a chain of 40 layers is read where the policy allows it, and one of 17 is not where it says nothing.
#[test]
fn chain_limits_are_policy_not_transport() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(
        directory,
        "truncate -s 1M 0.raw; qemu-io -f raw -c 'write -P 5 0 64k' 0.raw >/dev/null; qemu-img create -q -f qcow2 -b 0.raw -F raw 1.qcow2; \
         for i in $(seq 2 39); do qemu-img create -q -f qcow2 -b $((i-1)).qcow2 -F qcow2 $i.qcow2; done; \
         printf '[gate]\\nmax-depth = 64\\n' >deep.toml; true >plain.toml",
    );
    let convert = |top: u32, policy: &str| {
        let mut command = Command::new(programs.instar());
        command.current_dir(directory).env("INSTAR_CONFIG", directory.join(policy));
        command.args(["convert", "-O", "raw", &format!("{top}.qcow2"), "out"]).output().expect("it can be started")
    };
    let deep = convert(39, "deep.toml");
    assert!(deep.status.success(), "{}", String::from_utf8_lossy(&deep.stderr));
    make(directory, "cmp out 0.raw; rm out");
    assert!(convert(15, "plain.toml").status.success());
    make(directory, "cmp out 0.raw; rm out");
    for top in [16, 39] {
        let refused = convert(top, "plain.toml");
        assert!(refused.status.code() == Some(1) && !directory.join("out").exists(), "{top}");
    }
}

/// O9: what a file takes on its file system is asked of the file system, each time.
#[test]
fn disk_size_is_taken_from_stat() {
    let Some(programs) = Programs::find() else { return };
    // Two file systems, where there are two: what a file takes differs.
    let elsewhere = tempfile::tempdir_in("/dev/shm");
    let here = scratch();
    for directory in [Some(here.path()), elsewhere.as_ref().ok().map(tempfile::TempDir::path)].into_iter().flatten() {
        make(
            directory,
            "truncate -s 3M sparse; head -c 3M /dev/urandom >dense; head -c 1 /dev/urandom >one; \
             truncate -s 1M part; dd if=/dev/urandom of=part bs=4k seek=77 count=3 conv=notrunc status=none; \
             qemu-img create -q -f qcow2 empty.qcow2 64M; qemu-img create -q -f qcow2 -o preallocation=full full.qcow2 4M; sync -f .",
        );
        for (name, format) in [
            ("sparse", "raw"),
            ("dense", "raw"),
            ("one", "raw"),
            ("part", "raw"),
            ("empty.qcow2", "qcow2"),
            ("full.qcow2", "qcow2"),
        ] {
            let ask = format!("info --output=json -f {format} {name}");
            let told = json(&programs.ours(directory, &ask), &ask);
            let stat = directory.join(name).metadata().expect("it is there");
            let file = &told["children"][0]["info"];
            for size in [&told["actual-size"], &file["actual-size"]] {
                assert_eq!(size.as_u64(), Some(stat.blocks() * 512), "{name}: {told}");
            }
            assert_eq!(number(file, "virtual-size"), stat.len().next_multiple_of(512), "{name}");
            same(&programs, directory, &[&ask, &format!("info -f {format} {name}")]);
        }
        // It is what the file takes now.
        let size =
            || number(&json(&programs.ours(directory, "info --output=json -f raw sparse"), "sparse"), "actual-size");
        let before = size();
        make(directory, "dd if=/dev/urandom of=sparse bs=1M seek=1 count=1 conv=notrunc,fsync status=none");
        assert!(size() >= before + (1 << 20), "{before}");
    }
}
