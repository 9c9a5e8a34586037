//! Help, from the same tables that the grammar is made of.
#![forbid(unsafe_code)]

use super::grammar::{Grammar, Opt, Support};
use super::{Mode, QEMU_IMG_VERSION};

/// qemu-img's subcommands and what they do; those of ours apart.
const SUBCOMMANDS: [(&str, &str, bool); 15] = [
    ("amend", "change options of an existing image", false),
    ("bench", "time I/O requests", false),
    ("bitmap", "edit persistent bitmaps", false),
    ("check", "test metadata", true),
    ("commit", "write an overlay's changes into its backing file", false),
    ("compare", "tell whether two images have the same content", true),
    ("convert", "copy an image into a new one, changing its format", true),
    ("create", "make an image", false),
    ("dd", "copy blocks", true),
    ("info", "describe an image", true),
    ("map", "list an image's extents", true),
    ("measure", "tell how large an image would be", true),
    ("rebase", "change an image's backing file", false),
    ("resize", "change an image's virtual size", false),
    ("snapshot", "list and edit internal snapshots", false),
];

/// The name of a subcommand of qemu-img's.
#[must_use]
pub fn known_subcommand(name: &[u8]) -> Option<&'static str> {
    SUBCOMMANDS.iter().map(|(known, ..)| *known).find(|known| known.as_bytes() == name)
}

/// `--version`.
#[must_use]
pub fn version(mode: Mode) -> String {
    let ours = env!("CARGO_PKG_VERSION");
    match mode {
        Mode::Instar => format!("instar {ours}\n"),
        Mode::QemuImg => format!("qemu-img version {QEMU_IMG_VERSION} (instar {ours})\n"),
    }
}

/// `--help`.
#[must_use]
pub fn program(mode: Mode) -> String {
    let name = mode.program();
    let mut text = version(mode);
    text += "Disk images that nobody should trust: every operation runs in a virtual machine of its own.\n\n";
    text += &format!("Usage: {name} [--help | --version] COMMAND [--help | OPTIONS] ARGUMENTS\n\n");
    text += "Commands:\n";
    for (command, about, _) in SUBCOMMANDS.iter().filter(|(.., supported)| *supported) {
        text += &format!("  {command:<10} {about}\n");
    }
    if mode == Mode::Instar {
        text += "  config     show the configuration, or check a file of it\n";
        text += "  doctor     tell what this machine lacks, and what mends it\n";
        text += "  image      list, locate and explain the operations' guest images\n";
    }
    let not_yet = SUBCOMMANDS.iter().filter(|(.., supported)| !supported).map(|(command, ..)| *command);
    text += &format!("\nNot supported yet by this version: {}\n", not_yet.collect::<Vec<_>>().join(" "));
    text += "\nSupported formats: raw qcow2\n";
    if mode == Mode::Instar {
        text += "\n--qemu-img-compat before the command, or the name qemu-img, makes it behave as qemu-img does.\n";
    }
    text
}

/// `SUBCOMMAND --help`.
#[must_use]
pub fn subcommand(mode: Mode, name: &str, grammar: &Grammar) -> String {
    let mut text = format!("{}\n\n", grammar.about);
    text += &format!("Usage: {} {name} [OPTIONS] {}\n\nOptions:\n", mode.program(), grammar.arguments);
    let shown = grammar.options.iter().filter(|option| option.support != Support::Ours || mode == Mode::Instar);
    for option in shown.clone().filter(|option| option.support != Support::NotYet) {
        text += &line(option);
    }
    if mode == Mode::Instar && known_subcommand(name.as_bytes()).is_some() {
        text += &line(&super::engine::ENGINE);
    }
    text += &line(&Opt {
        id: "help",
        short: Some('h'),
        long: &["help"],
        value: None,
        help: "print this help",
        support: Support::Full,
    });
    let not_yet: Vec<String> = shown.filter(|option| option.support == Support::NotYet).map(spelling).collect();
    if !not_yet.is_empty() {
        text += &format!("\nNot supported yet by this version: {}\n", not_yet.join(" "));
    }
    text
}

fn line(option: &Opt) -> String {
    let short = option.short.map_or_else(
        || "   ".to_owned(),
        |short| format!("-{short}{}", if option.long.is_empty() { " " } else { "," }),
    );
    let long = option.long.first().map(|long| format!(" --{long}")).unwrap_or_default();
    let value = option.value.map(|value| format!(" {value}")).unwrap_or_default();
    format!("  {:<32} {}\n", format!("{short}{long}{value}"), option.help)
}

fn spelling(option: &Opt) -> String {
    option.short.map_or_else(|| format!("--{}", option.long[0]), |short| format!("-{short}"))
}
