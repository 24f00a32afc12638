//! Refuses what a damaged or hostile file may ask for before tract is asked to run it: tensors whose bytes do not fit their
//! dims, permutations that are none, and constant shapes no ALBERT needs. tract would stop late, or take all memory first.

use super::ImportError;
use super::trace::Trace;
use crate::onnx::tensor_bytes;
use crate::render::text::printable;

/// Largest single dimension, and most elements, a constant shape may ask for.
const MOST_DIM: f64 = (1u64 << 24) as f64;
const MOST_ELEMENTS: f64 = (1u64 << 31) as f64;

/// More dimensions than any tensor has. tract counts up to an axis.
const MOST_RANK: u64 = 64;

/// Which input of an operator is a shape or a count, and decides how much memory its output takes.
const SHAPED: [(&str, usize); 7] = [
    ("Reshape", 1),
    ("Expand", 1),
    ("ConstantOfShape", 0),
    ("Range", 1),
    ("Tile", 1),
    ("Pad", 1),
    ("OneHot", 1),
];

/// How often the bytes of other files may be used. Exporters that unroll shared layers point to one place once a layer; a
/// short file that points to a long one a thousand times would take all memory when tract brings the numbers in.
const MOST_SHARED: usize = 64;

pub fn check(trace: &Trace<'_>) -> Result<(), ImportError> {
    let mut used = 0usize;
    for held in trace.file.tensors(&trace.view)? {
        if tensor_bytes(&held.view).is_some() || !held.view.encoded.is_empty() && held.view.data_type != 8 {
            let payload = trace.file.payload(&held.view)?;
            if held.view.external {
                used = used.saturating_add(payload.len());
            }
        }
    }
    let stored: usize = trace
        .file
        .externals()
        .filter_map(|(_, bytes)| Some(bytes.ok()?.len()))
        .sum();
    if used > stored.saturating_mul(MOST_SHARED) {
        return Err(trace.unsupported(format!(
            "its tensors take {used} bytes, all of them in other files of {stored} bytes"
        )));
    }
    for node in &trace.view.nodes {
        let bad = |problem: String| {
            let name = node.outputs.first().copied().unwrap_or_default();
            trace.unsupported(format!(
                "node '{}' ({}): {problem}",
                printable(name),
                printable(node.op)
            ))
        };
        for name in ["axis", "axes"] {
            let Some(axes) = trace.attribute(node, name)? else {
                continue;
            };
            let far = |axis: &&i64| axis.unsigned_abs() > MOST_RANK;
            if let Some(axis) = axes.ints.iter().chain([&axes.int]).find(far) {
                return Err(bad(format!(
                    "its {name} {axis} is none of a tensor of up to {MOST_RANK} dimensions"
                )));
            }
        }
        if node.op == "Transpose"
            && let Some(perm) = trace.attribute(node, "perm")?
        {
            let mut sorted = perm.ints.clone();
            sorted.sort_unstable();
            if !sorted.iter().copied().eq(0..sorted.len() as i64) {
                return Err(bad(format!("{:?} is no permutation", perm.ints)));
            }
        }
        let Some((_, input)) = SHAPED.iter().find(|(op, _)| *op == node.op) else {
            continue;
        };
        let Some(name) = node.inputs.get(*input).filter(|n| !n.is_empty()) else {
            continue;
        };
        if let Some(numbers) = trace.numbers(name)? {
            let most = numbers.iter().fold(0.0, |most: f64, n| most.max(n.abs()));
            let product: f64 = numbers.iter().map(|n| n.abs().max(1.0)).product();
            if most > MOST_DIM || product > MOST_ELEMENTS {
                return Err(bad(format!(
                    "'{}' asks for a tensor larger than any of ALBERT's",
                    printable(name)
                )));
            }
        }
    }
    Ok(())
}
