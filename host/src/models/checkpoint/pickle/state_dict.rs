//! Finds the state dict in what a file holds: trainers put it beside epochs, optimizer states and options, under names of
//! their own, and some inside another dictionary. In comes a pickle, out come the named tensors of one dictionary and the
//! heads that are stored beside it.

use super::value::{Id, Strided, Value};
use super::{MAX_NAME, MAX_SHOWN, Pickle, malformed};
use crate::models::checkpoint::PickleError;
use crate::models::checkpoint::spelling::WORD_TABLE;
use std::collections::{BTreeSet, HashSet};
use thimble_shared::model::ModelFamily;

/// The tensors of one state dict.
#[derive(Debug)]
pub struct StateDict {
    /// In the order of the file.
    pub tensors: Vec<(String, Strided)>,
    /// Where in the file it lies: the keys that lead to it, joined by dots; empty where the file is the state dict.
    pub path: String,
    /// The keys beside it that hold something else.
    pub beside: Vec<String>,
}

/// Where trainers put the weights, the likeliest first.
const NAMES: [&str; 12] = [
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "module",
    "model_state",
    "network",
    "weights",
    "params",
    "encoder",
    "albert",
    "bert",
];
/// The keys that every optimizer's state has.
const OPTIMIZER: [&str; 2] = ["state", "param_groups"];
/// Containers inside each other; trainers use two or three.
const MAX_DEPTH: usize = 6;
/// Keys beside the state dict that are named.
const MAX_BESIDE: usize = 6;

/// Whether it is what the first of a model's tensors is called, whatever stands before it.
fn marks(name: &str) -> bool {
    name.strip_suffix(".weight")
        .is_some_and(|module| module.ends_with(WORD_TABLE))
}

/// A container that was found on the way from the root.
struct Place {
    value: Id,
    /// Its key, where it has one, and the place it lies in.
    key: Option<Id>,
    parent: Option<usize>,
    depth: usize,
    tensors: usize,
    marked: bool,
    /// Whether it is the state of an optimizer, or lies in one.
    optimizer: bool,
}

impl Pickle {
    /// The state dict of the file: the dictionary that holds an ALBERT, else the one with most tensors.
    ///
    /// # Errors
    /// A file without tensors (a whole module is told as one), with two ALBERTs, or with an object where a weight belongs.
    pub fn state_dict(&self) -> Result<StateDict, PickleError> {
        let places = self.places();
        let chosen = self.choose(&places)?;
        let place = &places[chosen];
        let mut tensors = Vec::with_capacity(place.tensors);
        let mut seen = HashSet::new();
        self.collect(place.value, "", &mut seen, &mut tensors)?;
        let mut beside = Vec::new();
        // Heads that are stored beside the model they belong to, of whatever family.
        let heads = ModelFamily::ALL.map(|family| family.row().optional_parts()).concat();
        if let Some(parent) = place.parent
            && let Value::Dict { items, .. } = &self.values[places[parent].value]
        {
            for &(key, value) in items.iter().filter(|(_, value)| *value != place.value) {
                match (&self.values[key], &self.values[value]) {
                    (Value::Text(head), Value::Dict { .. }) if heads.iter().any(|of| of == head) => {
                        self.collect(value, &format!("{head}."), &mut seen, &mut tensors)?;
                    }
                    (Value::Text(key), _) if beside.len() < MAX_BESIDE => beside.push(shown(key)),
                    _ => {}
                }
            }
        }
        Ok(StateDict {
            tensors,
            path: self.path(&places, chosen),
            beside,
        })
    }

    /// Every container within reach, each once.
    fn places(&self) -> Vec<Place> {
        let mut seen = HashSet::new();
        let mut places = Vec::new();
        let mut next = 0;
        self.visit(self.root, None, None, 0, &mut seen, &mut places);
        while next < places.len() {
            let (value, depth) = (places[next].value, places[next].depth);
            if depth < MAX_DEPTH {
                match &self.values[value] {
                    Value::Dict { items, .. } => {
                        for &(key, value) in items {
                            self.visit(value, Some(key), Some(next), depth + 1, &mut seen, &mut places);
                        }
                    }
                    Value::Tuple(items) | Value::List(items) => {
                        for &value in items {
                            self.visit(value, None, Some(next), depth + 1, &mut seen, &mut places);
                        }
                    }
                    _ => {}
                }
            }
            next += 1;
        }
        places
    }

    fn visit(
        &self,
        value: Id,
        key: Option<Id>,
        parent: Option<usize>,
        depth: usize,
        seen: &mut HashSet<Id>,
        places: &mut Vec<Place>,
    ) {
        let mut optimizer = parent.is_some_and(|parent| places[parent].optimizer);
        let (tensors, marked) = match &self.values[value] {
            Value::Dict { items, .. } => {
                let has = |name: &str| {
                    items
                        .iter()
                        .any(|(key, _)| matches!(&self.values[*key], Value::Text(k) if k == name))
                };
                optimizer |= OPTIMIZER.iter().all(|key| has(key));
                let tensors = || {
                    items
                        .iter()
                        .filter(|(_, v)| matches!(self.values[*v], Value::Tensor(_)))
                };
                let marked = |key: Id| matches!(&self.values[key], Value::Text(name) if marks(name));
                (tensors().count(), tensors().any(|(key, _)| marked(*key)))
            }
            Value::Tuple(_) | Value::List(_) => (0, false),
            _ => return,
        };
        if seen.insert(value) {
            places.push(Place {
                value,
                key,
                parent,
                depth,
                tensors,
                marked,
                optimizer,
            });
        }
    }

    fn choose(&self, places: &[Place]) -> Result<usize, PickleError> {
        let mut marked: Vec<(Vec<usize>, usize)> = (0..places.len())
            .filter(|&n| places[n].marked)
            .map(|n| (self.ranks(places, n), n))
            .collect();
        marked.sort();
        match marked.as_slice() {
            [(first, a), (second, b), ..] if first == second => malformed(format!(
                "it holds several ALBERTs, '{}' and '{}' among them; save the one that is meant alone",
                self.path(places, *a),
                self.path(places, *b)
            )),
            [(_, chosen), ..] => Ok(*chosen),
            [] => {
                let weights = |n: &usize| places[*n].tensors > 0 && !places[*n].optimizer;
                let most = (0..places.len())
                    .filter(weights)
                    .max_by_key(|&n| (places[n].tensors, usize::MAX - n));
                // What stands beside a module is no model's; a loss among a trainer's options is no model.
                match (self.module(places, |name| NAMES.contains(&name)), most) {
                    (Some(module), _) => Err(module),
                    (None, Some(chosen)) => Ok(chosen),
                    (None, None) => Err(self.nothing(places)),
                }
            }
        }
    }

    /// How unlikely each key on the way to a place is to lead to the weights.
    fn ranks(&self, places: &[Place], from: usize) -> Vec<usize> {
        let mut ranks = Vec::new();
        let mut at = from;
        while let Some(parent) = places[at].parent {
            let name = places[at].key.map(|key| &self.values[key]);
            ranks.push(match name {
                Some(Value::Text(name)) => NAMES.iter().position(|n| n == name).unwrap_or(NAMES.len()),
                _ => NAMES.len(),
            });
            at = parent;
        }
        ranks.reverse();
        ranks
    }

    /// The keys that lead to a place; none for an item of a list.
    fn keys(&self, places: &[Place], from: usize) -> Vec<Option<String>> {
        let mut keys = Vec::new();
        let mut at = from;
        while let Some(parent) = places[at].parent {
            keys.push(match places[at].key.map(|key| &self.values[key]) {
                Some(Value::Text(name)) => Some(shown(name)),
                Some(Value::Int(n)) => Some(n.to_string()),
                _ => None,
            });
            at = parent;
        }
        keys.reverse();
        keys
    }

    fn path(&self, places: &[Place], from: usize) -> String {
        let keys = self.keys(places, from).into_iter();
        keys.map(|key| key.unwrap_or("[]".into())).collect::<Vec<_>>().join(".")
    }

    /// The same as Python would write it.
    fn steps(&self, places: &[Place], from: usize) -> String {
        let keys = self.keys(places, from).into_iter();
        keys.map(|key| key.map_or("[…]".into(), |key| format!("['{key}']")))
            .collect()
    }

    /// A whole module at the root, in a list, or under a name that is `expected`.
    fn module(&self, places: &[Place], expected: fn(&str) -> bool) -> Option<PickleError> {
        let module = |id: Id, at: String| match &self.values[id] {
            Value::Object { class, module: true } => Some(PickleError::Module {
                class: self.named(*class),
                at,
            }),
            _ => None,
        };
        let inside = |from: usize| match &self.values[places[from].value] {
            Value::Dict { items, .. } => items.iter().find_map(|(key, value)| match &self.values[*key] {
                Value::Text(name) if expected(name) => {
                    module(*value, format!("{}['{}']", self.steps(places, from), shown(name)))
                }
                _ => None,
            }),
            Value::Tuple(items) | Value::List(items) => {
                let mut items = items.iter().enumerate();
                items.find_map(|(n, value)| module(*value, format!("{}[{n}]", self.steps(places, from))))
            }
            _ => None,
        };
        module(self.root, String::new()).or_else(|| (0..places.len()).find_map(inside))
    }

    /// What a file without any weights holds instead.
    fn nothing(&self, places: &[Place]) -> PickleError {
        if let Some(module) = self.module(places, |_| true) {
            return module;
        }
        if places.iter().any(|place| place.optimizer) {
            return PickleError::Optimizer;
        }
        let mut classes = BTreeSet::new();
        let mut look = |id: Id| {
            if let Value::Object { class, .. } | Value::Global(super::value::Global::Foreign(class)) = &self.values[id]
            {
                classes.insert(self.named(*class));
            }
        };
        look(self.root);
        for place in places {
            match &self.values[place.value] {
                Value::Dict { items, .. } => items.iter().for_each(|(_, value)| look(*value)),
                Value::Tuple(items) | Value::List(items) => items.iter().for_each(|value| look(*value)),
                _ => {}
            }
        }
        match classes.pop_first() {
            Some(class) => PickleError::Global(class),
            None => PickleError::Malformed(format!(
                "the file holds {}, not a state dict",
                self.values[self.root].kind()
            )),
        }
    }

    /// The tensors of the dictionary `id`, `before` standing before their names. Counters and options among them are no
    /// weights and are passed over.
    fn collect(
        &self,
        id: Id,
        before: &str,
        seen: &mut HashSet<String>,
        out: &mut Vec<(String, Strided)>,
    ) -> Result<(), PickleError> {
        let Value::Dict { items, .. } = &self.values[id] else {
            return Ok(());
        };
        for &(key, value) in items {
            let Value::Text(name) = &self.values[key] else { continue };
            match &self.values[value] {
                Value::Tensor(_) if name.len() > MAX_NAME => {
                    return malformed(format!("a name of {} bytes", name.len()));
                }
                Value::Tensor(tensor) => {
                    let name = format!("{before}{name}");
                    if !seen.insert(name.clone()) {
                        return malformed(format!("'{name}' is there twice"));
                    }
                    out.push((name, Strided::clone(tensor)));
                }
                Value::Object { class, .. } if name.ends_with(".weight") || name.ends_with(".bias") => {
                    return Err(PickleError::Global(self.named(*class)));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The beginning of a text that a file chose.
fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}
