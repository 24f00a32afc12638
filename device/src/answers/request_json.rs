//! The JSON of a request: its fields, and lists whose length is bounded while they are read.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// Longest text of an id: it is held while its request waits.
const ID_BYTES: usize = 256;
/// Most values of one list: far more than any model takes, and few enough to hold for every client.
const LIST: usize = 1 << 16;

/// What names a request; any JSON value that is neither list nor object.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Id {
    #[default]
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a request")]
pub(super) struct Raw {
    pub(super) id: Id,
    pub(super) op: Option<String>,
    #[serde(alias = "input_ids")]
    pub(super) ids: Option<List>,
    #[serde(alias = "token_type_ids")]
    pub(super) types: Option<List>,
    pub(super) choices: Option<List>,
    pub(super) text: Option<String>,
    #[serde(alias = "text_pair")]
    pub(super) pair: Option<String>,
    pub(super) at: Option<List>,
    pub(super) top: Option<u32>,
    pub(super) full: bool,
    pub(super) max_answer: Option<u32>,
    pub(super) no_answer: bool,
}

impl Raw {
    /// The first field given beside `op`, which takes none.
    pub(super) fn other(&self) -> Option<&'static str> {
        [
            ("ids", self.ids.is_some()),
            ("types", self.types.is_some()),
            ("choices", self.choices.is_some()),
            ("text", self.text.is_some()),
            ("pair", self.pair.is_some()),
            ("at", self.at.is_some()),
            ("top", self.top.is_some()),
            ("full", self.full),
            ("max_answer", self.max_answer.is_some()),
            ("no_answer", self.no_answer),
        ]
        .into_iter()
        .find_map(|(name, given)| given.then_some(name))
    }
}

/// The id alone, whatever else the object holds.
pub(super) struct Named(pub(super) Id);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Named, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Named;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a request")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named, A::Error> {
                let mut id = None;
                while let Some(field) = map.next_key::<String>()? {
                    if field != "id" {
                        map.next_value::<IgnoredAny>()?;
                    } else if id.replace(map.next_value()?).is_some() {
                        return Err(de::Error::duplicate_field("id"));
                    }
                }
                Ok(Named(id.unwrap_or_default()))
            }
        }
        from.deserialize_map(Fields)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Id, D::Error> {
        struct Scalar;
        impl Visitor<'_> for Scalar {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"id\" to be a string, a number, true, false or null")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Id, E> {
                Ok(Id::Null)
            }
            fn visit_bool<E: de::Error>(self, v: bool) -> Result<Id, E> {
                Ok(Id::Bool(v))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Id, E> {
                Ok(Id::Signed(v))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Id, E> {
                Ok(Id::Unsigned(v))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Id, E> {
                Ok(Id::Float(v))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Id, E> {
                if v.len() > ID_BYTES {
                    let problem = format!("\"id\" is {} bytes long, at most {ID_BYTES} are kept", v.len());
                    return Err(E::custom(problem));
                }
                Ok(Id::Text(v.to_string()))
            }
        }
        from.deserialize_any(Scalar)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Id::Null => to.serialize_unit(),
            Id::Bool(v) => to.serialize_bool(*v),
            Id::Signed(v) => to.serialize_i64(*v),
            Id::Unsigned(v) => to.serialize_u64(*v),
            Id::Float(v) => to.serialize_f64(*v),
            Id::Text(v) => to.serialize_str(v),
        }
    }
}

/// A list of whole numbers, of such lists, or of texts.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum List {
    Numbers(Vec<i64>),
    Rows(Vec<Vec<i64>>),
    Texts(Vec<String>),
}

enum Item {
    Number(i64),
    Row(Vec<i64>),
    Text(String),
}

/// One number of an inner list.
struct Whole(i64);

const WHOLE: &str = "a whole number of at most 64 bits";

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Whole, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Whole;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(WHOLE)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Whole, E> {
                Ok(Whole(v))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Whole, E> {
                signed(v, &self).map(Whole)
            }
        }
        from.deserialize_any(Number)
    }
}

fn signed<E: de::Error>(v: u64, expected: &dyn de::Expected) -> Result<i64, E> {
    i64::try_from(v).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(v), expected))
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Item, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Item;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(WHOLE)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Item, E> {
                Ok(Item::Number(v))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Item, E> {
                signed(v, &self).map(Item::Number)
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Item, E> {
                Ok(Item::Text(v.to_string()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
                let mut row = vec![];
                while let Some(Whole(value)) = seq.next_element()? {
                    if row.len() == LIST {
                        return Err(de::Error::custom(too_many()));
                    }
                    row.push(value);
                }
                Ok(Item::Row(row))
            }
        }
        from.deserialize_any(Any)
    }
}

fn too_many() -> String {
    format!("a list of more than {LIST} values")
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<List, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = List;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List, A::Error> {
                let mut list = List::Numbers(vec![]);
                let mut values = 0;
                while let Some(item) = seq.next_element()? {
                    values += match &item {
                        Item::Row(row) => row.len() + 1,
                        Item::Number(_) | Item::Text(_) => 1,
                    };
                    if values > LIST {
                        return Err(de::Error::custom(too_many()));
                    }
                    match (&mut list, item) {
                        (List::Numbers(all), Item::Number(v)) => all.push(v),
                        (List::Rows(all), Item::Row(v)) => all.push(v),
                        (List::Texts(all), Item::Text(v)) => all.push(v),
                        (List::Numbers(none), Item::Row(v)) if none.is_empty() => list = List::Rows(vec![v]),
                        (List::Numbers(none), Item::Text(v)) if none.is_empty() => list = List::Texts(vec![v]),
                        _ => return Err(de::Error::custom("a list mixes numbers, lists and texts")),
                    }
                }
                Ok(list)
            }
        }
        from.deserialize_seq(Items)
    }
}
