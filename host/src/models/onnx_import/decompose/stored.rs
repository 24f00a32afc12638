//! Stored integers said in f32: (q − zero point) · scale, with one scale, one for each place along a dimension, or one for each
//! block along it. In comes a stored tensor and where its scales lie, out comes the name of a tensor of f32; what the file holds
//! already, as the original or rounded otherwise, is made once.

use super::graph::f32s;
use super::{Decomposition, Problem};
use crate::onnx::element_type;
use half::{bf16, f16};
use thimble_shared::onnx::reader::TensorView;

/// Fewest numbers of a tensor that is taken for another's original, and most tensors it is compared with.
const LEAST_ORIGINAL: usize = 64;
const MOST_ORIGINALS: usize = 64;

/// Where the scales and zero points of stored integers lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scaling<'a> {
    pub scale: Option<&'a str>,
    pub zero: Option<&'a str>,
    /// The dimension along which they change, where there are several.
    pub axis: i64,
    /// How many places along `axis` share a scale; 0 where each has its own.
    pub block: usize,
}

/// How integers of less than a byte, or of a layout of their own, are packed: bits, and the sizes that a node states.
pub type Packing = [usize; 3];

/// Scales and zero points, in the shape of the scales. One stands for all.
pub struct Table {
    pub scales: Vec<f32>,
    pub zeros: Vec<f32>,
    pub dims: Vec<usize>,
}

/// A tensor of f32 that was made of integers.
pub struct Rounded {
    name: String,
    dims: Vec<usize>,
    /// Its first numbers, and the largest step between two.
    first: Vec<f32>,
    step: f32,
}

impl Table {
    /// Turns integers of `dims` into numbers. What f32 cannot hold is the largest it can. Gives the largest scale.
    pub fn apply(&self, values: &mut [f32], dims: &[usize], axis: i64, block: usize) -> Result<f32, Problem> {
        let (scales, zeros) = (&self.scales, &self.zeros);
        let parts = scales.len().max(zeros.len());
        if [scales.len(), zeros.len()].iter().any(|&n| n != parts && n != 1) {
            return Err(Problem::Other("has scales and zero points of different numbers".into()));
        }
        let step = scales.iter().fold(0f32, |most, s| most.max(s.abs()));
        let real = |q: f32, at: usize| {
            let pick = |list: &[f32]| if list.len() == 1 { list[0] } else { list[at] };
            ((q - pick(zeros)) * pick(scales)).clamp(f32::MIN, f32::MAX)
        };
        if parts == 1 && block == 0 {
            values.iter_mut().for_each(|v| *v = real(*v, 0));
            return Ok(step);
        }
        let rank = dims.len() as i64;
        let along = usize::try_from(if axis < 0 { axis + rank } else { axis }).unwrap_or(usize::MAX);
        let Some(&length) = dims.get(along) else {
            return Err(Problem::Other(format!("has scales along dimension {axis} of {rank}")));
        };
        let fits = if block > 0 {
            let mut blocks = dims.to_vec();
            blocks[along] = length.div_ceil(block);
            self.dims == blocks
        } else {
            self.dims.iter().copied().filter(|&d| d != 1).eq([length])
        };
        if !fits {
            let blocks = if block > 0 {
                format!(" in blocks of {block}")
            } else {
                String::new()
            };
            return Err(Problem::Other(format!(
                "has scales of {:?} for numbers of {dims:?}{blocks}",
                self.dims
            )));
        }
        // Without blocks the scales lie along `axis` alone.
        let inner = dims[along + 1..].iter().product::<usize>().max(1);
        let blocks = length.div_ceil(block.max(1));
        for (i, v) in values.iter_mut().enumerate() {
            let (outer, place, rest) = (i / (length * inner), i / inner % length, i % inner);
            let at = match place.checked_div(block) {
                Some(of) => (outer * blocks + of) * inner + rest,
                None => place,
            };
            *v = real(*v, at);
        }
        Ok(step)
    }
}

/// Numbers of 4 or 8 bits, `count` of them in each row of whole bytes, the low half first.
pub fn unpacked(bytes: &[u8], bits: usize, count: usize) -> Vec<f32> {
    let row = (count * bits).div_ceil(8).max(1);
    let read = |row: &[u8]| -> Vec<f32> {
        let parts = |&b: &u8| {
            if bits == 4 { [b & 15, b >> 4] } else { [b, 0] }
                .into_iter()
                .take(8 / bits)
        };
        let all = row.iter().flat_map(parts);
        all.take(count).map(f32::from).collect()
    };
    bytes.chunks_exact(row).flat_map(read).collect()
}

impl<'a> Decomposition<'_, 'a> {
    /// Integers or floats of a stored tensor as f32, in its order; 4-bit ones are unpacked, the low half first.
    pub(super) fn stored(&self, tensor: &TensorView<'a>) -> Result<Vec<f32>, Problem> {
        let count = tensor
            .dims
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?));
        let count = count.ok_or_else(|| Problem::Other("has a tensor without a size".into()))?;
        let bytes = self.file.payload(tensor)?;
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        let fours = || bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        let nibbles = || bytes.iter().flat_map(|&b| [b & 15, b >> 4]).take(count);
        Ok(match tensor.data_type {
            1 => fours().map(f32::from_le_bytes).collect(),
            2 => bytes.iter().map(|&b| f32::from(b)).collect(),
            3 => bytes.iter().map(|&b| f32::from(b as i8)).collect(),
            4 => pairs().map(|b| f32::from(u16::from_le_bytes(b))).collect(),
            5 => pairs().map(|b| f32::from(i16::from_le_bytes(b))).collect(),
            6 => fours().map(|b| i32::from_le_bytes(b) as f32).collect(),
            10 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            21 => nibbles().map(f32::from).collect(),
            22 => nibbles().map(|n| f32::from((n << 4) as i8 >> 4)).collect(),
            other => {
                return Err(Problem::Other(format!(
                    "has weights of {}, which thimble does not dequantize",
                    element_type(other)
                )));
            }
        })
    }

    pub(super) fn shape(tensor: &TensorView<'_>) -> Vec<usize> {
        tensor.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect()
    }

    /// Scales and zero points; `missing` stands for zero points that are not given.
    pub(super) fn table(&self, scaling: Scaling<'a>, missing: f32) -> Result<Table, Problem> {
        let read = |name: Option<&'a str>, missing: f32| -> Result<(Vec<f32>, Vec<usize>), Problem> {
            let Some(name) = name else {
                return Ok((vec![missing], vec![]));
            };
            let tensor = self.stored_tensor(name)?;
            Ok((self.stored(&tensor)?, Self::shape(&tensor)))
        };
        let ((scales, dims), (zeros, zero_dims)) = (read(scaling.scale, 1.0)?, read(scaling.zero, missing)?);
        let dims = if scales.len() < zeros.len() { zero_dims } else { dims };
        Ok(Table { scales, zeros, dims })
    }

    /// A stored tensor of integers as one of f32. Its new name.
    pub(super) fn dequantized(&mut self, q: &'a str, scaling: Scaling<'a>) -> Result<String, Problem> {
        self.once(q, scaling, Packing::default(), |this| {
            let tensor = this.stored_tensor(q)?;
            let (dims, mut values) = (Self::shape(&tensor), this.stored(&tensor)?);
            let table = this.table(scaling, 0.0)?;
            let step = table.apply(&mut values, &dims, scaling.axis, scaling.block)?;
            Ok((dims, values, step))
        })
    }

    /// What `make` makes of the integers `q`: dims, numbers and the largest step between two. Made once, its name is kept.
    pub(super) fn once(
        &mut self,
        q: &'a str,
        scaling: Scaling<'a>,
        packing: Packing,
        make: impl FnOnce(&Self) -> Result<(Vec<usize>, Vec<f32>, f32), Problem>,
    ) -> Result<String, Problem> {
        let key = (q, scaling, packing);
        if let Some(known) = self.dequantized.get(&key) {
            return Ok(known.clone());
        }
        let (dims, values, step) = make(self)?;
        let name = self.rounding(&dims, &values, step)?;
        self.dequantized.insert(key, name.clone());
        Ok(name)
    }

    /// The largest step of a tensor that was made of integers.
    pub(super) fn step(&self, name: &str) -> Option<f32> {
        self.rounded.iter().find(|r| r.name == name).map(|r| r.step)
    }

    /// The tensor of f32 that holds `values`, which were rounded to steps of at most `step`. Where the file holds the numbers
    /// they are a rounding of, or another rounding of the same, that stands for them: quantizers round a weight that layers
    /// share once a layer, or leave some layers the original.
    pub(super) fn rounding(&mut self, dims: &[usize], values: &[f32], step: f32) -> Result<String, Problem> {
        // Numbers that are all smaller than a step would be close to anything as small.
        let says = |step: f32| values.iter().filter(|v| v.abs() > 2.0 * step).count() * 4 > values.len();
        let told = values.len() >= LEAST_ORIGINAL && says(step);
        if let Some(original) = self.original(dims, values, step).filter(|_| told) {
            self.originals += 1;
            return Ok(original.to_string());
        }
        for other in self.rounded.iter().filter(|_| told).take(MOST_ORIGINALS) {
            let both = step + other.step;
            let close = |list: &[f32]| list.iter().zip(values).all(|(a, b)| (a - b).abs() <= both);
            if other.dims != dims || !says(both) || !close(&other.first) {
                continue;
            }
            let Some((_, _, bytes)) = self.graph.made(&other.name) else {
                continue;
            };
            let held = f32s(&bytes);
            if close(&held) {
                self.again += usize::from(held != values);
                return Ok(other.name.clone());
            }
        }
        let name = self.graph.floats(dims, values)?;
        self.rounded.push(Rounded {
            name: name.clone(),
            dims: dims.to_vec(),
            first: values.iter().take(LEAST_ORIGINAL).copied().collect(),
            step,
        });
        Ok(name)
    }

    /// A stored tensor of floats that `values` are a rounding of: each may be off by `step`.
    fn original(&self, dims: &[usize], values: &[f32], step: f32) -> Option<&'a str> {
        let mut same: Vec<(&'a str, &TensorView<'a>)> = self
            .tensors
            .iter()
            .filter(|(name, t)| {
                let float = matches!(t.data_type, 1 | 10 | 16);
                float && Self::shape(t) == dims && self.needed.contains(*name)
            })
            .map(|(name, t)| (*name, t))
            .collect();
        same.sort_by_key(|(name, _)| *name);
        let close = |tensor: &TensorView<'a>| {
            let floats = self.stored(tensor).unwrap_or_default();
            floats.len() == values.len() && floats.iter().zip(values).all(|(a, b)| (a - b).abs() <= step)
        };
        let mut same = same.into_iter().take(MOST_ORIGINALS);
        same.find(|(_, tensor)| close(tensor)).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(scales: &[f32], zeros: &[f32], dims: &[usize]) -> Table {
        Table {
            scales: scales.to_vec(),
            zeros: zeros.to_vec(),
            dims: dims.to_vec(),
        }
    }

    #[test]
    fn integers_are_scaled_as_onnx_states_it() {
        let ones = |n: usize| vec![1f32; n];
        // Five rows in blocks of two: the last block has one.
        let rows = table(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[0.0], &[3, 2]);
        let columns = table(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[0.0], &[2, 3]);
        let cases: [(Table, &[usize], i64, usize, &[f32]); 7] = [
            (table(&[2.0], &[3.0], &[]), &[2], 1, 0, &[-4.0, -4.0]),
            (table(&[2.0, 3.0], &[0.0], &[2]), &[2, 2], 0, 0, &[2.0, 2.0, 3.0, 3.0]),
            (
                table(&[2.0, 3.0], &[0.0, 1.0], &[2]),
                &[2, 2],
                -1,
                0,
                &[2.0, 0.0, 2.0, 0.0],
            ),
            (table(&[2.0], &[0.0, 1.0], &[2]), &[2, 2], 1, 0, &[2.0, 0.0, 2.0, 0.0]),
            (rows, &[5, 2], 0, 2, &[1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0, 5.0, 6.0]),
            (
                columns,
                &[2, 5],
                1,
                2,
                &[1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 5.0, 5.0, 6.0],
            ),
            (table(&[f32::MAX], &[-9.0], &[]), &[1], 0, 0, &[f32::MAX]),
        ];
        for (table, dims, axis, block, want) in cases {
            let mut values = ones(want.len());
            table.apply(&mut values, dims, axis, block).unwrap();
            assert_eq!(values, want, "{dims:?} along {axis} by {block}");
        }
    }

    #[test]
    fn scales_of_another_number_are_refused() {
        let six = table(&[1.0; 6], &[0.0], &[3, 2]);
        for (axis, block) in [(0, 1), (0, 3), (0, 5), (1, 2), (0, 0), (2, 2), (-3, 2)] {
            assert!(
                six.apply(&mut [1.0; 10], &[5, 2], axis, block).is_err(),
                "{axis} {block}"
            );
        }
        assert!(
            table(&[1.0; 2], &[0.0; 3], &[2])
                .apply(&mut [1.0; 6], &[2, 3], 0, 0)
                .is_err()
        );
        assert!(table(&[1.0], &[0.0], &[1]).apply(&mut [1.0; 4], &[4], 0, 2).is_err());
    }

    #[test]
    fn halves_of_bytes_are_unpacked_by_rows() {
        assert_eq!(
            unpacked(&[0x21, 0x43, 0x65, 0x87], 4, 3),
            [1.0, 2.0, 3.0, 5.0, 6.0, 7.0]
        );
        assert_eq!(unpacked(&[1, 255], 8, 1), [1.0, 255.0]);
    }
}
