//! What a command answers.

/// What a command has to say, and its exit code.
#[derive(Debug)]
pub struct Outcome {
    /// What goes to stdout: lines for people, or one JSON object.
    pub text: String,
    /// The exit code: 0 yes, 1 a clear no, 2 malformed input.
    pub code: u8,
    /// What is wrong with the input, on stderr beside the text.
    pub error: Option<String>,
}

impl Outcome {
    /// It could be done.
    pub fn yes(text: impl Into<String>) -> Self {
        Outcome {
            text: text.into(),
            code: 0,
            error: None,
        }
    }

    /// A clear no.
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
