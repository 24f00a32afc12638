//! Bytes that lie in several places: small pieces are gathered, large ones stay where they are, so that a payload is held
//! once, in the map of the file it comes from, however deep in messages it is wrapped.

use std::borrow::Cow;
use thimble_shared::onnx::protobuf::Message;

/// From this many bytes on a piece is worth a place of its own.
const LEAST_PIECE: usize = 4096;

/// Bytes in the order they are written: small pieces gathered, large ones borrowed.
#[derive(Default)]
pub struct Chunks<'a> {
    /// Written one after the other.
    pub pieces: Vec<Cow<'a, [u8]>>,
    /// Bytes of all pieces together.
    pub len: u64,
}

impl<'a> Chunks<'a> {
    /// Adds a piece at the end; one below 4096 bytes is copied into the piece before it.
    pub fn push(&mut self, piece: Cow<'a, [u8]>) {
        self.len += piece.len() as u64;
        match self.pieces.last_mut() {
            Some(Cow::Owned(last)) if piece.len() < LEAST_PIECE => last.extend_from_slice(&piece),
            _ if piece.len() < LEAST_PIECE => self.pieces.push(Cow::Owned(piece.into_owned())),
            _ => self.pieces.push(piece),
        }
    }

    /// Adds all of `other` at the end.
    pub fn append(&mut self, other: Chunks<'a>) {
        other.pieces.into_iter().for_each(|p| self.push(p));
    }

    /// Adds `inner` as field `number` of a message.
    pub fn message(&mut self, number: u32, inner: Chunks<'a>) {
        let mut header = Message::default();
        header.header(number, inner.len as usize);
        self.push(Cow::Owned(header.0));
        self.append(inner);
    }

    /// Adds field `number` of a message with a string.
    pub fn text(&mut self, number: u32, text: &str) {
        let mut m = Message::default();
        m.text(number, text);
        self.push(Cow::Owned(m.0));
    }
}

impl From<Message> for Chunks<'_> {
    fn from(message: Message) -> Self {
        let mut chunks = Chunks::default();
        chunks.push(Cow::Owned(message.0));
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_gathered_and_large_ones_are_never_copied() {
        let large = vec![7u8; LEAST_PIECE];
        let mut inner = Chunks::default();
        inner.push(Cow::Borrowed(b"name"));
        inner.push(Cow::Borrowed(&large));
        let mut outer = Chunks::default();
        outer.text(1, "x");
        outer.message(5, inner);
        outer.push(Cow::Borrowed(b"end"));
        let mut whole = Message::default();
        whole.text(1, "x");
        whole.bytes(5, &[b"name".as_slice(), &large].concat());
        whole.0.extend_from_slice(b"end");
        assert_eq!(outer.pieces.concat(), whole.0);
        assert_eq!(outer.len, whole.0.len() as u64);
        assert_eq!(outer.pieces.len(), 3);
        assert!(matches!(outer.pieces[1], Cow::Borrowed(bytes) if std::ptr::eq(bytes, large.as_slice())));
    }
}
