//! Finds tensors whose numbers are stored twice: byte for byte, or as each other's transpose. Only tensors of equal element
//! type and fitting dims are read at all; hashes narrow the search and whole payloads settle it.

use super::{Held, OnnxError, OnnxFile, tensor_bytes};
use crate::text::Progress;
use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

/// What a tensor repeats: the index of the first tensor that holds the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Same {
    Bytes(usize),
    /// The other one's rows are this one's columns.
    Transposed(usize),
}

/// A transposed copy smaller than this is chance, and undoing it costs more than it saves.
pub const LEAST_TRANSPOSED: usize = 256;

/// For each tensor in `candidates` (indices into `held`, in order of preference) that repeats an earlier one, which.
pub fn find(file: &OnnxFile, held: &[Held<'_>], candidates: &[usize]) -> Result<HashMap<usize, Same>, OnnxError> {
    // Dims as they are, or both orders of a matrix under one key.
    let mut classes: HashMap<(i64, Vec<i64>), Vec<usize>> = HashMap::new();
    for &i in candidates {
        let view = &held[i].view;
        if tensor_bytes(view).is_none_or(|n| n == 0) {
            continue;
        }
        let mut dims = view.dims.clone();
        if let [a, b] = dims.as_mut_slice()
            && *a > *b
        {
            std::mem::swap(a, b);
        }
        classes.entry((view.data_type, dims)).or_default().push(i);
    }
    classes.retain(|_, members| members.len() > 1);
    let size = |i: &usize| tensor_bytes(&held[*i].view).unwrap_or(0);
    let total: usize = classes.values().flatten().map(size).sum();
    let mut progress = Progress::new("comparing weights", total as u64);
    let mut found = HashMap::new();
    for members in classes.into_values() {
        // First holders by the hash of their bytes as they stand.
        let mut kept: HashMap<u64, Vec<usize>> = HashMap::new();
        for i in members {
            let payload = file.payload(&held[i].view)?;
            progress.add(payload.len() as u64);
            if let Some(j) = first(file, held, &kept, i, &payload, false)? {
                found.insert(i, Same::Bytes(j));
                continue;
            }
            if let Some(turned) = transposed(&held[i], &payload)
                && let Some(j) = first(file, held, &kept, i, &turned, true)?
            {
                found.insert(i, Same::Transposed(j));
                continue;
            }
            kept.entry(hash(&payload)).or_default().push(i);
        }
    }
    Ok(found)
}

/// The kept tensor that holds `bytes`, with the dims of tensor `i` or, turned, its dims the other way round.
fn first(
    file: &OnnxFile,
    held: &[Held<'_>],
    kept: &HashMap<u64, Vec<usize>>,
    i: usize,
    bytes: &[u8],
    turned: bool,
) -> Result<Option<usize>, OnnxError> {
    let mut dims = held[i].view.dims.clone();
    if turned {
        dims.reverse();
    }
    for &j in kept.get(&hash(bytes)).into_iter().flatten() {
        if held[j].view.dims == dims && file.payload(&held[j].view)? == bytes {
            return Ok(Some(j));
        }
    }
    Ok(None)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The bytes of a matrix with rows and columns exchanged; none for other tensors and for vectors, which are no different.
fn transposed(held: &Held<'_>, payload: &[u8]) -> Option<Vec<u8>> {
    let &[rows, cols] = held.view.dims.as_slice() else {
        return None;
    };
    if rows < 2 || cols < 2 || payload.len() < LEAST_TRANSPOSED {
        return None;
    }
    let (rows, cols) = (usize::try_from(rows).ok()?, usize::try_from(cols).ok()?);
    let width = payload.len() / (rows * cols);
    (width > 0 && width * rows * cols == payload.len()).then(|| transpose(payload, rows, cols, width))
}

/// Row-major `[rows, cols]` of `width`-byte elements → `[cols, rows]`.
pub fn transpose(bytes: &[u8], rows: usize, cols: usize, width: usize) -> Vec<u8> {
    const TILE: usize = 32;
    let mut out = vec![0; bytes.len()];
    // In tiles: one of the two sides is always read against the grain.
    for top in (0..rows).step_by(TILE) {
        for left in (0..cols).step_by(TILE) {
            for r in top..(top + TILE).min(rows) {
                for c in left..(left + TILE).min(cols) {
                    let (from, to) = ((r * cols + c) * width, (c * rows + r) * width);
                    out[to..to + width].copy_from_slice(&bytes[from..from + width]);
                }
            }
        }
    }
    out
}

/// A payload that may have been turned.
pub fn turned<'a>(bytes: Cow<'a, [u8]>, dims: &[usize], width: usize) -> Cow<'a, [u8]> {
    match dims {
        &[rows, cols] => Cow::Owned(transpose(&bytes, rows, cols, width)),
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::transpose;

    #[test]
    fn transposing_twice_changes_nothing() {
        for (rows, cols, width) in [(1, 7, 4), (33, 65, 2), (64, 32, 1), (3, 5, 8)] {
            let bytes: Vec<u8> = (0..rows * cols * width).map(|i| (i * 7) as u8).collect();
            let turned = transpose(&bytes, rows, cols, width);
            assert_eq!(turned[..width], bytes[..width]);
            assert_eq!(transpose(&turned, cols, rows, width), bytes);
        }
        assert_eq!(transpose(&[1, 2, 3, 4, 5, 6], 2, 3, 1), [1, 4, 2, 5, 3, 6]);
    }
}
