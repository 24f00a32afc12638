//! A weight inside a foreign file: the tensor it is stored in and how thimble's order differs from the stored one. Numbers
//! are read when asked for; the logical order is `[out, in]` for linear maps and `[rows, cols]` for tables.

use crate::onnx::{OnnxError, OnnxFile, same};
use half::{bf16, f16};
use std::borrow::Cow;
use std::hash::{DefaultHasher, Hasher};
use thimble_shared::dtype::Values;
use thimble_shared::onnx::reader::TensorView;

#[derive(Clone, Debug)]
pub struct StoredMatrix<'a> {
    pub tensor: TensorView<'a>,
    /// Its name, which for a Constant node is the node's output.
    pub called: &'a str,
    /// Rows and columns change places on the way to the logical order.
    pub turned: bool,
    /// A shape that is not the tensor's own, with the same number of elements.
    pub reshaped: Option<Vec<usize>>,
    /// Rows kept of a table, when only the first ones are meant.
    pub rows: Option<usize>,
}

impl<'a> StoredMatrix<'a> {
    pub fn of(tensor: TensorView<'a>, called: &'a str) -> StoredMatrix<'a> {
        StoredMatrix {
            tensor,
            called,
            turned: false,
            reshaped: None,
            rows: None,
        }
    }

    pub fn turn(mut self) -> StoredMatrix<'a> {
        self.turned = !self.turned;
        self
    }

    pub fn name(&self) -> &'a str {
        self.called
    }

    fn stored_shape(&self) -> Vec<usize> {
        match &self.reshaped {
            Some(shape) => shape.clone(),
            None => self
                .tensor
                .dims
                .iter()
                .map(|&d| usize::try_from(d).unwrap_or(0))
                .collect(),
        }
    }

    /// The logical shape.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.stored_shape();
        if self.turned {
            shape.reverse();
        }
        if let (Some(rows), Some(first)) = (self.rows, shape.first_mut()) {
            *first = rows.min(*first);
        }
        shape
    }

    pub fn is_float(&self) -> bool {
        matches!(self.tensor.data_type, 1 | 10 | 16)
    }

    /// Bytes in the logical order.
    fn bytes(&self, file: &'a OnnxFile) -> Result<Cow<'a, [u8]>, OnnxError> {
        let stored = file.payload(&self.tensor)?;
        let width = if self.tensor.data_type == 1 { 4 } else { 2 };
        let mut bytes = if self.turned {
            same::turned(stored, &self.stored_shape(), width)
        } else {
            stored
        };
        let wanted = self.shape().iter().product::<usize>() * width;
        if wanted < bytes.len() {
            bytes = Cow::Owned(bytes[..wanted].to_vec());
        }
        Ok(bytes)
    }

    pub fn values(&self, file: &OnnxFile) -> Result<Values, OnnxError> {
        let this: StoredMatrix<'_> = self.clone();
        let bytes = this.bytes(file)?;
        let pairs = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        Ok(match self.tensor.data_type {
            10 => Values::f16(pairs.map(f16::from_le_bytes).collect()),
            16 => Values::f32(pairs.map(|b| bf16::from_le_bytes(b).to_f32()).collect()),
            _ => Values::f32(
                bytes
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
            ),
        })
    }

    /// The numbers as f32.
    pub fn floats(&self, file: &OnnxFile) -> Result<Vec<f32>, OnnxError> {
        Ok(self.values(file)?.to_f32())
    }

    /// Equal numbers in the logical order have equal fingerprints, however they are stored.
    pub fn fingerprint(&self, file: &'a OnnxFile) -> Result<u64, OnnxError> {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.bytes(file)?);
        Ok(hasher.finish())
    }
}
