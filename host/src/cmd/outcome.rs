//! What a command answers.

/// What a command has to say, and its exit code.
#[derive(Debug)]
pub struct Outcome {
    pub text: String,
    pub code: u8,
    /// What is wrong with the input, on stderr beside the text.
    pub error: Option<String>,
}

impl Outcome {
    pub fn yes(text: impl Into<String>) -> Self {
        Outcome {
            text: text.into(),
            code: 0,
            error: None,
        }
    }

    pub fn no(text: impl Into<String>) -> Self {
        Outcome {
            text: text.into(),
            code: 1,
            error: None,
        }
    }

    /// The answer could be given, but it is that the input is malformed.
    pub fn malformed(text: impl Into<String>, error: String) -> Self {
        Outcome {
            text: text.into(),
            code: 2,
            error: Some(error),
        }
    }
}
