//! The queues by the thread that serves them.

use super::{Fault, Ring, TICK, lock, ready};
use rustix::event::{EventfdFlags, eventfd};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The queues of one thread, and what tells of work in those that run.
pub struct Kicks {
    rings: Vec<Arc<Mutex<Ring>>>,
    kicks: Vec<(usize, Arc<File>)>,
    /// There may be something to serve that no kick tells of.
    is_busy: bool,
}

impl Kicks {
    /// Of queues that don't run yet.
    pub fn new(rings: Vec<Arc<Mutex<Ring>>>) -> Self {
        Self { rings, kicks: Vec::new(), is_busy: false }
    }

    /// Looks which queues run now.
    pub fn look(&mut self) {
        let kick = |(index, ring): (usize, &Arc<Mutex<Ring>>)| Some((index, lock(ring).kick()?));
        self.kicks = self.rings.iter().enumerate().filter_map(kick).collect();
        self.is_busy = true;
    }

    /// What to wait for, with the number that [`Kicks::take`] takes.
    pub fn fds(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.kicks.iter().enumerate().map(|(index, (_, kick))| (index, kick.as_fd()))
    }

    /// How long to wait for it.
    pub fn patience(&self) -> Duration {
        if self.is_busy { Duration::ZERO } else { TICK }
    }

    /// Takes a kick that has come.
    ///
    /// # Errors
    /// As [`Ring::take`].
    pub fn take(&mut self, index: usize) -> Result<(), Fault> {
        let Some((ring, kick)) = self.kicks.get(index) else { return Ok(()) };
        self.is_busy = true;
        self.rings.get(*ring).map_or(Ok(()), |ring| lock(ring).take(kick))
    }

    /// Serves all queues once, each at most a full ring, if there may be anything to serve.
    ///
    /// The guest goes on meanwhile: as long as it offers more it need not kick, and everything else has its turn in
    /// between. Kicks are asked for again when all queues are empty.
    ///
    /// # Errors
    /// As [`Ring::serve`].
    pub fn serve(&mut self) -> Result<(), Fault> {
        if !self.is_busy {
            return Ok(());
        }
        self.is_busy = false;
        for ring in &self.rings {
            self.is_busy |= lock(ring).serve()?;
        }
        if !self.is_busy {
            for ring in &self.rings {
                self.is_busy |= !lock(ring).rest()?;
            }
        }
        Ok(())
    }
}

/// What threads and the one that started them say to each other.
struct Words {
    is_over: AtomicBool,
    fault: Mutex<Option<Fault>>,
    /// There is a fault.
    bell: File,
    /// Queues have started or stopped, or all is over: one a thread.
    news: Vec<File>,
}

/// The threads that serve queues. Dropped, they end.
pub struct Threads {
    words: Arc<Words>,
    waiting: Vec<Kicks>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Threads for these queues, which have not started.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn new(queues: Vec<Kicks>) -> io::Result<Self> {
        let event = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map(File::from);
        let news = queues.iter().map(|_| event()).collect::<Result<_, _>>()?;
        let words = Words { is_over: AtomicBool::new(false), fault: Mutex::new(None), bell: event()?, news };
        Ok(Self { words: Arc::new(words), waiting: queues, threads: Vec::new() })
    }

    /// Starts the threads; all of them run when this returns, and a filter may be laid on them.
    ///
    /// # Errors
    /// The host's.
    pub fn start(&mut self) -> io::Result<()> {
        let running = Arc::new(Barrier::new(1 + self.waiting.len()));
        for (index, mut kicks) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            let (words, running) = (Arc::clone(&self.words), Arc::clone(&running));
            let work = move || {
                running.wait();
                if let Err(fault) = serve(&mut kicks, &words, index) {
                    lock(&words.fault).get_or_insert(fault);
                    ring(&words.bell);
                }
            };
            self.threads.push(std::thread::Builder::new().spawn(work)?);
        }
        running.wait();
        Ok(())
    }

    /// Has the threads look which queues run now.
    pub fn look(&self) {
        self.words.news.iter().for_each(ring);
    }

    /// Can be read once a thread has found a fault.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.words.bell.as_fd()
    }

    /// The fault that a thread has found.
    ///
    /// # Errors
    /// That.
    pub fn fault(&self) -> Result<(), Fault> {
        lock(&self.words.fault).take().map_or(Ok(()), Err)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.words.is_over.store(true, Ordering::Release);
        self.look();
        for thread in self.threads.drain(..) {
            // A panic has been told of, and there is nobody to hand it to.
            let _ = thread.join();
        }
    }
}

fn ring(bell: &File) {
    // One that has been rung, and not heard yet, is still heard.
    let _ = (&*bell).write(&1u64.to_ne_bytes());
}

/// Serves a thread's queues until all is over.
fn serve(kicks: &mut Kicks, words: &Words, thread: usize) -> Result<(), Fault> {
    let Some(news) = words.news.get(thread) else { return Ok(()) };
    while !words.is_over.load(Ordering::Acquire) {
        let fds = std::iter::once(news.as_fd()).chain(kicks.fds().map(|(_, kick)| kick));
        let ready = ready(fds, kicks.patience()).map_err(Fault::Host)?;
        for index in ready.iter().filter_map(|source| source.checked_sub(1)) {
            kicks.take(index)?;
        }
        if ready.first() == Some(&0) {
            let _ = (&*news).read(&mut [0; 8]);
            kicks.look();
        }
        kicks.serve()?;
    }
    Ok(())
}
