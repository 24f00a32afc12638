//! Finds what a foreign ALBERT makes of its last hidden state: the pooler, a classifier, a masked-LM decoder. Which head it
//! is follows from what its outputs are computed from; their names are only said back to the user.

use super::ImportError;
use super::answers::{self, Answer};
use super::embedding::Embedding;
use super::layers::Body;
use super::origin::{Origin, Part, origin};
use super::sentence::{self, Embedded};
use super::trace::{Linear, Trace};
use super::weights::StoredMatrix;
use crate::onnx::element_type;
use crate::onnx::flow::{port_name, port_shape};
use crate::render::text::printable;
use std::collections::BTreeMap;
use thimble_shared::model::head::sentence::{OUTPUT, dense_weight};
use thimble_shared::model::head::{choice, masked_lm, pretraining, question, sequence, token};
use thimble_shared::model::network::HIDDEN_STATES;
use thimble_shared::model::sentence::Sentence;
use thimble_shared::model::{Head, Role, Slot};

pub struct Top<'a> {
    pub weights: BTreeMap<String, StoredMatrix<'a>>,
    pub head: Head,
    pub pooler: bool,
    /// The decoder is the word embedding.
    pub tied: bool,
    /// Made-up names, one per class.
    pub labels: Vec<String>,
    /// A Sigmoid follows the logits: each label has a probability of its own.
    pub sigmoid: bool,
    /// How tokens become a sentence's embedding, where that is the head.
    pub sentence: Option<Sentence>,
    /// The file's outputs, and thimble's names of them.
    pub outputs: Vec<(&'a str, &'static str)>,
    pub notes: Vec<String>,
}

pub fn find<'a>(
    trace: &Trace<'a>,
    embedding: &Embedding<'a>,
    body: &Body<'a>,
    choices: bool,
    pools: bool,
) -> Result<Top<'a>, HeadError> {
    let last = body.states.last().copied().unwrap_or(embedding.out);
    let Sorted {
        mut origins,
        embedded,
        mut unknown,
        mut notes,
        pooled,
        sigmoid,
    } = sorted(trace, body, last, pools)?;
    let bare = |(_, origin): &(&str, Origin)| matches!(origin, Origin::Hidden | Origin::Pooled(_));
    if let Some((name, found)) = embedded.filter(|_| origins.iter().all(bare)) {
        origins.iter().for_each(|(name, _)| unknown.push(*name));
        notes.extend(unknown.iter().map(|name| format!("'{}' is left out", printable(name))));
        return Ok(Top::of_sentence(trace, name, found, notes)?);
    }
    if origins.is_empty() && pooled {
        origins.push((last, Origin::Hidden));
    }
    if origins.is_empty() {
        return Err(HeadError::Foreign(answers::foreign(trace, last, &unknown)));
    }
    for name in unknown {
        notes.push(format!(
            "output '{}' is computed in a way no head of ALBERT's computes it: left out",
            printable(name)
        ));
    }
    let mut top = Top {
        weights: BTreeMap::new(),
        head: Head::None,
        pooler: false,
        tied: false,
        labels: vec![],
        sigmoid,
        sentence: None,
        outputs: vec![],
        notes,
    };
    top.settle(trace, embedding, choices, &origins)?;
    top.note_element_types(trace)?;
    Ok(top)
}

/// A file's outputs by what they are computed from.
struct Sorted<'t, 'a> {
    /// Those that heads make.
    origins: Vec<(&'a str, Origin<'t, 'a>)>,
    /// The one that is a sentence's embedding.
    embedded: Option<(&'a str, Embedded<'t, 'a>)>,
    unknown: Vec<&'a str>,
    notes: Vec<String>,
    /// Whether one is pooled from the last hidden state.
    pooled: bool,
    /// Whether one is the Sigmoid of logits.
    sigmoid: bool,
}

/// Sorts the outputs of a file whose last hidden state is `last`.
fn sorted<'t, 'a>(
    trace: &'t Trace<'a>,
    body: &Body<'a>,
    last: &'a str,
    pools: bool,
) -> Result<Sorted<'t, 'a>, ImportError> {
    let mut origins: Vec<(&'a str, Origin<'t, 'a>)> = Vec::new();
    let (mut notes, mut unknown) = (Vec::new(), Vec::new());
    let (mut pooled, mut sigmoid) = (false, false);
    let mut embedded: Option<(&'a str, Embedded<'t, 'a>)> = None;
    let mut names = Vec::new();
    for port in &trace.view.outputs {
        names.push(port_name(port).map_err(|e| trace.file.wire_error(e))?);
    }
    for &name in &names {
        if let Some(origin) = origin(trace, name, last) {
            origins.push((name, origin));
        } else if body.states.contains(&trace.source(name)) {
            notes.push(format!(
                "output '{}', an inner hidden state, is left out",
                printable(name)
            ));
        } else if let Some(Answer { made_of, spelt }) = answers::answered(trace, name, last) {
            sigmoid |= spelt.contains(&"Sigmoid");
            let inner: Vec<String> = made_of.iter().map(|(n, _)| format!("'{}'", printable(n))).collect();
            notes.push(format!(
                "output '{}' is {} of {}: left out, the values before it are made",
                printable(name),
                spelt.join(" of "),
                inner.join(" and ")
            ));
            for (inner, origin) in made_of {
                if !origins.iter().any(|(known, _)| *known == inner) {
                    origins.push((inner, origin));
                }
            }
        } else if let Some(found) = sentence::embedded(trace, name, last).filter(|_| pools && embedded.is_none()) {
            embedded = Some((name, found));
        } else if answers::pools(trace, name, last) {
            pooled = true;
            notes.push(format!(
                "output '{}' is pooled from the last hidden state, '{}': left out, last_hidden_state is made",
                printable(name),
                printable(last)
            ));
        } else {
            unknown.push(name);
        }
    }
    Ok(Sorted {
        origins,
        embedded,
        unknown,
        notes,
        pooled,
        sigmoid,
    })
}

/// Why no head was found.
pub enum HeadError {
    /// Something else reads the last hidden state, in these words.
    Foreign(String),
    Import(ImportError),
}

impl From<ImportError> for HeadError {
    fn from(e: ImportError) -> HeadError {
        HeadError::Import(e)
    }
}

impl<'a> Top<'a> {
    /// The head that makes an embedding of the output `name`.
    fn of_sentence(
        trace: &Trace<'a>,
        name: &'a str,
        found: Embedded<'_, 'a>,
        notes: Vec<String>,
    ) -> Result<Top<'a>, ImportError> {
        let mut top = Top {
            weights: BTreeMap::new(),
            head: Head::SentenceEmbedding,
            pooler: false,
            tied: false,
            labels: vec![],
            sigmoid: false,
            sentence: Some(found.sentence),
            outputs: vec![(name, OUTPUT)],
            notes,
        };
        for (number, map) in found.dense.into_iter().enumerate() {
            if let Some(weight) = dense_weight(number) {
                top.linear(trace, weight, map)?;
            }
        }
        Ok(top)
    }

    /// Notes each output kept that the file declares in another type than f32.
    fn note_element_types(&mut self, trace: &Trace<'a>) -> Result<(), ImportError> {
        for port in &trace.view.outputs {
            let wire = |e| ImportError::from(trace.file.wire_error(e));
            let (name, (element, _)) = (port_name(port).map_err(wire)?, port_shape(port).map_err(wire)?);
            let kept = self.outputs.iter().find(|(theirs, _)| *theirs == name);
            // 1 is f32, 0 nothing declared.
            if let (Some((_, ours)), true) = (kept, element > 1) {
                let note = format!(
                    "its output '{}' is {}; here {ours} is f32",
                    printable(name),
                    element_type(element)
                );
                self.notes.push(note);
            }
        }
        Ok(())
    }

    /// Settles which head `origins` make, takes its weights and names its outputs.
    fn settle(
        &mut self,
        trace: &Trace<'a>,
        embedding: &Embedding<'a>,
        choices: bool,
        origins: &[(&'a str, Origin<'_, 'a>)],
    ) -> Result<(), ImportError> {
        self.take_weights(trace, embedding, choices, origins)?;
        self.name_outputs(origins);
        if self.outputs.is_empty() {
            return Err(trace.not_albert("it has no output thimble could compare"));
        }
        Ok(())
    }

    /// Takes the weights of the head that `origins` make.
    fn take_weights(
        &mut self,
        trace: &Trace<'a>,
        embedding: &Embedding<'a>,
        choices: bool,
        origins: &[(&'a str, Origin<'_, 'a>)],
    ) -> Result<(), ImportError> {
        let decoder = origins.iter().find_map(|(_, o)| match o {
            Origin::Decoded(dense, norm, decoder) => Some((*dense, *norm, *decoder)),
            _ => None,
        });
        let of_pooled = origins.iter().find_map(|(_, o)| match o {
            Origin::OfPooled(pooler, map) => Some((*pooler, *map)),
            _ => None,
        });
        let of_tokens = origins.iter().find_map(|(_, o)| match o {
            Origin::OfTokens(map, cut) => Some((*map, *cut)),
            _ => None,
        });
        let pooled = origins.iter().find_map(|(_, o)| match o {
            Origin::Pooled(pooler) => Some(*pooler),
            _ => None,
        });
        match (decoder, of_pooled, of_tokens) {
            (Some((dense, norm, decoder)), sop, _) => {
                self.head = if sop.is_some() {
                    Head::PreTraining
                } else {
                    Head::MaskedLm
                };
                self.linear(trace, masked_lm::DENSE, dense)?;
                let of_norm = |slot| masked_lm::NORM.tensor(slot, None);
                self.weights.insert(of_norm(Slot::Gain), norm.weight.clone());
                self.weights.insert(of_norm(Slot::Bias), norm.bias.clone());
                self.linear(trace, masked_lm::DECODER, decoder)?;
                let same_shape = decoder.weight.shape() == embedding.word.shape();
                self.tied =
                    same_shape && decoder.weight.fingerprint(trace.file)? == embedding.word.fingerprint(trace.file)?;
                if self.tied {
                    self.weights.remove(masked_lm::DECODER.name());
                }
                if let Some((pooler, map)) = sop {
                    self.pooler(trace, pooler)?;
                    self.linear(trace, pretraining::ORDER, map)?;
                }
            }
            (None, Some((pooler, map)), _) => {
                self.pooler(trace, pooler)?;
                if choices {
                    self.linear(trace, choice::CLASSIFIER, map)?;
                    self.head = Head::MultipleChoice;
                } else {
                    self.linear(trace, sequence::CLASSIFIER, map)?;
                    self.head = Head::SequenceClassification;
                    self.labels = labels(map.size().1);
                }
            }
            (None, None, Some((map, Some(_)))) if map.size().1 == 2 => {
                self.head = Head::QuestionAnswering;
                self.linear(trace, question::SPAN, map)?;
            }
            (None, None, Some((map, _))) => {
                self.head = Head::TokenClassification;
                self.linear(trace, token::CLASSIFIER, map)?;
                self.labels = labels(map.size().1);
            }
            (None, None, None) => {
                self.head = Head::None;
                if let Some(pooler) = pooled {
                    self.pooler(trace, pooler)?;
                }
            }
        }
        Ok(())
    }

    /// Gives the outputs thimble's names; those the head has none for are left out.
    fn name_outputs(&mut self, origins: &[(&'a str, Origin<'_, 'a>)]) {
        const SPANS: [&str; 2] = ["start_logits", "end_logits"];
        let mut spans = SPANS.into_iter();
        for (name, origin) in origins {
            let ours = match (self.head, origin) {
                (Head::None, Origin::Hidden) => Some(HIDDEN_STATES),
                (Head::None, Origin::Pooled(_)) => Some("pooler_output"),
                (Head::PreTraining, Origin::Decoded(..)) => Some("prediction_logits"),
                (Head::PreTraining, Origin::OfPooled(..)) => Some("sop_logits"),
                (Head::QuestionAnswering, Origin::OfTokens(_, Some(Part::At(i)))) => SPANS.get(*i).copied(),
                (Head::QuestionAnswering, Origin::OfTokens(..)) => spans.next(),
                (Head::MaskedLm, Origin::Decoded(..))
                | (Head::SequenceClassification | Head::MultipleChoice, Origin::OfPooled(..))
                | (Head::TokenClassification, Origin::OfTokens(..)) => Some("logits"),
                _ => None,
            };
            match ours {
                // Several outputs may hold the same values.
                Some(ours) if self.outputs.iter().any(|(_, known)| *known == ours) => {}
                Some(ours) => self.outputs.push((name, ours)),
                None => self.notes.push(format!("'{}' is left out", printable(name))),
            }
        }
    }

    /// Makes an embedding of the hidden states that the file gives. They are proven; of its outputs none is left to compare.
    pub fn pool(&mut self, sentence: Sentence) {
        self.head = Head::SentenceEmbedding;
        self.sentence = Some(sentence);
        self.pooler = false;
        self.weights.clear();
        self.outputs.clear();
    }

    /// Makes another head of what the file holds: only none can be made of every other.
    pub fn make(&mut self, trace: &Trace<'a>, wanted: Head, last: &'a str) -> Result<(), ImportError> {
        if wanted != Head::None {
            return Err(trace.unsupported(format!(
                "--head {}: the file holds what the head {} needs, and only none can be made of it instead",
                wanted.name(),
                self.head.name()
            )));
        }
        self.notes.push(format!("its head, {}, is left out", self.head.name()));
        self.head = Head::None;
        self.tied = false;
        self.labels = vec![];
        let pooler = [Slot::Whole, Slot::Bias].map(|slot| Role::Pooler.tensor(slot, None));
        self.sentence = None;
        self.weights.retain(|name, _| self.pooler && pooler.contains(name));
        self.outputs = vec![(last, HIDDEN_STATES)];
        Ok(())
    }

    fn linear(&mut self, trace: &Trace<'a>, role: Role, linear: &Linear<'a>) -> Result<(), ImportError> {
        let Some(bias) = linear.bias.clone() else {
            return Err(trace.not_albert(format!("its head's map {} has no bias", role.name())));
        };
        self.weights.insert(role.at(None), linear.weight.clone());
        self.weights.insert(role.tensor(Slot::Bias, None), bias);
        Ok(())
    }

    fn pooler(&mut self, trace: &Trace<'a>, pooler: &Linear<'a>) -> Result<(), ImportError> {
        self.pooler = true;
        self.linear(trace, Role::Pooler, pooler)
    }
}

fn labels(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("LABEL_{i}")).collect()
}
