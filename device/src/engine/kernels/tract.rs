//! Glue to tract-linalg's matrix kernels: finds one by name and runs it over weight panels and activation tiles that stay
//! where they are, in the mapped file or in scratch. Results are rows of `[token][channel]`, f32 or i32.

#[cfg(target_arch = "aarch64")]
use super::I8Product;
use super::Row;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::tiling::Tiling;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::{F32Product, Fit};
use std::fmt;
use thimble_shared::artifact::layout::PANEL_ROWS;
use tract_core::internal::*;
use tract_linalg::mmm::{
    AsInputValue, FusedSpec, MMMInputFormat, MMMInputValue, MatMatMul, OutputStoreSpec, PackedExoticFact, ScratchSpace,
};

/// What all of its kernels that thimble calls take: panels of eight channels, and eight tokens, the last ones filled up.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const TILING: Tiling = Tiling {
    tokens: 8,
    padded: true,
};

/// A row of one of its f32 kernels.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! f32_row {
    ($(#[$attribute:meta])* $row:ident, $name:literal, $runs:expr) => {
        $(#[$attribute])*
        pub const $row: Row<F32Product> = Row {
            name: $name,
            runs: $runs,
            tiling: TILING,
            product: F32Product::Tract { packing: 0 },
        };
    };
}

#[cfg(target_arch = "x86_64")]
f32_row!(FMA_F32, "fma_mmm_f32_8x8", || Fit::Runs);
#[cfg(target_arch = "x86_64")]
f32_row!(AVX_F32, "avx_mmm_f32_8x8", || Fit::Runs);
#[cfg(target_arch = "aarch64")]
f32_row!(ARM_F32, "arm64simd_mmm_f32_8x8_gen", || Fit::Runs);
#[cfg(target_arch = "aarch64")]
f32_row!(A53_F32, "arm64simd_mmm_f32_8x8_a53", || scheduled_for("0xd03"));
#[cfg(target_arch = "aarch64")]
f32_row!(A55_F32, "arm64simd_mmm_f32_8x8_a55", || scheduled_for("0xd05"));

#[cfg(target_arch = "aarch64")]
pub const DOT_I8: Row<I8Product> = Row {
    name: "arm64simd_mmm_i32_8x8_dot",
    runs: || Fit::Runs,
    tiling: TILING,
    product: I8Product::Tract { packing: 1 },
};

/// How a kernel suits whose instructions stand in the order that one core wants. Of the in-order cores each wants another.
#[cfg(target_arch = "aarch64")]
fn scheduled_for(part: &str) -> Fit {
    if cpu_part().as_deref() == Some(part) {
        Fit::Tuned
    } else {
        Fit::Runs
    }
}

/// First `CPU part` of /proc/cpuinfo.
#[cfg(target_arch = "aarch64")]
fn cpu_part() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("CPU part"))?;
    Some(line.split(':').nth(1)?.trim().to_string())
}

/// A kernel of tract's, with the position of the packing it is called with.
#[derive(Clone)]
pub struct TractKernel {
    kernel: Box<dyn MatMatMul>,
    packing: usize,
}

/// Two packed operands, `k` deep: whole weight panels, and tiles filled up to the kernel's width.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    pub w: &'a [u8],
    pub channels: usize,
    pub x: &'a [u8],
    pub tokens: usize,
    pub k: usize,
    /// Bytes of one element of either operand.
    pub element: usize,
}

/// Where a kernel of tract's works and leaves its result. Reused between calls of one kernel.
pub struct Workspace {
    scratch: Box<dyn ScratchSpace>,
    out: Tensor,
}

impl TractKernel {
    /// The kernel of a row, if this build has it, this CPU runs it, and it takes panels of eight channels and the row's tiles.
    pub fn find<P>(row: &Row<P>, packing: usize) -> Option<TractKernel> {
        let mut all = tract_linalg::mmm_routines::declared().map(|r| (r.make)());
        let kernel = all.find(|k| k.name() == row.name && k.runnable())?;
        let fits = kernel.packings().get(packing).is_some_and(|(a, _)| a.r() == PANEL_ROWS);
        (fits && kernel.nr() == row.tiling.tokens).then_some(TractKernel { kernel, packing })
    }

    pub fn name(&self) -> &str {
        self.kernel.name()
    }

    pub fn workspace(&self) -> Workspace {
        // SAFETY: the scratch space is only ever handed back to the kernel it came from: `multiply` checks the result's
        // element type, and an engine has one kernel per type.
        let scratch = unsafe { self.kernel.allocate_scratch_space() };
        Workspace {
            scratch,
            out: Tensor::default(),
        }
    }

    /// Multiplies into the workspace and returns `tokens` rows of `channels` numbers.
    pub fn multiply<'w, T: Datum>(&self, operands: Operands<'_>, work: &'w mut Workspace) -> TractResult<&'w mut [T]> {
        let Operands {
            w,
            channels,
            x,
            tokens,
            k,
            element,
        } = operands;
        let (format_w, format_x) = &self.kernel.packings()[self.packing];
        ensure!(
            T::datum_type() == self.kernel.internal_type(),
            "{} computes another type",
            self.name()
        );
        ensure!(
            channels % PANEL_ROWS == 0 && w.len() >= channels * k * element,
            "weight panels are too short"
        );
        ensure!(
            x.len() >= tokens.next_multiple_of(format_x.r()) * k * element,
            "activation tiles are too short"
        );
        if work.out.datum_type() != T::datum_type() || work.out.len() < tokens * channels {
            work.out = Tensor::zero_dt(T::datum_type(), &[tokens * channels])?;
        }
        let a = Panels::new(format_w, w, channels, k, element);
        let b = Panels::new(format_x, x, tokens, k, element);
        let store = OutputStoreSpec::Strides {
            row_byte_stride: 4,
            col_byte_stride: (channels * 4) as isize,
            mr: self.kernel.mr(),
            nr: self.kernel.nr(),
        };
        // SAFETY: the operands were checked against the shapes the kernel is told and outlive the call; the output tensor
        // holds at least tokens × channels elements, which are the strides of `store`; on the scratch see `workspace`.
        unsafe {
            if !self.kernel.can_use_scratch_space(&*work.scratch) {
                work.scratch = self.kernel.allocate_scratch_space();
            }
            let specs = [
                FusedSpec::AddMatMul {
                    a: AsInputValue::Borrowed(&a),
                    b: AsInputValue::Borrowed(&b),
                    packing: self.packing,
                },
                FusedSpec::Store(store.wrap(&work.out.view_mut())),
            ];
            self.kernel
                .run_with_scratch_space(channels, tokens, &mut *work.scratch, &specs)?;
            Ok(&mut work.out.as_slice_mut_unchecked::<T>()[..tokens * channels])
        }
    }
}

impl fmt::Debug for TractKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One packed operand as tract's kernels see it: a row of panels at a fixed address. tract wants operands that own their
/// data (`'static`); this one is alive only inside [`TractKernel::multiply`], which holds the borrow.
#[derive(Clone, Hash, PartialEq, Eq)]
struct Panels {
    fact: PackedExoticFact,
    start: usize,
    panel_bytes: usize,
    mn: usize,
}

impl Panels {
    #[allow(clippy::borrowed_box)] // what tract hands out, and what can be cloned
    fn new(format: &Box<dyn MMMInputFormat>, data: &[u8], mn: usize, k: usize, element: usize) -> Panels {
        let fact = PackedExoticFact {
            format: format.clone(),
            mn: mn.to_dim(),
            k,
        };
        Panels {
            panel_bytes: format.r() * k * element,
            fact,
            start: data.as_ptr().expose_provenance(),
            mn,
        }
    }
}

impl MMMInputValue for Panels {
    fn format(&self) -> &dyn MMMInputFormat {
        &*self.fact.format
    }

    fn scratch_panel_buffer_layout(&self) -> Option<std::alloc::Layout> {
        None
    }

    fn panel_bytes(&self, i: usize, _buffer: Option<*mut u8>) -> TractResult<*const u8> {
        Ok(std::ptr::with_exposed_provenance(self.start + i * self.panel_bytes))
    }

    fn mn(&self) -> usize {
        self.mn
    }

    fn k(&self) -> usize {
        self.fact.k
    }

    fn exotic_fact(&self) -> &dyn ExoticFact {
        &self.fact
    }

    fn extract_at_mn_f16(&self, _: usize, _: &mut [f16]) -> TractResult<()> {
        bail!("panels of a mapped file are only read by kernels")
    }

    fn extract_at_mn_f32(&self, _: usize, _: &mut [f32]) -> TractResult<()> {
        bail!("panels of a mapped file are only read by kernels")
    }
}

impl fmt::Display for Panels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {} {}", self.mn, self.fact.k, self.fact.format)
    }
}

impl fmt::Debug for Panels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
