//! Text that goes to a terminal.

/// Whether a terminal acts on a character instead of showing it: controls, and those that turn the direction of text.
pub fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text from a file as a terminal may show it: what a terminal acts on is spelt out.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| if acts(c) { c.escape_default().collect() } else { vec![c] })
        .collect()
}

/// The same for text of several lines, whose ends are meant.
pub fn lines(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(line) => printable(line) + "\n",
            None => printable(line),
        })
        .collect()
}

/// Longest line about a file: a hostile one has names and lists of any length.
const LONGEST: usize = 1500;

/// Text that may hold names out of a file as one line of bounded length, without its middle if it is longer.
pub fn line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let text = printable(&lines.join(" "));
    let count = text.chars().count();
    if count <= LONGEST {
        return text;
    }
    let start: String = text.chars().take(LONGEST / 2).collect();
    let end: String = text.chars().skip(count - LONGEST / 2).collect();
    format!("{start} [...] {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_a_terminal_that_it_acts_on() {
        assert_eq!(printable("a\u{1b}[31m\n"), "a\\u{1b}[31m\\n");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(lines("a\u{7}\nb\n"), "a\\u{7}\nb\n");
        assert_eq!(line(" two \n\nlines\u{7}"), "two lines\\u{7}");
        let long = line(&"x".repeat(1 << 20));
        assert!(long.len() < 1600 && long.contains("[...]"));
    }
}
