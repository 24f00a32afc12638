//! What all ops of one engine share: the kernels chosen, the threads, scratch memory that is reused from op to op, and an
//! optional observer of what goes into the linear maps.

use crate::engine::kernels::pack::{PackedF32, PackedI8};
use crate::engine::kernels::{KernelWork, Kernels};
use crate::engine::profile::Profile;
use crate::engine::threads::Pool;
use crate::image::buffer::Buffer;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use thimble_shared::dtype::InputRange;
use thimble_shared::model::{Role, Site};

/// What enters a linear map, for calibration: whole rows, padding of shorter sequences in a batch included.
#[derive(Clone, Copy, Debug)]
pub struct LinearInput<'a> {
    /// What the weight is; the inputs of query, key and value are the same and reported for each.
    pub role: Role,
    /// The layer of its own weights, if it belongs to one.
    pub site: Option<Site>,
    /// Layer of the network (groups are shared by several), or none in the embedding and the head.
    pub layer: Option<usize>,
    /// `[rows, width]`, row-major.
    pub x: &'a [f32],
    pub width: usize,
}

pub type Observer = Arc<dyn Fn(&LinearInput<'_>) + Send + Sync>;

/// Memory one task works in.
#[derive(Default)]
pub struct Scratch {
    pub work: KernelWork,
    pub panels: Buffer,
    /// int8 panels on their way from int4 to f32.
    pub narrow: Buffer,
    pub tile: Vec<f32>,
    pub x: PackedF32,
    /// For a product whose factor lies in `work`.
    pub second: KernelWork,
    /// Queries of int8 attention, and what their products with the keys weigh.
    pub queries: PackedI8,
    pub weights: PackedI8,
}

/// A linear input, packed once for all weights that read it.
#[derive(Default)]
pub struct Packed {
    pub f32: PackedF32,
    /// One for each range that the weights ask for, and what is left of earlier inputs behind them.
    i8: Vec<PackedI8>,
}

impl Packed {
    /// Quantizes an input over each of the ranges its weights ask for.
    pub fn quantize(
        &mut self,
        ranges: impl Iterator<Item = InputRange> + Clone,
        pack: impl Fn(&mut PackedI8, InputRange),
    ) {
        let wanted = |range| ranges.clone().any(|r| r == range);
        let wanted = InputRange::ALL.into_iter().filter(|range| wanted(*range));
        for (slot, range) in wanted.enumerate() {
            if slot == self.i8.len() {
                self.i8.push(PackedI8::default());
            }
            pack(&mut self.i8[slot], range);
        }
    }

    /// The input quantized over `range`, which [`Packed::quantize`] was asked for last: the first of that range, since leftovers
    /// stand behind.
    pub fn int8(&self, range: InputRange) -> Option<&PackedI8> {
        self.i8.iter().find(|packed| packed.range == range)
    }
}

pub struct Context {
    pub kernels: Kernels,
    pub pool: Pool,
    pub profile: Profile,
    scratch: Mutex<Vec<Scratch>>,
    packed: Mutex<Vec<Packed>>,
    observer: RwLock<Option<Observer>>,
    /// 1 + the layer being computed; 0 outside the blocks. Only observers and profiles read it.
    layer: AtomicUsize,
}

impl Context {
    pub fn new(kernels: Kernels, pool: Pool) -> Arc<Context> {
        Arc::new(Context {
            kernels,
            pool,
            profile: Profile::default(),
            scratch: Mutex::default(),
            packed: Mutex::default(),
            observer: RwLock::default(),
            layer: AtomicUsize::new(0),
        })
    }

    pub fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> R {
        let mut scratch = take(&self.scratch);
        let result = f(&mut scratch);
        give(&self.scratch, scratch);
        result
    }

    pub fn with_packed<R>(&self, f: impl FnOnce(&mut Packed) -> R) -> R {
        let mut packed = take(&self.packed);
        let result = f(&mut packed);
        give(&self.packed, packed);
        result
    }

    pub fn set_observer(&self, observer: Option<Observer>) {
        *self.observer.write().unwrap_or_else(PoisonError::into_inner) = observer;
    }

    pub fn observer(&self) -> Option<Observer> {
        self.observer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn enter_layer(&self, layer: Option<usize>) {
        self.layer.store(layer.map_or(0, |l| l + 1), Ordering::Relaxed);
    }

    pub fn layer(&self) -> Option<usize> {
        self.layer.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// A poisoned lock only means that a panic left scratch memory in some state; nobody relies on its content.
fn take<T: Default>(pool: &Mutex<Vec<T>>) -> T {
    pool.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop()
        .unwrap_or_default()
}

fn give<T>(pool: &Mutex<Vec<T>>, item: T) {
    pool.lock().unwrap_or_else(PoisonError::into_inner).push(item);
}

/// Ops are compared by tract; two share a context when it is the same one.
impl PartialEq for Context {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Context {}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "f32 {}, i8 {}, {} threads",
            self.kernels.f32.name(),
            self.kernels.i8.name(),
            self.pool.threads()
        )
    }
}
