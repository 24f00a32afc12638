//! What the JSON files beside a vocabulary say of its tokenizer: in come tokenizer_config.json, special_tokens_map.json and
//! added_tokens.json, out come options, special tokens and added tokens as `PreTrainedTokenizer` of transformers 4.57 has them
//! once it is loaded (`_from_pretrained` in tokenization_utils_base.py).

use super::error::TokenizerError;
use crate::models::checkpoint::json as python_json;
use crate::models::file_names::{CONFIG, TOKENIZER_CONFIG};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use thimble_shared::files;
use thimble_shared::model::ModelFamily;

/// Largest JSON file read.
const MAX_JSON: u64 = 16 << 20;
/// Heads whose pipelines cut texts at the tokenizer's length.
const CUT: [&str; 2] = ["ForQuestionAnswering", "ForTokenClassification"];
/// Largest id an added token may have.
const MAX_ID: u32 = 1 << 24;

/// A token that is found in texts before they are split.
#[derive(Clone, Debug, PartialEq)]
pub struct AddedToken {
    pub content: String,
    pub lstrip: bool,
    pub rstrip: bool,
    pub single_word: bool,
    pub normalized: bool,
    pub special: bool,
}

impl AddedToken {
    /// A special token given by its text alone.
    pub fn special(content: &str) -> AddedToken {
        AddedToken {
            content: content.into(),
            lstrip: false,
            rstrip: false,
            single_word: false,
            normalized: false,
            special: true,
        }
    }
}

/// The special tokens, in the order in which Hugging Face lists and adds them.
pub const ROLES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// The model's config.json in `dir`, where there is one.
pub fn model_config(dir: &Path) -> Option<Value> {
    python_json::parse(&files::read(&dir.join(CONFIG)).ok()?).ok()
}

/// What stands beside a vocabulary.
#[derive(Debug, Default)]
pub struct Settings {
    /// The file errors about options name.
    path: PathBuf,
    options: Map<String, Value>,
    /// Added tokens by id.
    added: BTreeMap<u32, AddedToken>,
    /// The files read.
    pub files: Vec<PathBuf>,
}

impl Settings {
    /// The options in `dir` alone.
    pub fn options(dir: &Path) -> Result<Settings, TokenizerError> {
        let mut settings = Settings {
            path: dir.join(TOKENIZER_CONFIG),
            ..Settings::default()
        };
        settings.options = settings.object(dir, TOKENIZER_CONFIG)?.unwrap_or_default();
        Ok(settings)
    }

    /// Reads what stands in `dir`; nothing has to.
    pub fn read(dir: &Path) -> Result<Settings, TokenizerError> {
        let mut settings = Settings::options(dir)?;
        if let Some(Value::Object(listed)) = settings.options.get("added_tokens_decoder").cloned() {
            for (id, token) in &listed {
                let wrong = |problem: &str| settings.wrong("added_tokens_decoder", format!("{id}: {problem}"));
                let number = id.parse().map_err(|_| wrong("is no id"))?;
                let token = added(token, false).ok_or_else(|| wrong("is no added token"))?;
                settings.add(number, token)?;
            }
            return Ok(settings);
        }
        for (key, value) in settings.object(dir, "special_tokens_map.json")?.unwrap_or_default() {
            settings.special_token(key, value);
        }
        let Some(listed) = settings.object(dir, "added_tokens.json")? else {
            return Ok(settings);
        };
        let named: HashSet<String> = ROLES
            .iter()
            .filter_map(|role| added(settings.options.get(*role)?, true))
            .chain(settings.additional())
            .map(|token| token.content)
            .collect();
        for (content, id) in listed {
            let special = named.contains(&content);
            let token = AddedToken {
                special,
                normalized: !special,
                ..AddedToken::special(&content)
            };
            let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let number = number.ok_or_else(|| TokenizerError::Config {
                path: dir.join("added_tokens.json"),
                field: content,
                problem: format!("{id} is no id"),
            })?;
            settings.add(number, token)?;
        }
        Ok(settings)
    }

    /// An entry of special_tokens_map.json: it takes the place of the configuration's, a list is joined to it.
    fn special_token(&mut self, key: String, value: Value) {
        let value = match (value, self.options.get(&key)) {
            (Value::Array(more), Some(Value::Array(list))) => {
                let there: HashSet<&Value> = list.iter().collect();
                let fresh = more.into_iter().filter(|token| !there.contains(token));
                Value::Array(list.iter().cloned().chain(fresh.collect::<Vec<_>>()).collect())
            }
            (Value::Object(mut token), _) => {
                token.insert("special".into(), true.into());
                Value::Object(token)
            }
            (value, _) => value,
        };
        self.options.insert(key, value);
    }

    fn add(&mut self, id: u32, token: AddedToken) -> Result<(), TokenizerError> {
        if id > MAX_ID {
            return Err(self.wrong("added_tokens_decoder", format!("the id {id} is beyond {MAX_ID}")));
        }
        self.added.insert(id, token);
        Ok(())
    }

    fn object(&mut self, dir: &Path, name: &str) -> Result<Option<Map<String, Value>>, TokenizerError> {
        let path = dir.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let io = |cause| TokenizerError::Io {
            path: path.clone(),
            cause,
        };
        let format = |problem| TokenizerError::Format {
            path: path.clone(),
            problem,
        };
        let length = std::fs::metadata(&path).map_err(io)?.len();
        if length > MAX_JSON {
            return Err(format(format!("{length} bytes of JSON, at most {MAX_JSON} are read")));
        }
        let bytes = files::read(&path).map_err(io)?;
        self.files.push(path.clone());
        match python_json::parse(&bytes) {
            Ok(Value::Object(object)) => Ok(Some(object)),
            Ok(_) => Err(format("is no JSON object".into())),
            Err(e) => Err(format(format!("invalid JSON: {e}"))),
        }
    }

    pub fn wrong(&self, field: &str, problem: String) -> TokenizerError {
        TokenizerError::Config {
            path: self.path.clone(),
            field: field.into(),
            problem,
        }
    }

    /// The class named, without `Fast`.
    pub fn class(&self) -> Option<&str> {
        let class = self.options.get("tokenizer_class")?.as_str()?;
        Some(class.strip_suffix("Fast").unwrap_or(class))
    }

    /// Whether the files add a token of this text.
    pub fn adds(&self, content: &str) -> bool {
        self.added.values().any(|token| token.content == content)
    }

    /// A yes or no, or `default` where there is none. As Python has it, null is a no, and so is the number 0.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, TokenizerError> {
        match self.options.get(name) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::Number(number)) => Ok(number.as_f64() != Some(0.0)),
            Some(other) => Err(self.wrong(name, format!("{other} is neither true nor false"))),
        }
    }

    /// BertTokenizer's `strip_accents`; none is as `do_lower_case`. Only false itself keeps the accents of what is lower-cased, so
    /// that the number 0 is none.
    pub fn strip_accents(&self) -> Result<Option<bool>, TokenizerError> {
        let name = "strip_accents";
        let stated = self.options.get(name) == Some(&Value::Bool(false));
        Ok(Some(self.flag(name, false)?).filter(|strips| *strips || stated))
    }

    /// Most tokens of an input, where the model in the same folder has more positions and may be one whose pipeline cuts by it.
    pub fn max_length(&self) -> Option<usize> {
        let length = self.options.get("model_max_length")?.as_f64()?;
        let config = model_config(self.path.parent()?).unwrap_or_default();
        let cuts = config["architectures"][0]
            .as_str()
            .is_none_or(|class| CUT.iter().any(|head| class.ends_with(head)));
        let positions = config["max_position_embeddings"]
            .as_f64()
            .unwrap_or(ModelFamily::default().row().defaults.max_position_embeddings as f64);
        (cuts && (1.0..positions).contains(&length)).then_some(length as usize)
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.options.get(name).filter(|v| !v.is_null())
    }

    /// The token in a role: what the files say, otherwise `default`. Null says that there is none.
    fn role(&self, role: &str, default: Option<AddedToken>) -> Result<Option<AddedToken>, TokenizerError> {
        let token = match self.options.get(role) {
            None => default,
            Some(Value::Null) => None,
            Some(Value::String(content)) => Some(AddedToken {
                content: content.clone(),
                // A token given by its text is stripped as the class strips its own.
                ..default.unwrap_or_else(|| AddedToken::special(content))
            }),
            Some(value) => {
                let token = added(value, true);
                Some(token.ok_or_else(|| self.wrong(role, format!("{value} is no token")))?)
            }
        };
        Ok(token.filter(|t| !t.content.is_empty()))
    }

    fn additional(&self) -> Vec<AddedToken> {
        let list = |name: &str| match self.options.get(name) {
            Some(Value::Array(list)) => list.iter().filter_map(|token| added(token, true)).collect(),
            Some(Value::Object(named)) => named.values().filter_map(|token| added(token, true)).collect(),
            _ => Vec::new(),
        };
        [list("additional_special_tokens"), list("extra_special_tokens")].concat()
    }

    /// Special and added tokens of a tokenizer whose own vocabulary is `vocabulary`, ids by text, with `defaults` for roles the
    /// files leave out.
    pub fn tokens(
        &self,
        vocabulary: &HashMap<&str, u32>,
        defaults: [Option<AddedToken>; ROLES.len()],
    ) -> Result<SpecialTokens, TokenizerError> {
        let mut roles = HashMap::new();
        let mut special: Vec<AddedToken> = Vec::new();
        for (role, default) in ROLES.into_iter().zip(defaults) {
            if let Some(token) = self.role(role, default)? {
                roles.insert(role, token.content.clone());
                special.push(token);
            }
        }
        special.extend(self.additional());
        let mut seen = HashSet::new();
        special.retain(|token| !token.content.is_empty() && seen.insert(token.content.clone()));

        let mut ids: HashMap<String, u32> = self.added.iter().map(|(id, t)| (t.content.clone(), *id)).collect();
        // Tokens that are in no vocabulary come behind it: as many as there are texts, Hugging Face counts.
        let replaced = |id: &u32| self.added.contains_key(id);
        let own = vocabulary.iter().filter(|(_, id)| !replaced(id)).map(|(text, _)| *text);
        let mut next = own
            .chain(self.added.values().map(|t| t.content.as_str()))
            .collect::<HashSet<_>>()
            .len() as u32;
        // Of tokens with one id the last stays.
        let mut added: Vec<Option<(u32, AddedToken)>> = self
            .added
            .iter()
            .map(|(id, token)| Some((*id, token.clone())))
            .collect();
        let mut places: HashMap<u32, usize> = self.added.keys().copied().zip(0..).collect();
        for token in &special {
            if ids.contains_key(&token.content) {
                continue;
            }
            let known = vocabulary.get(token.content.as_str()).filter(|id| !replaced(id));
            let id = known.copied().unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            ids.insert(token.content.clone(), id);
            if let Some(earlier) = places.insert(id, added.len()) {
                added[earlier] = None;
            }
            let token = AddedToken {
                special: true,
                ..token.clone()
            };
            added.push(Some((id, token)));
        }
        Ok(SpecialTokens {
            special: special.into_iter().map(|t| t.content).collect(),
            roles,
            added: added.into_iter().flatten().collect(),
            ids,
        })
    }
}

/// The tokens of a loaded tokenizer that are more than pieces of text.
pub struct SpecialTokens {
    /// `all_special_tokens`.
    pub special: Vec<String>,
    roles: HashMap<&'static str, String>,
    /// Ids and tokens, in the order in which Hugging Face has them.
    pub added: Vec<(u32, AddedToken)>,
    ids: HashMap<String, u32>,
}

impl SpecialTokens {
    /// The text of the token in a role.
    pub fn role(&self, role: &str) -> Option<&str> {
        self.roles.get(role).map(String::as_str)
    }

    /// Text and id of a token no input can be made without.
    pub fn needed(&self, role: &str, settings: &Settings) -> Result<(&str, u32), TokenizerError> {
        let missing = || settings.wrong(role, "there is none, and every text needs one".into());
        let token = self.role(role).ok_or_else(missing)?;
        Ok((token, *self.ids.get(token).ok_or_else(missing)?))
    }

    /// What to say where tokens that are put around every text stand neither in the vocabulary nor in the files.
    pub fn lacking(
        &self,
        vocabulary: &HashMap<&str, u32>,
        settings: &Settings,
    ) -> Result<Option<String>, TokenizerError> {
        let mut lacking = Vec::new();
        for role in ["cls_token", "sep_token"] {
            let (token, id) = self.needed(role, settings)?;
            if !vocabulary.contains_key(token) && !settings.adds(token) {
                lacking.push(format!("{token} gets the id {id}"));
            }
        }
        Ok((!lacking.is_empty()).then(|| format!("{}, behind the vocabulary, which lacks it", lacking.join(", "))))
    }

    /// What is left as it is where texts are lower-cased first.
    pub fn keep_case(&self) -> Vec<String> {
        let plain = self.added.iter().filter(|(_, t)| !t.special && t.normalized);
        self.special
            .iter()
            .chain(plain.map(|(_, t)| &t.content))
            .cloned()
            .collect()
    }
}

/// An added token as JSON has it: its text alone, or an object.
fn added(value: &Value, special: bool) -> Option<AddedToken> {
    if let Some(content) = value.as_str() {
        return Some(AddedToken {
            special,
            ..AddedToken::special(content)
        });
    }
    let content = value.get("content")?.as_str()?;
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = special || flag("special").unwrap_or(false);
    Some(AddedToken {
        content: content.into(),
        lstrip: flag("lstrip").unwrap_or(false),
        rstrip: flag("rstrip").unwrap_or(false),
        single_word: flag("single_word").unwrap_or(false),
        normalized: flag("normalized").unwrap_or(!special),
        special,
    })
}
