//! Text that goes to a terminal.

/// Whether a terminal acts on a character instead of showing it: controls, and those that turn the direction of text.
pub fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
