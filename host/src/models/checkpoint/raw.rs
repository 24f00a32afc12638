//! One stored tensor: its type, its shape and the borrowed bytes of its storage, which it may be a strided view of. In comes
//! what a file says of it, out comes f32 in row-major order: the only copy made of a checkpoint's numbers.

use half::{bf16, f16};
use std::fmt;
use std::path::Path;

/// Longest name of a tensor, in bytes.
pub const MAX_NAME: usize = 1024;

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
    F64,
    /// A type no weight may have; buffers of it are ignored by name.
    Other(&'static str),
}

/// Bytes per element, and how one element becomes an f32.
type Reader = (usize, fn(&[u8]) -> f32);

impl Dtype {
    pub fn bytes(self) -> Option<usize> {
        self.reader().map(|(size, _)| size)
    }

    fn reader(self) -> Option<Reader> {
        fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
            let mut out = [0; N];
            out.copy_from_slice(&bytes[..N]);
            out
        }
        match self {
            Dtype::F32 => Some((4, |b| f32::from_le_bytes(first(b)))),
            Dtype::F16 => Some((2, |b| f16::from_le_bytes(first(b)).to_f32())),
            Dtype::Bf16 => Some((2, |b| bf16::from_le_bytes(first(b)).to_f32())),
            Dtype::F64 => Some((8, |b| f64::from_le_bytes(first(b)) as f32)),
            Dtype::Other(_) => None,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::F64 => "f64",
            Dtype::Other(name) => name,
        })
    }
}

/// Elements read before their bytes are said to be done with.
const CHUNK: usize = 1 << 18;

/// A tensor as stored: its bytes are borrowed from the mapped file.
#[derive(Clone, Debug)]
pub struct RawTensor<'a> {
    pub path: &'a Path,
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// The whole storage the tensor is a view of.
    pub bytes: &'a [u8],
    /// Offset and strides in elements; `None` is row-major from the start.
    pub view: Option<(u64, Vec<u64>)>,
}

/// Stored tensors, and what was left out of the file.
#[derive(Debug)]
pub struct Listed<'a> {
    pub tensors: Vec<RawTensor<'a>>,
    pub notes: Vec<String>,
}

impl RawTensor<'_> {
    /// The values in row-major order. Nothing is allocated before the storage is known to hold them; `done` is told which bytes
    /// of it were read.
    pub fn to_f32(&self, done: &dyn Fn(&[u8])) -> Result<Vec<f32>, String> {
        let Some((size, read)) = self.dtype.reader() else {
            return Err(format!(
                "its type is {}; weights may be f32, f16, bf16 or f64",
                self.dtype
            ));
        };
        let stored = self.bytes.len() / size;
        let count = self
            .shape
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .ok_or("its shape overflows")?;
        // A view that repeats its storage (an expanded tensor) is no trained weight, and refusing it bounds what is allocated.
        if count > stored {
            return Err(format!(
                "its shape {:?} covers {count} elements, its storage holds {stored}",
                self.shape
            ));
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        let row_major = |from: usize| {
            let mut out = Vec::with_capacity(count);
            for some in self.bytes[from * size..(from + count) * size].chunks(size * CHUNK) {
                out.extend(some.chunks_exact(size).map(read));
                done(some);
            }
            out
        };
        let Some((offset, strides)) = &self.view else {
            return Ok(row_major(0));
        };
        self.shape
            .iter()
            .zip(strides)
            .try_fold(*offset, |at, (&d, &s)| at.checked_add((d as u64 - 1).checked_mul(s)?))
            .filter(|&last| last < stored as u64)
            .ok_or_else(|| {
                format!("offset {offset} and strides {strides:?} reach outside its storage of {stored} elements")
            })?;
        let offset = *offset as usize;
        let strides: Vec<usize> = strides.iter().map(|&s| s as usize).collect();
        if is_row_major(&self.shape, &strides) {
            return Ok(row_major(offset));
        }
        let mut out = Vec::with_capacity(count);
        let mut index = vec![0usize; self.shape.len()];
        let mut at = offset;
        loop {
            out.push(read(&self.bytes[at * size..]));
            // Counts up like an odometer, the last dimension fastest.
            let Some(axis) = (0..index.len()).rev().find(|&axis| index[axis] + 1 < self.shape[axis]) else {
                done(self.bytes);
                return Ok(out);
            };
            index[axis] += 1;
            index[axis + 1..].fill(0);
            at = offset + index.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>();
        }
    }
}

fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&d, &s)| {
        let fits = d == 1 || s == expected;
        expected *= d;
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_followed_within_their_storage_only() {
        let bytes: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        type Case<'a> = (&'a [usize], u64, &'a [u64], Result<&'a [f32], &'a str>);
        let cases: [Case; 12] = [
            (&[2, 3], 0, &[3, 1], Ok(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])),
            (&[3, 2], 0, &[1, 3], Ok(&[0.0, 3.0, 1.0, 4.0, 2.0, 5.0])),
            (&[2], 4, &[1], Ok(&[4.0, 5.0])),
            (&[3], 1, &[2], Ok(&[1.0, 3.0, 5.0])),
            (&[1, 2], 0, &[u64::MAX, 1], Ok(&[0.0, 1.0])),
            (&[], 3, &[], Ok(&[3.0])),
            (&[0, 9], 0, &[1, 1], Ok(&[])),
            (&[2], 5, &[1], Err("reach outside")),
            (&[2], 0, &[u64::MAX], Err("reach outside")),
            (&[2, 2], u64::MAX, &[1, 1], Err("reach outside")),
            (&[7], 0, &[0], Err("covers 7 elements, its storage holds 6")),
            (&[usize::MAX, 2], 0, &[0, 0], Err("overflows")),
        ];
        for (shape, offset, strides, want) in cases {
            let view = Some((offset, strides.to_vec()));
            let (name, shape) = ("w".to_string(), shape.to_vec());
            let tensor = RawTensor {
                path: Path::new("x"),
                name,
                dtype: Dtype::F32,
                shape,
                bytes: &bytes,
                view,
            };
            match (tensor.to_f32(&|_| ()), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(got), Err(want)) => assert!(got.contains(want), "{got}"),
                (got, want) => panic!("{:?} {offset} {strides:?}: {got:?}, expected {want:?}", tensor.shape),
            }
        }
        let view = None;
        let int = RawTensor {
            path: Path::new("x"),
            name: "w".into(),
            dtype: Dtype::Other("int8"),
            shape: vec![2],
            bytes: &bytes,
            view,
        };
        assert!(int.to_f32(&|_| ()).unwrap_err().contains("its type is int8"));
    }
}
