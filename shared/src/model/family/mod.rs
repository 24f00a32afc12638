//! The families of encoders: what stands before the head. Each is a file with one row; the row says everything the rest of the
//! program asks of a family, its names in checkpoints among it.

mod albert;

use super::config::{Config, Head, ModelFamily};
use super::head::masked_lm;
use super::network::Step;
use super::weight::{Role, Site, Slot, WeightList, WeightSpec};

/// All there is to say of a family.
#[derive(Debug)]
pub struct FamilyRow {
    /// For a person.
    pub name: &'static str,
    /// Hugging Face's `model_type`.
    pub model_type: &'static str,
    /// What the names of Hugging Face's classes begin with.
    pub class: &'static str,
    /// The version of the `thimble.graph` text that brought it.
    pub since: u32,
    /// What its configuration leaves out.
    pub defaults: Defaults,
    /// How layers share weights.
    pub sharing: Sharing,
    /// Fields that change the arithmetic where they are true; such a model is refused.
    pub refused: &'static [&'static str],
    /// The ids of its published vocabularies, taken where no tokenizer tells.
    pub ids: SpecialIds,
    /// What its tensors are called.
    pub names: Names,
    /// Those of the embeddings, in the order files store them.
    pub embedding_weights: fn(&mut WeightList, &Config),
    /// Those of one layer, in that order.
    pub layer_weights: fn(&mut WeightList, &Config),
    /// From token ids to the hidden states of the first layer.
    pub embed: fn() -> Vec<Step>,
    /// One layer.
    pub layer: fn(&Config) -> Vec<Step>,
}

/// The defaults of Hugging Face's configuration class.
#[derive(Debug)]
pub struct Defaults {
    /// [`Config::vocab_size`]
    pub vocab_size: usize,
    /// [`Config::embedding_size`]; `None` where it is the hidden size.
    pub embedding_size: Option<usize>,
    /// [`Config::hidden_size`]
    pub hidden_size: usize,
    /// [`Config::num_hidden_layers`]
    pub num_hidden_layers: usize,
    /// [`Config::num_attention_heads`]
    pub num_attention_heads: usize,
    /// [`Config::intermediate_size`]
    pub intermediate_size: usize,
    /// [`Config::max_position_embeddings`]
    pub max_position_embeddings: usize,
    /// [`Config::type_vocab_size`]
    pub type_vocab_size: usize,
    /// [`Config::layer_norm_eps`]
    pub layer_norm_eps: f64,
    /// Hugging Face's name of [`Config::activation`].
    pub hidden_act: &'static str,
}

/// Token ids that a vocabulary gives no word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// `[CLS]`
    pub cls: i64,
    /// `[SEP]`
    pub sep: i64,
    /// `[MASK]`
    pub mask: i64,
    /// The first word's.
    pub words: i64,
}

/// How layers share weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// By groups, as `num_hidden_groups` and `inner_group_num` say.
    Groups,
    /// Not at all: each layer is a group of its own.
    Nothing,
}

/// The names of tensors in checkpoints.
#[derive(Debug)]
pub struct Names {
    /// What transformers' classes with a head put before the model's names.
    pub prefix: &'static str,
    /// The module of a layer; `{group}` and `{inner}` stand for numbers.
    pub layer: &'static str,
    /// The modules of roles, those of a layer without the layer. A role that is not listed has the name [`HeadRow::modules`] gives
    /// it, or its own.
    ///
    /// [`HeadRow::modules`]: super::head::HeadRow::modules
    pub modules: &'static [(Role, &'static str)],
    /// The bias of the masked-LM decoder, which belongs to the module around the decoder.
    pub decoder_bias: &'static str,
    /// A map that tells a model of the family from others with the same word embeddings.
    pub mark: Option<Role>,
    /// The weight whose axis tells the hidden size.
    pub hidden_size: (Role, usize),
    /// Other implementations' modules within a layer, and Hugging Face's.
    pub respelled_in_layer: &'static [(&'static str, &'static str)],
    /// The same outside layers.
    pub respelled: &'static [(&'static str, &'static str)],
    /// Other implementations' module of the only layer.
    pub only_layer: Option<&'static str>,
    /// What turns the names of TensorFlow's variables into Hugging Face's: replacements, in this order, wherever they apply. Empty
    /// where thimble does not read the family's TensorFlow checkpoints.
    pub tensorflow: &'static [(&'static str, &'static str)],
}

/// The version of the `thimble.graph` text that brought the newest family.
pub const SINCE: u32 = {
    let (mut newest, mut at) = (0, 0);
    while at < ModelFamily::ALL.len() {
        let since = ModelFamily::ALL[at].row().since;
        newest = if since > newest { since } else { newest };
        at += 1;
    }
    newest
};

impl ModelFamily {
    /// All of them.
    pub const ALL: [ModelFamily; 1] = [ModelFamily::Albert];

    /// What is to be said of it.
    pub const fn row(self) -> &'static FamilyRow {
        match self {
            ModelFamily::Albert => &albert::ROW,
        }
    }

    /// The family of a `model_type`.
    pub fn of_type(model_type: &str) -> Option<ModelFamily> {
        ModelFamily::ALL
            .into_iter()
            .find(|family| family.row().model_type == model_type)
    }
}

impl FamilyRow {
    /// Hugging Face's class of the family with a head.
    pub fn class_of(&self, head: Head) -> String {
        head.row().class.of(self.class)
    }

    /// The head of one of the family's classes.
    pub fn head_of(&self, class: &str) -> Option<Head> {
        Head::ALL.into_iter().find(|head| self.class_of(*head) == class)
    }

    /// Hugging Face's module of a role, with the layer where it belongs to one.
    pub fn module(&self, role: Role, site: Option<Site>) -> String {
        let own = self.names.modules.iter();
        let of_heads = Head::ALL.into_iter().flat_map(|head| head.row().modules);
        let module = own.chain(of_heads).find(|(of, _)| *of == role);
        let module = module.map_or(role.name(), |(_, module)| module);
        match site {
            Some(site) => format!("{}.{module}", self.layer(site)),
            None => module.to_string(),
        }
    }

    /// Hugging Face's name of a module's factors: its matrix, its table, or its gain.
    pub fn weight(&self, role: Role, site: Option<Site>) -> String {
        format!("{}.weight", self.module(role, site))
    }

    /// Hugging Face's name of a weight.
    pub fn tensor(&self, weight: &WeightSpec) -> String {
        match (weight.role, weight.slot) {
            (masked_lm::DECODER, Slot::Bias) => self.names.decoder_bias.to_string(),
            (role, Slot::Bias) => format!("{}.bias", self.module(role, weight.site)),
            (role, Slot::Whole | Slot::Gain) => self.weight(role, weight.site),
        }
    }

    /// The module of a layer.
    pub fn layer(&self, site: Site) -> String {
        let numbered = self.names.layer.replace("{group}", &site.group.to_string());
        numbered.replace("{inner}", &site.inner.to_string())
    }

    /// The layer that a tensor of this name belongs to.
    pub fn site_of(&self, name: &str) -> Option<Site> {
        let mut site = Site { group: 0, inner: 0 };
        let (mut rest, mut pattern) = (name, self.names.layer);
        while let Some((before, after)) = pattern.split_once('{') {
            let (field, after) = after.split_once('}')?;
            rest = rest.strip_prefix(before)?;
            let (number, behind) = rest.split_at(rest.find('.')?);
            match field {
                "group" => site.group = number.parse().ok()?,
                _ => site.inner = number.parse().ok()?,
            }
            (rest, pattern) = (behind, after);
        }
        rest.strip_prefix(pattern)?.starts_with('.').then_some(site)
    }

    /// The first parts of the names of what not every head reads: the pooler and the heads.
    pub fn optional_parts(&self) -> Vec<String> {
        let of_heads = Head::ALL.into_iter().map(|head| head.row());
        let roles = of_heads.flat_map(|row| {
            row.told_by
                .iter()
                .copied()
                .chain(row.modules.iter().map(|(role, _)| *role))
        });
        let mut parts: Vec<String> = Vec::new();
        for role in [Role::Pooler].into_iter().chain(roles) {
            let module = self.module(role, None);
            let part = module.split('.').next().unwrap_or(&module).to_string();
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::tests::tiny;

    #[test]
    fn every_tensor_has_a_name_of_its_own_and_says_its_layer() {
        for family in ModelFamily::ALL {
            for head in Head::ALL {
                let row = family.row();
                let config = Config { family, ..tiny(head) };
                let mut names = Vec::new();
                for weight in config.weights() {
                    let name = row.tensor(&weight);
                    assert_eq!(row.site_of(&name), weight.site, "{name}");
                    names.push(name);
                }
                let all = names.len();
                names.sort();
                names.dedup();
                assert_eq!(names.len(), all, "{} {head:?}", row.name);
            }
        }
    }

    #[test]
    fn a_layer_is_numbered_in_full() {
        let row = ModelFamily::Albert.row();
        let site = |group, inner| Some(Site { group, inner });
        for (name, want) in [
            ("encoder.albert_layer_groups.1.albert_layers.12.ffn.weight", site(1, 12)),
            ("encoder.albert_layer_groups.1.albert_layers.x.ffn.weight", None),
            ("encoder.albert_layer_groups.1.albert_layers.2", None),
            ("encoder.albert_layer_groups.1.other.2.ffn.weight", None),
            ("pooler.weight", None),
        ] {
            assert_eq!(row.site_of(name), want, "{name}");
        }
    }
}
