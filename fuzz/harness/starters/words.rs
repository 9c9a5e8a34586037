//! What users write.

use instar_abi::format::Format;

/// An input of `options_parse`; 14 is no format.
fn input(kind: u8, format: u8, file_len: u64, text: &[u8]) -> Vec<u8> {
    [&[kind, format], file_len.to_le_bytes().as_slice(), text].concat()
}

pub fn all() -> Vec<(String, Vec<u8>)> {
    let none = u8::try_from(Format::ALL.len()).expect("few");
    let mib = 1 << 20;
    let json = br#"json:{"driver":"raw","offset":512,"size":"64k","file":{"driver":"file","filename":"a.img"}}"#;
    let nested = br#"json:{"driver":"raw","size":512,"file":{"driver":"raw","offset":1024,"file.filename":"a.img"}}"#;
    let mut inputs: Vec<(String, Vec<u8>)> = Vec::new();
    for (index, size) in ["4096", "0x1000", "1.5G", "0.1k", "7E", "15.999999999E", "16E", "1.5", "18446744073709551615"]
        .iter()
        .enumerate()
    {
        inputs.push((format!("size-{index}"), input(0, none, 0, size.as_bytes())));
    }
    let texts: [(&str, u8, &[u8]); 19] = [
        ("list", 1, b"driver=qcow2,file.filename=a,,b.img,lazy-refcounts=on"),
        ("list-first", 1, b"a.img,b,c==,,"),
        ("json", 2, br#"{"driver":"raw","file":{"driver":"file","filename":"x\u20ac"},"a":[1,-2,null,true]}"#),
        ("name-path", 3, b"dir/a.qcow2"),
        ("name-file", 3, b"file:nbd:a"),
        ("name-protocol", 3, b"nbd:localhost:10809"),
        ("name-json", 3, json),
        ("name-nested", 3, nested),
        ("name-backing", 3, br#"json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"a"}}"#),
        ("options", 4, b"driver=raw,offset=512,size=1024,file.driver=file,file.filename=a"),
        ("options-share", 4, b"driver=qcow2,force-share=on,file.filename=a"),
        ("policy", 5, b"[gate]\nbacking = \"none\"\nmax-depth = 3\nmax-disks = 10\n"),
        (
            "configuration",
            5,
            b"[output]\nformat = \"json\"\n[gate]\nraw = \"any\"\n[limits]\nheap = \"32M\"\ntime = 7\nguest-memory = 67108864\n\
              [convert]\nsparse = \"64k\"\nworkers = 2\n",
        ),
        ("policy-bad", 5, b"[gate]\nmax-depth = 65\n[gates]\n"),
        ("path", 6, b"a/../b/./c"),
        ("path-climbs", 6, b"../../etc/passwd"),
        ("arguments", 7, b"--format=raw\0-U\0a.img\0-o\0size=1"),
        ("arguments-short", 7, b"--fo\0raw\0-Uf\0qcow2\0--\0-x"),
        ("arguments-unknown", 7, b"--bogus=1\0-Z"),
    ];
    for (name, kind, text) in texts {
        inputs.push((name.to_owned(), input(kind, none, mib, text)));
    }
    inputs.push(("name-raw-window".to_owned(), input(3, 0, 1000, json)));
    inputs
}
