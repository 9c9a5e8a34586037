//! Every kind of image that qemu-img can make.

/// An image.
pub struct Image {
    /// What it is called in lists.
    pub name: &'static str,
    /// Its file.
    pub file: &'static str,
    /// The format that qemu-img must be told, where it can't be told from content.
    pub format: Option<&'static str>,
    /// How qemu-img and its like make it, from `a.raw`.
    pub script: &'static str,
}

const fn image(name: &'static str, file: &'static str, script: &'static str) -> Image {
    Image { name, file, format: None, script }
}

const fn told(name: &'static str, file: &'static str, format: &'static str, script: &'static str) -> Image {
    Image { name, file, format: Some(format), script }
}

/// All of them.
pub const IMAGES: &[Image] = &[
    told("raw", "a.raw", "raw", "true"),
    told("raw-odd", "odd.raw", "raw", "head -c 1000 a.raw >odd.raw"),
    told("raw-empty", "empty.raw", "raw", "true >empty.raw"),
    image("raw-mbr", "mbr.raw", "cp a.raw mbr.raw; echo ',1M,83' | sfdisk -q mbr.raw"),
    image("qcow2", "plain.qcow2", "qemu-img convert -f raw -O qcow2 a.raw plain.qcow2"),
    image("qcow2-v2", "v2.qcow2", "qemu-img convert -f raw -O qcow2 -o compat=0.10 a.raw v2.qcow2"),
    image("qcow2-512", "small.qcow2", "qemu-img convert -f raw -O qcow2 -o cluster_size=512 a.raw small.qcow2"),
    image("qcow2-2M", "large.qcow2", "qemu-img convert -f raw -O qcow2 -o cluster_size=2M a.raw large.qcow2"),
    image("qcow2-zlib", "zlib.qcow2", "qemu-img convert -c -f raw -O qcow2 a.raw zlib.qcow2"),
    image("qcow2-zstd", "zstd.qcow2", "qemu-img convert -c -f raw -O qcow2 -o compression_type=zstd a.raw zstd.qcow2"),
    image(
        "qcow2-extended",
        "ext.qcow2",
        "qemu-img create -q -f qcow2 -o extended_l2=on ext.qcow2 8M; \
         qemu-io -c 'write 0 2k' -c 'write 5000 100k' -c 'write -z 1M 3k' -c 'write -z 4M 1M' ext.qcow2 >/dev/null",
    ),
    image(
        "qcow2-zeros",
        "zeros.qcow2",
        "qemu-img create -q -f qcow2 zeros.qcow2 8M; \
         qemu-io -c 'write -P 1 0 2M' -c 'write -z 64k 128k' -c 'write -z 4M 1M' -c 'discard 512k 64k' zeros.qcow2 >/dev/null",
    ),
    image("qcow2-metadata", "pre.qcow2", "qemu-img create -q -f qcow2 -o preallocation=metadata pre.qcow2 8M"),
    image("qcow2-falloc", "falloc.qcow2", "qemu-img create -q -f qcow2 -o preallocation=falloc falloc.qcow2 8M"),
    image(
        "qcow2-bitmaps",
        "bitmaps.qcow2",
        "qemu-img create -q -f qcow2 bitmaps.qcow2 1G; qemu-img bitmap --add bitmaps.qcow2 b0; \
         qemu-img bitmap --add -g 512 bitmaps.qcow2 another-name; qemu-img snapshot -c s1 bitmaps.qcow2",
    ),
    image(
        "qcow2-data-file",
        "outside.qcow2",
        "qemu-img create -q -f qcow2 -o data_file=outside.raw,data_file_raw=on outside.qcow2 8M; \
         qemu-io -c 'write 0 100k' -c 'write -z 3M 64k' outside.qcow2 >/dev/null",
    ),
    image(
        "chain",
        "top.qcow2",
        "qemu-img create -q -f qcow2 -b b.raw -F raw mid.qcow2; qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2 12M; \
         qemu-io -c 'write -P 7 64k 64k' mid.qcow2 >/dev/null; qemu-io -c 'write -z 3M 128k' -c 'write -P 8 10M 1k' top.qcow2 >/dev/null",
    ),
    image(
        "chain-vmdk",
        "over.vmdk",
        "qemu-img convert -f raw -O vmdk a.raw under.vmdk; qemu-img create -q -f vmdk -b under.vmdk -F vmdk over.vmdk; \
         qemu-io -f vmdk -c 'write -P 7 64k 64k' over.vmdk >/dev/null",
    ),
    image("qcow", "a.qcow", "qemu-img convert -f raw -O qcow a.raw a.qcow"),
    image("qed", "a.qed", "qemu-img convert -f raw -O qed a.raw a.qed"),
    image("vdi", "a.vdi", "qemu-img convert -f raw -O vdi a.raw a.vdi"),
    image("vdi-static", "static.vdi", "qemu-img convert -f raw -O vdi -o static=on a.raw static.vdi"),
    image("vpc", "a.vpc", "qemu-img convert -f raw -O vpc a.raw a.vpc"),
    image("vpc-forced", "forced.vpc", "qemu-img convert -f raw -O vpc -o force_size=on a.raw forced.vpc"),
    told("vpc-fixed", "fixed.vpc", "vpc", "qemu-img convert -f raw -O vpc -o subformat=fixed a.raw fixed.vpc"),
    image("vhdx", "a.vhdx", "qemu-img convert -f raw -O vhdx a.raw a.vhdx"),
    image("vhdx-1M", "small.vhdx", "qemu-img convert -f raw -O vhdx -o block_size=1M a.raw small.vhdx"),
    image("parallels", "a.parallels", "qemu-img convert -f raw -O parallels a.raw a.parallels"),
    image("vmdk", "a.vmdk", "qemu-img convert -f raw -O vmdk a.raw a.vmdk"),
    image("vmdk-flat", "flat.vmdk", "qemu-img convert -f raw -O vmdk -o subformat=monolithicFlat a.raw flat.vmdk"),
    image(
        "vmdk-2gb-sparse",
        "split.vmdk",
        "qemu-img create -q -f vmdk -o subformat=twoGbMaxExtentSparse split.vmdk 5G; \
         qemu-io -c 'write -P 1 70000 100k' -c 'write -P 2 2047M 2M' -c 'write -P 3 5119M 1M' split.vmdk >/dev/null",
    ),
    image(
        "vmdk-2gb-flat",
        "several.vmdk",
        "qemu-img create -q -f vmdk -o subformat=twoGbMaxExtentFlat several.vmdk 5G; \
         qemu-io -c 'write -P 1 70000 100k' -c 'write -P 2 2047M 2M' -c 'write -P 3 5119M 1M' several.vmdk >/dev/null",
    ),
    image(
        "vmdk-vmfs",
        "vmfs.vmdk",
        "printf '# Disk DescriptorFile\\nversion=1\\nCID=1\\nparentCID=ffffffff\\ncreateType=\"vmfs\"\\nRW 5000 VMFS \"b.raw\"\\n\
         RW 300 FLAT \"a.raw\" 70\\nRW 500 FLAT \"b.raw\" 5000\\n' >vmfs.vmdk",
    ),
    image(
        "chain-vmdk-flat",
        "upon.vmdk",
        "qemu-img convert -f raw -O vmdk -o subformat=twoGbMaxExtentFlat a.raw ground.vmdk; \
         qemu-img create -q -f vmdk -b ground.vmdk -F vmdk upon.vmdk; \
         qemu-io -f vmdk -c 'write -P 7 64k 64k' upon.vmdk >/dev/null",
    ),
    image(
        "vmdk-stream",
        "stream.vmdk",
        "qemu-img convert -f raw -O vmdk -o subformat=streamOptimized a.raw stream.vmdk",
    ),
];
