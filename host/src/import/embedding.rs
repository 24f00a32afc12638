//! Finds the embedding of a foreign ALBERT: the three tables whose rows are added, the LayerNorm over the sum, and the map
//! from the embedding size to the hidden size. Says, too, which of the file's inputs is which.

use super::trace::{Linear, Norm, Trace};
use super::weights::Matrix;
use super::{ImportError, Inputs};
use crate::onnx::flow::{port_name, port_shape};
use crate::text::printable;
use std::collections::{BTreeMap, HashSet};

pub struct Embedding<'a> {
    pub weights: BTreeMap<String, Matrix<'a>>,
    pub word: Matrix<'a>,
    pub inputs: Inputs<'a>,
    /// What the first layer reads.
    pub out: &'a str,
    pub eps: f32,
    pub embedding_size: usize,
    pub hidden_size: usize,
    pub positions: usize,
    pub types: usize,
    pub notes: Vec<String>,
}

/// What is added up before the first LayerNorm.
enum Addend<'a> {
    /// Rows of a table, chosen by a value.
    Rows { table: Matrix<'a>, index: &'a str },
    /// The rows themselves: the exporter has looked them up.
    Folded(Matrix<'a>),
}

pub fn find<'a>(trace: &Trace<'a>) -> Result<Embedding<'a>, ImportError> {
    let ports = ports(trace)?;
    if let Some(port) = ports.first()
        && !ports.iter().any(Port::is_ids)
    {
        return Err(trace.not_albert(format!(
            "its input is {}, and ALBERT reads token ids of [batch, seq]",
            port.said()
        )));
    }
    let mut found: Option<(&Norm<'a>, Vec<Addend<'a>>)> = None;
    for norm in &trace.norms {
        let mut addends = Vec::new();
        if collect(trace, norm.x, &mut addends, 0)? && addends.iter().any(|a| matches!(a, Addend::Rows { .. })) {
            found = Some((norm, addends));
            break;
        }
    }
    let Some((norm, addends)) = found else {
        return Err(trace.not_albert("there is no LayerNorm over a sum of embeddings"));
    };
    let size = norm.weight.shape()[0];
    let map = trace
        .linears
        .iter()
        .find(|l| trace.source(l.x) == norm.out && l.size().0 == size);
    let Some(map) = map else {
        return Err(trace.not_albert("nothing maps its embeddings"));
    };
    let readers = trace.linears.iter().filter(|l| trace.source(l.x) == norm.out).count();
    if readers > 1 {
        return Err(trace.not_albert(format!(
            "its embeddings go straight into attention ({readers} linear maps read them); ALBERT maps them to the hidden size first"
        )));
    }
    assemble(trace, norm, map, addends, &ports)
}

fn assemble<'a>(
    trace: &Trace<'a>,
    norm: &Norm<'a>,
    map: &Linear<'a>,
    addends: Vec<Addend<'a>>,
    ports: &[Port<'a>],
) -> Result<Embedding<'a>, ImportError> {
    let mut inputs = Inputs {
        shape: shape(ports),
        ..Inputs::default()
    };
    let mut notes = Vec::new();
    let (mut word, mut rest) = (None, Vec::new());
    for addend in addends {
        match addend {
            Addend::Rows { table, index } => {
                let from = trace.source(index);
                let rows = table.shape()[0];
                let by_input = ports.iter().any(|p| p.name == from && p.is_ids());
                let is_type = by_input && (from.contains("type") || from.contains("segment"));
                if by_input && !is_type && word.as_ref().is_none_or(|(w, _): &(Matrix, &str)| w.shape()[0] < rows) {
                    word = Some((table, from));
                } else {
                    if by_input {
                        inputs.types = Some(from);
                    }
                    rest.push(table);
                }
            }
            Addend::Folded(rows) => rest.push(settle(trace, rows, norm.weight.shape()[0], &mut notes)?),
        }
    }
    let Some((word, ids)) = word else {
        return Err(trace.not_albert("no table is indexed by an input of token ids"));
    };
    inputs.ids = ids;
    let known: Vec<&Port<'_>> = ports
        .iter()
        .filter(|p| p.name != ids && Some(p.name) != inputs.types)
        .collect();
    match known.as_slice() {
        [] => {}
        [mask] if mask.is_mask() => {
            inputs.mask = Some(mask.name);
            if !mask.is_ids() {
                notes.push(format!(
                    "its mask is {}; here it is int64 of 0 and 1",
                    crate::onnx::element_type(mask.element)
                ));
            }
        }
        [other] => {
            return Err(trace.unsupported(format!(
                "its input {} is no mask of 0 and 1 over [batch, seq], and thimble knows no others",
                other.said()
            )));
        }
        more => {
            let more: Vec<String> = more.iter().map(|p| printable(p.name)).collect();
            return Err(trace.unsupported(format!(
                "its inputs {} are more than a mask, and thimble knows no others",
                more.join(", ")
            )));
        }
    }
    // Fewer rows are token types: names say so where they survive, and no model has as few positions.
    rest.sort_by_key(|t| (t.name().contains("position"), t.shape()[0]));
    let [types, position] = <[Matrix; 2]>::try_from(rest)
        .map_err(|rest| trace.not_albert(format!("{} tables are added to the word embedding, not 2", rest.len())))?;
    let (hidden_size, embedding_size) = (map.size().1, map.size().0);
    let (positions, type_rows) = (position.shape()[0], types.shape()[0]);
    let Some(map_bias) = map.bias.clone() else {
        return Err(trace.not_albert("the map from the embedding size to the hidden size has no bias"));
    };
    let weights = BTreeMap::from([
        ("word".to_string(), word.clone()),
        ("position".to_string(), position),
        ("type".to_string(), types),
        ("embed_norm.weight".to_string(), norm.weight.clone()),
        ("embed_norm.bias".to_string(), norm.bias.clone()),
        ("map".to_string(), map.weight.clone()),
        ("map.bias".to_string(), map_bias),
    ]);
    Ok(Embedding {
        weights,
        word,
        inputs,
        out: map.out,
        eps: norm.eps,
        embedding_size,
        hidden_size,
        positions,
        types: type_rows,
        notes,
    })
}

/// Adds what `name` sums up; false if something else is in it.
fn collect<'a>(
    trace: &Trace<'a>,
    name: &'a str,
    addends: &mut Vec<Addend<'a>>,
    depth: usize,
) -> Result<bool, ImportError> {
    if let Some(rows) = trace.matrix(name)? {
        addends.push(Addend::Folded(rows));
        return Ok(true);
    }
    let name = trace.source(name);
    let Some(node) = trace.node(name).filter(|_| depth < 8) else {
        return Ok(false);
    };
    match (node.op, node.inputs.as_slice()) {
        ("Add", &[a, b]) => Ok(collect(trace, a, addends, depth + 1)? && collect(trace, b, addends, depth + 1)?),
        ("Gather", &[table, index]) => match trace.matrix(table)?.filter(|t| t.shape().len() == 2) {
            Some(table) => {
                addends.push(Addend::Rows { table, index });
                Ok(true)
            }
            None => Ok(false),
        },
        _ => Ok(false),
    }
}

/// A table of what the exporter looked up already: the first `seq` positions, or one token type repeated.
fn settle<'a>(
    trace: &Trace<'a>,
    rows: Matrix<'a>,
    width: usize,
    notes: &mut Vec<String>,
) -> Result<Matrix<'a>, ImportError> {
    let numbers = rows.floats(trace.file)?;
    // Broadcasting compares last dimensions: only then are these rows of the embedding.
    if width == 0 || numbers.is_empty() || rows.shape().last() != Some(&width) {
        return Err(trace.not_albert("a constant of another width is added to its embeddings"));
    }
    let mut table: Vec<&[f32]> = numbers.chunks(width).collect();
    // A batch of equal tables is one table.
    let shape = rows.shape();
    if shape.len() == 3 && shape[0] > 1 {
        let per = shape[1];
        if per > 0 && table.chunks(per).all(|t| t == &table[..per]) {
            table.truncate(per);
        }
    }
    let repeated = table.iter().all(|row| row == &table[0]);
    let count = if repeated { 1 } else { table.len() };
    notes.push(if repeated {
        "the exporter has looked up one token type; the others are not in the file".to_string()
    } else {
        format!("the exporter has looked up the first {count} positions; the others are not in the file")
    });
    Ok(Matrix {
        reshaped: Some(vec![numbers.len() / width, width]),
        rows: Some(count),
        ..rows
    })
}

/// An input of the file that is no initializer.
struct Port<'a> {
    name: &'a str,
    element: i64,
    dims: Vec<Option<i64>>,
}

impl Port<'_> {
    /// Whether it may hold ids: `[batch, seq]` or `[batch, choices, seq]` of int32 or int64.
    fn is_ids(&self) -> bool {
        matches!(self.element, 6 | 7) && matches!(self.dims.len(), 2 | 3)
    }

    /// Whether it may hold a mask of 0 and 1 over tokens, in numbers of any kind.
    fn is_mask(&self) -> bool {
        matches!(self.element, 1 | 6 | 7 | 9 | 10 | 11 | 16) && matches!(self.dims.len(), 2 | 3)
    }

    fn said(&self) -> String {
        format!(
            "'{}', {} of {} dimensions",
            printable(self.name),
            crate::onnx::element_type(self.element),
            self.dims.len()
        )
    }
}

fn ports<'a>(trace: &Trace<'a>) -> Result<Vec<Port<'a>>, ImportError> {
    let stored: HashSet<&str> = trace.view.initializers.iter().map(|t| t.name).collect();
    let mut ports = Vec::new();
    for port in &trace.view.inputs {
        let wire = |e| trace.file.wire_error(e);
        let name = port_name(port).map_err(wire)?;
        if !stored.contains(name) {
            let (element, dims) = port_shape(port).map_err(wire)?;
            ports.push(Port { name, element, dims });
        }
    }
    Ok(ports)
}

/// The shape the inputs fix.
fn shape(ports: &[Port<'_>]) -> Vec<Option<usize>> {
    let mut shape: Vec<Option<usize>> = Vec::new();
    for port in ports.iter().filter(|p| p.is_mask()) {
        if shape.len() != port.dims.len() {
            shape = vec![None; port.dims.len()];
        }
        for (known, dim) in shape.iter_mut().zip(&port.dims) {
            *known = known.or(dim.and_then(|d| usize::try_from(d).ok()).filter(|d| *d > 0));
        }
    }
    shape
}
