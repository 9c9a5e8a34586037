//! Command lines that are wrong, and those about no image: the same words, the same exit code.

use super::Programs;
use crate::common::{make, scratch};

const COMMANDS: &[&str] = &[
    "map",
    "map a b",
    "map none",
    "map -f foo a.raw",
    "map -s -1 a.qcow2",
    "map -l x a.qcow2",
    "map --max-length=9E a.qcow2",
    "map --output=xml a.qcow2",
    "map --image-opts -f raw a.raw",
    "map --image-opts driver=qcow2,file.filename=a.qcow2",
    "map --image-opts driver=raw,offset=512,size=1024,file.filename=a.raw",
    "map --output json --image-opts driver=raw,offset=512,size=1024,file.filename=a.raw",
    "measure",
    "measure a b",
    "measure none",
    "measure --size 1G a.raw",
    "measure --size 1G -l foo",
    "measure --size 1G -f raw",
    "measure --size 1G --image-opts",
    "measure --size 10X",
    "measure --size -1",
    "measure --size 8E",
    "measure --size 7.9E -O qcow2",
    "measure --size 64T -O qcow2 -o cluster_size=512",
    "measure --size 1G -O foo",
    "measure --size 1G -O vdi",
    "measure --size 1G -O qcow2 -o foo=1",
    "measure --size 1G -O qcow2 -o cluster_size=foo",
    "measure --size 1G -O qcow2 -o cluster_size=1000",
    "measure --size 1G -O qcow2 -o preallocation=foo",
    "measure --size 1G -O qcow2 -o compat=2",
    "measure --size 1G -O qcow2 -o refcount_bits=64,compat=0.10",
    "measure --size 1G -O qcow2 -o extended_l2=on,cluster_size=4k",
    "measure --size 1G -O raw -o cluster_size=1k",
    "measure --size 0",
    "measure --size 1000",
    "measure --size 0 -O qcow2",
    "measure --size 63T -O qcow2",
    "measure --size 1G -O qcow2",
    "measure --size 1T -O qcow2 -o cluster_size=2M,refcount_bits=1",
    "measure --size 1T -O qcow2 -o extended_l2=on,refcount_bits=64",
    "measure --size 1G -O qcow2 -o preallocation=full --output json",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=s",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=s,cipher-alg=aes-128",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=s,cipher-alg=aes-192",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=s,cipher-mode=cbc",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=s,cipher-alg=serpent-256,cipher-mode=cbc,ivgen-alg=plain64",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=s,cipher-alg=cast5-128,cipher-mode=cbc",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=s,cipher-alg=des3",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=none",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=s,cipher-mode=foo",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=s,hash-alg=foo",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=s,iter-time=5,hash-alg=sha512",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=s,detached-header=on",
    "measure -O luks --object secret,id=s,data=x --size 1M -o foo=1",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=s,cipher-mode=ctr",
    "measure -O luks --object secret,id=s,data=x --size 1M -o key-secret=s,cipher-mode=ecb,ivgen-alg=none",
    "measure -O luks --size 1M",
    "measure --object secret,id=s,data=x -O luks -o key-secret=s a.raw",
    "measure --object secret,id=s,data=x -O luks -o key-secret=s --size 0",
    "measure --object secret,id=s,data=x -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=aes-128,cluster_size=4k --size 1M",
    "measure --object secret,id=s,data=x -O qcow2 -o encrypt.format=aes,encrypt.key-secret=s --size 1M",
    "measure --object secret,id=s,data=x -O qcow2 -o encrypt.format=luks --size 1M",
    "measure --object secret,id=s,data=x -O qcow2 -o encryption=on --size 1M",
    "measure -O qcow2 -o size=3G a.qcow2",
    "measure -O qcow2 -l s1 a.qcow2",
    "measure -O qcow2 -l snapshot.id=1 a.qcow2",
    "compare",
    "compare a",
    "compare none a.raw",
    "compare a.raw none",
    "compare -f foo a.raw a.raw",
    "compare --image-opts -f raw a.raw a.raw",
    "compare -T foo a.raw a.raw",
    "compare -q a.raw a.qcow2",
    "compare -q a.raw b.raw",
    "compare -s a.raw longer.raw",
    "compare a.raw longer.raw",
    "compare longer.raw a.raw",
    "compare a.raw b.raw",
    "compare a.qcow2 b.raw",
    "compare -U a.qcow2 a.qcow2",
    "compare broken-l2.qcow2 a.raw",
    "compare a.raw broken-l2.qcow2",
    "dd",
    "dd if=a.raw",
    "dd of=x",
    "dd if=none of=x",
    "dd if=a.qcow2 of=x bs=0",
    "dd if=a.qcow2 of=x bs=5x",
    "dd if=a.qcow2 of=x bs=3G",
    "dd if=a.qcow2 of=x bs=-3",
    "dd if=a.qcow2 of=x count=x",
    "dd if=a.qcow2 of=x count=99999999999999999999",
    "dd if=a.qcow2 of=x skip=x",
    "dd if=a.qcow2 of=x foo=1",
    "dd if=a.qcow2 of=x foo",
    "dd if=a.qcow2 of=x bs=1M skip=99",
    "dd if=a.qcow2 of=x bs=1M skip=99 count=1",
    "dd if=a.qcow2 of=none/x",
    "dd -f foo if=a.qcow2 of=x",
];

#[test]
fn every_wrong_command_line_gets_qemu_img_s_words() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    // The last image has an L1 entry that points between clusters.
    make(
        directory,
        "truncate -s 3M a.raw; cp a.raw b.raw; qemu-io -f raw -c 'write -P 1 0 700k' -c 'write -P 2 2M 64k' a.raw >/dev/null; \
         cp a.raw longer.raw; truncate -s 4M longer.raw; qemu-img convert -f raw -O qcow2 a.raw a.qcow2; \
         qemu-img snapshot -c s1 a.qcow2; cp a.qcow2 broken-l2.qcow2; \
         printf '\\001' | dd of=broken-l2.qcow2 bs=1 seek=$((0x30007)) conv=notrunc status=none",
    );
    let differ: Vec<String> =
        COMMANDS.iter().filter_map(|command| programs.compare(directory, command).err()).collect();
    assert!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), COMMANDS.len(), differ.concat());
}

/// Progress that was told behind the last request kept the guest waiting for ever: nobody had rung for it.
#[test]
fn a_comparison_ends_though_its_last_progress_was_not_announced() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(
        directory,
        "truncate -s 8M a.raw; qemu-io -f raw -c 'write -P 1 0 700k' -c 'write -P 2 3M 1M' -c 'write 5M 64k' a.raw >/dev/null; \
         head -c 5120 a.raw >short.raw",
    );
    programs.compare(directory, "compare -f raw -F raw short.raw a.raw").expect("the same answer");
}
