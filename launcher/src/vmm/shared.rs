//! What the vCPUs of a run share: memory, the deadline, why to stop, and how to start one another.

use super::block::GuestFault;
use super::memory::Memory;
use super::{mmio, pci};
use crate::disk::Disk;
use kvm_bindings::kvm_sregs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Why a run stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The guest switched the machine off. Whether it ended well is in the reply and the epitaph.
    PowerOff,
    /// A lane has no more work.
    LaneEnd,
    /// The guest broke the contract of its devices.
    GuestFault(GuestFault),
    /// Three faults in a row.
    TripleFault,
    /// The guest halted, which it never does.
    Halted,
    /// KVM gave up.
    InternalError,
    /// The wall-clock limit is over.
    TimeOut {
        /// Where the guest was.
        rip: u64,
    },
    /// A KVM call failed with this errno.
    Kvm(i32),
}

/// Where another lane starts.
pub struct Start {
    /// Lane 0's system registers.
    pub sregs: kvm_sregs,
    /// First instruction.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
}

/// Longest sleep of a lane that waits for another: what it waits for may have happened just before.
const SLEEP_MAX: Duration = Duration::from_micros(500);

/// Where the guest finds its devices.
pub enum Bus {
    /// In its own memory.
    Table,
    /// In windows that the command line names.
    Mmio(mmio::Bus),
    /// On a PCI bus.
    Pci(pci::Bus),
}

/// What all vCPUs of a run share.
pub struct Shared {
    /// Guest memory.
    pub memory: Memory,
    /// Where the guest finds its devices.
    pub bus: Bus,
    /// Port and value that switch the machine off.
    pub power_off: (u16, Option<u8>),
    turn: Mutex<Turn>,
    starts: Vec<SyncSender<Start>>,
    started: AtomicBool, // some lane was, ever
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

/// What one run has of its own; a machine may see several.
pub struct Turn {
    deadline: Instant,
    stop: Option<Stop>,
    devices: Vec<Arc<dyn Disk>>,
}

impl Turn {
    /// Of a run on these devices that may take `time_limit` from now.
    #[must_use]
    pub fn new(time_limit: Duration, devices: Vec<Arc<dyn Disk>>) -> Self {
        Self { deadline: Instant::now() + time_limit, stop: None, devices }
    }
}

impl Shared {
    /// Of a machine whose first run is `turn`; `starts` leads to lane 1 and those after it.
    #[must_use]
    pub fn new(
        memory: Memory,
        bus: Bus,
        power_off: (u16, Option<u8>),
        starts: Vec<SyncSender<Start>>,
        turn: Turn,
    ) -> Self {
        Self {
            memory,
            bus,
            power_off,
            turn: Mutex::new(turn),
            starts,
            started: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins another run.
    pub fn begin(&self, turn: Turn) {
        *self.turn() = turn;
    }

    /// The devices of this run.
    #[must_use]
    pub fn devices(&self) -> Vec<Arc<dyn Disk>> {
        self.turn().devices.clone()
    }

    /// Whether the wall-clock limit is over.
    #[must_use]
    pub fn expired(&self) -> bool {
        Instant::now() >= self.turn().deadline
    }

    /// Why the run has to stop, once some vCPU has said so.
    #[must_use]
    pub fn stopped(&self) -> Option<Stop> {
        self.turn().stop
    }

    /// Stops the run; the first reason stays.
    pub fn stop(&self, stop: Stop) {
        self.turn().stop.get_or_insert(stop);
    }

    /// Sleeps until another vCPU has made a step, or for a moment: this one's lane waits for another lane. A busy
    /// host needs the core for that one.
    pub fn wait_for_others(&self) {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.wake.wait_timeout(guard, SLEEP_MAX));
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes those who wait: a lane has come to an exit, or to its end.
    pub fn wake_others(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake.notify_all();
        }
    }

    /// Starts lane `lane`, at once or when its thread has seen the end of what it ran before. False when
    /// there is no such lane, or a start is waiting already.
    #[must_use]
    pub fn start_lane(&self, lane: u32, start: Start) -> bool {
        let starts = (lane as usize).checked_sub(1).and_then(|index| self.starts.get(index));
        self.started.store(true, Ordering::Relaxed);
        starts.is_some_and(|starts| starts.try_send(start).is_ok())
    }

    /// Whether any lane but the first has ever run.
    #[must_use]
    pub fn has_started_lanes(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }
}
