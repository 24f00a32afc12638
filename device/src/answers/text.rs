//! Texts to token ids, where the program was built with the feature `text`; elsewhere a sentence that says so.

use super::sequence::Sequence;
use super::{Caller, ResponderError};
use crate::session::Session;
use std::path::Path;

/// What became of a text on its way to tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cut {
    /// Tokens were cut off to fit the model.
    pub truncated: bool,
    /// Nothing but unknown tokens is left.
    pub unknown: bool,
    /// A text is empty or blank.
    pub empty: bool,
}

#[cfg(feature = "text")]
mod with {
    use super::*;
    use crate::image::mmap::ModelFile;
    use crate::session::SessionError;
    use std::path::PathBuf;
    use thimble_text::{Encoded, Tokenizer, tokenizer_beside};

    pub struct Texts {
        tokenizer: Option<Tokenizer>,
        /// What a text is refused with where there is none.
        missing: &'static str,
        /// What whoever opened them should know.
        pub notes: Vec<String>,
    }

    fn missing(caller: Caller) -> &'static str {
        match caller {
            Caller::Server => "this server has no tokenizer: send \"ids\", or start it with --tokenizer FILE",
            Caller::Program => {
                "no tokenizer that the model was written with lies beside it: give token ids, or name a tokenizer.json when the \
                 model is opened"
            }
        }
    }

    fn sequence(encoded: Encoded) -> Sequence {
        Sequence {
            ids: encoded.ids,
            types: Some(encoded.types),
            places: encoded.places,
        }
    }

    /// Where the tokenizer named is, or the one the model was written with, where that lies beside it; and what whoever named none
    /// should know.
    fn found(
        session: &Session,
        named: Option<&Path>,
        caller: Caller,
    ) -> Result<(Option<PathBuf>, Option<String>), ResponderError> {
        let beside = tokenizer_beside(&session.file);
        match named {
            Some(path) => return Ok((Some(path.to_path_buf()), None)),
            None if !beside.exists() => return Ok((None, None)),
            None => {}
        }
        let own = &session.engine.artifact().provenance.tokenizer_sha256;
        let found = ModelFile::open(&beside).and_then(|file| file.sha256());
        if own.as_ref() == Some(&found.map_err(SessionError::from)?) {
            return Ok((Some(beside), None));
        }
        let any = match caller {
            Caller::Server => "--tokenizer takes any",
            Caller::Program => "the option tokenizer takes any",
        };
        let beside = beside.display();
        let note = format!("note: {beside} is not the tokenizer the model was written with and is ignored; {any}");
        Ok((None, Some(note)))
    }

    /// The tokenizer that is found; and what whoever named none should know.
    pub fn tokenizer(
        session: &Session,
        named: Option<&Path>,
        caller: Caller,
    ) -> Result<(Option<Tokenizer>, Vec<String>), ResponderError> {
        let (path, note) = found(session, named, caller)?;
        let Some(path) = path else {
            return Ok((None, note.into_iter().collect()));
        };
        let tokenizer = Tokenizer::open(&path, session.engine.config())?;
        session.settle();
        let scarce = tokenizer.scarce().map(|scarce| format!("warning: {scarce}"));
        Ok((Some(tokenizer), scarce.into_iter().collect()))
    }

    /// RAM that texts take with the tokenizer beside the model, bytes; 0 where there is none.
    pub fn ram(session: &Session) -> u64 {
        let path = found(session, None, Caller::Server).ok().and_then(|(path, _)| path);
        let json = path.and_then(|path| thimble_text::read(&path).ok());
        json.map_or(0, |json| thimble_text::ram(&json))
    }

    impl Texts {
        /// With the tokenizer that [`tokenizer`] finds.
        pub fn open(session: &Session, named: Option<&Path>, caller: Caller) -> Result<Texts, ResponderError> {
            let (tokenizer, notes) = tokenizer(session, named, caller)?;
            Ok(Texts {
                tokenizer,
                missing: missing(caller),
                notes,
            })
        }

        /// Whether texts are understood.
        pub fn known(&self) -> bool {
            self.tokenizer.is_some()
        }

        pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<(Sequence, Cut), String> {
            let Some(tokenizer) = &self.tokenizer else {
                return Err(self.missing.into());
            };
            let encoded = tokenizer.encode(text, pair).map_err(|e| e.to_string())?;
            let cut = Cut {
                truncated: encoded.truncated,
                unknown: encoded.unknown,
                empty: encoded.empty,
            };
            Ok((sequence(encoded), cut))
        }

        /// The windows a question is answered in.
        pub fn windows(&self, question: &str, context: &str) -> Result<(Vec<Sequence>, Cut), String> {
            let Some(tokenizer) = &self.tokenizer else {
                return Err(self.missing.into());
            };
            let windows = tokenizer.windows(question, context).map_err(|e| e.to_string())?;
            let cut = Cut {
                truncated: false,
                unknown: windows.iter().any(|w| w.unknown),
                empty: windows.iter().any(|w| w.empty),
            };
            Ok((windows.into_iter().map(sequence).collect(), cut))
        }

        pub fn mask_id(&self) -> Option<i64> {
            self.tokenizer.as_ref().and_then(Tokenizer::mask_id)
        }

        pub fn token(&self, id: i64) -> Option<String> {
            self.tokenizer.as_ref().and_then(|t| t.token(id))
        }
    }
}

#[cfg(not(feature = "text"))]
mod without {
    use super::*;

    /// Nothing: there are no texts.
    pub fn ram(_session: &Session) -> u64 {
        0
    }

    pub struct Texts {
        missing: &'static str,
        /// Nothing: there are no texts.
        pub notes: Vec<String>,
    }

    fn missing(caller: Caller) -> &'static str {
        match caller {
            Caller::Server => {
                "this server takes token ids only: send \"ids\"; a thimble-device whose --version says \"with text\" takes texts"
            }
            Caller::Program => "this build takes token ids only: build thimble-device with the feature text",
        }
    }

    impl Texts {
        pub fn open(_session: &Session, named: Option<&Path>, caller: Caller) -> Result<Texts, ResponderError> {
            match named {
                Some(_) => Err(ResponderError::NoText),
                None => Ok(Texts {
                    missing: missing(caller),
                    notes: vec![],
                }),
            }
        }

        pub fn known(&self) -> bool {
            false
        }

        pub fn encode(&self, _text: &str, _pair: Option<&str>) -> Result<(Sequence, Cut), String> {
            Err(self.missing.into())
        }

        pub fn windows(&self, _question: &str, _context: &str) -> Result<(Vec<Sequence>, Cut), String> {
            Err(self.missing.into())
        }

        pub fn mask_id(&self) -> Option<i64> {
            None
        }

        pub fn token(&self, _id: i64) -> Option<String> {
            None
        }
    }
}

#[cfg(feature = "text")]
pub use with::{Texts, ram, tokenizer};
#[cfg(not(feature = "text"))]
pub use without::{Texts, ram};
