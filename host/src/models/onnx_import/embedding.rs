//! Finds the embedding of a foreign ALBERT: the three tables whose rows are added, the LayerNorm over the sum, and the map
//! from the embedding size to the hidden size. A larger graph may hold several that look alike; all of them come out.

use super::ImportError;
use super::ports::{self, Inputs, Port};
use super::trace::{Linear, Norm, Trace};
use super::weights::StoredMatrix;
use std::collections::BTreeMap;
use thimble_shared::model::{Role, Slot};

pub struct Embedding<'a> {
    pub weights: BTreeMap<String, StoredMatrix<'a>>,
    pub word: StoredMatrix<'a>,
    /// The inputs that choose rows; the others are found when the layers are.
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
    Rows { table: StoredMatrix<'a>, index: &'a str },
    /// The rows themselves: the exporter has looked them up.
    Folded(StoredMatrix<'a>),
}

/// Embeddings looked at as candidates at most: a larger graph may have several.
const MOST: usize = 16;

/// Every embedding of the graph that may be an ALBERT's.
///
/// # Errors
/// What the first candidate lacks, where none is whole.
pub fn find<'a>(trace: &Trace<'a>) -> Result<Vec<Embedding<'a>>, ImportError> {
    let ports = ports::of(trace)?;
    let mut found = Vec::new();
    let mut lacking = None;
    let mut looked = 0;
    for norm in &trace.norms {
        let mut addends = Vec::new();
        if looked == MOST
            || !collect(trace, norm.x, &mut addends, 0)?
            || !addends.iter().any(|a| matches!(a, Addend::Rows { .. }))
        {
            continue;
        }
        looked += 1;
        match mapped(trace, norm, addends, &ports) {
            Ok(embedding) => found.push(embedding),
            Err(problem) => drop(lacking.get_or_insert(problem)),
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    if let Some(port) = ports.first()
        && !ports.iter().any(Port::is_ids)
    {
        return Err(trace.not_albert(format!(
            "its input is {}, and ALBERT reads token ids of [batch, seq]",
            port.said()
        )));
    }
    Err(lacking.unwrap_or_else(|| trace.not_albert("there is no LayerNorm over a sum of embeddings")))
}

/// The embedding whose LayerNorm is `norm`, with the map to the hidden size.
fn mapped<'a>(
    trace: &Trace<'a>,
    norm: &Norm<'a>,
    addends: Vec<Addend<'a>>,
    ports: &[Port<'a>],
) -> Result<Embedding<'a>, ImportError> {
    let size = norm.weight.shape()[0];
    let readers = || trace.linears.iter().filter(|l| trace.source(l.x) == norm.out);
    let Some(map) = readers().find(|l| l.size().0 == size) else {
        return Err(trace.not_albert("nothing maps its embeddings"));
    };
    if readers().count() > 1 {
        return Err(trace.not_albert(format!(
            "its embeddings go straight into attention ({} linear maps read them); ALBERT maps them to the hidden size first",
            readers().count()
        )));
    }
    assemble(trace, norm, map, addends, ports)
}

fn assemble<'a>(
    trace: &Trace<'a>,
    norm: &Norm<'a>,
    map: &Linear<'a>,
    addends: Vec<Addend<'a>>,
    ports: &[Port<'a>],
) -> Result<Embedding<'a>, ImportError> {
    let mut notes = Vec::new();
    // Tables by the input that chooses their rows, if one does; the largest of those is the words'.
    let mut tables: Vec<(StoredMatrix<'a>, Option<&'a str>)> = Vec::new();
    for addend in addends {
        match addend {
            Addend::Rows { table, index } => {
                let from = trace.source(index);
                let by_input = ports.iter().any(|p| p.name == from && p.is_ids());
                tables.push((table, by_input.then_some(from)));
            }
            Addend::Folded(rows) => tables.push((settle(trace, rows, norm.weight.shape()[0], &mut notes)?, None)),
        }
    }
    let is_type = |from: &str| from.contains("type") || from.contains("segment");
    let words = (0..tables.len())
        .filter(|&i| tables[i].1.is_some_and(|from| !is_type(from)))
        .max_by_key(|&i| (tables[i].0.shape()[0], std::cmp::Reverse(i)));
    let Some(words) = words else {
        return Err(trace.not_albert("no table is indexed by an input of token ids"));
    };
    let (word, ids) = tables.remove(words);
    let mut rest = tables;
    // Fewer rows are token types: names say so where they survive, and no model has as few positions.
    rest.sort_by_key(|(t, _)| (t.name().contains("position"), t.shape()[0]));
    let [(types, by_type), (position, by_position)] = <[(StoredMatrix, Option<&str>); 2]>::try_from(rest)
        .map_err(|rest| trace.not_albert(format!("{} tables are added to the word embedding, not 2", rest.len())))?;
    let (hidden_size, embedding_size) = (map.size().1, map.size().0);
    let (positions, type_rows) = (position.shape()[0], types.shape()[0]);
    let Some(map_bias) = map.bias.clone() else {
        return Err(trace.not_albert("the map from the embedding size to the hidden size has no bias"));
    };
    let weights = BTreeMap::from([
        (Role::Word.tensor(Slot::Whole, None), word.clone()),
        (Role::Position.tensor(Slot::Whole, None), position),
        (Role::TokenType.tensor(Slot::Whole, None), types),
        (Role::EmbeddingNorm.tensor(Slot::Gain, None), norm.weight.clone()),
        (Role::EmbeddingNorm.tensor(Slot::Bias, None), norm.bias.clone()),
        (Role::Map.tensor(Slot::Whole, None), map.weight.clone()),
        (Role::Map.tensor(Slot::Bias, None), map_bias),
    ]);
    Ok(Embedding {
        weights,
        word,
        inputs: Inputs {
            ids: ids.unwrap_or_default(),
            types: by_type,
            positions: by_position,
            ..Inputs::default()
        },
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
    rows: StoredMatrix<'a>,
    width: usize,
    notes: &mut Vec<String>,
) -> Result<StoredMatrix<'a>, ImportError> {
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
        "the exporter kept only one token type; the others are not in the file".to_string()
    } else {
        format!("the exporter kept only the first {count} positions; the others are not in the file")
    });
    Ok(StoredMatrix {
        reshaped: Some(vec![numbers.len() / width, width]),
        rows: Some(count),
        ..rows
    })
}
