//! Which fields of a row hold its texts and its label: by the names data sets of the field have, or as the user names them. Where
//! the names leave a choice, it is the user's.

use serde_json::{Map, Value};
use thimble_shared::terminal::printable;

/// What the user says of the columns; nothing where the names tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// The text's column, or the columns of a pair.
    pub text: Vec<String>,
    /// The label's column.
    pub label: Option<String>,
}

/// Texts that thimble's own form names: they win over every other field.
const OWN: &str = "text";
/// What may stand beside a text, a question or a sentence as its pair.
const OWN_PAIRS: [&str; 3] = ["text_pair", "pair", "context"];
/// Pairs as data sets name them, the first text first.
const PAIRS: [(&str, &str); 17] = [
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "context"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
    ("sentence_A", "sentence_B"),
    ("string1", "string2"),
    ("question", "text_pair"),
    ("question", "pair"),
    ("sentence", "text_pair"),
    ("sentence", "pair"),
    ("sentence", "context"),
];
/// Single texts as data sets name them.
const SINGLES: [&str; 12] = [
    "sentence",
    "question",
    "premise",
    "content",
    "review",
    "comment",
    "utterance",
    "tweet",
    "document",
    "message",
    "query",
    "title",
];
/// Labels: the names of thimble's own form first.
const LABELS: [&str; 6] = ["labels", "label", "gold_label", "class", "category", "target"];
/// Columns that make a table even without a text's name.
const OTHERS: [&str; 2] = ["input_ids", "choices"];
/// What a column of one choice of several is called before its number.
const CHOICES: [&str; 3] = ["choice", "ending", "option"];

/// Whether a column's name alone makes a table of a file.
pub fn is_known(name: &str) -> bool {
    let is = |known: &str| known.eq_ignore_ascii_case(name);
    let pairs = PAIRS.iter().any(|(a, b)| is(a) || is(b));
    pairs
        || [OWN]
            .iter()
            .chain(&OWN_PAIRS)
            .chain(&SINGLES)
            .chain(&OTHERS)
            .any(|known| is(known))
}

/// Every value of a row that is a text by its name, the texts of pairs and choices too.
pub fn all_texts(fields: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let texts = |key: &str| key != "input_ids" && is_known(key);
    let choice = |key: &str| CHOICES.iter().any(|name| numbered(key, name).is_some());
    fields
        .iter()
        .filter(move |(key, _)| texts(key) || choice(key))
        .map(|(_, value)| value)
}

/// Names as an error lists them.
pub fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 20;
    let mut told: Vec<String> = names
        .take(MOST + 1)
        .map(|name| format!("'{}'", printable(&name.chars().take(40).collect::<String>())))
        .collect();
    if told.len() > MOST {
        told.truncate(MOST);
        told.push("…".into());
    }
    told.join(", ")
}

/// A field of a row by a name, in whatever case the file spells it.
pub fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<(&'a str, &'a Value)> {
    let exact = fields.get_key_value(name);
    let found = exact.or_else(|| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)));
    found
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key.as_str(), value))
}

impl Columns {
    /// The names of the fields that hold the text, or the two texts of a pair, of a row with these fields.
    ///
    /// # Errors
    /// Where there is no text, or several could be meant.
    pub fn texts<'a>(&'a self, fields: &'a Map<String, Value>) -> Result<Vec<&'a str>, String> {
        let named = |name: &str| field(fields, name).map(|(key, _)| key);
        if let [first, rest @ ..] = self.text.as_slice() {
            let first = named(first).ok_or_else(|| no_column(first, fields))?;
            let rest = rest.iter().filter_map(|name| named(name));
            return Ok([first].into_iter().chain(rest).collect());
        }
        if let Some(own) = named(OWN) {
            return Ok([own]
                .into_iter()
                .chain(OWN_PAIRS.iter().find_map(|pair| named(pair)))
                .collect());
        }
        let mut pairs: Vec<Vec<&str>> = Vec::new();
        for (a, b) in PAIRS {
            if let (Some(a), Some(b)) = (named(a), named(b)) {
                let pair = vec![a, b];
                if !pairs.contains(&pair) {
                    pairs.push(pair);
                }
            }
        }
        let singles = || {
            SINGLES
                .iter()
                .filter_map(|name| named(name))
                .map(|name| vec![name])
                .collect()
        };
        let found: Vec<Vec<&str>> = if pairs.is_empty() { singles() } else { pairs };
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(no_text(fields)),
            several => {
                let each = several.iter().map(|names| names.join(","));
                let each = each.map(|names| format!("--text-column {}", printable(&names)));
                Err(format!(
                    "several fields could be the text; choose with {}",
                    each.collect::<Vec<_>>().join(" or ")
                ))
            }
        }
    }

    /// The label's field, where there is one.
    pub fn label<'a>(&self, fields: &'a Map<String, Value>) -> Option<(&'a str, &'a Value)> {
        match &self.label {
            Some(name) => field(fields, name),
            None => LABELS.iter().find_map(|name| field(fields, name)),
        }
    }

    /// The columns of a table with this header, all by name, and how to tell a user of them.
    ///
    /// # Errors
    /// Where a column that the user names is missing, there is none with texts, or several could be meant.
    pub fn of_table(&self, header: &[String]) -> Result<(Columns, String), String> {
        let lacks = |name: &&String| !header.iter().any(|column| column.eq_ignore_ascii_case(name));
        if let Some(name) = self.text.iter().chain(&self.label).find(lacks) {
            let columns = list(header.iter().map(String::as_str));
            return Err(format!(
                "there is no column '{}'; the columns are {columns}",
                printable(name)
            ));
        }
        let named = |name: &&String| !name.is_empty();
        if let Some(twice) = header
            .iter()
            .filter(named)
            .find(|a| header.iter().filter(|b| b == a).count() > 1)
        {
            return Err(format!("the column '{}' stands twice in the header", printable(twice)));
        }
        let fields = header.iter().map(|name| (name.clone(), Value::Bool(true))).collect();
        let ids = field(&fields, "input_ids").is_some() && self.text.is_empty();
        let columns = Columns {
            text: match ids {
                true => Vec::new(),
                false => self.texts(&fields)?.into_iter().map(String::from).collect(),
            },
            label: self.label(&fields).map(|(name, _)| name.to_string()),
        };
        let quoted = |name: &String| format!("'{}'", printable(name));
        let texts = match ids {
            true => "token ids from 'input_ids'".to_string(),
            false => format!(
                "texts from {}",
                columns.text.iter().map(quoted).collect::<Vec<_>>().join(" and ")
            ),
        };
        let label = columns
            .label
            .as_ref()
            .map_or("no labels".to_string(), |name| format!("labels from {}", quoted(name)));
        Ok((columns, format!(": {texts}, {label}")))
    }
}

/// The choices of a question that stand in numbered fields (choice0, choice1 …), in the order of their numbers.
pub fn choices(fields: &Map<String, Value>) -> Vec<&str> {
    for name in CHOICES {
        let mut found: Vec<(u32, &str)> = fields
            .iter()
            .filter_map(|(key, value)| Some((numbered(key, name)?, value.as_str()?)))
            .collect();
        if !found.is_empty() {
            found.sort_by_key(|&(number, _)| number);
            return found.into_iter().map(|(_, text)| text).collect();
        }
    }
    Vec::new()
}

/// The number of the field `key`, where it is one of the numbered fields called `name`.
fn numbered(key: &str, name: &str) -> Option<u32> {
    let key = key.to_ascii_lowercase();
    key.strip_prefix(name)?.trim_start_matches('_').parse().ok()
}

fn no_column(name: &str, fields: &Map<String, Value>) -> String {
    let columns = list(fields.keys().map(String::as_str));
    format!(
        "--text-column: no field '{}' with a value; there are {columns}",
        printable(name)
    )
}

fn no_text(fields: &Map<String, Value>) -> String {
    let columns = list(fields.keys().map(String::as_str));
    let beside = match columns.is_empty() {
        true => String::new(),
        false => format!("; its fields are {columns}: name the text's with --text-column NAME, or of a pair NAME,NAME"),
    };
    format!(r#"has neither "text" nor "input_ids"{beside}"#)
}
