//! The registers of one virtio-blk device with one queue, whatever bus they lie on.
//!
//! Strict ones take what the narrowest of other machines takes, and nothing else: a driver that gets by with them gets
//! by everywhere.

use super::queue::{QUEUE_SIZE_MAX, Registers};

/// How much a device puts up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// Whatever does no harm, until the device runs.
    Lenient,
    /// One status bit at a time, features and queues in their turn, nothing unasked for.
    Strict,
}

/// What a register write asks the machine to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A queue is set up.
    QueueReady {
        /// The device.
        device: usize,
        /// Its queue.
        registers: Registers,
    },
    /// There is work in the device's queue.
    Notify {
        /// The device.
        device: usize,
    },
}

/// A write that is not its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfTurn;

/// An address of the queue's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// Descriptor table.
    Descriptors,
    /// Available ring.
    Driver,
    /// Used ring.
    Device,
}

/// Which half of a 64-bit register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Bits 0 to 31.
    Low,
    /// Bits 32 to 63.
    High,
}

/// Device status (virtio 1.2, 2.1).
mod status {
    pub const DRIVER: u32 = 3;
    pub const FEATURES_OK: u32 = 11;
    pub const DRIVER_OK: u32 = 15;
    /// Reset, and every step up from it.
    pub const STEPS: [(u32, u32); 4] = [(0, 1), (1, DRIVER), (DRIVER, FEATURES_OK), (FEATURES_OK, DRIVER_OK)];
}

/// One device's registers.
#[derive(Debug, Clone)]
pub struct DeviceRegisters {
    manners: Manners,
    index: usize,
    features: u64,
    sectors: u64,
    driver_features: u64,
    /// Which half of the device's features is read.
    pub feature_select: u32,
    /// Which half of the driver's features is written.
    pub driver_feature_select: u32,
    /// Which queue is meant; there is one.
    pub queue_select: u32,
    status: u32,
    queue: Registers,
}

impl DeviceRegisters {
    /// Device `index` after a reset.
    #[must_use]
    pub fn new(manners: Manners, index: usize, features: u64, sectors: u64) -> Self {
        Self {
            manners,
            index,
            features,
            sectors,
            driver_features: 0,
            feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            status: 0,
            queue: Registers::default(),
        }
    }

    /// The half of the device's features that is selected.
    #[must_use]
    pub fn device_features(&self) -> u32 {
        match self.feature_select {
            0 => self.features as u32,
            1 => (self.features >> 32) as u32,
            _ => 0,
        }
    }

    /// Takes a half of the driver's features.
    ///
    /// # Errors
    /// [`OutOfTurn`]: the device runs; or strict, and the driver has not said it is there, or takes what was not offered.
    pub fn take_features(&mut self, value: u32) -> Result<(), OutOfTurn> {
        let value = u64::from(value);
        self.driver_features = match self.driver_feature_select {
            0 => self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features & 0xffff_ffff | value << 32,
            _ => self.driver_features,
        };
        self.turn(self.status == status::DRIVER && self.driver_features & !self.features == 0)
    }

    /// The device status.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.status
    }

    /// Takes a device status.
    ///
    /// # Errors
    /// [`OutOfTurn`]: the device runs; or strict, and neither a reset nor the next step.
    pub fn set_status(&mut self, value: u32) -> Result<(), OutOfTurn> {
        let reset = value == 0 && self.status != status::DRIVER_OK;
        self.turn(reset || status::STEPS.contains(&(self.status, value)))?;
        self.status = value;
        Ok(())
    }

    /// Longest queue.
    #[must_use]
    pub fn queue_size_max(&self) -> u16 {
        if self.queue_select == 0 { QUEUE_SIZE_MAX } else { 0 }
    }

    /// The queue as it has been set up.
    #[must_use]
    pub fn queue(&self) -> &Registers {
        &self.queue
    }

    /// Takes the queue's length.
    ///
    /// # Errors
    /// [`OutOfTurn`]: the device runs; or strict, and it is not the time for queues.
    pub fn set_queue_size(&mut self, size: u16) -> Result<(), OutOfTurn> {
        self.turn(self.is_time_for_queues())?;
        self.queue.size = size;
        Ok(())
    }

    /// Takes half an address of the queue's.
    ///
    /// # Errors
    /// As [`DeviceRegisters::set_queue_size`].
    pub fn set_queue_address(&mut self, area: Area, half: Half, value: u32) -> Result<(), OutOfTurn> {
        self.turn(self.is_time_for_queues())?;
        let address = match area {
            Area::Descriptors => &mut self.queue.descriptors,
            Area::Driver => &mut self.queue.driver_area,
            Area::Device => &mut self.queue.device_area,
        };
        *address = match half {
            Half::Low => *address & !0xffff_ffff | u64::from(value),
            Half::High => *address & 0xffff_ffff | u64::from(value) << 32,
        };
        Ok(())
    }

    /// Takes the word that the queue is ready, once.
    ///
    /// # Errors
    /// As [`DeviceRegisters::set_queue_size`].
    pub fn set_queue_ready(&mut self, value: u32) -> Result<Effect, OutOfTurn> {
        self.turn(self.is_time_for_queues() && value == 1)?;
        if self.queue_select != 0 || value != 1 || self.queue.ready {
            return Ok(Effect::None);
        }
        self.queue.ready = true;
        Ok(Effect::QueueReady { device: self.index, registers: self.queue })
    }

    /// Takes a notification.
    ///
    /// # Errors
    /// [`OutOfTurn`]: strict, and the device does not run, or it has no such queue.
    pub fn notify(&self, queue: u32) -> Result<Effect, OutOfTurn> {
        if self.manners == Manners::Strict && (self.status != status::DRIVER_OK || queue != 0) {
            return Err(OutOfTurn);
        }
        Ok(if queue == 0 { Effect::Notify { device: self.index } } else { Effect::None })
    }

    /// A word of `virtio_blk_config`.
    #[must_use]
    pub fn config(&self, offset: u64) -> u32 {
        match offset {
            0 => self.sectors as u32,
            4 => (self.sectors >> 32) as u32,
            _ => 0,
        }
    }

    /// Whether strict manners ask for 32-bit access.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.manners == Manners::Strict
    }

    fn is_time_for_queues(&self) -> bool {
        self.status == status::FEATURES_OK && !self.queue.ready && self.queue_select == 0
    }

    /// A device that runs is served by what it was told: nobody tells it anything else.
    fn turn(&self, is_it: bool) -> Result<(), OutOfTurn> {
        let may = self.manners == Manners::Lenient && self.status & status::DRIVER_OK != status::DRIVER_OK;
        if is_it || may { Ok(()) } else { Err(OutOfTurn) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURES: u64 = 1 << 32 | 1 << 9;

    fn up_to(status: u32) -> DeviceRegisters {
        let mut device = DeviceRegisters::new(Manners::Strict, 0, FEATURES, 8);
        for step in [1, 3, 11, 15].into_iter().take_while(|&step| step <= status) {
            device.set_status(step).expect("in turn");
        }
        device
    }

    #[test]
    fn a_strict_status_goes_up_one_step_at_a_time() {
        for from in [0, 1, 3, 11, 15] {
            for to in 0..=255 {
                let next = status::STEPS.contains(&(from, to)) || (to == 0 && from != 15);
                assert_eq!(up_to(from).set_status(to).is_ok(), next, "{from} to {to}");
            }
        }
        let mut lenient = DeviceRegisters::new(Manners::Lenient, 0, FEATURES, 8);
        assert_eq!(lenient.set_status(15), Ok(()));
    }

    #[test]
    fn a_device_that_runs_is_not_set_up_anew() {
        for manners in [Manners::Lenient, Manners::Strict] {
            let mut device = DeviceRegisters::new(manners, 0, FEATURES, 8);
            for status in [1, 3, 11, 15] {
                device.set_status(status).expect("in turn");
            }
            assert_eq!(device.set_status(0), Err(OutOfTurn), "{manners:?}");
            assert_eq!(device.take_features(0), Err(OutOfTurn), "{manners:?}");
            assert_eq!(device.set_queue_size(8), Err(OutOfTurn), "{manners:?}");
            assert_eq!(device.set_queue_address(Area::Device, Half::Low, 8), Err(OutOfTurn), "{manners:?}");
            assert_eq!(device.set_queue_ready(1), Err(OutOfTurn), "{manners:?}");
            assert_eq!(device.notify(0), Ok(Effect::Notify { device: 0 }), "{manners:?}");
        }
    }

    #[test]
    fn a_strict_queue_is_set_up_between_features_and_the_driver_s_word() {
        for status in [0, 1, 3, 15] {
            let mut device = up_to(status);
            assert_eq!(device.set_queue_size(8), Err(OutOfTurn), "{status}");
            assert_eq!(device.set_queue_address(Area::Device, Half::Low, 8), Err(OutOfTurn), "{status}");
            assert_eq!(device.set_queue_ready(1), Err(OutOfTurn), "{status}");
        }
        let mut device = up_to(11);
        device.set_queue_size(8).expect("in turn");
        device.set_queue_address(Area::Driver, Half::High, 1).expect("in turn");
        device.set_queue_address(Area::Driver, Half::Low, 16).expect("in turn");
        let registers = Registers { size: 8, ready: true, driver_area: 1 << 32 | 16, ..Registers::default() };
        assert_eq!(device.set_queue_ready(1), Ok(Effect::QueueReady { device: 0, registers }));
        assert_eq!(device.set_queue_ready(1), Err(OutOfTurn));
        assert_eq!(device.set_queue_size(4), Err(OutOfTurn), "it is in use");
        assert_eq!(device.notify(0), Err(OutOfTurn));
        device.set_status(15).expect("in turn");
        assert_eq!(device.notify(0), Ok(Effect::Notify { device: 0 }));
        assert_eq!(device.notify(1), Err(OutOfTurn));
    }

    #[test]
    fn strict_features_are_those_offered() {
        let mut device = up_to(3);
        device.driver_feature_select = 1;
        assert_eq!(device.take_features(1), Ok(()));
        device.driver_feature_select = 0;
        assert_eq!(device.take_features(1 << 9), Ok(()));
        assert_eq!(device.take_features(1 << 28), Err(OutOfTurn));
        assert_eq!(up_to(11).take_features(0), Err(OutOfTurn));
    }
}
