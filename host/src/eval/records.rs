//! Rows of text in the forms people keep them: JSON lines, one JSON array, CSV or TSV with a header, plain lines. The content tells
//! the form, not the file's name. In: a file's bytes; out: records with their line, each an object of fields. Which fields hold the
//! texts and the labels is decided in `columns`.

use super::record::{Record, RecordError};
use super::table::{Table, table};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// One JSON object a line, or one array of objects
    Json,
    /// Comma- or semicolon-separated values with a header line
    Csv,
    /// Tab-separated values with a header line
    Tsv,
    /// One text a line
    Text,
}

/// The rows of a file, not yet parsed.
#[derive(Debug)]
pub struct Records<'a> {
    bytes: Cow<'a, [u8]>,
    kind: Kind,
}

/// A part of the file that holds one row: its line, where it begins and where it ends.
type Part = (usize, usize, usize);

#[derive(Debug)]
enum Kind {
    Json(Vec<Part>),
    Text(Vec<Part>),
    Table(Table),
}

/// Lines after the first that tell whether a file goes on in JSON.
const LINES_TOLD_BY: usize = 100;
impl<'a> Records<'a> {
    /// Finds the rows. `form` is what the user says of the file, `wanted` the columns the user names.
    ///
    /// # Errors
    /// Where the bytes are no text, or look like a table whose columns cannot be told.
    pub fn open(bytes: &'a [u8], form: Option<Form>, wanted: &[String]) -> Result<Records<'a>, RecordError> {
        let bytes = text(bytes)?;
        let first = bytes.iter().position(|b| !b.is_ascii_whitespace());
        let json = first.is_some_and(|at| looks_like_json(&bytes[at..]));
        let kind = match form {
            Some(Form::Json) => json_parts(&bytes, first)?,
            Some(Form::Text) => Kind::Text(lines(&bytes)),
            Some(Form::Tsv) => Kind::Table(Table::read(&bytes, b'\t')?),
            Some(Form::Csv) => {
                let tables = [Table::read(&bytes, b','), Table::read(&bytes, b';')];
                let widest = |t: &Result<Table, RecordError>| t.as_ref().map_or(0, |t| t.header.len());
                let [comma, semicolon] = tables;
                Kind::Table(if widest(&semicolon) > widest(&comma) {
                    semicolon
                } else {
                    comma
                }?)
            }
            None if json => json_parts(&bytes, first)?,
            None if goes_on_in_json(&bytes) => {
                let line = lines(&bytes).first().map_or(1, |&(line, _, _)| line);
                return Err(RecordError::at(
                    line,
                    "is no JSON object, and most lines after it are; mend it, or say --form text where the lines are texts",
                ));
            }
            None => match table(&bytes, wanted)? {
                Some(table) => Kind::Table(table),
                None => Kind::Text(lines(&bytes)),
            },
        };
        Ok(Records { bytes, kind })
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        match &self.kind {
            Kind::Json(parts) | Kind::Text(parts) => parts.len(),
            Kind::Table(table) => table.count,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the rows were taken for, as a user calls it; `None` of JSON, where there is no doubt.
    pub fn form(&self) -> Option<&'static str> {
        match &self.kind {
            Kind::Json(_) => None,
            Kind::Text(_) => Some("plain text, one text a line"),
            Kind::Table(table) => Some(match table.delimiter {
                b'\t' => "TSV",
                b';' => "CSV with semicolons",
                _ => "CSV",
            }),
        }
    }

    /// The columns of a table.
    pub fn header(&self) -> Option<&[String]> {
        match &self.kind {
            Kind::Table(table) => Some(&table.header),
            Kind::Json(_) | Kind::Text(_) => None,
        }
    }

    /// Parses the rows at `indices`, which ascend, and hands over one at a time.
    ///
    /// # Errors
    /// Where a row does not parse, or `each` fails.
    pub fn take<E: From<RecordError>>(
        &self,
        indices: &[usize],
        mut each: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        match &self.kind {
            Kind::Json(parts) => indices.iter().try_for_each(|&i| each(self.object(parts[i])?)),
            Kind::Text(parts) => indices.iter().try_for_each(|&i| each(self.line(parts[i])?)),
            Kind::Table(table) => {
                let mut wanted = indices.iter().peekable();
                let mut place = 0;
                table.rows(&self.bytes, |line, row| {
                    let taken = wanted.next_if(|&&i| i == place).is_some();
                    place += 1;
                    match taken {
                        true => each(table.record(line, row)?),
                        false => Ok(()),
                    }
                })
            }
        }
    }

    fn object(&self, (line, from, to): Part) -> Result<Record, RecordError> {
        let json: Value = serde_json::from_slice(&self.bytes[from..to]).map_err(|e| {
            RecordError::at(
                line,
                format!("invalid JSON: {e}; rows are one JSON object a line, or one array of objects"),
            )
        })?;
        match json {
            Value::Object(fields) => Ok(Record {
                line,
                fields,
                typed: true,
            }),
            Value::String(text) => Ok(text_alone(line, text)),
            _ => Err(RecordError::at(line, r#"is no JSON object; a row is {"text": "…"}"#)),
        }
    }

    fn line(&self, (line, from, to): Part) -> Result<Record, RecordError> {
        let text = std::str::from_utf8(&self.bytes[from..to]).map_err(|_| RecordError::not_utf8(line))?;
        Ok(text_alone(line, text.to_string()))
    }
}

fn text_alone(line: usize, text: String) -> Record {
    Record {
        line,
        fields: Map::from_iter([("text".to_string(), Value::String(text))]),
        typed: true,
    }
}

/// The bytes without a byte order mark, or what else they are.
fn text(bytes: &[u8]) -> Result<Cow<'_, [u8]>, RecordError> {
    if let Some(rest) = bytes.strip_prefix(b"\xef\xbb\xbf") {
        return Ok(Cow::Borrowed(rest));
    }
    let other = [
        (
            &b"PAR1"[..],
            "is a Parquet file; write it as JSON lines (datasets: to_json)",
        ),
        (
            b"ARROW1",
            "is an Arrow file; write it as JSON lines (datasets: to_json)",
        ),
        (b"PK\x03\x04", "is a ZIP archive or a spreadsheet; save the rows as CSV"),
        (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
        (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it first"),
    ];
    if let Some((_, what)) = other.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Err(RecordError::whole(*what));
    }
    let order: fn([u8; 2]) -> u16 = match bytes.get(..2) {
        Some(b"\xff\xfe") => u16::from_le_bytes,
        Some(b"\xfe\xff") => u16::from_be_bytes,
        _ if bytes.contains(&0) => {
            return Err(RecordError::whole(
                "is no text: it holds NUL bytes; rows are JSON lines, a JSON array, CSV, TSV, plain text or safetensors",
            ));
        }
        _ => return Ok(Cow::Borrowed(bytes)),
    };
    // What spreadsheets write as "Unicode text".
    let (units, rest) = bytes[2..].as_chunks::<2>();
    let decoded = char::decode_utf16(units.iter().map(|&unit| order(unit))).collect::<Result<String, _>>();
    match (decoded, rest) {
        (Ok(text), []) => Ok(Cow::Owned(text.into_bytes())),
        _ => Err(RecordError::whole("begins like UTF-16 and is none; save it as UTF-8")),
    }
}

/// Whether the text begins as JSON does: an object, or an array of what an array may begin with.
fn looks_like_json(text: &[u8]) -> bool {
    match text.first() {
        Some(b'{') => true,
        Some(b'[') => {
            let next = text[1..].iter().find(|b| !b.is_ascii_whitespace());
            next.is_some_and(|b| matches!(b, b'{' | b'[' | b']' | b'"' | b'-' | b'0'..=b'9'))
        }
        _ => false,
    }
}

/// Whether most of the lines after the first hold one JSON object each: then it is the first that is damaged.
fn goes_on_in_json(bytes: &[u8]) -> bool {
    let after: Vec<Part> = lines(bytes).into_iter().skip(1).take(LINES_TOLD_BY).collect();
    let object = |&&(_, from, to): &&Part| {
        bytes[from] == b'{' && serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes[from..to]).is_ok()
    };
    2 * after.iter().filter(object).count() > after.len()
}

/// The rows of JSON lines, or of the array that begins at `first`.
fn json_parts(bytes: &[u8], first: Option<usize>) -> Result<Kind, RecordError> {
    match first.filter(|&at| bytes[at] == b'[') {
        Some(start) => Ok(Kind::Json(elements(bytes, start)?)),
        None => Ok(Kind::Json(lines(bytes))),
    }
}

/// The lines that are not blank.
fn lines(bytes: &[u8]) -> Vec<Part> {
    let mut from = 0;
    let mut parts = Vec::new();
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let trimmed = line.trim_ascii();
        if !trimmed.is_empty() {
            let lead = line.len() - line.trim_ascii_start().len();
            parts.push((i + 1, from + lead, from + lead + trimmed.len()));
        }
        from += line.len() + 1;
    }
    parts
}

/// The elements of the array that begins at `start`; whether each is JSON is asked when it is parsed.
fn elements(bytes: &[u8], start: usize) -> Result<Vec<Part>, RecordError> {
    let newlines = |part: &[u8]| part.iter().filter(|&&b| b == b'\n').count();
    let mut line = 1 + newlines(&bytes[..start]);
    let (mut depth, mut text, mut escaped) = (0usize, false, false);
    let mut begun: Option<(usize, usize)> = None;
    let mut parts = Vec::new();
    for (i, &b) in bytes.iter().enumerate().skip(start) {
        line += usize::from(b == b'\n');
        if text {
            (text, escaped) = (escaped || b != b'"', !escaped && b == b'\\');
            continue;
        }
        if depth == 1 && matches!(b, b',' | b']') {
            match begun.take() {
                Some((line, from)) => parts.push((line, from, i)),
                // An empty array has no element, and every comma stands behind one.
                None if b == b']' && parts.is_empty() => {}
                None => return Err(RecordError::at(line, "invalid JSON: a value is missing between commas")),
            }
        } else if depth == 1 && begun.is_none() && !b.is_ascii_whitespace() {
            begun = Some((line, i));
        }
        match b {
            b'"' => text = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            let rest = &bytes[i + 1..];
            return match rest.iter().position(|b| !b.is_ascii_whitespace()) {
                None => Ok(parts),
                // Each line is a list of its own.
                Some(more) => Err(RecordError::at(
                    line + newlines(&rest[..more]),
                    "invalid JSON: more follows the array; rows are one JSON object a line, or one array of objects",
                )),
            };
        }
    }
    Err(RecordError::at(
        line,
        "invalid JSON: the array does not end; is the file whole?",
    ))
}
