//! The inputs of a foreign file: which holds token ids, which token types, which the mask, and which belong to a larger graph
//! around the ALBERT. Shapes are `[batch, seq]` or `[batch, choices, seq]`.

use super::ImportError;
use super::trace::Trace;
use crate::onnx::element::{BOOL, element_type};
use crate::onnx::flow::{port_name, port_shape};
use crate::render::text::printable;
use std::collections::HashSet;

/// The file's inputs by what goes into them, with the dims it fixes.
#[derive(Clone, Debug, Default)]
pub struct Inputs<'a> {
    pub ids: &'a str,
    pub types: Option<&'a str>,
    /// Where the file takes positions instead of counting them.
    pub positions: Option<&'a str>,
    pub mask: Option<&'a str>,
    pub form: MaskForm,
    /// Inputs of which the ALBERT reads the shape alone.
    pub shapes: Vec<&'a str>,
    /// It is ALBERT only for masks that end in zeros.
    pub right_padded: bool,
    /// `[batch, seq]` or `[batch, choices, seq]`; none where the file leaves it open.
    pub shape: Vec<Option<usize>>,
}

/// What says in the file which tokens are real.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaskForm {
    /// A mask of 1 where a token is real.
    #[default]
    Ones,
    /// A mask of 1 where it is padding.
    Padding,
    /// The number of real tokens of each row.
    Lengths,
    /// The ids: this one is padding.
    Id(i64),
}

/// Completes the inputs that the embedding reads by those that the last hidden state, `last`, is computed from as well. Gives
/// notes, or what no ALBERT reads.
pub fn complete<'a>(trace: &Trace<'a>, known: Inputs<'a>, last: &'a str) -> Result<(Inputs<'a>, Vec<String>), Foreign> {
    let all = of(trace).map_err(Foreign::Unreadable)?;
    let (needed, valued) = (trace.flow.needed([last]), values(trace, last));
    let (read, beside): (Vec<Port<'a>>, Vec<Port<'a>>) = all.into_iter().partition(|p| needed.contains(p.name));
    let mut inputs = Inputs {
        shape: shape(&read),
        ..known
    };
    let mut notes = Vec::new();
    if let Some(name) = inputs.positions {
        notes.push(format!(
            "its input '{}' says each token's position; here they are counted from 0",
            printable(name)
        ));
    }
    let (read, shaped): (Vec<Port<'a>>, Vec<Port<'a>>) =
        read.into_iter().partition(|p| valued.contains(p.name) || !p.is_mask());
    for port in shaped {
        notes.push(format!(
            "of its input '{}' only the shape is read",
            printable(port.name)
        ));
        inputs.shapes.push(port.name);
    }
    mask(trace, &read, &valued, &mut inputs, &mut notes)?;
    notes.extend(left_out(&beside)?);
    Ok((inputs, notes))
}

/// Finds among `read` what says which tokens are real, where something does.
fn mask<'a>(
    trace: &Trace<'a>,
    read: &[Port<'a>],
    valued: &HashSet<&'a str>,
    inputs: &mut Inputs<'a>,
    notes: &mut Vec<String>,
) -> Result<(), Foreign> {
    let rest: Vec<&Port<'_>> = read
        .iter()
        .filter(|p| p.name != inputs.ids && Some(p.name) != inputs.types && Some(p.name) != inputs.positions)
        .collect();
    match rest.as_slice() {
        [] => {
            if let Some(id) = padding(trace, inputs.ids, valued).map_err(Foreign::Unreadable)? {
                inputs.form = MaskForm::Id(id);
                notes.push(format!(
                    "its mask is computed inside: tokens with the id {id} are padding; here attention_mask says which are"
                ));
            }
        }
        [mask] if mask.is_mask() => {
            inputs.mask = Some(mask.name);
            if counted(trace, mask.name, valued) {
                inputs.right_padded = true;
            }
            if !mask.is_ids() {
                notes.push(format!(
                    "its mask is {}; here it is int64 of 0 and 1",
                    element_type(mask.element)
                ));
            }
        }
        [lengths] if lengths.is_lengths() => {
            inputs.mask = Some(lengths.name);
            (inputs.form, inputs.right_padded) = (MaskForm::Lengths, true);
            notes.push(format!(
                "its input '{}' is read as the number of real tokens of each row; here attention_mask says which are",
                printable(lengths.name)
            ));
        }
        [other] => {
            return Err(Foreign::Said(format!(
                "its input {} is no mask of 0 and 1 over [batch, seq], and thimble knows no others",
                other.said()
            )));
        }
        more => {
            let shown: Vec<String> = more.iter().take(NAMED).map(|p| printable(p.name)).collect();
            let rest = more.len().saturating_sub(NAMED);
            return Err(Foreign::Said(format!(
                "its inputs {}{} are more than a mask, and thimble knows no others",
                shown.join(", "),
                if rest > 0 {
                    format!(" and {rest} more")
                } else {
                    String::new()
                }
            )));
        }
    }
    Ok(())
}

/// Says which inputs are not the ALBERT's.
fn left_out(beside: &[Port<'_>]) -> Result<Option<String>, Foreign> {
    if beside.len() > MOST_BESIDE {
        let shown: Vec<String> = beside.iter().take(NAMED).map(|p| printable(p.name)).collect();
        return Err(Foreign::Said(format!(
            "its inputs {} and {} more are not the ALBERT's, which is more than thimble leaves out",
            shown.join(", "),
            beside.len() - NAMED
        )));
    }
    if beside.is_empty() {
        return Ok(None);
    }
    let shown: Vec<String> = beside
        .iter()
        .take(NAMED)
        .map(|p| format!("'{}'", printable(p.name)))
        .collect();
    Ok(Some(format!("the ALBERT reads no {}: left out", shown.join(", "))))
}

/// Every value whose numbers `last` depends on, itself included: of what only a Shape reads the numbers are nobody's.
fn values<'a>(trace: &Trace<'a>, last: &'a str) -> HashSet<&'a str> {
    let (mut seen, mut open) = (HashSet::new(), vec![last]);
    while let Some(name) = open.pop() {
        if seen.insert(name)
            && let Some(&maker) = trace.flow.maker.get(name)
            && !matches!(trace.view.nodes[maker].op, "Shape" | "Size")
        {
            open.extend(&trace.flow.reads[maker]);
        }
    }
    seen
}

/// Whether what is computed reads nothing of a mask but the number of its ones.
fn counted<'a>(trace: &Trace<'a>, mask: &'a str, valued: &HashSet<&'a str>) -> bool {
    let (mut open, mut seen, mut sums) = (vec![mask], HashSet::new(), false);
    while let Some(name) = open.pop().filter(|n| seen.insert(*n)) {
        for &reader in trace.flow.readers(name) {
            let node = &trace.view.nodes[reader];
            if !node.outputs.iter().any(|o| valued.contains(o)) {
                continue;
            }
            match node.op {
                "Cast" | "Identity" => open.extend(&node.outputs),
                "ReduceSum" => sums = true,
                "Shape" | "Size" => {}
                _ => return false,
            }
        }
    }
    sums
}

/// The id that the file takes for padding of its own accord: the one that it compares all ids with.
fn padding<'a>(trace: &Trace<'a>, ids: &'a str, valued: &HashSet<&'a str>) -> Result<Option<i64>, ImportError> {
    for node in &trace.view.nodes {
        let reads = |i: usize| node.inputs.get(i).is_some_and(|n| trace.source(n) == ids);
        if !node.outputs.iter().any(|o| valued.contains(o)) || !(reads(0) || reads(1)) {
            continue;
        }
        let other = node.inputs.get(usize::from(reads(0))).copied().unwrap_or_default();
        let number = match trace.numbers(other)?.as_deref() {
            Some(&[number]) => Some(number as i64),
            _ => None,
        };
        match (node.op, number) {
            ("Equal", Some(id)) => return Ok(Some(id)),
            // Ids above zero, or those that are true.
            ("Greater", Some(0)) if reads(0) => return Ok(Some(0)),
            ("Cast", _) if trace.attribute(node, "to")?.is_some_and(|a| a.int == BOOL) => return Ok(Some(0)),
            _ => {}
        }
    }
    Ok(None)
}

/// Inputs of a larger graph that are left out at most.
const MOST_BESIDE: usize = 64;

/// Inputs named in one line at most.
const NAMED: usize = 8;

/// Why inputs are none of an ALBERT's.
pub enum Foreign {
    Said(String),
    Unreadable(ImportError),
}

/// An input of the file that is no initializer.
pub struct Port<'a> {
    pub name: &'a str,
    element: i64,
    dims: Vec<Option<i64>>,
}

impl Port<'_> {
    /// Whether it may hold ids: `[batch, seq]` or `[batch, choices, seq]` of int32 or int64.
    pub fn is_ids(&self) -> bool {
        matches!(self.element, 6 | 7) && matches!(self.dims.len(), 2 | 3)
    }

    /// Whether it may hold a mask of 0 and 1 over tokens, in numbers of any kind.
    fn is_mask(&self) -> bool {
        matches!(self.element, 1 | 6 | 7 | 9 | 10 | 11 | 16) && matches!(self.dims.len(), 2 | 3)
    }

    /// Whether it may count the tokens of each row.
    fn is_lengths(&self) -> bool {
        matches!(self.element, 6 | 7) && self.dims.len() == 1
    }

    pub fn said(&self) -> String {
        format!(
            "'{}', {} of {} dimensions",
            printable(self.name),
            element_type(self.element),
            self.dims.len()
        )
    }
}

/// The file's inputs that are no initializers.
pub fn of<'a>(trace: &Trace<'a>) -> Result<Vec<Port<'a>>, ImportError> {
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
