//! `--engine`, an option of every subcommand, and `INSTAR_ENGINE`, which is all that compatibility mode has.
#![forbid(unsafe_code)]

use super::Mode;
use super::grammar::{Opt, Support, UsageError};
use crate::machine::Choice;
use crate::render::escape::shown;
use std::ffi::{OsStr, OsString};

/// For help. It is taken out of the words before a subcommand reads them: none of their grammars has it.
pub(super) const ENGINE: Opt = Opt {
    id: "engine",
    short: None,
    long: &["engine"],
    value: Some("NAME"),
    help: "what makes the machine: builtin, qemu, cloud-hypervisor, firecracker, auto",
    support: Support::Ours,
};

const VARIABLE: &str = "INSTAR_ENGINE";

/// The user's choice, if any, and the other words.
pub(super) fn chosen(mode: Mode, args: Vec<OsString>) -> Result<(Option<Choice>, Vec<OsString>), UsageError> {
    let variable = std::env::var_os(VARIABLE).filter(|value| !value.is_empty());
    choose(mode, variable.as_deref(), args)
}

fn choose(
    mode: Mode,
    variable: Option<&OsStr>,
    args: Vec<OsString>,
) -> Result<(Option<Choice>, Vec<OsString>), UsageError> {
    let mut choice = variable.map(|value| named(VARIABLE, value)).transpose()?;
    if mode == Mode::QemuImg {
        return Ok((choice, args));
    }
    let mut left = Vec::with_capacity(args.len());
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_encoded_bytes() {
            b"--" => {
                left.push(arg);
                left.extend(args);
                break;
            }
            bytes => match typed(bytes) {
                Some(Some(value)) => choice = Some(name(value).ok_or_else(|| unknown("--engine", value))?),
                Some(None) => {
                    let missing = || UsageError::ValueMissing { option: Err("engine".to_owned()) };
                    choice = Some(named("--engine", &args.next().ok_or_else(missing)?)?);
                }
                None => left.push(arg),
            },
        }
    }
    Ok((choice, left))
}

/// The value that is given to the option by this word, if the word is the option. It may be shortened to what no
/// other option begins with.
fn typed(word: &[u8]) -> Option<Option<&[u8]>> {
    let mut parts = word.splitn(2, |&byte| byte == b'=');
    let option = parts.next()?;
    (option.len() >= b"--en".len() && b"--engine".starts_with(option)).then(|| parts.next())
}

fn named(what: &str, value: &OsStr) -> Result<Choice, UsageError> {
    name(value.as_encoded_bytes()).ok_or_else(|| unknown(what, value.as_encoded_bytes()))
}

fn name(value: &[u8]) -> Option<Choice> {
    Choice::from_name(value)
}

fn unknown(what: &str, value: &[u8]) -> UsageError {
    UsageError::with_try(format!("{what} expects one of {}, not '{}'", Choice::NAMES, shown(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{check, compare, convert_grammar, dd, info, map, measure};
    use crate::machine::Program;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn firecracker() -> Choice {
        Choice::Outside(Program::Firecracker)
    }

    #[test]
    fn the_last_word_counts_and_an_option_beats_the_variable() {
        let variable = Some(OsStr::new("auto"));
        let chosen =
            choose(Mode::Instar, variable, words(&["--engine", "qemu", "-f", "raw", "--engine=firecracker", "a"]));
        assert_eq!(chosen, Ok((Some(firecracker()), words(&["-f", "raw", "a"]))));
        assert_eq!(choose(Mode::Instar, variable, words(&["a"])), Ok((Some(Choice::Auto), words(&["a"]))));
        assert_eq!(choose(Mode::Instar, None, words(&["a"])), Ok((None, words(&["a"]))));
    }

    #[test]
    fn behind_two_dashes_and_in_compatibility_mode_it_is_a_file() {
        let file = words(&["--", "--engine"]);
        assert_eq!(choose(Mode::Instar, None, file.clone()), Ok((None, file)));
        let typed = words(&["--engine", "qemu"]);
        let variable = Some(OsStr::new("firecracker"));
        assert_eq!(choose(Mode::QemuImg, variable, typed.clone()), Ok((Some(firecracker()), typed)));
    }

    #[test]
    fn it_may_be_shortened_to_what_no_other_option_begins_with() {
        let short = words(&["--eng", "firecracker", "--en=firecracker", "--e", "--engines"]);
        assert_eq!(choose(Mode::Instar, None, short), Ok((Some(firecracker()), words(&["--e", "--engines"]))));
        let grammars = [check::GRAMMAR, compare::GRAMMAR, convert_grammar::GRAMMAR, dd::GRAMMAR];
        let grammars = grammars.into_iter().chain([info::GRAMMAR, map::GRAMMAR, measure::GRAMMAR]);
        let mut others = grammars.flat_map(|grammar| grammar.options).flat_map(|option| option.long);
        assert_eq!(others.find(|long| long.starts_with("en")), None);
    }

    #[test]
    fn what_is_no_engine_is_said() {
        let text = |chosen: Result<_, UsageError>| chosen.unwrap_err().to_string();
        let expected = "--engine expects one of builtin, qemu, cloud-hypervisor, firecracker, auto, not 'xen'";
        assert_eq!(text(choose(Mode::Instar, None, words(&["--engine", "xen"]))), expected);
        assert!(text(choose(Mode::QemuImg, Some(OsStr::new("xen")), words(&[]))).starts_with("INSTAR_ENGINE expects"));
        assert_eq!(text(choose(Mode::Instar, None, words(&["--engine"]))), "option '--engine' requires an argument");
    }
}
