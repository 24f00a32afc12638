//! Why each payload of an ONNX file is there: settles, tensor by tensor, whether its numbers are needed, stored twice, or
//! reached only through other nodes. In comes a file with its ledger, out come sums and ranges per cause that add up to
//! the file and the files it points to.

use super::ledger::{ByteSpan, Cause, spans};
use crate::onnx::flow::{Flow, port_name};
use crate::onnx::same::{self, Same};
use crate::onnx::{Held, OnnxError, OnnxFile, PayloadPlace, element_type, tensor_bytes};
use crate::render::text::printable;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use thimble_shared::onnx::reader::ModelView;

/// Bytes `start..end` of `file`, all of one cause.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stretch {
    /// Index into [`Account::files`].
    pub file: usize,
    pub start: usize,
    pub end: usize,
    pub cause: Cause,
    /// Index into [`Account::tensors`] for payloads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor: Option<usize>,
}

/// One file of the model: the .onnx itself, or one its tensors point to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Piece {
    pub name: String,
    pub bytes: u64,
}

/// A tensor and its verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tensor {
    pub name: String,
    pub element: &'static str,
    pub dims: Vec<i64>,
    /// Bytes of the files that are this tensor's: none where it shares another one's.
    pub bytes: u64,
    pub cause: Cause,
    /// The tensor it repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Account {
    pub files: Vec<Piece>,
    /// Bytes by cause; they add up to the files.
    pub causes: BTreeMap<Cause, u64>,
    /// Payload bytes by element type, whatever their cause.
    pub payload: BTreeMap<&'static str, u64>,
    pub tensors: Vec<Tensor>,
    pub stretches: Vec<Stretch>,
    /// What a reader should know beyond the sums.
    pub notes: Vec<String>,
    /// Outputs that carry no name anybody gave them.
    pub unnamed_outputs: Vec<String>,
    pub named_outputs: Vec<String>,
}

impl Account {
    pub fn total(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    pub fn of(&self, cause: Cause) -> u64 {
        self.causes.get(&cause).copied().unwrap_or(0)
    }
}

/// Nodes that hand a weight on: what stands between it and the node that computes with it.
const ALIASES: [(&str, Cause); 4] = [
    ("Identity", Cause::ThroughIdentity),
    ("Transpose", Cause::ThroughTranspose),
    ("Cast", Cause::ThroughCast),
    ("DequantizeLinear", Cause::ThroughDequantize),
];

/// Constants below this size are arguments of nodes, no weights: how they are reached says nothing.
const LEAST_WEIGHT: usize = 256;

pub fn account<'a>(file: &OnnxFile, view: &ModelView<'a>, flow: &Flow<'a>) -> Result<Account, OnnxError> {
    let ledger = spans(file.bytes()).map_err(|e| file.wire_error(e))?;
    let held = file.tensors(view)?;
    let base = file.bytes().as_ptr() as usize;
    let at: HashMap<usize, usize> = held
        .iter()
        .enumerate()
        .map(|(i, h)| (h.view.encoded.as_ptr() as usize - base, i))
        .collect();
    let mut judge = Judge::new(file, view, flow, &held)?;
    let path_note = path_note(file, &ledger);
    let mut account = Account {
        files: vec![Piece {
            name: file.path.display().to_string(),
            bytes: file.bytes().len() as u64,
        }],
        ..Account::default()
    };
    for span in ledger {
        let tensor = span.tensor.and_then(|t| at.get(&t).copied());
        let cause = match (span.cause, tensor) {
            (Cause::Weights | Cause::Varints, Some(i)) => {
                *account.payload.entry(element_type(held[i].view.data_type)).or_default() += span.range.len() as u64;
                judge.cause(i, span.cause == Cause::Varints)
            }
            (cause, _) => cause,
        };
        account.put(0, &span, cause, tensor);
    }
    account.notes.extend(path_note);
    externals(file, &held, &mut judge, &mut account);
    let mut bytes = vec![0; held.len()];
    for stretch in &account.stretches {
        if let Some(i) = stretch.tensor {
            bytes[i] += (stretch.end - stretch.start) as u64;
        }
    }
    account.tensors = bytes.iter().enumerate().map(|(i, &n)| judge.tensor(i, n)).collect();
    account.notes.extend(judge.alias_note(view));
    account.unnamed_outputs = judge.unnamed;
    account.named_outputs = judge.named;
    Ok(account)
}

impl Account {
    fn put(&mut self, file: usize, span: &ByteSpan, cause: Cause, tensor: Option<usize>) {
        *self.causes.entry(cause).or_default() += span.range.len() as u64;
        self.stretches.push(Stretch {
            file,
            start: span.range.start,
            end: span.range.end,
            cause,
            tensor: tensor.filter(|_| span.tensor.is_some()),
        });
    }
}

/// Tensors without numbers that are named; a file may have any number of them.
const MOST_PROBLEMS: usize = 8;

/// Adds the files tensors point to: each byte to the first tensor that claims it, the rest unreferenced.
fn externals(file: &OnnxFile, held: &[Held<'_>], judge: &mut Judge<'_, '_>, account: &mut Account) {
    let mut claimed: Vec<Vec<(Range<usize>, usize)>> = file.externals().map(|_| Vec::new()).collect();
    let mut problems: Vec<String> = Vec::new();
    for (i, held) in held.iter().enumerate().filter(|(_, h)| h.view.external) {
        match file.external(&held.view) {
            Ok((index, range)) => claimed[index].push((range, i)),
            Err(problem) => problems.push(format!("tensor '{}': {problem}", printable(held.name))),
        }
    }
    let more = problems.len().saturating_sub(MOST_PROBLEMS);
    account.notes.extend(problems.into_iter().take(MOST_PROBLEMS));
    if more > 0 {
        account
            .notes
            .push(format!("and {more} more tensors whose numbers are missing"));
    }
    for (index, (name, bytes)) in file.externals().enumerate() {
        let Ok(bytes) = bytes else { continue };
        let piece = account.files.len();
        account.files.push(Piece {
            name: printable(name),
            bytes: bytes.len() as u64,
        });
        let mut claims = std::mem::take(&mut claimed[index]);
        claims.sort_by_key(|(range, i)| (range.start, *i));
        let mut pos = 0;
        for (range, i) in claims {
            let (start, end) = (range.start.max(pos), range.end.max(pos));
            account.put(
                piece,
                &ByteSpan {
                    range: pos..start,
                    cause: Cause::Unreferenced,
                    tensor: None,
                },
                Cause::Unreferenced,
                None,
            );
            let cause = judge.cause(i, false);
            *account.payload.entry(element_type(held[i].view.data_type)).or_default() += (end - start) as u64;
            account.put(
                piece,
                &ByteSpan {
                    range: start..end,
                    cause,
                    tensor: Some(0),
                },
                cause,
                Some(i),
            );
            pos = end;
        }
        let rest = ByteSpan {
            range: pos..bytes.len(),
            cause: Cause::Unreferenced,
            tensor: None,
        };
        account.put(piece, &rest, Cause::Unreferenced, None);
        account.causes.retain(|_, bytes| *bytes > 0);
        account.stretches.retain(|s| s.end > s.start);
    }
}

struct Judge<'a, 'f> {
    held: &'f [Held<'a>],
    flow: &'f Flow<'a>,
    view: &'f ModelView<'a>,
    needed: HashSet<&'a str>,
    /// Needed by outputs that have a name.
    wanted: HashSet<&'a str>,
    same: HashMap<usize, Same>,
    named: Vec<String>,
    unnamed: Vec<String>,
}

impl<'a, 'f> Judge<'a, 'f> {
    fn new(
        file: &OnnxFile,
        view: &'f ModelView<'a>,
        flow: &'f Flow<'a>,
        held: &'f [Held<'a>],
    ) -> Result<Self, OnnxError> {
        let wire = |e| file.wire_error(e);
        let outputs = view
            .outputs
            .iter()
            .map(|o| port_name(o))
            .collect::<Result<Vec<_>, _>>()
            .map_err(wire)?;
        let (mut named, mut unnamed): (Vec<&str>, Vec<&str>) = outputs.iter().partition(|name| !made_up(name));
        if named.is_empty() {
            named = std::mem::take(&mut unnamed);
        }
        let needed = flow.needed(outputs.iter().copied());
        let wanted = match unnamed.as_slice() {
            [] => needed.clone(),
            _ => flow.needed(named.iter().copied()),
        };
        // Nested and outer tensors cannot stand in for each other.
        let candidates: Vec<usize> = (0..held.len())
            .filter(|&i| held[i].place.is_value() && needed.contains(held[i].name))
            .filter(|&i| file.payload(&held[i].view).is_ok())
            .collect();
        let same = same::find(file, held, &candidates)?;
        Ok(Judge {
            held,
            view,
            same,
            named: named.into_iter().map(str::to_string).collect(),
            unnamed: unnamed.into_iter().map(str::to_string).collect(),
            needed,
            wanted,
            flow,
        })
    }

    fn cause(&mut self, i: usize, typed: bool) -> Cause {
        let held = &self.held[i];
        let inner = held.place == PayloadPlace::Inner;
        if !inner && !self.needed.contains(held.name) {
            return Cause::Unneeded;
        }
        match self.same.get(&i) {
            Some(Same::Bytes(_)) => return Cause::Duplicates,
            Some(Same::Transposed(_)) => return Cause::Transposed,
            None => {}
        }
        if !inner && !self.wanted.contains(held.name) {
            return Cause::UnnamedOutput;
        }
        // Text has no other form.
        if typed && tensor_bytes(&held.view).is_some() {
            return Cause::Varints;
        }
        if inner || tensor_bytes(&held.view).is_none_or(|n| n < LEAST_WEIGHT) {
            return Cause::Weights;
        }
        let through = |reader: &usize| {
            let op = self.view.nodes[*reader].op;
            ALIASES.iter().find(|(alias, _)| *alias == op).map(|(_, cause)| *cause)
        };
        let readers = self.flow.readers(held.name);
        match readers.iter().map(through).collect::<Option<Vec<Cause>>>() {
            Some(causes) => causes.first().copied().unwrap_or(Cause::Weights),
            None => Cause::Weights,
        }
    }

    fn tensor(&mut self, i: usize, bytes: u64) -> Tensor {
        let held = &self.held[i];
        let typed = held.view.payload.is_none() && !held.view.external;
        let cause = self.cause(i, typed);
        Tensor {
            name: held.name.to_string(),
            element: element_type(held.view.data_type),
            dims: held.view.dims.clone(),
            bytes,
            cause,
            repeats: self.same.get(&i).map(|same| {
                let (Same::Bytes(j) | Same::Transposed(j)) = same;
                self.held[*j].name.to_string()
            }),
        }
    }

    /// Identity nodes over weights: harmless to run, but quantizers stop at them.
    fn alias_note(&self, view: &ModelView<'_>) -> Option<String> {
        let weights: HashSet<&str> = self
            .held
            .iter()
            .filter(|h| h.place == PayloadPlace::Initializer)
            .filter(|h| tensor_bytes(&h.view).is_some_and(|n| n >= LEAST_WEIGHT))
            .map(|h| h.name)
            .collect();
        let identities = view
            .nodes
            .iter()
            .filter(|n| n.op == "Identity" && n.inputs.first().is_some_and(|i| weights.contains(i)))
            .count();
        (identities > 0).then(|| {
            format!(
                "{identities} Identity nodes pass a weight on under another name; quantizers that look for initializers (onnxruntime's quantize_dynamic) skip what is read through them"
            )
        })
    }
}

/// Whether an output's name is one an exporter makes up: a number, a module's path, or an operator's name with a number.
fn made_up(name: &str) -> bool {
    let stem = name
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .trim_end_matches('_');
    stem.is_empty()
        || name.starts_with('/')
        || ["tanh", "linear", "addmm", "val", "getitem", "layer_norm"].contains(&stem)
}

/// Stack traces in metadata and doc strings carry the paths of the machine the file was made on.
fn path_note(file: &OnnxFile, ledger: &[ByteSpan]) -> Option<String> {
    let mut paths: BTreeMap<String, usize> = BTreeMap::new();
    let mut count = 0usize;
    for span in ledger {
        if !matches!(span.cause, Cause::Metadata | Cause::DocStrings) {
            continue;
        }
        let text = String::from_utf8_lossy(&file.bytes()[span.range.clone()]);
        for part in text.split("File \"").skip(1) {
            if let Some((path, _)) = part.split_once('"') {
                count += 1;
                *paths.entry(path.to_string()).or_default() += 1;
            }
        }
    }
    let (example, _) = paths.iter().max_by_key(|(_, n)| **n)?;
    Some(format!(
        "warning: stack traces name {} files of the machine it was exported on, {count} times, e.g. {}; whoever gets the file can read them",
        paths.len(),
        printable(example)
    ))
}

/// What a cause is called in tables.
pub fn title(cause: Cause) -> &'static str {
    match cause {
        Cause::Weights => "weights, stored once and used directly",
        Cause::ThroughIdentity => "weights, reached only through Identity",
        Cause::ThroughTranspose => "weights, reached only through Transpose",
        Cause::ThroughCast => "weights, reached only through Cast",
        Cause::ThroughDequantize => "weights, reached only through DequantizeLinear",
        Cause::Duplicates => "byte-identical copies",
        Cause::Transposed => "transposed copies",
        Cause::UnnamedOutput => "weights only an unnamed output needs",
        Cause::Unneeded => "weights no output needs",
        Cause::Varints => "numbers in typed fields instead of raw bytes",
        Cause::Unreferenced => "external bytes no tensor points to",
        Cause::Names => "names of values, nodes and tensors",
        Cause::DocStrings => "doc strings",
        Cause::Metadata => "metadata_props",
        Cause::Alignment => "padding that aligns payloads",
        Cause::Nodes => "nodes and attributes",
        Cause::Shapes => "declared types and shapes",
        Cause::TensorHeaders => "tensor headers",
        Cause::Header => "versions, producer, operator sets",
    }
}

/// Whether a cause holds numbers the model computes with, each stored once.
pub fn is_substance(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::Weights
            | Cause::ThroughIdentity
            | Cause::ThroughTranspose
            | Cause::ThroughCast
            | Cause::ThroughDequantize
            | Cause::Varints
    )
}

/// Whether a cause's bytes are stored again, or needed by nothing.
pub fn wasted(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::Duplicates | Cause::Transposed | Cause::UnnamedOutput | Cause::Unneeded | Cause::Unreferenced
    )
}

#[cfg(test)]
mod tests {
    use super::made_up;

    #[test]
    fn names_that_exporters_make_up_are_told_from_given_ones() {
        for name in ["1234", "tanh_1", "linear_37", "/pooler/Tanh_output_0", "val_9"] {
            assert!(made_up(name), "{name}");
        }
        for name in ["logits", "last_hidden_state", "pooler_output", "output_0", "layer1"] {
            assert!(!made_up(name), "{name}");
        }
    }
}
