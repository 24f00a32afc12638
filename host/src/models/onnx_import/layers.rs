//! Finds the layers of a foreign ALBERT one after another, from the hidden state each reads: attention, its map and
//! LayerNorm, the two maps of the feed-forward part and theirs. Then it finds which layers are the same one.

use super::ImportError;
use super::embedding::Embedding;
use super::trace::Trace;
use super::weights::StoredMatrix;
use crate::render::text::printable;
use std::collections::{BTreeMap, HashMap, HashSet};
use thimble_shared::model::{Activation, AttentionArithmetic, Config, Head, Role, Site, Slot};
use thimble_shared::onnx::reader::NodeView;

pub struct Body<'a> {
    pub weights: BTreeMap<String, StoredMatrix<'a>>,
    /// All but the head.
    pub config: Config,
    /// The value after the embedding and after every layer.
    pub states: Vec<&'a str>,
    /// Why what follows the last layer is no further one, where it begins like one.
    pub after: Option<String>,
}

struct Layer<'a> {
    parts: Vec<(Role, Slot, StoredMatrix<'a>)>,
    out: &'a str,
    activation: Activation,
    head_size: Option<usize>,
    eps: [f32; 2],
    ffn: usize,
}

/// More layers than any ALBERT has: a graph may be made to look endless.
const MAX_LAYERS: usize = 1024;

/// Layers whose weights are named in a message at most.
const MAX_SHOWN: usize = 32;

/// Values from which layers are looked for where no embedding was found.
const MOST_STARTS: usize = 64;

pub fn find<'a>(trace: &Trace<'a>, embedding: &Embedding<'a>) -> Result<Body<'a>, ImportError> {
    let (mut found, steps, mut after) = stack(trace, embedding)?;
    let Some(first) = found.first() else {
        return Err(trace.not_albert("no attention reads its mapped embeddings"));
    };
    let unlike = found
        .iter()
        .position(|l| l.activation != first.activation || l.ffn != first.ffn);
    let count = unlike.unwrap_or(found.len());
    if unlike.is_some() {
        after = Some(format!(
            "layer {count}: it has another activation or size than the first"
        ));
    }
    let steps = &steps[..=count];
    for (i, layer) in found.iter().take(count).enumerate() {
        if let Some(eps) = layer.eps.iter().find(|e| **e != embedding.eps) {
            return Err(trace.unsupported(format!(
                "layer {i} has LayerNorm epsilon {eps:e}, the embedding {:e}: thimble states one for all",
                embedding.eps
            )));
        }
    }
    let Some(head_size) = found
        .iter()
        .take(count)
        .find_map(|l| l.head_size)
        .filter(|&d| embedding.hidden_size.is_multiple_of(d))
    else {
        return Err(trace.unsupported("the number of attention heads is written nowhere in the file".into()));
    };
    let base = Config {
        family: thimble_shared::model::ModelFamily::Albert,
        vocab_size: embedding.word.shape()[0],
        embedding_size: embedding.embedding_size,
        hidden_size: embedding.hidden_size,
        num_hidden_layers: count,
        num_hidden_groups: 1,
        inner_group_num: 1,
        num_attention_heads: embedding.hidden_size / head_size,
        intermediate_size: first.ffn,
        max_position_embeddings: embedding.positions,
        type_vocab_size: embedding.types,
        layer_norm_eps: embedding.eps,
        activation: first.activation,
        head: Head::None,
        tied_decoder: false,
        pooler: false,
        labels: vec![],
        multi_label: false,
        regression: false,
        hidden_shift: false,
        sentence: None,
        attention: AttentionArithmetic::F32,
    };
    found.truncate(count);
    share(trace, base, found, steps, after)
}

/// A stack of layers, the value before and after each, and why what follows it is no further one.
type Stack<'a> = (Vec<Layer<'a>>, Vec<&'a str>, Option<String>);

/// Follows the layers from the embedding on.
fn stack<'a>(trace: &Trace<'a>, embedding: &Embedding<'a>) -> Result<Stack<'a>, ImportError> {
    let mut found: Vec<Layer<'a>> = Vec::new();
    let mut steps = vec![embedding.out];
    let mut at = embedding.out;
    let mut after = None;
    loop {
        let layer = match layer(trace, at, embedding.hidden_size, found.len()) {
            Ok(Some(layer)) => layer,
            Ok(None) => break,
            // What begins like a layer behind whole ones may belong to something else.
            Err(
                ImportError::NotAlbert { problem, .. }
                | ImportError::Unrecognized { problem, .. }
                | ImportError::Unsupported { problem, .. },
            ) if !found.is_empty() => {
                after = Some(problem);
                break;
            }
            Err(e) => return Err(e),
        };
        at = layer.out;
        steps.push(at);
        found.push(layer);
        if found.len() > MAX_LAYERS {
            return Err(trace.unsupported(format!("more than {MAX_LAYERS} layers")));
        }
    }
    Ok((found, steps, after))
}

/// Layers that share their weights, wherever they stand: how many, and the values they stand between.
pub fn anywhere<'a>(trace: &Trace<'a>) -> Result<Option<(usize, &'a str, &'a str)>, ImportError> {
    let mut seen: HashSet<&str> = HashSet::new();
    let mut best: Option<(usize, &str, &str)> = None;
    for linear in trace.linears.iter().filter(|l| l.size().0 == l.size().1) {
        let start = trace.source(linear.x);
        if seen.len() == MOST_STARTS || !seen.insert(start) {
            continue;
        }
        let (mut at, mut keys) = (start, Vec::new());
        while keys.len() < MAX_LAYERS
            && let Ok(Some(layer)) = layer(trace, at, linear.size().0, keys.len())
        {
            at = layer.out;
            seen.insert(at);
            let mut key = Vec::new();
            for (_, _, matrix) in layer.parts.iter().take(1) {
                key.push(matrix.fingerprint(trace.file)?);
            }
            keys.push(key);
        }
        let distinct: HashSet<&Vec<u64>> = keys.iter().collect();
        let count = keys.len();
        if distinct.len() < count && best.is_none_or(|(n, ..)| n < count) {
            best = Some((count, start, at));
        }
    }
    Ok(best)
}

/// Finds which layers are one and the same, and the groups and inner layers that repeat them in the file's order.
fn share<'a>(
    trace: &Trace<'a>,
    base: Config,
    found: Vec<Layer<'a>>,
    steps: &[&'a str],
    after: Option<String>,
) -> Result<Body<'a>, ImportError> {
    let mut distinct: Vec<&Layer<'a>> = Vec::new();
    let mut known: HashMap<Vec<u64>, usize> = HashMap::new();
    let mut order = Vec::new();
    let mut prints: HashMap<(usize, bool), u64> = HashMap::new();
    for layer in &found {
        let mut key = Vec::with_capacity(layer.parts.len());
        for (_, _, matrix) in &layer.parts {
            let place = (matrix.tensor.encoded.as_ptr() as usize, matrix.turned);
            let print = match prints.get(&place) {
                Some(print) => *print,
                None => {
                    let print = matrix.fingerprint(trace.file)?;
                    prints.insert(place, print);
                    print
                }
            };
            key.push(print);
        }
        let id = *known.entry(key).or_insert_with(|| {
            distinct.push(layer);
            distinct.len() - 1
        });
        order.push(id);
    }
    let count = order.len();
    for inner in (1..=count).filter(|i| count.is_multiple_of(*i) && distinct.len().is_multiple_of(*i)) {
        let config = Config {
            num_hidden_layers: count / inner,
            num_hidden_groups: distinct.len() / inner,
            inner_group_num: inner,
            ..base.clone()
        };
        if config.num_hidden_groups > config.num_hidden_layers {
            continue;
        }
        let groups = config.layer_groups();
        let stated = groups.iter().flat_map(|g| (0..inner).map(move |i| g * inner + i));
        if !stated.eq(order.iter().copied()) {
            continue;
        }
        let mut weights = BTreeMap::new();
        for (id, layer) in distinct.iter().enumerate() {
            let site = Site {
                group: id / inner,
                inner: id % inner,
            };
            for (role, slot, matrix) in &layer.parts {
                weights.insert(role.tensor(*slot, Some(site)), matrix.clone());
            }
        }
        return Ok(Body {
            weights,
            states: steps.iter().copied().step_by(inner).collect(),
            config,
            after,
        });
    }
    let few = order.iter().take(MAX_SHOWN).collect::<Vec<_>>();
    Err(trace.not_albert(format!(
        "its {count} layers use {} sets of weights in the order {few:?}, which no grouping of ALBERT's states",
        distinct.len()
    )))
}

/// Of the layer that reads `at`: the maps of queries and keys with the node that multiplies them, and the map of values with the
/// node that mixes them.
type Attention<'t, 'a> = ((usize, usize, &'t NodeView<'a>), (usize, &'t NodeView<'a>));

fn attention<'t, 'a>(trace: &'t Trace<'a>, at: &'a str, hidden: usize) -> Option<Attention<'t, 'a>> {
    let reads = |i: usize| trace.source(trace.linears[i].x) == at && trace.linears[i].size() == (hidden, hidden);
    let (mut scores, mut value) = (None, None);
    for node in &trace.view.nodes {
        match (node.op, node.inputs.as_slice()) {
            ("MatMul", &[a, b]) => match (trace.linear_behind(a), trace.linear_behind(b)) {
                (Some(q), Some(k)) if q != k && reads(q) && reads(k) => scores = Some((q, k, node)),
                (None, Some(v)) if reads(v) => value = Some((v, node)),
                _ => {}
            },
            // All of attention in one node, since opset 23.
            ("Attention", &[a, b, c, ..]) if matches!(node.domain, "" | "ai.onnx") => {
                let behind = [a, b, c].map(|name| trace.linear_behind(name).filter(|&i| reads(i)));
                if let [Some(q), Some(k), Some(v)] = behind {
                    (scores, value) = (Some((q, k, node)), Some((v, node)));
                }
            }
            _ => {}
        }
    }
    Some((scores?, value?))
}

/// The layer that reads `at`, if one does.
fn layer<'a>(trace: &Trace<'a>, at: &'a str, hidden: usize, number: usize) -> Result<Option<Layer<'a>>, ImportError> {
    let Some((scores, value)) = attention(trace, at, hidden) else {
        return Ok(None);
    };
    let ((q, k, product), (v, context)) = (scores, value);
    let context = context.outputs.first().copied().unwrap_or_default();
    let stuck = |what: &str| trace.not_albert(format!("layer {number}: {what}"));
    let output = trace
        .linears
        .iter()
        .find(|l| l.size() == (hidden, hidden) && trace.source(l.x) == context)
        .ok_or_else(|| stuck("nothing maps what attention gives"))?;
    let attended = trace
        .norm_of_sum(output.out, at)
        .ok_or_else(|| stuck("no LayerNorm follows attention and its residual"))?;
    let up = trace
        .linears
        .iter()
        .find(|l| trace.source(l.x) == attended.out && l.size().0 == hidden)
        .ok_or_else(|| stuck("no feed-forward map reads the attention's LayerNorm"))?;
    let ffn = up.size().1;
    let mut down = None;
    for linear in trace.linears.iter().filter(|l| l.size() == (ffn, hidden)) {
        if let Some(ops) = trace.between(up.out, linear.x) {
            down = Some((linear, ops));
            break;
        }
    }
    let (down, ops) = down.ok_or_else(|| stuck("no second feed-forward map"))?;
    let fed = trace
        .norm_of_sum(down.out, attended.out)
        .ok_or_else(|| stuck("no LayerNorm follows the feed-forward part and its residual"))?;
    let activation =
        activation(trace, up.out, down.x, &ops).map_err(|what| trace.unsupported(format!("layer {number}: {what}")))?;
    let mut parts = Vec::new();
    let linears = [
        (Role::Query, &trace.linears[q]),
        (Role::Key, &trace.linears[k]),
        (Role::Value, &trace.linears[v]),
        (Role::AttentionOutput, output),
        (Role::Up, up),
        (Role::Down, down),
    ];
    for (role, linear) in linears {
        let bias = linear
            .bias
            .clone()
            .ok_or_else(|| stuck(&format!("its map {} has no bias", role.name())))?;
        parts.extend([(role, Slot::Whole, linear.weight.clone()), (role, Slot::Bias, bias)]);
    }
    parts.extend([
        (Role::AttentionNorm, Slot::Gain, attended.weight.clone()),
        (Role::AttentionNorm, Slot::Bias, attended.bias.clone()),
        (Role::FeedForwardNorm, Slot::Gain, fed.weight.clone()),
        (Role::FeedForwardNorm, Slot::Bias, fed.bias.clone()),
    ]);
    Ok(Some(Layer {
        parts,
        out: fed.out,
        activation,
        head_size: match trace.attribute(product, "q_num_heads")? {
            Some(heads) => usize::try_from(heads.int)
                .ok()
                .and_then(|n| hidden.checked_div(n))
                .filter(|size| *size > 0),
            None => head_size(trace, product.inputs[0])?,
        },
        eps: [attended.eps, fed.eps],
        ffn,
    }))
}

/// Width of one head: the last dimension queries are reshaped to.
fn head_size<'a>(trace: &Trace<'a>, queries: &'a str) -> Result<Option<usize>, ImportError> {
    let mut open = vec![queries];
    for _ in 0..32 {
        let Some(node) = open
            .pop()
            .filter(|n| !trace.by_out.contains_key(n))
            .and_then(|n| trace.node(n))
        else {
            continue;
        };
        if node.op == "Reshape"
            && let Some(shape) = node.inputs.get(1)
        {
            let shape = trace.shape(shape)?;
            if shape.len() == 4
                && let Some(Some(size)) = shape.last()
                && let Some(size) = usize::try_from(*size).ok().filter(|s| *s > 0)
            {
                return Ok(Some(size));
            }
        }
        open.extend(&node.inputs);
    }
    Ok(None)
}

/// The function between the two feed-forward maps, by the operators it is spelt in.
fn activation(trace: &Trace<'_>, from: &str, to: &str, ops: &BTreeMap<&str, usize>) -> Result<Activation, String> {
    let has = |op: &str| ops.contains_key(op);
    if let Some(op) = [
        "HardSwish",
        "Elu",
        "LeakyRelu",
        "Selu",
        "Softplus",
        "PRelu",
        "Clip",
        "Mish",
    ]
    .iter()
    .find(|op| has(op))
    {
        return Err(format!("its activation is {op}, which thimble does not compute"));
    }
    if has("Gelu") {
        let node = trace
            .view
            .nodes
            .iter()
            .find(|n| n.op == "Gelu" && n.inputs.first().is_some_and(|i| trace.source(i) == trace.source(from)))
            .ok_or("its Gelu is of something else than the linear map, which thimble does not compute")?;
        let tanh = trace
            .attribute(node, "approximate")
            .map_err(|e| e.to_string())?
            .is_some_and(|a| a.string == b"tanh");
        return Ok(if tanh { Activation::GeluNew } else { Activation::Gelu });
    }
    if has("Erf") {
        return Ok(Activation::Gelu);
    }
    if has("Tanh") {
        return Ok(if has("Mul") {
            Activation::GeluNew
        } else {
            Activation::Tanh
        });
    }
    if has("Sigmoid") {
        let sigmoid = trace
            .view
            .nodes
            .iter()
            .find(|n| n.op == "Sigmoid" && n.inputs.first().is_some_and(|i| trace.source(i) == trace.source(from)));
        return match sigmoid {
            Some(_) => Ok(Activation::Silu),
            None => Err(
                "its activation is a sigmoid of something scaled (quick_gelu), which thimble does not compute".into(),
            ),
        };
    }
    if has("Relu") {
        return Ok(Activation::Relu);
    }
    let list: Vec<String> = ops.iter().map(|(op, n)| format!("{n} {}", printable(op))).collect();
    let shown = if list.is_empty() {
        "nothing".to_string()
    } else {
        list.join(", ")
    };
    Err(format!(
        "its activation, between '{}' and '{}', is spelt in {shown}; thimble knows gelu, gelu_new, relu, silu and tanh",
        printable(from),
        printable(to)
    ))
}
