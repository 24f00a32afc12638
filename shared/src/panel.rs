//! The panel order: how a linear weight `W[out, in]` lies in the file so that matmul kernels compute from it in place.
//! f32 and f16: `P[out/8][in][8]`. int8: `P[out/8][in/4][8][4]`. `out` is padded with zeros to a multiple of 8, and for
//! int8 `in` to a multiple of 16. All numbers are little-endian. Tables keep row-major order and need no packing.

use crate::number::{Format, Values};
use half::f16;

/// Output channels per panel: what the 8x8 f32, SMLAL and SDOT kernels take.
pub const PANEL_ROWS: usize = 8;
/// int8 input channels are padded to this, one 128-bit load.
pub const I8_DEPTH: usize = 16;
/// int8 input channels that lie together, the group one dot-product lane sums.
pub const I8_GROUP: usize = 4;
/// Every payload starts at a multiple of this in the file.
pub const ALIGNMENT: usize = 64;
/// Zero bytes that follow the last payload inside the file, since kernels may read past the last panel.
pub const TAIL: usize = 128;

/// Shape and order of one packed linear weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PanelLayout {
    pub format: Format,
    /// Output channels, unpadded.
    pub out: usize,
    /// Input channels, unpadded.
    pub inp: usize,
}

impl PanelLayout {
    pub fn new(format: Format, out: usize, inp: usize) -> Self {
        PanelLayout { format, out, inp }
    }

    pub fn panels(&self) -> usize {
        self.out.div_ceil(PANEL_ROWS)
    }

    pub fn padded_out(&self) -> usize {
        self.panels() * PANEL_ROWS
    }

    pub fn padded_in(&self) -> usize {
        match self.format {
            Format::I8 => self.inp.next_multiple_of(I8_DEPTH),
            Format::F32 | Format::F16 => self.inp,
        }
    }

    /// Dimensions of the initializer that holds the panels.
    pub fn dims(&self) -> Vec<usize> {
        match self.format {
            Format::I8 => vec![self.panels(), self.padded_in() / I8_GROUP, PANEL_ROWS, I8_GROUP],
            Format::F32 | Format::F16 => vec![self.panels(), self.inp, PANEL_ROWS],
        }
    }

    pub fn bytes(&self) -> usize {
        self.padded_out() * self.padded_in() * self.format.element_bytes()
    }

    /// Bytes of one panel of 8 output channels.
    pub fn panel_bytes(&self) -> usize {
        PANEL_ROWS * self.padded_in() * self.format.element_bytes()
    }

    /// Where element `(n, k)` lies, in elements from the start.
    pub fn index(&self, n: usize, k: usize) -> usize {
        let panel = n / PANEL_ROWS * PANEL_ROWS * self.padded_in();
        let row = n % PANEL_ROWS;
        panel
            + match self.format {
                Format::I8 => (k / I8_GROUP * PANEL_ROWS + row) * I8_GROUP + k % I8_GROUP,
                Format::F32 | Format::F16 => k * PANEL_ROWS + row,
            }
    }

    /// Runs of elements that are adjacent both in a row and in its panel: int8 rows move four at a time.
    fn group(&self) -> usize {
        match self.format {
            Format::I8 => I8_GROUP,
            Format::F32 | Format::F16 => 1,
        }
    }

    fn scatter<T: Copy + Default>(&self, logical: &[T]) -> Vec<T> {
        let mut panels = vec![T::default(); self.padded_out() * self.padded_in()];
        let group = self.group();
        for (n, row) in logical.chunks_exact(self.inp).enumerate() {
            for (g, run) in row.chunks(group).enumerate() {
                let at = self.index(n, g * group);
                panels[at..at + run.len()].copy_from_slice(run);
            }
        }
        panels
    }

    fn gather<T: Copy + Default>(&self, panels: &[T]) -> Vec<T> {
        (0..self.out)
            .flat_map(|n| (0..self.inp).map(move |k| panels[self.index(n, k)]))
            .collect()
    }
}

/// The payload of a linear weight: its numbers in panel order, without scales.
pub fn pack(layout: PanelLayout, values: &Values) -> Vec<u8> {
    debug_assert_eq!(layout.format, values.format());
    match values {
        Values::F32(v) => bytes_of(&layout.scatter(v)),
        Values::F16(v) => bytes_of(&layout.scatter(v)),
        Values::I8 { q, .. } => bytes_of(&layout.scatter(q)),
    }
}

/// The payload of a table or vector: its numbers in row-major order, without scales.
pub fn plain(values: &Values) -> Vec<u8> {
    match values {
        Values::F32(v) => bytes_of(v),
        Values::F16(v) => bytes_of(v),
        Values::I8 { q, .. } => bytes_of(q),
    }
}

/// Undoes [`pack`]. `scales` are the int8 scales; `None` when the byte count is not the layout's.
pub fn unpack(layout: PanelLayout, payload: &[u8], scales: Vec<f32>) -> Option<Values> {
    (payload.len() == layout.bytes()).then(|| match layout.format {
        Format::F32 => Values::F32(layout.gather(&f32s(payload))),
        Format::F16 => Values::F16(layout.gather(&f16s(payload))),
        Format::I8 => Values::I8 {
            q: layout.gather(bytemuck::cast_slice::<u8, i8>(payload)),
            scales,
        },
    })
}

/// Undoes [`plain`].
pub fn unplain(format: Format, payload: &[u8], scales: Vec<f32>) -> Values {
    match format {
        Format::F32 => Values::F32(f32s(payload)),
        Format::F16 => Values::F16(f16s(payload)),
        Format::I8 => Values::I8 {
            q: bytemuck::cast_slice::<u8, i8>(payload).to_vec(),
            scales,
        },
    }
}

pub fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

fn f16s(bytes: &[u8]) -> Vec<f16> {
    bytes
        .chunks_exact(2)
        .map(|b| f16::from_le_bytes([b[0], b[1]]))
        .collect()
}

fn bytes_of<T: bytemuck::NoUninit>(values: &[T]) -> Vec<u8> {
    // The layout is defined little-endian, and a big-endian host would have to swap here.
    const {
        assert!(
            cfg!(target_endian = "little"),
            "thimble stores little-endian numbers and runs on such machines only"
        )
    };
    bytemuck::cast_slice(values).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_is_undone_for_every_format_and_awkward_shapes() {
        for (out, inp) in [(1, 1), (8, 16), (9, 17), (97, 12), (24, 40), (7, 3)] {
            let data: Vec<f32> = (0..out * inp).map(|i| ((i * 37) % 251) as f32 - 125.0).collect();
            for format in Format::ALL {
                let layout = PanelLayout::new(format, out, inp);
                let values = Values::round_to_nearest(format, &data, out);
                let payload = pack(layout, &values);
                assert_eq!(
                    payload.len(),
                    layout.dims().iter().product::<usize>() * format.element_bytes()
                );
                let scales = if let Values::I8 { scales, .. } = &values {
                    scales.clone()
                } else {
                    vec![]
                };
                assert_eq!(
                    unpack(layout, &payload, scales).as_ref(),
                    Some(&values),
                    "{out}x{inp} {format}"
                );
            }
        }
    }

    #[test]
    fn int8_panels_hold_four_inputs_of_eight_channels_side_by_side() {
        let layout = PanelLayout::new(Format::I8, 16, 16);
        assert_eq!(layout.index(0, 3), 3);
        assert_eq!(layout.index(1, 0), 4);
        assert_eq!(layout.index(0, 4), 32);
        assert_eq!(layout.index(8, 0), 8 * 16);
    }
}
