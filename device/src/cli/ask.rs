//! `ask`: a client of `serve` for people and shell scripts. Texts become requests, one at a time and in order; what comes back is
//! printed as the answer's words, or as the server's own line with --json. A server that is started again meanwhile is asked anew.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::args::Options;
use super::error::CliError;
use super::texts_file::Texts;
use serde_json::{Map, Value, json};
use thimble_shared::terminal::printable;

/// Where a system's server listens.
const SYSTEM: &str = "/run/thimble.sock";
/// What a user's own is called in the folder that XDG_RUNTIME_DIR names.
const NAME: &str = "thimble.sock";
/// Longest answer that is read.
const LONGEST: u64 = 64 << 20;
/// Exit code when the server refused a request.
const REFUSED: u8 = 1;

/// Asks everything, prints the answers; the exit code says whether the server refused one.
///
/// # Errors
/// Where no server can be reached or input cannot be read.
pub fn run(options: &Options) -> Result<(String, u8), CliError> {
    let socket = options.serve.socket.clone().unwrap_or_else(default_socket);
    let mut server = Server {
        patience: options.serve.timeout,
        socket,
        stream: None,
    };
    let mut code = 0;
    let (texts, pairs) = (&options.texts, &options.texts.pair);
    let mut one = |request: Value, shown: Option<&str>| -> Result<bool, CliError> {
        let line = server.ask(&request)?;
        let answer: Value = serde_json::from_slice(&line).map_err(|e| server.failed(format!("no JSON came: {e}")))?;
        let refused = answer.get("error").and_then(Value::as_str);
        let said = match (options.json, refused) {
            (true, _) => format!("{answer}\n"),
            (false, Some(problem)) => {
                crate::log::line(problem);
                String::new()
            }
            (false, None) => {
                let words = words(&answer, pairs);
                match shown {
                    Some(text) => format!("{}\n{}", printable(text), indented(&words)),
                    None => words,
                }
            }
        };
        if refused.is_some() {
            code = REFUSED;
        }
        let mut out = io::stdout().lock();
        match out.write_all(said.as_bytes()).and_then(|()| out.flush()) {
            // Whoever read the answers has seen enough.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            written => written.map(|()| true).map_err(CliError::Output),
        }
    };
    if let Some(ids) = &options.input.ids {
        one(json!({"ids": ids}), None)?;
        return Ok((String::new(), code));
    }
    if !texts.text.is_empty() {
        let several = texts.text.len() > 1;
        for text in &texts.text {
            if !one(request(text, pairs), Some(text.as_str()).filter(|_| several))? {
                break;
            }
        }
        return Ok((String::new(), code));
    }
    let mut lines = Texts::open(texts.file.as_deref().unwrap_or(Path::new("-")))?;
    while let Some(text) = lines.next()? {
        // A line that is a request already, as other clients send it.
        let asked = match text.trim_start().starts_with('{') {
            true => serde_json::from_str(&text).map_err(|e| lines.failed(io::Error::other(e)))?,
            false => request(&text, pairs),
        };
        if !one(asked, Some(&text))? {
            break;
        }
    }
    Ok((String::new(), code))
}

/// Below the text that it is about.
pub fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// A text's request; several pairs are the choices of a question.
fn request(text: &str, pairs: &[String]) -> Value {
    match pairs {
        [] => json!({"text": text}),
        [pair] => json!({"text": text, "pair": pair}),
        choices => json!({"text": text, "choices": choices}),
    }
}

fn default_socket() -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join(NAME));
    own.filter(|path| path.exists()).unwrap_or(SYSTEM.into())
}

/// The server, and the connection while there is one.
struct Server {
    socket: PathBuf,
    patience: Duration,
    stream: Option<BufReader<UnixStream>>,
}

impl Server {
    fn failed(&self, problem: impl ToString) -> CliError {
        CliError::Asking {
            socket: self.socket.display().to_string(),
            problem: problem.to_string(),
        }
    }

    /// The line that answers a request. Asked again where the connection ends before the answer: an answer depends on nothing but
    /// the request.
    fn ask(&mut self, request: &Value) -> Result<Vec<u8>, CliError> {
        let end = Instant::now() + self.patience;
        loop {
            match self.once(request, end) {
                Ok(line) if !stopping(&line) => return Ok(line),
                Ok(line) if Instant::now() >= end => return Ok(line),
                Ok(_) => {}
                Err(e) if Instant::now() >= end || !comes_back(&e) => {
                    let told = match e.kind() {
                        io::ErrorKind::NotFound => {
                            "no server there; start one (systemctl start thimble.socket), or name another with --socket"
                                .to_string()
                        }
                        io::ErrorKind::ConnectionRefused => "nobody listens there any more".to_string(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                            format!(
                                "no answer within {} s; --timeout raises it",
                                self.patience.as_secs_f64()
                            )
                        }
                        _ => e.to_string(),
                    };
                    return Err(self.failed(told));
                }
                Err(_) => {}
            }
            self.stream = None;
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn once(&mut self, request: &Value, end: Instant) -> io::Result<Vec<u8>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => BufReader::new(UnixStream::connect(&self.socket)?),
        };
        let left = end
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        stream.get_ref().set_read_timeout(Some(left))?;
        stream.get_ref().set_write_timeout(Some(left))?;
        stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        let mut line = Vec::new();
        stream.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.stream = Some(stream);
        Ok(line)
    }
}

/// Whether the server says that it ends, and the next one will answer.
fn stopping(line: &[u8]) -> bool {
    let told = serde_json::from_slice::<Value>(line).ok();
    told.is_some_and(|told| told.get("error").and_then(Value::as_str) == Some(crate::serve::STOPPING))
}

/// Failures of a server that is just started again.
fn comes_back(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, Interrupted, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionRefused | ConnectionReset | Interrupted | UnexpectedEof
    )
}

/// An answer in words: what `thimble run` would print first.
fn words(answer: &Value, pairs: &[String]) -> String {
    let field = |name: &str| answer.get(name).filter(|value| !value.is_null());
    let text = |value: &Value| printable(value.as_str().unwrap_or_default());
    let percent = |score: Option<&Value>| format!("{:.2} %", score.and_then(Value::as_f64).unwrap_or(0.0) * 100.0);
    let score_at = |at: usize| percent(field("scores").and_then(|scores| scores.get(at)));
    let list = |name: &str| field(name).and_then(Value::as_array);
    if let (Some(label), Some(best)) = (field("label"), field("argmax").and_then(Value::as_u64)) {
        return format!("{}  {}\n", text(label), score_at(best as usize));
    }
    if let Some(spans) = list("spans") {
        let span = |span: &Value| {
            let shown = span.get("text").map(text).unwrap_or_else(|| {
                let at = |name: &str| span.get(name).and_then(Value::as_u64).unwrap_or(0);
                format!("tokens {} to {}", at("first"), at("last"))
            });
            format!(
                "{shown}  {}  {}\n",
                span.get("label").map(text).unwrap_or_default(),
                percent(span.get("score"))
            )
        };
        return match spans.is_empty() {
            true => "no entity: every token is outside (O)\n".into(),
            false => spans.iter().map(span).collect(),
        };
    }
    if let Some(labels) = list("labels") {
        let names: Vec<String> = labels.iter().map(text).collect();
        return match names.is_empty() {
            true => "no label\n".into(),
            false => format!("{}\n", names.join(", ")),
        };
    }
    if let Some(span) = answer.get("answer") {
        let shown = span.get("text").map(text).filter(|text| !text.is_empty());
        return match (span.is_null(), span.get("first"), shown) {
            (true, ..) | (_, None, _) => format!("no answer, {}\n", percent(span.get("score"))),
            (_, _, Some(shown)) => format!("{shown}, {}\n", percent(span.get("score"))),
            (_, Some(first), None) => format!("tokens {first} to {}, {}\n", span["last"], percent(span.get("score"))),
        };
    }
    if let Some(best) = field("argmax").and_then(Value::as_u64) {
        let named = pairs.get(best as usize).map(|pair| printable(pair));
        let name = named.unwrap_or_else(|| format!("choice {best}"));
        return format!("{name}  {}\n", score_at(best as usize));
    }
    if let Some(top) = list("top") {
        let blank = |one: &Value| {
            let tokens = one.get("tokens").or(one.get("ids")).and_then(Value::as_array);
            let scores = one.get("scores").and_then(Value::as_array);
            let fills = tokens.into_iter().flatten().enumerate().map(|(at, token)| {
                let token = match token.as_str() {
                    // `▁` is the vocabulary's leading space.
                    Some(token) => printable(token.trim_start_matches('▁')),
                    None => token.to_string(),
                };
                format!("{token} {}", percent(scores.and_then(|scores| scores.get(at))))
            });
            format!("token {}: {}\n", one["at"], fills.collect::<Vec<_>>().join(", "))
        };
        return top.iter().map(blank).collect();
    }
    let numbers = |values: &Value| -> String {
        const SHOWN: usize = 8;
        let all = values.as_array().map(Vec::as_slice).unwrap_or_default();
        let shown: Vec<String> = all
            .iter()
            .take(SHOWN)
            .map(|x| x.as_f64().map_or(x.to_string(), |x| format!("{x:.6}")))
            .collect();
        shown.join(" ") + if all.len() > SHOWN { " ..." } else { "" }
    };
    let none = Map::new();
    let outputs = answer.get("outputs").and_then(Value::as_object).unwrap_or(&none);
    let output = |(name, values): (&String, &Value)| format!("{name} {}\n", numbers(values));
    match outputs.is_empty() {
        true => format!("{answer}\n"),
        false => outputs.iter().map(output).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn every_kind_of_answer_has_words() {
        let pairs = ["left".to_string(), "right".to_string()];
        let cases = [
            (
                r#"{"id":null,"outputs":{"logits":[1.0,2.0]},"argmax":1,"label":"perl","scores":[0.1,0.9]}"#,
                "perl  90.00 %\n",
            ),
            (r#"{"labels":["a","b"],"scores":[0.9,0.8]}"#, "a, b\n"),
            (r#"{"labels":[],"scores":[0.1]}"#, "no label\n"),
            (r#"{"argmax":1,"scores":[0.25,0.75]}"#, "right  75.00 %\n"),
            (
                r#"{"labels":["B-X"],"argmax":[1],"scores":[0.5],"spans":[{"label":"X","score":0.5,"first":1,"last":2,"text":"Rome"}]}"#,
                "Rome  X  50.00 %\n",
            ),
            (r#"{"spans":[],"labels":[]}"#, "no entity: every token is outside (O)\n"),
            (
                r#"{"answer":{"score":0.5,"first":1,"last":2,"text":"here"}}"#,
                "here, 50.00 %\n",
            ),
            (
                r#"{"answer":{"score":0.5,"first":1,"last":2}}"#,
                "tokens 1 to 2, 50.00 %\n",
            ),
            (r#"{"answer":{"score":0.5,"text":""}}"#, "no answer, 50.00 %\n"),
            (r#"{"answer":null}"#, "no answer, 0.00 %\n"),
            (
                r#"{"top":[{"at":2,"ids":[5],"tokens":["▁cat"],"scores":[0.5]}]}"#,
                "token 2: cat 50.00 %\n",
            ),
            (r#"{"outputs":{"logits":[2.5]}}"#, "logits 2.500000\n"),
            (r#"{"op":"ping","ok":true}"#, "{\"ok\":true,\"op\":\"ping\"}\n"),
        ];
        for (answer, want) in cases {
            assert_eq!(words(&serde_json::from_str(answer).unwrap(), &pairs), want, "{answer}");
        }
    }

    #[test]
    fn a_server_that_ends_is_asked_again() {
        let folder = std::env::temp_dir().join(format!("thimble-ask-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = thread::spawn(move || {
            for answer in [
                "",
                "{\"id\":null,\"error\":\"the server is stopping\"}\n",
                "{\"label\":\"x\"}\n",
            ] {
                let (stream, _) = listener.accept().unwrap();
                let mut stream = BufReader::new(stream);
                stream.read_line(&mut String::new()).unwrap();
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut server = Server {
            socket: socket.clone(),
            patience: Duration::from_secs(20),
            stream: None,
        };
        assert_eq!(server.ask(&json!({"text": "a"})).unwrap(), b"{\"label\":\"x\"}\n");
        serving.join().unwrap();
        std::fs::remove_file(&socket).unwrap();
        let error = server.ask(&json!({"text": "a"})).unwrap_err().to_string();
        assert!(error.contains("no server there"), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
