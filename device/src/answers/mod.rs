//! Requests to answers: token ids or texts in, a line of JSON with outputs and what they say out. `serve` answers its clients
//! with it, and a program that holds the engine asks a [`Responder`]. docs/serve.md lists the fields of both.

pub(crate) mod lines;
mod reply;
pub(crate) mod request;
mod request_json;
mod requests;
pub(crate) mod sequence;
pub(crate) mod text;

pub use reply::Reply;
pub use requests::Request;

use std::path::Path;

use crate::EngineError;
use crate::session::{DEFAULT_SEQ, Session, SessionError, SessionOptions};
use lines::{Frame, Place};
use request::{Infer, Model};
use text::Texts;
use thimble_shared::model::{AnswerKind, Config};

/// Tokens the choices of one question may have, padding included.
const QUESTION: usize = 2048;
/// Most numbers a masked LM's outputs have in one pass (64 MiB), though never less than one sequence.
pub(crate) const OUTPUTS: usize = 16 << 20;

/// Tokens one request may add up to, padding included.
pub(crate) fn most_tokens(config: &Config) -> usize {
    QUESTION.max(config.max_position_embeddings)
}

/// Whom errors tell what would help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Whoever started a server, with options of the command line.
    Server,
    /// Whoever opened a model in a program.
    Program,
}

/// Why there is no answer.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ResponderError {
    /// The model cannot be opened, or was written to while it was in use.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The tokenizer cannot be opened.
    #[cfg(feature = "text")]
    #[error(transparent)]
    Tokenize(#[from] thimble_text::TokenizeError),
    /// A tokenizer was given to a program built without the `text` feature.
    #[cfg(not(feature = "text"))]
    #[error(
        "the tokenizer: this program takes token ids only; build thimble-device with the feature text, which is on by default"
    )]
    NoText,
    /// A request does not fit the model. The text names the field.
    #[error("{}{problem}", .number.map_or(String::new(), |number| format!("request {number}: ")))]
    Request {
        /// Which request, counted from 0, where several are asked at once.
        number: Option<usize>,
        /// What is wrong with it, and what would do.
        problem: String,
    },
    /// The engine failed on inputs that fit.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A model with its tokenizer, ready to answer. Several threads may ask it at once: they share its weights, and each computes on
/// its own thread while the threads of the engine are taken by another.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixture/example_model.rs"));
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = &example_model("responder");
/// use thimble_device::answers::{Request, Responder};
/// use thimble_device::session::SessionOptions;
///
/// let model = Responder::open(path, &SessionOptions::default(), None)?;
/// let reply = model.answer(Request::ids([2, 17, 3]))?;
/// println!("{} {}", reply.label().unwrap_or("-"), reply.score().unwrap_or(0.0));
/// println!("{}", reply.json());
/// # assert!(["no", "yes"].contains(&reply.label().unwrap()), "{}", reply.json());
/// # Ok(())
/// # }
/// ```
pub struct Responder {
    session: Session,
    model: Model,
    /// Tokens of several requests computed in one pass.
    gathered: usize,
}

impl Responder {
    /// Opens the model at `path` and the tokenizer named, or the one it was written with where that lies beside it.
    ///
    /// # Errors
    /// [`ResponderError::Session`] for the model, `Tokenize` for the tokenizer.
    pub fn open(path: &Path, options: &SessionOptions, tokenizer: Option<&Path>) -> Result<Responder, ResponderError> {
        Responder::new(Session::load(path, options)?, tokenizer)
    }

    /// The same of a model that is opened.
    ///
    /// # Errors
    /// `Tokenize` where the tokenizer cannot be read or is another model's.
    pub fn new(session: Session, tokenizer: Option<&Path>) -> Result<Responder, ResponderError> {
        let texts = Texts::open(&session, tokenizer, Caller::Program)?;
        let config = session.engine.config().clone();
        let mut gathered = DEFAULT_SEQ;
        if config.head.has_decoder() {
            gathered = gathered.min(OUTPUTS / config.vocab_size.max(1));
        }
        Ok(Responder {
            gathered,
            model: Model {
                tokens: most_tokens(&config),
                config,
                texts,
                caller: Caller::Program,
            },
            session,
        })
    }

    /// The model that is asked.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether it takes texts, beside token ids.
    pub fn takes_text(&self) -> bool {
        self.model.texts.known()
    }

    /// What whoever opened it should know: a tokenizer that was ignored, or one of another model's family.
    pub fn notes(&self) -> &[String] {
        &self.model.texts.notes
    }

    /// Answers one request.
    ///
    /// # Errors
    /// [`ResponderError::Request`] where it does not fit the model, [`ResponderError::Engine`] where the engine fails, and
    /// [`ResponderError::Session`] where somebody wrote to the model file.
    pub fn answer(&self, request: Request) -> Result<Reply, ResponderError> {
        let asked = self.asked(request, None)?;
        let mut replies = self.compute(&[asked])?;
        replies.pop().ok_or_else(|| refused(None, "the engine gave no outputs"))
    }

    /// Answers requests in their order, short ones together in one pass. All are checked before any is computed.
    ///
    /// # Errors
    /// As [`Responder::answer`]; the first request that does not fit is named by its number.
    pub fn answers(&self, requests: impl IntoIterator<Item = Request>) -> Result<Vec<Reply>, ResponderError> {
        let requests = requests.into_iter().enumerate();
        let asked: Vec<Infer> = requests
            .map(|(number, request)| self.asked(request, Some(number)))
            .collect::<Result<_, _>>()?;
        let mut replies = Vec::with_capacity(asked.len());
        let mut rest = asked.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.together(rest));
            replies.extend(self.compute(now)?);
            rest = later;
        }
        Ok(replies)
    }

    fn asked(&self, request: Request, number: Option<usize>) -> Result<Infer, ResponderError> {
        let asked = request.raw.and_then(|raw| match &raw.op {
            Some(_) => Err("\"op\" is for a server".into()),
            None => self.model.infer(*raw),
        });
        asked.map_err(|problem| refused(number, problem))
    }

    /// How many of the first requests make one pass; at least one.
    fn together(&self, requests: &[Infer]) -> usize {
        let (mut rows, mut longest) = (0, 0);
        let fits = |asked: &&Infer| {
            rows += asked.rows.len();
            longest = longest.max(asked.longest());
            rows * longest <= self.gathered
        };
        requests.iter().take_while(fits).count().max(1)
    }

    /// Answers what makes one pass.
    fn compute(&self, requests: &[Infer]) -> Result<Vec<Reply>, ResponderError> {
        let config = &self.model.config;
        let input = lines::input(requests.iter(), config.head);
        let seq = input.shape.last().copied().unwrap_or(0);
        let rows = input.input_ids.len() / seq.max(1);
        let outputs = self.session.engine.run(&input);
        // What was wrong may be that somebody wrote to the file: then that is the thing to say.
        self.session.unchanged()?;
        let outputs = outputs?;
        let mut place = Place {
            outputs: &outputs,
            declared: self.session.engine.outputs(),
            first: 0,
            rows,
            seq,
        };
        let mut replies = Vec::with_capacity(requests.len());
        for asked in requests {
            let mut line = Vec::new();
            let best = lines::write(&mut line, Frame::default(), asked, place, &self.model);
            let embedding = match config.head.answer() {
                AnswerKind::Embedding => place.whole(config.head.row().answered_by),
                _ => None,
            };
            replies.push(Reply::new(line, best, embedding));
            place.first += asked.rows.len();
        }
        Ok(replies)
    }
}

fn refused(number: Option<usize>, problem: impl Into<String>) -> ResponderError {
    ResponderError::Request {
        number,
        problem: problem.into(),
    }
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Responder({})", self.session.file.display())
    }
}
