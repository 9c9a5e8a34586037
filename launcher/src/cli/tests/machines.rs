//! How many machines a command line takes: one serves runs of the same op image until nobody has another.

use super::*;
use instar_abi::check::Checked;

/// Guests that follow one another in a machine where they may; a check finds nothing.
#[derive(Default)]
struct Machines {
    guest: Guest,
    started: Vec<&'static str>, // the op image of each
    runs: Vec<&'static str>,
    waits: Option<&'static str>,
}

impl Machine for Machines {
    fn rest(&mut self) {
        self.waits = None;
        self.guest.rest();
    }

    fn run(&mut self, job: &Job, then: Then, on_frame: &mut dyn FnMut(Frame)) -> Result<End, NoEnd> {
        self.runs.push(job.op);
        if self.waits != Some(job.op) {
            self.started.push(job.op);
        }
        self.waits = (then == Then::GoOn).then_some(job.op);
        match job.request.op {
            Op::Check(_) => {
                on_frame(Frame::Checked(Checked::new(Format::Raw)));
                Ok(End::Done { lengths: vec![] })
            }
            _ => self.guest.run(job, then, on_frame),
        }
    }
}

fn runs(args: &[&str]) -> (Vec<&'static str>, Machines) {
    let mut machines = Machines::default();
    let (out, err) = (Capture::default(), Capture::default());
    let mut terminal = Terminal::new(Mode::Instar, Box::new(out), Box::new(err.clone()));
    let args = [&["instar"], args].concat();
    let code = main_on(args.iter().map(OsString::from), &mut machines, &mut terminal);
    let errors = String::from_utf8_lossy(&err.0.lock().expect("not poisoned")).into_owned();
    assert_eq!(code, ExitCode::SUCCESS, "{errors}");
    assert_eq!(machines.waits, None, "{args:?} leaves a machine behind");
    (std::mem::take(&mut machines.runs), machines)
}

/// Each layer took two: they were looked at and checked in turns.
#[test]
fn a_chain_is_checked_in_two_machines() {
    let files = Files::new();
    files.add("0", b"the lowest");
    for layer in 1..8 {
        files.add(&layer.to_string(), format!("needs {}", layer - 1).as_bytes());
    }
    let (runs_of_chain, machines) = runs(&["check", "--chain", "-f", "raw", &files.name("7")]);
    assert_eq!(runs_of_chain, [vec!["info"; 8], vec!["check"; 8]].concat());
    assert_eq!(machines.started, ["info", "check"]);
    let (_, machines) = runs(&["check", "-f", "raw", &files.name("7")]);
    assert_eq!(machines.started, ["check"], "nobody asked what is below");
}
