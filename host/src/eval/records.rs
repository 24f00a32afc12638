//! Rows of text in the forms people keep them: JSON lines, one JSON array, CSV or TSV with a header, plain lines. The content tells
//! the form, not the file's name. In: a file's bytes; out: records with their line, each an object of fields. Which fields hold the
//! texts and the labels is decided in `columns`.

use super::columns;
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

/// Why rows cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", .line.map(|n| format!("line {n}: ")).unwrap_or_default())]
pub struct RecordError {
    /// Counted from 1.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: String,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Where it begins, counted from 1.
    pub line: usize,
    /// Its values by name.
    pub fields: Map<String, Value>,
    /// Whether numbers are told from texts: in a table every value is a text.
    pub typed: bool,
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

/// More columns than any table of texts has; a file of commas alone must not cost a hundred times its bytes.
const MOST_COLUMNS: usize = 1000;
/// Lines that all have the same number of commas are a table, even where the first names no columns.
const SURELY_TABLE: usize = 8;
/// Lines after the first that tell whether a file goes on in JSON.
const LINES_TOLD_BY: usize = 100;
/// Fields of a table that may hold lists, written as JSON.
const LISTS: [&str; 6] = [
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "labels",
    "label",
    "choices",
];

fn whole(problem: impl Into<String>) -> RecordError {
    RecordError {
        line: None,
        problem: problem.into(),
    }
}

fn at(line: usize, problem: impl Into<String>) -> RecordError {
    RecordError {
        line: Some(line),
        problem: problem.into(),
    }
}

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
                return Err(at(
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
            at(
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
            _ => Err(at(line, r#"is no JSON object; a row is {"text": "…"}"#)),
        }
    }

    fn line(&self, (line, from, to): Part) -> Result<Record, RecordError> {
        let text = std::str::from_utf8(&self.bytes[from..to]).map_err(|_| not_utf8(line))?;
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

fn not_utf8(line: usize) -> RecordError {
    at(
        line,
        "is not UTF-8; save the file as UTF-8 (iconv -f latin1 -t utf-8 OLD > NEW, where it is Latin 1)",
    )
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
        return Err(whole(*what));
    }
    let order: fn([u8; 2]) -> u16 = match bytes.get(..2) {
        Some(b"\xff\xfe") => u16::from_le_bytes,
        Some(b"\xfe\xff") => u16::from_be_bytes,
        _ if bytes.contains(&0) => {
            return Err(whole(
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
        _ => Err(whole("begins like UTF-16 and is none; save it as UTF-8")),
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
                None => return Err(at(line, "invalid JSON: a value is missing between commas")),
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
                Some(more) => Err(at(
                    line + newlines(&rest[..more]),
                    "invalid JSON: more follows the array; rows are one JSON object a line, or one array of objects",
                )),
            };
        }
    }
    Err(at(line, "invalid JSON: the array does not end; is the file whole?"))
}

/// A file of delimited values, its header read and its rows counted.
#[derive(Debug)]
struct Table {
    delimiter: u8,
    /// Whether quotes hold delimiters and line ends together.
    quoting: bool,
    header: Vec<String>,
    count: usize,
}

impl Table {
    /// Reads the header and counts the rows. Where quotes are no quotes (a text that begins with one), lines are rows by themselves.
    fn read(bytes: &[u8], delimiter: u8) -> Result<Table, RecordError> {
        let quoted = match quoting_fault(bytes, delimiter) {
            Some(line) => Err(at(
                line,
                "a double quote is opened here and not closed before the next value; one inside quotes is written twice",
            )),
            None => Table::read_with(bytes, delimiter, true),
        };
        if !bytes.contains(&b'"') {
            return quoted;
        }
        let plain = Table::read_with(bytes, delimiter, false)
            .ok()
            .filter(|t| t.header.len() > 1);
        match (quoted, plain) {
            // Between tabs a quote that joins lines which are rows by themselves is a letter of the text.
            (Ok(quoted), Some(plain)) if delimiter == b'\t' && plain.count > quoted.count => Ok(plain),
            (Err(_), Some(plain)) => Ok(plain),
            (quoted, _) => quoted,
        }
    }

    fn read_with(bytes: &[u8], delimiter: u8, quoting: bool) -> Result<Table, RecordError> {
        let mut rows = Rows::new(delimiter, quoting, bytes);
        let Some(line) = rows.advance() else {
            return Err(whole("has no header line"));
        };
        if rows.count() > MOST_COLUMNS {
            return Err(at(
                line,
                format!("{} columns, at most {MOST_COLUMNS} are read", rows.count()),
            ));
        }
        let names = rows
            .values()
            .map(|name| std::str::from_utf8(name).map(|n| n.trim().to_string()));
        let mut table = Table {
            delimiter,
            quoting,
            header: names.collect::<Result<_, _>>().map_err(|_| not_utf8(line))?,
            count: 0,
        };
        let mut count = 0;
        table.rows(bytes, |_, _| -> Result<(), RecordError> {
            count += 1;
            Ok(())
        })?;
        table.count = count;
        Ok(table)
    }

    /// Hands over every row below the header.
    fn rows<E: From<RecordError>>(
        &self,
        bytes: &[u8],
        mut each: impl FnMut(usize, &Rows) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rows = Rows::new(self.delimiter, self.quoting, bytes);
        // The header.
        rows.advance();
        while let Some(line) = rows.advance() {
            if rows.count() != self.header.len() {
                let problem = format!(
                    "{} values, the header has {} columns; a value with a {} or a line end in it stands in double \
                     quotes (lines of plain text: --form text)",
                    rows.count(),
                    self.header.len(),
                    match self.delimiter {
                        b'\t' => "tab",
                        b';' => "semicolon",
                        _ => "comma",
                    }
                );
                return Err(at(line, problem).into());
            }
            each(line, &rows)?;
        }
        Ok(())
    }

    fn record(&self, line: usize, row: &Rows) -> Result<Record, RecordError> {
        let mut fields = Map::new();
        for (name, value) in self.header.iter().zip(row.values()) {
            let value = std::str::from_utf8(value).map_err(|_| not_utf8(line))?;
            // An empty value is none, as in pandas.
            if value.trim().is_empty() {
                continue;
            }
            let list = LISTS.contains(&name.to_ascii_lowercase().as_str()) && value.trim_start().starts_with('[');
            let value = match list.then(|| serde_json::from_str(value)) {
                Some(Ok(list)) => list,
                Some(Err(e)) => return Err(at(line, format!("{name} is no list of JSON: {e}"))),
                None => Value::String(value.to_string()),
            };
            fields.insert(name.clone(), value);
        }
        Ok(Record {
            line,
            fields,
            typed: false,
        })
    }
}

/// Reads one row after another into the same buffers.
struct Rows<'b> {
    core: csv_core::Reader,
    rest: &'b [u8],
    /// The line at which `rest` begins.
    line: usize,
    /// The values of the row one behind the other, and where each ends.
    values: Vec<u8>,
    ends: Vec<usize>,
    count: usize,
}

impl<'b> Rows<'b> {
    fn new(delimiter: u8, quoting: bool, bytes: &'b [u8]) -> Rows<'b> {
        Rows {
            core: csv_core::ReaderBuilder::new()
                .delimiter(delimiter)
                .quoting(quoting)
                .build(),
            rest: bytes,
            line: 1,
            values: vec![0; 1024],
            ends: vec![0; 64],
            count: 0,
        }
    }

    fn skip(&mut self, bytes: usize) {
        let (passed, rest) = self.rest.split_at(bytes);
        self.line += passed.iter().filter(|&&b| b == b'\n').count();
        self.rest = rest;
    }

    /// Reads the next row: the line it begins at, or `None` at the end.
    fn advance(&mut self) -> Option<usize> {
        use csv_core::ReadRecordResult::{End, InputEmpty, OutputEndsFull, OutputFull, Record};
        let blank = self.rest.iter().position(|b| !b"\r\n".contains(b));
        self.skip(blank.unwrap_or(self.rest.len()));
        let line = self.line;
        let (mut filled, mut ended) = (0, 0);
        loop {
            let (values, ends) = (&mut self.values[filled..], &mut self.ends[ended..]);
            let (result, read, written, fields) = self.core.read_record(self.rest, values, ends);
            self.skip(read);
            (filled, ended) = (filled + written, ended + fields);
            match result {
                // The reader is told of the end by an empty input.
                InputEmpty => {}
                OutputFull => self.values.resize(self.values.len() * 2, 0),
                OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                Record => {
                    self.count = ended;
                    return Some(line);
                }
                End => return None,
            }
        }
    }

    /// How many values the row has.
    fn count(&self) -> usize {
        self.count
    }

    fn values(&self) -> impl Iterator<Item = &[u8]> {
        let ends = &self.ends[..self.count];
        let starts = [0].into_iter().chain(ends.iter().copied());
        starts.zip(ends).map(|(from, &to)| &self.values[from..to])
    }
}

/// The line where a quote is opened that ends nowhere, or in the middle of a value.
fn quoting_fault(bytes: &[u8], delimiter: u8) -> Option<usize> {
    let ends = |b: Option<&u8>| b.is_none_or(|&b| b == delimiter || b == b'\n' || b == b'\r');
    let (mut line, mut opened) = (1, 0);
    let (mut start, mut inside) = (true, false);
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        line += usize::from(b == b'\n');
        match (inside, b) {
            (true, b'"') if bytes.get(at + 1) == Some(&b'"') => at += 1,
            (true, b'"') if !ends(bytes.get(at + 1)) => return Some(opened),
            (true, b'"') => inside = false,
            (false, b'"') if start => (inside, opened) = (true, line),
            (true | false, _) => {}
        }
        start = !inside && ends(Some(&b));
        at += 1;
    }
    inside.then_some(opened)
}

/// The text as a table, where it is one; `None` where it is lines of text.
fn table(bytes: &[u8], wanted: &[String]) -> Result<Option<Table>, RecordError> {
    for delimiter in [b'\t', b',', b';'] {
        let mut first = Rows::new(delimiter, true, bytes);
        if first.advance().is_none() {
            continue;
        }
        let names: Vec<Cow<str>> = first.values().take(MOST_COLUMNS).map(String::from_utf8_lossy).collect();
        let known = |name: &str| match wanted {
            [] => columns::is_known(name),
            wanted => wanted.iter().any(|w| w.eq_ignore_ascii_case(name)),
        };
        let like_names = names.iter().all(|name| like_a_name(name.trim()));
        if names.iter().any(|name| known(name.trim())) {
            let table = Table::read(bytes, delimiter);
            // A sentence may hold the name of a column between commas; lines that all have as many are no sentences.
            let wide = table.as_ref().is_ok_and(|table| names.len() > 1 && table.count > 0);
            if like_names || !wanted.is_empty() || wide {
                return table.map(Some);
            }
        }
        if names.len() < 2 {
            continue;
        }
        let Ok(table) = Table::read(bytes, delimiter) else {
            continue;
        };
        let quoted = bytes.trim_ascii_start().starts_with(b"\"");
        if table.count == 0 || !(delimiter == b'\t' || like_names || quoted || table.count >= SURELY_TABLE) {
            continue;
        }
        if like_names {
            return Ok(Some(table));
        }
        return Err(at(
            1,
            format!(
                "the file looks like {}, and its first line names no columns ({}); add a header line such as text{}label, or say \
                 what it is with --form text",
                if delimiter == b'\t' { "TSV" } else { "CSV" },
                columns::list(names.iter().map(Cow::as_ref)),
                if delimiter == b'\t' { "<TAB>" } else { "," }
            ),
        ));
    }
    Ok(None)
}

/// Whether a value of the first line reads like a column's name: a short word or two, no sentence and no number.
fn like_a_name(name: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ' | ':');
    name.is_empty()
        || (name.len() <= 40
            && name.chars().next().is_some_and(char::is_alphabetic)
            && name.chars().all(plain)
            && name.split(' ').count() <= 3
            && !name.ends_with(['.', ':']))
}
