//! Texts of clients to token ids, where the program was built with the feature `text`; elsewhere a sentence that says so.

use super::ServeError;
use super::sequence::Sequence;
use crate::session::Session;
use std::path::Path;

/// What became of a text on its way to tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cut {
    /// Tokens were cut off to fit the model.
    pub truncated: bool,
    /// Nothing but unknown tokens is left.
    pub unknown: bool,
}

#[cfg(feature = "text")]
mod with {
    use super::*;
    use crate::image::mmap::ModelFile;
    use crate::log;
    use crate::session::SessionError;
    use thimble_text::{Encoded, Tokenizer, tokenizer_beside};

    pub struct Texts(Option<Tokenizer>);

    const NO_TOKENIZER: &str = "this server has no tokenizer: send \"ids\", or start it with --tokenizer FILE";

    fn sequence(encoded: Encoded) -> Sequence {
        Sequence {
            ids: encoded.ids,
            types: Some(encoded.types),
            places: encoded.places,
        }
    }

    /// The tokenizer named, or the one the model was written with, where that lies beside it.
    pub fn tokenizer(session: &Session, named: Option<&Path>) -> Result<Option<Tokenizer>, ServeError> {
        let beside = tokenizer_beside(&session.file);
        let path = match named {
            Some(path) => path,
            None if !beside.exists() => return Ok(None),
            None => {
                let own = &session.engine.artifact().provenance.tokenizer_sha256;
                let found = ModelFile::open(&beside).and_then(|file| file.sha256());
                if own.as_ref() != Some(&found.map_err(SessionError::from)?) {
                    log::line(&format!(
                        "note: {} is not the tokenizer the model was written with and is ignored; --tokenizer takes any",
                        beside.display()
                    ));
                    return Ok(None);
                }
                &beside
            }
        };
        let tokenizer = Tokenizer::open(path, session.engine.config())?;
        if let Some(scarce) = tokenizer.scarce() {
            log::line(&format!("warning: {scarce}"));
        }
        Ok(Some(tokenizer))
    }

    impl Texts {
        /// With the tokenizer that [`tokenizer`] finds.
        pub fn open(session: &Session, named: Option<&Path>) -> Result<Texts, ServeError> {
            Ok(Texts(tokenizer(session, named)?))
        }

        /// Whether texts are understood.
        pub fn known(&self) -> bool {
            self.0.is_some()
        }

        pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<(Sequence, Cut), String> {
            let Some(tokenizer) = &self.0 else {
                return Err(NO_TOKENIZER.into());
            };
            let encoded = tokenizer.encode(text, pair).map_err(|e| e.to_string())?;
            let cut = Cut {
                truncated: encoded.truncated,
                unknown: encoded.unknown,
            };
            Ok((sequence(encoded), cut))
        }

        /// The windows a question is answered in.
        pub fn windows(&self, question: &str, context: &str) -> Result<(Vec<Sequence>, Cut), String> {
            let Some(tokenizer) = &self.0 else {
                return Err(NO_TOKENIZER.into());
            };
            let windows = tokenizer.windows(question, context).map_err(|e| e.to_string())?;
            let cut = Cut {
                truncated: false,
                unknown: windows.iter().any(|w| w.unknown),
            };
            Ok((windows.into_iter().map(sequence).collect(), cut))
        }

        pub fn mask_id(&self) -> Option<i64> {
            self.0.as_ref().and_then(Tokenizer::mask_id)
        }

        pub fn token(&self, id: i64) -> Option<String> {
            self.0.as_ref().and_then(|t| t.token(id))
        }
    }
}

#[cfg(not(feature = "text"))]
mod without {
    use super::*;

    pub struct Texts;

    const IDS_ONLY: &str = "this server takes token ids only: send \"ids\"; a thimble-device whose --version says \"with text\" takes texts";

    impl Texts {
        pub fn open(_session: &Session, named: Option<&Path>) -> Result<Texts, ServeError> {
            match named {
                Some(_) => Err(ServeError::NoText("tokenizer")),
                None => Ok(Texts),
            }
        }

        pub fn known(&self) -> bool {
            false
        }

        pub fn encode(&self, _text: &str, _pair: Option<&str>) -> Result<(Sequence, Cut), String> {
            Err(IDS_ONLY.into())
        }

        pub fn windows(&self, _question: &str, _context: &str) -> Result<(Vec<Sequence>, Cut), String> {
            Err(IDS_ONLY.into())
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
pub use with::{Texts, tokenizer};
#[cfg(not(feature = "text"))]
pub use without::Texts;
