//! From maud's markup to the text of a page or a drawing. maud escapes all text, so no name in a file can become markup; control
//! characters, which neither HTML nor XML can hold, are replaced here.

use maud::Markup;

/// The text of `markup`, with U+FFFD for each control character but the end of a line.
pub(crate) fn written(markup: Markup) -> String {
    let unfit = |c: char| c.is_control() && c != '\n';
    markup.into_string().replace(unfit, "\u{fffd}")
}

/// A number with one decimal, as coordinates are written.
pub(crate) fn tenths(value: f64) -> String {
    format!("{value:.1}")
}

/// A number with two decimals.
pub(crate) fn hundredths(value: f64) -> String {
    format!("{value:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use maud::html;

    #[test]
    fn text_and_attributes_cannot_break_out() {
        let text = "a<b> & \"c\"\u{1b}\u{9f}\n";
        let page = written(html! { p title=(text) { (text) } });
        let escaped = "a&lt;b&gt; &amp; &quot;c&quot;\u{fffd}\u{fffd}\n";
        assert_eq!(page, format!("<p title=\"{escaped}\">{escaped}</p>"));
    }
}
