//! The weights of a model by name, each shared between the models that hold it until one of them changes it: a model with one
//! weight in another format, or with two channels rescaled, holds the numbers that are its own and no others a second time.

use crate::dtype::Values;
use std::borrow::Borrow;
use std::collections::{BTreeMap, btree_map};
use std::ops::Index;
use std::sync::Arc;

/// Numbers by weight name, in the order of the names. A clone copies no numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights(BTreeMap<String, Arc<Values>>);

impl Weights {
    /// Without a weight in it.
    pub fn new() -> Weights {
        Weights::default()
    }

    /// The numbers of a weight.
    pub fn get(&self, name: &str) -> Option<&Values> {
        self.0.get(name).map(Arc::as_ref)
    }

    /// The numbers of a weight, to be held by somebody else as well.
    pub fn shared(&self, name: &str) -> Option<&Arc<Values>> {
        self.0.get(name)
    }

    /// The numbers of a weight, to be changed; copied first where another model holds them.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Values> {
        self.0.get_mut(name).map(Arc::make_mut)
    }

    /// Gives a weight its numbers, in place of those it had.
    pub fn insert(&mut self, name: String, values: impl Into<Arc<Values>>) {
        self.0.insert(name, values.into());
    }

    /// Takes a weight out; whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// Whether there is a weight of that name.
    pub fn contains_key(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Weights, not numbers.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and numbers, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Values)> {
        self.0.iter().map(|(name, values)| (name, values.as_ref()))
    }

    /// The names, in order.
    pub fn keys(&self) -> btree_map::Keys<'_, String, Arc<Values>> {
        self.0.keys()
    }

    /// The numbers, in the order of the names.
    pub fn values(&self) -> impl Iterator<Item = &Values> {
        self.0.values().map(Arc::as_ref)
    }
}

impl<V: Into<Arc<Values>>> FromIterator<(String, V)> for Weights {
    fn from_iter<I: IntoIterator<Item = (String, V)>>(weights: I) -> Weights {
        Weights(
            weights
                .into_iter()
                .map(|(name, values)| (name, values.into()))
                .collect(),
        )
    }
}

impl<V: Into<Arc<Values>>> Extend<(String, V)> for Weights {
    fn extend<I: IntoIterator<Item = (String, V)>>(&mut self, weights: I) {
        weights.into_iter().for_each(|(name, values)| self.insert(name, values));
    }
}

impl From<BTreeMap<String, Values>> for Weights {
    fn from(weights: BTreeMap<String, Values>) -> Weights {
        weights.into_iter().collect()
    }
}

/// Panics where there is no such weight.
impl<Q: Ord + ?Sized> Index<&Q> for Weights
where
    String: Borrow<Q>,
{
    type Output = Values;

    fn index(&self, name: &Q) -> &Values {
        &self.0[name]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_shares_what_neither_changes() {
        let numbers = |x: f32| Values::f32(vec![x; 4]);
        let first: Weights = [("a".to_string(), numbers(1.0)), ("b".to_string(), numbers(2.0))]
            .into_iter()
            .collect();
        let mut second = first.clone();
        if let Some(b) = second.get_mut("b").and_then(Values::f32s_mut) {
            b[0] = 3.0;
        }
        let same = |name: &str| Arc::ptr_eq(first.shared(name).unwrap(), second.shared(name).unwrap());
        assert!(same("a") && !same("b"));
        assert_eq!((&first["b"], second["b"].to_f32()[0]), (&numbers(2.0), 3.0));
        assert!(second.remove("a") && !second.remove("a"));
        assert_eq!((first.len(), second.len()), (2, 1));
    }
}
