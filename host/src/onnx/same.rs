//! Finds tensors whose numbers are stored twice: byte for byte, or as each other's transpose. Only tensors of equal element
//! type and fitting dims are read at all; hashes narrow the search and whole payloads settle it.

use super::{Held, OnnxError, OnnxFile, tensor_bytes};
use crate::render::text::Progress;
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
            let own = hash(&payload);
            let same = match first(file, held, &kept, i, &payload, own)? {
                Some(j) => Some(Same::Bytes(j)),
                None => first_turned(file, held, &kept, i, &payload)?.map(Same::Transposed),
            };
            match same {
                Some(same) => drop(found.insert(i, same)),
                None => kept.entry(own).or_default().push(i),
            }
            file.release(&payload);
        }
    }
    Ok(found)
}

/// The kept tensor that holds the bytes of tensor `i`, whose hash is given, with its dims.
fn first(
    file: &OnnxFile,
    held: &[Held<'_>],
    kept: &HashMap<u64, Vec<usize>>,
    i: usize,
    bytes: &[u8],
    hash: u64,
) -> Result<Option<usize>, OnnxError> {
    for &j in kept.get(&hash).into_iter().flatten() {
        if held[j].view.dims != held[i].view.dims {
            continue;
        }
        let other = file.payload(&held[j].view)?;
        let same = other == bytes;
        file.release(&other);
        if same {
            return Ok(Some(j));
        }
    }
    Ok(None)
}

/// The kept tensor whose rows are the columns of tensor `i`; none for vectors, which are no different turned.
fn first_turned(
    file: &OnnxFile,
    held: &[Held<'_>],
    kept: &HashMap<u64, Vec<usize>>,
    i: usize,
    bytes: &[u8],
) -> Result<Option<usize>, OnnxError> {
    let &[rows, cols] = held[i].view.dims.as_slice() else {
        return Ok(None);
    };
    let (Ok(rows), Ok(cols)) = (usize::try_from(rows), usize::try_from(cols)) else {
        return Ok(None);
    };
    if rows < 2 || cols < 2 || kept.is_empty() || bytes.len() < LEAST_TRANSPOSED {
        return Ok(None);
    }
    // A half-byte type has no bytes to exchange.
    let Some(width) = bytes.len().checked_div(rows.saturating_mul(cols)).filter(|w| *w > 0) else {
        return Ok(None);
    };
    let dims = [cols as i64, rows as i64];
    let fits = |j: usize| held[j].view.dims == dims;
    if bytes.len() <= WHOLE {
        let turned = transpose(bytes, rows, cols, width);
        for &j in kept.get(&hash(&turned)).into_iter().flatten() {
            if fits(j) && file.payload(&held[j].view)? == turned {
                return Ok(Some(j));
            }
        }
        return Ok(None);
    }
    // Turning it would take as much memory again: the few there can be are compared in place.
    for &j in kept.values().flatten().filter(|&&j| fits(j)) {
        let other = file.payload(&held[j].view)?;
        let turned = is_transpose(bytes, &other, rows, cols, width);
        file.release(&other);
        if turned {
            return Ok(Some(j));
        }
    }
    Ok(None)
}

/// Payloads up to this size are hashed whole.
const WHOLE: usize = 1 << 20;

/// How many samples of a large payload are hashed, and the bytes of each.
const SAMPLES: usize = 16;
const EACH: usize = 4096;

/// Where sample `i` of a payload of `len` bytes starts: the first with it, the last ends with it.
fn sample(len: usize, i: usize) -> usize {
    (len - EACH) * i / (SAMPLES - 1)
}

/// A hash that equal bytes share. Of large payloads only samples are read: whoever finds one compares the whole.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    if bytes.len() <= WHOLE {
        hasher.write(bytes);
        return hasher.finish();
    }
    hasher.write_usize(bytes.len());
    for i in 0..SAMPLES {
        hasher.write(&bytes[sample(bytes.len(), i)..][..EACH]);
    }
    hasher.finish()
}

const TILE: usize = 32;

/// Whether row-major `[rows, cols]` is the transpose of `other`, `[cols, rows]`; stops at the first difference.
fn is_transpose(bytes: &[u8], other: &[u8], rows: usize, cols: usize, width: usize) -> bool {
    if bytes.len() != rows * cols * width || other.len() != bytes.len() {
        return false;
    }
    let tiles = |n: usize| (0..n).step_by(TILE).map(move |at| at..(at + TILE).min(n));
    tiles(rows).all(|block| {
        tiles(cols).all(|columns| {
            block.clone().all(|row| {
                columns.clone().all(|col| {
                    let (a, b) = ((row * cols + col) * width, (col * rows + row) * width);
                    bytes[a..a + width] == other[b..b + width]
                })
            })
        })
    })
}

/// Row-major `[rows, cols]` of `width`-byte elements → `[cols, rows]`.
pub fn transpose(bytes: &[u8], rows: usize, cols: usize, width: usize) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    // Without columns there may be any number of rows, and nothing to move.
    if bytes.is_empty() {
        return out;
    }
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
    use super::*;
    use thimble_shared::onnx::protobuf::Message;

    #[test]
    fn transposing_twice_changes_nothing() {
        for (rows, cols, width) in [(1, 7, 4), (33, 65, 2), (64, 32, 1), (3, 5, 8)] {
            let bytes: Vec<u8> = (0..rows * cols * width).map(|i| (i * 7) as u8).collect();
            let turned = transpose(&bytes, rows, cols, width);
            assert_eq!(turned[..width], bytes[..width]);
            assert_eq!(transpose(&turned, cols, rows, width), bytes);
        }
        assert_eq!(transpose(&[1, 2, 3, 4, 5, 6], 2, 3, 1), [1, 4, 2, 5, 3, 6]);
        assert!(transpose(&[], usize::MAX / 2, 0, 4).is_empty(), "and takes no time");
    }

    #[test]
    fn a_transpose_is_told_from_what_differs_in_one_byte() {
        let (rows, cols, width) = (33, 70, 4);
        let bytes: Vec<u8> = (0..rows * cols * width).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut turned = transpose(&bytes, rows, cols, width);
        assert!(is_transpose(&bytes, &turned, rows, cols, width));
        for at in [0, turned.len() / 2, turned.len() - 1] {
            turned[at] ^= 1;
            assert!(!is_transpose(&bytes, &turned, rows, cols, width));
            turned[at] ^= 1;
        }
        assert!(!is_transpose(&bytes, &turned[4..], rows, cols, width));
    }

    #[test]
    fn a_hash_is_of_the_bytes_it_reads_and_of_all_of_small_payloads() {
        let bytes = |len: usize| -> Vec<u8> { (0..len).map(|i| (i * 31 + i / 7 + i / 4096) as u8).collect() };
        for len in [1, 255, WHOLE, WHOLE + 1, 3 * WHOLE + 5] {
            let whole = bytes(len);
            let sampled =
                |at: usize| len <= WHOLE || (0..SAMPLES).any(|s| (0..EACH).contains(&at.wrapping_sub(sample(len, s))));
            let starts = (0..SAMPLES).filter(|_| len > WHOLE).map(|s| sample(len, s));
            let places = (0..64).map(|i| i * (len - 1) / 63).chain(starts);
            for at in places {
                let mut other = whole.clone();
                other[at] ^= 1;
                assert_eq!(hash(&other) == hash(&whole), !sampled(at), "byte {at} of {len}");
            }
            assert_ne!(hash(&whole), hash(&bytes(len + 1)));
        }
        assert_eq!(
            sample(3 * WHOLE, SAMPLES - 1) + EACH,
            3 * WHOLE,
            "the last sample ends with the payload"
        );
    }

    /// A graph of one MatMul for each tensor, so that all are needed.
    fn file(path: &std::path::Path, tensors: &[(&str, [i64; 2], &[u8])]) -> OnnxFile {
        let (mut graph, mut model) = <(Message, Message)>::default();
        for (name, dims, bytes) in tensors {
            let mut tensor = Message::default();
            tensor.packed(1, dims);
            tensor.int(2, 2);
            tensor.text(8, name);
            tensor.bytes(9, bytes);
            graph.message(5, &tensor);
        }
        model.message(7, &graph);
        std::fs::write(path, &model.0).unwrap();
        OnnxFile::open(path).unwrap()
    }

    #[test]
    fn large_tensors_that_differ_where_no_hash_looks_are_told_apart() {
        let (rows, cols) = (1 << 10, 3 << 10);
        let a: Vec<u8> = (0..rows * cols).map(|i| (i * 7 + i / 251) as u8).collect();
        let (mut b, at) = (a.clone(), sample(a.len(), 3) + EACH + 1);
        b[at] ^= 1;
        assert_eq!(hash(&a), hash(&b));
        let turned = transpose(&a, rows, cols, 1);
        let mut nearly = turned.clone();
        nearly[at] ^= 1;
        let (dims, back) = ([rows as i64, cols as i64], [cols as i64, rows as i64]);
        let dir = tempfile::tempdir().unwrap();
        let tensors: [(&str, [i64; 2], &[u8]); 6] = [
            ("a", dims, &a),
            ("b", dims, &b),
            ("a again", dims, &a),
            ("b again", dims, &b),
            ("a turned", back, &turned),
            ("nearly", back, &nearly),
        ];
        let file = file(&dir.path().join("m.onnx"), &tensors);
        let view = file.view().unwrap();
        let same = find(&file, &file.tensors(&view).unwrap(), &[0, 1, 2, 3, 4, 5]).unwrap();
        let wanted = [(2, Same::Bytes(0)), (3, Same::Bytes(1)), (4, Same::Transposed(0))];
        assert_eq!(same, wanted.into_iter().collect());
    }
}
