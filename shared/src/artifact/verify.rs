//! Whether a file states what its ModelSpec says. Two truths live in one file, the nodes any ONNX reader runs and the ModelSpec the
//! device runs; here the ModelSpec is lowered again and compared with the nodes, constants and ports, one line a difference.

use crate::artifact::{ArtifactError, KEY_GRAPH, KEY_VERSION, Placement, assemble, open_view};
use crate::onnx::reader::{self, ModelView, TensorView};
use crate::onnx::writer::{self, Mapped};
use std::collections::{HashMap, HashSet};

/// Whether the file states what its ModelSpec says: the ModelSpec is lowered again and compared with the nodes, constants and
/// ports, and the stored numbers are checked. Each difference is one line; an empty list means the two truths are one.
/// Where payloads lie is [`crate::artifact::open`]'s business.
///
/// # Errors
/// Where the file is not thimble's, or its metadata contradict its initializers.
pub fn differences(bytes: &[u8]) -> Result<Vec<String>, ArtifactError> {
    differences_of(bytes, &|_| ())
}

/// The same; `read` is told which bytes of the file are not needed again, so that a map of it need not become resident.
///
/// # Errors
/// Those of [`differences`].
pub fn differences_of<'a>(bytes: &'a [u8], read: &dyn Fn(&'a [u8])) -> Result<Vec<String>, ArtifactError> {
    let view = reader::model(bytes)?;
    let artifact = open_view(&view, bytes.len(), Placement::Anywhere)?;
    let mut differences = Vec::new();
    if let Err(e) = artifact.check_numbers(bytes, read) {
        differences.push(e.to_string());
    }
    // The nodes as they should be, read back through the same reader so that like is compared with like.
    let mut should = assemble(&artifact.graph, artifact.options, &artifact.provenance)?;
    let mapped = std::mem::take(&mut should.mapped);
    let mut should_bytes = Vec::new();
    writer::write_to(&should, &mut should_bytes, |_, _| Ok(()))?;
    let should_view = reader::model(&should_bytes)?;
    compare_nodes(&view, &should_view, &mut differences);
    compare_constants(bytes, &view, &should_bytes, &should_view, &mapped, &mut differences);
    if view.inputs != should_view.inputs || view.outputs != should_view.outputs {
        differences.push("the graph's inputs or outputs were changed".into());
    }
    compare_metadata(&view, &should_view, &mut differences);
    Ok(differences)
}

/// Everything but the version of the program that wrote the file.
fn compare_metadata(is: &ModelView<'_>, should: &ModelView<'_>, differences: &mut Vec<String>) {
    let known = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        let ours = list.iter().filter(|(key, _)| *key != KEY_VERSION);
        ours.map(|(key, value)| (key.to_string(), value.to_string())).collect()
    };
    let (is, should) = (known(&is.metadata), known(&should.metadata));
    for (key, want) in &should {
        match is.iter().find(|(k, _)| k == key) {
            None => differences.push(format!("metadata '{key}' is missing")),
            Some((_, value)) if value != want => {
                differences.push(format!("metadata '{key}' says {value}, '{KEY_GRAPH}' says {want}"));
            }
            Some(_) => {}
        }
    }
    if is.len() > should.len() {
        let extra = is.iter().filter(|entry| !should.contains(entry));
        let extra: Vec<&str> = extra.map(|(key, _)| key.as_str()).collect();
        differences.push(format!("metadata that is not thimble's or stands twice: {extra:?}"));
    }
}

fn compare_nodes(is: &ModelView<'_>, should: &ModelView<'_>, differences: &mut Vec<String>) {
    let found: HashMap<&str, &reader::NodeView> =
        is.nodes.iter().filter_map(|n| Some((*n.outputs.first()?, n))).collect();
    for want in &should.nodes {
        match found.get(want.outputs[0]) {
            None => differences.push(format!("node '{}' ({}) is missing", want.name, want.op)),
            Some(node) if (node.op, node.domain) != (want.op, want.domain) => {
                differences.push(format!(
                    "node '{}' is {}, the metadata states {}",
                    want.name, node.op, want.op
                ));
            }
            Some(node) if node.name != want.name => {
                differences.push(format!("node '{}' is called '{}'", want.name, node.name));
            }
            Some(node) if node.inputs != want.inputs || node.outputs != want.outputs => {
                differences.push(format!(
                    "node '{}' reads {:?}, the metadata states {:?}",
                    want.name, node.inputs, want.inputs
                ));
            }
            Some(node) if !same_attributes(&node.attributes, &want.attributes) => {
                differences.push(format!(
                    "node '{}' ({}) has other attributes than the metadata states",
                    want.name, want.op
                ));
            }
            Some(_) => {}
        }
    }
    let order = |view: &ModelView<'_>| -> Vec<String> {
        view.nodes
            .iter()
            .map(|n| n.outputs.first().copied().unwrap_or_default().to_string())
            .collect()
    };
    if differences.is_empty() && is.nodes.len() == should.nodes.len() && order(is) != order(should) {
        differences.push("the nodes stand in another order than the metadata states them".into());
    }
    if is.nodes.len() != should.nodes.len() {
        differences.push(format!(
            "{} nodes, the metadata states {}",
            is.nodes.len(),
            should.nodes.len()
        ));
    }
}

fn same_attributes(a: &[&[u8]], b: &[&[u8]]) -> bool {
    let sorted = |list: &[&[u8]]| {
        let mut list: Vec<Vec<u8>> = list.iter().map(|x| x.to_vec()).collect();
        list.sort();
        list
    };
    sorted(a) == sorted(b)
}

fn compare_constants(
    is_bytes: &[u8],
    is: &ModelView<'_>,
    should_bytes: &[u8],
    should: &ModelView<'_>,
    mapped: &[Mapped],
    differences: &mut Vec<String>,
) {
    let data = |file: &[u8], t: &TensorView| t.raw.clone().and_then(|r| file.get(r)).map(<[u8]>::to_vec);
    let found: HashMap<&str, &TensorView> = is.initializers.iter().map(|t| (t.name, t)).collect();
    for want in &should.initializers {
        let same = found.get(want.name).is_some_and(|t| {
            t.data_type == want.data_type && t.dims == want.dims && data(is_bytes, t) == data(should_bytes, want)
        });
        if !same {
            differences.push(format!(
                "constant '{}' is missing or has another value than the metadata states",
                want.name
            ));
        }
    }
    let known: HashSet<&str> = should
        .initializers
        .iter()
        .map(|t| t.name)
        .chain(mapped.iter().map(|m| m.name.as_str()))
        .collect();
    differences.extend(
        is.initializers
            .iter()
            .filter(|t| !known.contains(t.name))
            .map(|t| format!("initializer '{}' is not in the metadata", t.name)),
    );
}
