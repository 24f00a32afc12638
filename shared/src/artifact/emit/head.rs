//! The heads: what comes after the last layer, and the outputs it gives under Hugging Face's names.

use super::Lowering;
use crate::model::{HIDDEN_SHIFT, Head};
use crate::onnx::writer::{Attr, DataType, Dim, Port};

impl Lowering<'_> {
    /// tanh(W · first token + b), under the name `out`.
    fn pooled(&mut self, h: &str, out: &str) -> String {
        let zero = self.int("first", 0);
        let first = self.node("Gather", &[h, &zero], "first_token", &[Attr::Int("axis", 1)]);
        let y = self.linear(&first, "pooler", "pool");
        self.node("Tanh", &[&y], out, &[])
    }

    pub(super) fn head(&mut self, h: &str) -> Vec<Port> {
        let seq = self.options.seq.map_or(Dim::Symbol("seq"), Dim::Fixed);
        let batch = Dim::Symbol("batch");
        let config = self.config;
        let port = |name, dims: &[Dim]| Port {
            name,
            data_type: DataType::F32,
            dims: dims.to_vec(),
        };
        let token_dims = |last: usize| [batch.clone(), seq.clone(), Dim::Fixed(last)];
        match config.head {
            Head::None => {
                if config.hidden_shift {
                    self.node("Add", &[h, HIDDEN_SHIFT], "last_hidden_state", &[]);
                }
                let mut ports = vec![port("last_hidden_state", &token_dims(config.hidden_size))];
                if config.pooler {
                    self.pooled(h, "pooler_output");
                    ports.push(port("pooler_output", &[batch.clone(), Dim::Fixed(config.hidden_size)]));
                }
                ports
            }
            Head::SequenceClassification => {
                let pooled = self.pooled(h, "pooled");
                self.linear(&pooled, "classifier", "logits");
                vec![port("logits", &[batch.clone(), Dim::Fixed(config.labels.len())])]
            }
            Head::TokenClassification => {
                self.linear(h, "classifier", "logits");
                vec![port("logits", &token_dims(config.labels.len()))]
            }
            Head::QuestionAnswering => {
                let spans = self.linear(h, "qa", "spans");
                for (name, index) in [("start_logits", 0), ("end_logits", 1)] {
                    let column = self.int(if index == 0 { "first" } else { "second" }, index);
                    self.node("Gather", &[&spans, &column], name, &[Attr::Int("axis", 2)]);
                }
                ["start_logits", "end_logits"]
                    .map(|name| port(name, &[batch.clone(), seq.clone()]))
                    .into()
            }
            Head::MultipleChoice => {
                let pooled = self.pooled(h, "pooled");
                let scores = self.linear(&pooled, "classifier", "choice_scores");
                let (from, to) = (self.ints("zero", &[0]), self.ints("two", &[2]));
                let all = self.node("Shape", &["input_ids"], "question_dims", &[]);
                let dims = self.node("Slice", &[&all, &from, &to, &from], "logits_dims", &[]);
                self.node("Reshape", &[&scores, &dims], "logits", &[]);
                vec![port("logits", &[batch.clone(), Dim::Symbol("choices")])]
            }
            Head::MaskedLm => {
                self.masked_lm(h, "logits");
                vec![port("logits", &token_dims(config.vocab_size))]
            }
            Head::PreTraining => {
                self.masked_lm(h, "prediction_logits");
                let pooled = self.pooled(h, "pooled");
                self.linear(&pooled, "sop", "sop_logits");
                vec![
                    port("prediction_logits", &token_dims(config.vocab_size)),
                    port("sop_logits", &[batch.clone(), Dim::Fixed(2)]),
                ]
            }
        }
    }

    fn masked_lm(&mut self, h: &str, out: &str) {
        let y = self.linear(h, "mlm.dense", "mlm.hidden");
        let y = self.activate(&y, self.config.activation, "mlm.act");
        let y = self.layer_norm(&y, "mlm.norm", "mlm.normed");
        let decoder = if self.config.tied_decoder {
            "word"
        } else {
            "mlm.decoder"
        };
        self.linear_with(&y, decoder, "mlm.decoder.bias", out);
    }
}
