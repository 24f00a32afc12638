//! The weights of a model: the role of each, its name in a file, and its logical shape.

use super::config::Config;

/// How a weight is stored and used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A lookup table `[rows, cols]`, read row by row.
    Table,
    /// A linear map `[out, in]`, stored in panels. A tied word table is one: the lookup reads rows inside its panels.
    Linear,
    /// A bias or LayerNorm vector, always f32.
    Vector,
}

/// What a table, a linear map or a LayerNorm is to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The word embeddings.
    Word,
    /// The position embeddings.
    Position,
    /// The token type embeddings.
    TokenType,
    /// The LayerNorm of the embeddings' sum.
    EmbeddingNorm,
    /// The projection from the embedding size to the hidden size.
    Map,
    /// The query projection of a layer.
    Query,
    /// The key projection of a layer.
    Key,
    /// The value projection of a layer.
    Value,
    /// The output projection of a layer's attention.
    AttentionOutput,
    /// The LayerNorm behind a layer's attention.
    AttentionNorm,
    /// The first map of a layer's feed-forward part.
    Up,
    /// The second map of a layer's feed-forward part.
    Down,
    /// The LayerNorm behind a layer's feed-forward part.
    FeedForwardNorm,
    /// The map of the pooled token.
    Pooler,
    /// The vector that hidden states lie below Hugging Face's.
    HiddenShift,
    /// A weight that a head brings, by the name the head gives it.
    Head(&'static str),
}

impl Role {
    /// The roles of a layer, in the order files store them.
    pub const LAYER: [Role; 8] = [
        Role::Query,
        Role::Key,
        Role::Value,
        Role::AttentionOutput,
        Role::AttentionNorm,
        Role::Up,
        Role::Down,
        Role::FeedForwardNorm,
    ];

    /// The name in a file, without the layer.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Word => "word",
            Role::Position => "position",
            Role::TokenType => "type",
            Role::EmbeddingNorm => "embed_norm",
            Role::Map => "map",
            Role::Query => "q",
            Role::Key => "k",
            Role::Value => "v",
            Role::AttentionOutput => "o",
            Role::AttentionNorm => "attn_norm",
            Role::Up => "up",
            Role::Down => "down",
            Role::FeedForwardNorm => "ffn_norm",
            Role::Pooler => "pooler",
            Role::HiddenShift => "hidden_shift",
            Role::Head(name) => name,
        }
    }

    /// The name in a file of the weight with this role, in a layer where it belongs to one.
    pub fn at(self, site: Option<Site>) -> String {
        match site {
            Some(Site { group, inner }) => format!("{group}.{inner}.{}", self.name()),
            None => self.name().to_string(),
        }
    }

    /// The same of one tensor of the role.
    pub fn tensor(self, slot: Slot, site: Option<Site>) -> String {
        let whole = self.at(site);
        match slot {
            Slot::Whole => whole,
            Slot::Gain => format!("{whole}.weight"),
            Slot::Bias => format!("{whole}.bias"),
        }
    }
}

/// A layer of its own weights: an inner layer of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// Group, from 0.
    pub group: usize,
    /// Layer within the group, from 0.
    pub inner: usize,
}

impl Site {
    /// All of them, in the order files store their weights.
    pub fn all(config: &Config) -> impl Iterator<Item = Site> + use<> {
        let inner = config.inner_group_num;
        (0..config.num_hidden_groups).flat_map(move |group| (0..inner).map(move |inner| Site { group, inner }))
    }
}

/// Which tensor of its role a weight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The table, the matrix, or the vector itself.
    Whole,
    /// The factors of a LayerNorm.
    Gain,
    /// The bias of a linear map or a LayerNorm.
    Bias,
}

/// One tensor of numbers that the network needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightSpec {
    /// Name in a file, made of site, role and slot.
    pub name: String,
    /// `[rows, cols]` of a table, `[out, in]` of a linear map, `[len]` of a vector.
    pub shape: Vec<usize>,
    /// How it is stored and used.
    pub kind: Kind,
    /// What it does in the network.
    pub role: Role,
    /// Which tensor of its role it is.
    pub slot: Slot,
    /// The layer it belongs to, if it belongs to one.
    pub site: Option<Site>,
}

impl WeightSpec {
    /// Product of the shape, padding not counted.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Rows of a table, output channels of a linear map: what one int8 scale belongs to.
    pub fn rows(&self) -> usize {
        self.shape[0]
    }
}

/// Weights in the order they are named.
#[derive(Debug, Default)]
pub struct WeightList {
    weights: Vec<WeightSpec>,
    site: Option<Site>,
}

impl WeightList {
    /// The tables of the embeddings, and the LayerNorm of their sum.
    pub(super) fn embeddings(&mut self, config: &Config) {
        let width = config.embedding_size;
        let word = if config.tied_decoder { Kind::Linear } else { Kind::Table };
        for (role, kind, rows) in [
            (Role::Word, word, config.vocab_size),
            (Role::Position, Kind::Table, config.max_position_embeddings),
            (Role::TokenType, Kind::Table, config.type_vocab_size),
        ] {
            self.push(role, Slot::Whole, kind, &[rows, width]);
        }
        self.norm(Role::EmbeddingNorm, width);
    }

    /// Those of a layer with post-LayerNorm, as in BERT.
    pub(super) fn post_norm_layer(&mut self, config: &Config) {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        for role in [Role::Query, Role::Key, Role::Value, Role::AttentionOutput] {
            self.linear(role, hidden, hidden);
        }
        self.norm(Role::AttentionNorm, hidden);
        self.linear(Role::Up, inner, hidden);
        self.linear(Role::Down, hidden, inner);
        self.norm(Role::FeedForwardNorm, hidden);
    }

    /// What is named from here on belongs to a layer, or to none.
    pub(super) fn at(&mut self, site: Option<Site>) {
        self.site = site;
    }

    /// All that were named.
    pub(super) fn done(self) -> Vec<WeightSpec> {
        self.weights
    }

    /// A tensor of a role.
    pub fn push(&mut self, role: Role, slot: Slot, kind: Kind, shape: &[usize]) {
        self.weights.push(WeightSpec {
            name: role.tensor(slot, self.site),
            shape: shape.to_vec(),
            kind,
            role,
            slot,
            site: self.site,
        });
    }

    /// A linear map `[out, in]` and its bias.
    pub fn linear(&mut self, role: Role, out: usize, inp: usize) {
        self.push(role, Slot::Whole, Kind::Linear, &[out, inp]);
        self.push(role, Slot::Bias, Kind::Vector, &[out]);
    }

    /// The factors and the bias of a LayerNorm.
    pub fn norm(&mut self, role: Role, len: usize) {
        self.push(role, Slot::Gain, Kind::Vector, &[len]);
        self.push(role, Slot::Bias, Kind::Vector, &[len]);
    }

    /// A vector by itself.
    pub fn vector(&mut self, role: Role, len: usize) {
        self.push(role, Slot::Whole, Kind::Vector, &[len]);
    }
}
