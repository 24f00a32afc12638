//! What the map of a file shows: its bytes as groups of tiles, in the colors of their number formats. Of a file of thimble's the groups are
//! parts of the network, and each weight is called what it is; of any other ONNX they are the causes. The tiles add up to the file.

use super::Explanation;
use super::causes::{Tensor, is_substance, title, wasted};
use super::ledger::Cause;
use crate::render::theme::Tone;
use crate::render::treemap::Tile;
use std::collections::BTreeMap;
use thimble_shared::model::{Role, Site, Slot, WeightSpec};

/// Tensors drawn one by one within a cause; the rest share a tile for each element type.
const MOST_TILES: usize = 60;

/// Bytes by what the map's colors tell: tone and word, in the order of a legend.
pub(crate) type ByTone = BTreeMap<(Tone, String), u64>;

/// What bytes are called that hold no numbers of weights.
pub(crate) const NO_WEIGHTS: &str = "not weights";

/// The groups of the map, and their bytes by tone.
pub(crate) fn groups(e: &Explanation) -> (Vec<Vec<Tile>>, ByTone) {
    if e.parts.iter().all(|part| part.spec.is_some()) && !e.parts.is_empty() {
        own(e)
    } else {
        foreign(e)
    }
}

/// Where in the network a weight is, in the order of the map and of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Tables and what maps them to the hidden size.
    Embeddings,
    /// A layer, with the weights it shares.
    Layer(Site),
    /// What comes after the layers.
    Head,
}

impl Place {
    pub fn of(spec: &WeightSpec) -> Place {
        match (spec.site, spec.role) {
            (Some(site), _) => Place::Layer(site),
            (None, Role::Pooler | Role::Head(_)) => Place::Head,
            (None, _) => Place::Embeddings,
        }
    }

    /// Its name, with how often a layer runs.
    pub fn title(self, uses: usize) -> String {
        match (self, uses) {
            (Place::Embeddings, _) => "Embeddings".into(),
            (Place::Layer(site), 1) => format!("Layer {}.{}", site.group, site.inner),
            (Place::Layer(site), n) => format!("Layer {}.{}, stored once and run {n} times", site.group, site.inner),
            (Place::Head, _) => "Pooler and head".into(),
        }
    }
}

/// What a weight is to the network.
pub(crate) fn meaning(spec: &WeightSpec) -> String {
    let what = match spec.role {
        Role::Word => "word embeddings",
        Role::Position => "position embeddings",
        Role::TokenType => "token type embeddings",
        Role::EmbeddingNorm => "LayerNorm of the embeddings",
        Role::Map => "map to the hidden size",
        Role::Query => "attention query",
        Role::Key => "attention key",
        Role::Value => "attention value",
        Role::AttentionOutput => "attention output",
        Role::AttentionNorm => "LayerNorm after attention",
        Role::Up => "feed-forward, first map",
        Role::Down => "feed-forward, second map",
        Role::FeedForwardNorm => "LayerNorm after feed-forward",
        Role::Pooler => "map of the pooled token",
        Role::HiddenShift => "shift of the hidden states",
        Role::Head(_) => "head",
    };
    match spec.slot {
        Slot::Whole => what.to_string(),
        Slot::Gain => format!("{what}: factors"),
        Slot::Bias => format!("{what}: bias"),
    }
}

fn own(e: &Explanation) -> (Vec<Vec<Tile>>, ByTone) {
    let mut by_place: BTreeMap<Place, Vec<Tile>> = BTreeMap::new();
    let mut tones = ByTone::new();
    for (part, spec) in e.parts.iter().filter_map(|part| Some((part, part.spec.as_ref()?))) {
        let (tone, format) = (Tone::of_format(&part.format), &part.format);
        *tones.entry((tone, format.clone())).or_default() += part.bytes;
        by_place.entry(Place::of(spec)).or_default().push(Tile {
            labels: vec![
                format!("{}: {} · {format}", part.name, meaning(spec)),
                format!("{} · {format}", part.name),
                format!("{} · {format}", spec.role.tensor(spec.slot, None)),
                format.clone(),
            ],
            detail: vec![
                format!("{} {format}", shape(part.shape.iter())),
                Place::of(spec).title(part.uses),
            ],
            bytes: part.bytes,
            tone,
        });
    }
    let mut rest: Vec<Tile> = (e.account.causes.iter())
        .filter(|(cause, _)| !is_substance(**cause) && !wasted(**cause))
        .map(|(cause, bytes)| graph(*cause, *bytes))
        .collect();
    let told: u64 = rest.iter().map(|tile| tile.bytes).sum();
    let left = e.rest.saturating_sub(told);
    if left > 0 {
        rest.push(Tile {
            labels: vec!["multipliers of blocks, constants of nodes".into(), "constants".into()],
            detail: vec![],
            bytes: left,
            tone: Tone::Graph,
        });
    }
    tones.insert(
        (Tone::Graph, NO_WEIGHTS.into()),
        rest.iter().map(|tile| tile.bytes).sum(),
    );
    let mut groups: Vec<Vec<Tile>> = by_place.into_values().collect();
    groups.push(rest);
    (groups, tones)
}

/// 4000×64.
pub(crate) fn shape<N: ToString>(dims: impl Iterator<Item = N>) -> String {
    dims.map(|n| n.to_string()).collect::<Vec<_>>().join("×")
}

/// Bytes without tensors.
fn graph(cause: Cause, bytes: u64) -> Tile {
    let short = match cause {
        Cause::Names => "names",
        Cause::DocStrings => "docs",
        Cause::Metadata => "metadata",
        Cause::Alignment => "padding",
        Cause::Nodes => "nodes",
        Cause::Shapes => "shapes",
        Cause::TensorHeaders => "headers",
        Cause::Header => "header",
        _ => "others",
    };
    Tile {
        labels: vec![title(cause).to_string(), short.to_string()],
        detail: vec![],
        bytes,
        tone: if wasted(cause) { Tone::Waste } else { Tone::Graph },
    }
}

fn foreign(e: &Explanation) -> (Vec<Vec<Tile>>, ByTone) {
    let mut by_cause: BTreeMap<Cause, Vec<&Tensor>> = BTreeMap::new();
    for tensor in &e.account.tensors {
        by_cause.entry(tensor.cause).or_default().push(tensor);
    }
    let mut tones = ByTone::new();
    let mut groups = Vec::new();
    for (&cause, &bytes) in &e.account.causes {
        let tensors = by_cause.get(&cause).map_or(&[][..], Vec::as_slice);
        let tiles = tiles(cause, bytes, tensors);
        for (tile, element) in &tiles {
            let word = match tile.tone {
                Tone::Waste => "stored again or needed by nothing",
                Tone::Graph => NO_WEIGHTS,
                _ => element.as_str(),
            };
            *tones.entry((tile.tone, word.to_string())).or_default() += tile.bytes;
        }
        groups.push(tiles.into_iter().map(|(tile, _)| tile).collect());
    }
    (groups, tones)
}

/// The largest tensors of a cause one by one, and for what is left a tile by element type. With each tile its element type.
fn tiles(cause: Cause, bytes: u64, tensors: &[&Tensor]) -> Vec<(Tile, String)> {
    let tone = |element: &str| match is_substance(cause) {
        true => Tone::of_format(element),
        false if wasted(cause) => Tone::Waste,
        false => Tone::Graph,
    };
    let mut tensors = tensors.to_vec();
    tensors.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    let mut left = bytes;
    let mut tiles = Vec::new();
    let mut smaller: BTreeMap<&str, u64> = BTreeMap::new();
    for (at, tensor) in tensors.into_iter().filter(|t| t.bytes > 0).enumerate() {
        if tensor.bytes > left {
            break;
        }
        left -= tensor.bytes;
        if at >= MOST_TILES {
            *smaller.entry(tensor.element).or_default() += tensor.bytes;
            continue;
        }
        let told = match cause {
            Cause::Duplicates => "copy",
            Cause::Transposed => "transposed copy",
            Cause::UnnamedOutput | Cause::Unneeded => "not needed",
            _ => tensor.element,
        };
        let mut labels = vec![format!("{} · {told}", tensor.name)];
        labels.extend(end_of(&tensor.name).map(|end| format!("…{end} · {told}")));
        labels.push(told.to_string());
        let mut detail = vec![
            title(cause).to_string(),
            format!("{} {}", shape(tensor.dims.iter()), tensor.element),
        ];
        detail.extend(tensor.repeats.as_ref().map(|other| format!("repeats {other}")));
        let tile = Tile {
            labels,
            detail,
            bytes: tensor.bytes,
            tone: tone(tensor.element),
        };
        tiles.push((tile, tensor.element.to_string()));
    }
    for (element, bytes) in smaller {
        let tile = Tile {
            labels: vec![format!("smaller ones · {element}"), element.to_string()],
            detail: vec![title(cause).to_string()],
            bytes,
            tone: tone(element),
        };
        tiles.push((tile, element.to_string()));
    }
    if left > 0 {
        let tile = Tile {
            tone: tone("other"),
            ..graph(cause, left)
        };
        tiles.push((tile, "other".into()));
    }
    tiles
}

/// The last part of a dotted name, which says more than its start.
fn end_of(name: &str) -> Option<&str> {
    let start = name.rfind(['.', '/', ':'])?;
    let before = name[..start].rfind(['.', '/', ':']).unwrap_or(start);
    Some(&name[before..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_name_stays() {
        assert_eq!(end_of("encoder.layer.weight"), Some(".layer.weight"));
        assert_eq!((end_of("onnx::MatMul_7"), end_of("531")), (Some("::MatMul_7"), None));
    }

    #[test]
    fn what_is_left_of_a_cause_has_a_tile_of_its_own() {
        let tensor = |n: u64, element| Tensor {
            name: format!("w.{n}"),
            element,
            dims: vec![n as i64],
            bytes: n,
            cause: Cause::Weights,
            repeats: None,
        };
        let all: Vec<Tensor> = (1..=70)
            .map(|n| tensor(n, if n % 2 == 0 { "f32" } else { "i64" }))
            .collect();
        let bytes = 70 * 71 / 2 + 5;
        let found = tiles(Cause::Weights, bytes, &all.iter().collect::<Vec<_>>());
        assert_eq!(found.iter().map(|(tile, _)| tile.bytes).sum::<u64>(), bytes);
        let last: Vec<_> = found[60..].iter().map(|(tile, _)| (tile.bytes, tile.tone)).collect();
        assert_eq!(
            last,
            [
                (2 + 4 + 6 + 8 + 10, Tone::F32),
                (1 + 3 + 5 + 7 + 9, Tone::Other),
                (5, Tone::Other)
            ]
        );
        let copies = tiles(Cause::Duplicates, 8, &[&tensor(8, "f32")]);
        assert_eq!(
            (copies[0].0.tone, copies[0].0.labels[0].as_str()),
            (Tone::Waste, "w.8 · copy")
        );
    }
}
