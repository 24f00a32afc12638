//! The panel order: how a linear weight `W[out, in]` lies in the file so that matmul kernels compute from it in place.
//! f32 and f16: `P[out/8][in][8]`. int8: `P[out/8][in/4][8][4]`. int4: `P[out/8][in/32][4][8][4]` bytes, two int8 panels'
//! worth of steps in one. `out` is padded to a multiple of 8, `in` to one of 16 (int8) or 32 (int4). All numbers are
//! little-endian. Tables keep row-major order; int4 rows are padded to whole blocks.

use crate::dtype::{I4_BLOCK, Storage};

/// Output channels per panel: what the 8x8 f32, SMLAL and SDOT kernels take.
pub const PANEL_ROWS: usize = 8;
/// int8 input channels are padded to this, one 128-bit load.
pub const I8_DEPTH: usize = 16;
/// int8 input channels that lie together, the group one dot-product lane sums.
pub const I8_GROUP: usize = 4;
/// Bytes of one int4 block of a panel: 32 inputs of 8 channels.
pub const I4_BLOCK_BYTES: usize = I4_BLOCK * PANEL_ROWS / 2;
/// What is added to an int4 number to store it in four bits.
pub const I4_OFFSET: i8 = 8;
/// Every payload starts at a multiple of this in the file.
pub const ALIGNMENT: usize = 64;
/// Zero bytes that follow the last payload inside the file, since kernels may read past the last panel.
pub const TAIL: usize = 128;

/// Shape and order of one packed linear weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PanelLayout {
    /// What the numbers are, which decides order and padding.
    pub storage: Storage,
    /// Output channels, unpadded.
    pub out: usize,
    /// Input channels, unpadded.
    pub inp: usize,
}

impl PanelLayout {
    /// The layout of a weight `[out, inp]`.
    pub fn new(storage: Storage, out: usize, inp: usize) -> Self {
        PanelLayout { storage, out, inp }
    }

    /// Panels of 8 output channels, the last one perhaps padded.
    pub fn panels(&self) -> usize {
        self.out.div_ceil(PANEL_ROWS)
    }

    /// Output channels with padding: a multiple of 8.
    pub fn padded_out(&self) -> usize {
        self.panels() * PANEL_ROWS
    }

    /// Input channels with padding: a multiple of 16 for int8, of 32 for int4, unpadded for f32 and f16.
    pub fn padded_in(&self) -> usize {
        match self.storage {
            Storage::I8 => self.inp.next_multiple_of(I8_DEPTH),
            Storage::I4 => self.inp.next_multiple_of(I4_BLOCK),
            Storage::F32 | Storage::F16 => self.inp,
        }
    }

    /// int4 blocks of one channel.
    pub fn blocks(&self) -> usize {
        self.inp.div_ceil(I4_BLOCK)
    }

    /// Dimensions of the initializer that holds the panels.
    pub fn dims(&self) -> Vec<usize> {
        match self.storage {
            Storage::I8 => {
                vec![self.panels(), self.padded_in() / I8_GROUP, PANEL_ROWS, I8_GROUP]
            }
            Storage::I4 => vec![
                self.panels(),
                self.blocks(),
                I4_BLOCK / I8_GROUP / 2,
                PANEL_ROWS,
                I8_GROUP,
            ],
            Storage::F32 | Storage::F16 => vec![self.panels(), self.inp, PANEL_ROWS],
        }
    }

    /// Dimensions of the int4 multipliers, one per block and channel, with the axes the blocks have in their own dims.
    pub fn multiplier_dims(&self) -> Vec<usize> {
        vec![self.panels(), self.blocks(), 1, PANEL_ROWS, 1]
    }

    /// Bytes of all panels, padding included; scales and multipliers are tensors of their own.
    pub fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    /// Bytes of one panel of 8 output channels.
    pub fn panel_bytes(&self) -> usize {
        PANEL_ROWS * self.padded_in() * self.storage.bits() / 8
    }

    /// The layout of the int8 panels that int4 panels expand to.
    pub fn expanded(&self) -> PanelLayout {
        PanelLayout {
            storage: Storage::I8,
            out: self.out,
            inp: self.padded_in(),
        }
    }

    /// Where element `(n, k)` lies, in elements from the start. For int4 the elements are those of [`Self::expanded`].
    pub fn index(&self, n: usize, k: usize) -> usize {
        let panel = n / PANEL_ROWS * PANEL_ROWS * self.padded_in();
        let row = n % PANEL_ROWS;
        panel
            + match self.storage {
                Storage::I8 | Storage::I4 => (k / I8_GROUP * PANEL_ROWS + row) * I8_GROUP + k % I8_GROUP,
                Storage::F32 | Storage::F16 => k * PANEL_ROWS + row,
            }
    }

    /// Where the multiplier of row `n` and block `b` lies.
    pub fn multiplier_index(&self, n: usize, b: usize) -> usize {
        (n / PANEL_ROWS * self.blocks() + b) * PANEL_ROWS + n % PANEL_ROWS
    }

    /// Runs of elements that are adjacent both in a row and in its panel: int8 rows move four at a time.
    fn group(&self) -> usize {
        match self.storage {
            Storage::I8 | Storage::I4 => I8_GROUP,
            Storage::F32 | Storage::F16 => 1,
        }
    }

    /// Row-major numbers in panel order, `padding` where the panels have more.
    pub fn scatter<T: Copy>(&self, logical: &[T], padding: T) -> Vec<T> {
        let mut panels = vec![padding; self.padded_out() * self.padded_in()];
        let group = self.group();
        for (n, row) in logical.chunks_exact(self.inp).enumerate() {
            for (g, run) in row.chunks(group).enumerate() {
                let at = self.index(n, g * group);
                panels[at..at + run.len()].copy_from_slice(run);
            }
        }
        panels
    }

    /// Undoes [`Self::scatter`].
    pub fn gather<T: Copy>(&self, panels: &[T]) -> Vec<T> {
        (0..self.out)
            .flat_map(|n| (0..self.inp).map(move |k| panels[self.index(n, k)]))
            .collect()
    }
}

/// int4 numbers, two to a byte: of each run of `2 * half` numbers, number `i` is the low half of byte `i` and number
/// `half + i` its high half. Panels pack whole blocks (`half` = 128), table rows blocks of 32 (`half` = 16).
pub fn pack_int4(q: &[i8], half: usize) -> Vec<u8> {
    let nibble = |q: i8| (q + I4_OFFSET) as u8 & 15;
    q.chunks_exact(2 * half)
        .flat_map(|run| (0..half).map(move |i| nibble(run[i]) | nibble(run[half + i]) << 4))
        .collect()
}

/// Undoes [`pack_int4`].
pub fn unpack_int4(bytes: &[u8], half: usize) -> Vec<i8> {
    let number = |nibble: u8| nibble as i8 - I4_OFFSET;
    bytes
        .chunks_exact(half)
        .flat_map(|run| {
            let low = run.iter().map(move |b| number(b & 15));
            low.chain(run.iter().map(move |b| number(b >> 4)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_panels_hold_four_inputs_of_eight_channels_side_by_side() {
        let layout = PanelLayout::new(Storage::I8, 16, 16);
        assert_eq!(layout.index(0, 3), 3);
        assert_eq!(layout.index(1, 0), 4);
        assert_eq!(layout.index(0, 4), 32);
        assert_eq!(layout.index(8, 0), 8 * 16);
    }

    #[test]
    fn int4_numbers_share_a_byte_with_those_half_a_block_on() {
        let q: Vec<i8> = (0..64).map(|i| (i % 16) as i8 - 8).collect();
        let bytes = pack_int4(&q, 16);
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[3], (q[3] + 8) as u8 | ((q[19] + 8) as u8) << 4);
        assert_eq!(unpack_int4(&bytes, 16), q);
    }
}
