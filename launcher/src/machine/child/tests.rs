//! Children that are not what [`child_main`] makes of them: somebody has taken them over.

use super::*;
use crate::job;
use instar_abi::request::{Budget, LayerId, Op, Request};
use std::io::Write as _;
use std::os::fd::BorrowedFd;
use std::time::Instant;

const LIMITS: Limits = Limits { time: Duration::from_secs(60), ..job::limits::INFO };

fn request() -> Request {
    let budget = Budget { heap_bytes: 1, read_bytes: 2, steps: 3, depth: 4 };
    Request::new(Op::Info { image: LayerId(0), details: false }, Vec::new(), Vec::new(), budget)
}

fn job(request: &Request) -> Job<'_> {
    Job { image: &[], request, disks: Vec::new(), limits: LIMITS, transport: Transport::Table, outside: None }
}

/// The bytes of a report: a frame, the end, and that the child waits.
fn report() -> Vec<u8> {
    let (mut file, last) = (tempfile::tempfile().expect("a file"), End::Done { lengths: Vec::new() });
    let mut writer = Writer::new(file.try_clone().expect("a descriptor"));
    writer.frame(&Frame::Progress { done: 1, total: 2 }).expect("written");
    writer.outcome(Ok(Last { end: last, errno: None, waits: true })).expect("written");
    let mut bytes = Vec::new();
    io::Seek::rewind(&mut file).expect("a file");
    io::Read::read_to_end(&mut file, &mut bytes).expect("readable");
    bytes
}

/// A child that says `first`, and `then` as soon as it is spoken to; it waits for its death.
fn worker(first: &[u8], then: &[u8]) -> Worker {
    let request = request();
    let (orders, theirs) = orders::pair().expect("sockets");
    let child = process::spawn(bounds(&LIMITS), |mut pipe| {
        let wait = |from: BorrowedFd<'_>| rustix::io::read(from, &mut [0; 1 << 10][..]).is_ok();
        let _ = pipe.write_all(first).is_ok() && wait(theirs.as_fd()) && pipe.write_all(then).is_ok();
        loop {
            std::thread::park();
        }
    });
    Worker { child: child.expect("a child"), orders, kind: Kind::of(&job(&request)), disks: Vec::new() }
}

fn finish(worker: Worker) -> Result<(usize, Option<Worker>), NoEnd> {
    let mut frames = 0;
    let (last, worker) = worker.finish(&mut |_| frames += 1, &job(&request()))?;
    assert_eq!((last.end, last.waits), (End::Done { lengths: Vec::new() }, true));
    Ok((frames, worker))
}

fn is_refused<T>(result: Result<T, NoEnd>) -> bool {
    matches!(result, Err(NoEnd::Machine(MachineError::Reply(ReplyFault::AfterEnd))))
}

/// It was read as the front of the next run's report.
#[test]
fn what_a_child_says_behind_its_end_is_refused() {
    let (frames, kept) = finish(worker(&report(), &[])).expect("a sound report");
    assert!(frames == 1 && kept.is_some());
    for more in [&report()[..], &[0]] {
        assert!(is_refused(finish(worker(&[&report(), more].concat(), &[]))), "{} bytes more", more.len());
    }
}

/// It has waited until the run before was told, and speaks before the next one is ordered.
#[test]
fn a_child_that_speaks_between_two_runs_gets_no_order() {
    let (_, kept) = finish(worker(&report(), &report())).expect("a sound report");
    let mut worker = kept.expect("it waits");
    worker.is_silent().expect("nothing said");
    rustix::io::write(&worker.orders, b"?").expect("it listens");
    let start = Instant::now();
    while !worker.child.has_more().expect("a pipe") {
        assert!(start.elapsed() < Duration::from_secs(60), "it says nothing");
        std::thread::yield_now();
    }
    let request = request();
    assert!(is_refused(worker.order(&job(&request), &[], 0)));
}

/// A child that is gone has not spoken: its death is told as such.
#[test]
fn a_child_that_died_between_two_runs_is_told_as_dead() {
    let (_, kept) = finish(worker(&report(), &[])).expect("a sound report");
    let mut worker = kept.expect("it waits");
    worker.child.kill();
    let request = request();
    worker.order(&job(&request), &[], 0).expect("it has said nothing");
    let end = worker.finish(&mut |_| {}, &job(&request)).map(drop);
    assert!(matches!(end, Err(NoEnd::Machine(MachineError::ChildKilled { .. }))), "{end:?}");
}
