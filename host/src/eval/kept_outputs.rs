//! Outputs of many rows, kept to compare with again and again: few in memory, many in a temporary file without a name, so that
//! the logits of a large vocabulary, which fill more memory than the model, do not take it. In: one row's outputs after the
//! other, in any order; out: the same, by row.

use crate::eval::metrics::{NamedOutputs, OutputTensor};
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Outputs by row, in memory or in a file.
pub enum Kept {
    Memory(Vec<OnceLock<NamedOutputs>>),
    File {
        file: File,
        end: AtomicU64,
        rows: Vec<OnceLock<Vec<Place>>>,
    },
}

/// One output of a row in the file: its numbers lie at byte `at`, f32 in the machine's order.
pub struct Place {
    name: String,
    shape: Vec<usize>,
    at: u64,
}

impl Kept {
    /// Room for `rows` rows, whose outputs stay in memory or not.
    ///
    /// # Errors
    /// Those of making a temporary file.
    pub fn new(rows: usize, in_memory: bool) -> io::Result<Kept> {
        fn places<T>(rows: usize) -> Vec<OnceLock<T>> {
            (0..rows).map(|_| OnceLock::new()).collect()
        }
        Ok(match in_memory {
            true => Kept::Memory(places(rows)),
            false => Kept::File {
                file: tempfile::tempfile()?,
                end: AtomicU64::new(0),
                rows: places(rows),
            },
        })
    }

    /// Keeps the outputs of a row. Several threads may do so at once, each for rows of its own.
    ///
    /// # Errors
    /// Those of writing to the file.
    pub fn put(&self, row: usize, outputs: NamedOutputs) -> io::Result<()> {
        match self {
            Kept::Memory(rows) => drop(rows[row].set(outputs)),
            Kept::File { file, end, rows } => {
                let mut places = Vec::with_capacity(outputs.len());
                for (name, output) in outputs {
                    let bytes: &[u8] = bytemuck::cast_slice(&output.data);
                    let at = end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    file.write_all_at(bytes, at)?;
                    places.push(Place {
                        name,
                        shape: output.shape,
                        at,
                    });
                }
                drop(rows[row].set(places));
            }
        }
        Ok(())
    }

    /// The outputs of a row; none where none were kept.
    ///
    /// # Errors
    /// Those of reading from the file.
    pub fn get(&self, row: usize) -> io::Result<Cow<'_, NamedOutputs>> {
        match self {
            Kept::Memory(rows) => Ok(rows[row].get().map_or_else(Cow::default, Cow::Borrowed)),
            Kept::File { file, rows, .. } => {
                let read = |place: &Place| {
                    let mut data = vec![0f32; place.shape.iter().product()];
                    file.read_exact_at(bytemuck::cast_slice_mut(&mut data), place.at)?;
                    let shape = place.shape.clone();
                    Ok((place.name.clone(), OutputTensor { shape, data }))
                };
                let places = rows[row].get().into_iter().flatten();
                places.map(read).collect::<io::Result<NamedOutputs>>().map(Cow::Owned)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_from_memory_and_from_a_file() {
        let outputs = |row: usize| -> NamedOutputs {
            let data: Vec<f32> = (0..row * 3).map(|i| i as f32 - 0.5).collect();
            let one = OutputTensor {
                shape: vec![1, row, 3],
                data,
            };
            [("logits".to_string(), one.clone()), ("other".to_string(), one)].into()
        };
        for in_memory in [true, false] {
            let kept = Kept::new(5, in_memory).unwrap();
            for row in [3, 0, 4, 1] {
                kept.put(row, outputs(row)).unwrap();
            }
            for row in [0, 1, 3, 4] {
                assert_eq!(*kept.get(row).unwrap(), outputs(row), "row {row}");
            }
            assert!(kept.get(2).unwrap().is_empty());
        }
    }
}
