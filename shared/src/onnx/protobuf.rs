//! Protobuf's wire format, as far as ONNX needs it: a bounds-checked field iterator over borrowed bytes, and an appender.
//! <https://protobuf.dev/programming-guides/encoding/>. Nothing is allocated from a length that the input declares.

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a varint runs past byte {0}")]
    Varint(usize),
    #[error("field {field} at byte {at} declares {declared} bytes, only {left} are left")]
    Overrun {
        field: u32,
        at: usize,
        declared: u64,
        left: usize,
    },
    #[error("field {field} at byte {at} has wire type {wire}, which ONNX does not use")]
    WireType { field: u32, at: usize, wire: u8 },
    #[error("field {field} at byte {at} has another wire type than ONNX gives it")]
    Mismatch { field: u32, at: usize },
    #[error("field number {number} at byte {at} is beyond those protobuf has")]
    FieldNumber { number: u64, at: usize },
    #[error("graphs nest more than {0} deep")]
    Nesting(usize),
    #[error("text in field {field} at byte {at} is not UTF-8")]
    Utf8 { field: u32, at: usize },
}

/// The largest field number protobuf has.
const MOST_FIELD: u32 = (1 << 29) - 1;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

/// One field: its number, its value, and where in the whole file the field's value starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field<'a> {
    pub number: u32,
    pub value: Value<'a>,
    /// Absolute offset of the value (of the payload, for length-delimited fields).
    pub at: usize,
}

impl<'a> Field<'a> {
    pub fn bytes(&self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Bytes(b) => Ok(b),
            _ => Err(WireError::Mismatch {
                field: self.number,
                at: self.at,
            }),
        }
    }

    /// Bytes of the value as it stands in the file, without its key and declared length.
    pub fn len(&self) -> usize {
        match self.value {
            Value::Varint(v) => varint_len(v),
            Value::Fixed32(_) => 4,
            Value::Fixed64(_) => 8,
            Value::Bytes(b) => b.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn text(&self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Utf8 {
            field: self.number,
            at: self.at,
        })
    }

    pub fn int(&self) -> Result<i64, WireError> {
        match self.value {
            Value::Varint(v) => Ok(v as i64),
            _ => Err(WireError::Mismatch {
                field: self.number,
                at: self.at,
            }),
        }
    }

    pub fn float(&self) -> Result<f32, WireError> {
        match self.value {
            Value::Fixed32(v) => Ok(f32::from_bits(v)),
            _ => Err(WireError::Mismatch {
                field: self.number,
                at: self.at,
            }),
        }
    }

    /// Fields of an embedded message.
    pub fn fields(&self) -> Result<Fields<'a>, WireError> {
        Ok(Fields {
            bytes: self.bytes()?,
            pos: 0,
            base: self.at,
        })
    }

    /// A repeated int64, packed or not, handed one by one to `each`.
    pub fn ints(&self, mut each: impl FnMut(i64)) -> Result<(), WireError> {
        match self.value {
            Value::Varint(v) => each(v as i64),
            Value::Bytes(bytes) => {
                let mut pos = 0;
                while pos < bytes.len() {
                    each(varint(bytes, &mut pos, self.at)? as i64);
                }
            }
            _ => {
                return Err(WireError::Mismatch {
                    field: self.number,
                    at: self.at,
                });
            }
        }
        Ok(())
    }
}

/// Iterator over the fields of one message.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    pos: usize,
    /// Offset of `bytes` in the whole file.
    base: usize,
}

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Fields { bytes, pos: 0, base: 0 }
    }

    /// The same for a message that starts at byte `base` of the file.
    pub fn at(bytes: &'a [u8], base: usize) -> Self {
        Fields { bytes, pos: 0, base }
    }

    /// Where in the file the next field's key starts.
    pub fn here(&self) -> usize {
        self.base + self.pos
    }

    fn read(&mut self) -> Result<Field<'a>, WireError> {
        let start = self.base + self.pos;
        let key = varint(self.bytes, &mut self.pos, self.base)?;
        // Cut to 32 bits, 2³² + 7 would be field 7 here and an error to every other reader.
        let (number, wire) = match u32::try_from(key >> 3) {
            Ok(number @ 1..=MOST_FIELD) => (number, (key & 7) as u8),
            _ => {
                return Err(WireError::FieldNumber {
                    number: key >> 3,
                    at: start,
                });
            }
        };
        let at = self.base + self.pos;
        let value = match wire {
            0 => Value::Varint(varint(self.bytes, &mut self.pos, self.base)?),
            1 => Value::Fixed64(u64::from_le_bytes(self.fixed(number)?)),
            5 => Value::Fixed32(u32::from_le_bytes(self.fixed(number)?)),
            2 => {
                let declared = varint(self.bytes, &mut self.pos, self.base)?;
                let at = self.base + self.pos;
                let left = self.bytes.len() - self.pos;
                let Some(len) = usize::try_from(declared).ok().filter(|&len| len <= left) else {
                    return Err(WireError::Overrun {
                        field: number,
                        at,
                        declared,
                        left,
                    });
                };
                let bytes = &self.bytes[self.pos..self.pos + len];
                self.pos += len;
                return Ok(Field {
                    number,
                    value: Value::Bytes(bytes),
                    at,
                });
            }
            wire => {
                return Err(WireError::WireType {
                    field: number,
                    at: start,
                    wire,
                });
            }
        };
        Ok(Field { number, value, at })
    }

    fn fixed<const N: usize>(&mut self, field: u32) -> Result<[u8; N], WireError> {
        let left = self.bytes.len() - self.pos;
        let raw = self.bytes.get(self.pos..self.pos + N).and_then(|b| b.try_into().ok());
        self.pos += N.min(left);
        raw.ok_or(WireError::Overrun {
            field,
            at: self.base + self.pos,
            declared: N as u64,
            left,
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.pos >= self.bytes.len() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.pos = self.bytes.len();
        }
        Some(field)
    }
}

fn varint(bytes: &[u8], pos: &mut usize, base: usize) -> Result<u64, WireError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let Some(&byte) = bytes.get(*pos) else { break };
        *pos += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WireError::Varint(base + *pos))
}

/// Bytes a varint takes.
pub fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends fields to a message. Embedded messages are built first and appended as bytes.
#[derive(Clone, Debug, Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, number: u32, wire: u8) {
        self.varint(u64::from(number) << 3 | u64::from(wire));
    }

    pub fn int(&mut self, number: u32, value: i64) {
        self.key(number, 0);
        self.varint(value as u64);
    }

    pub fn float(&mut self, number: u32, value: f32) {
        self.key(number, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Key and length of a length-delimited field whose bytes follow from elsewhere.
    pub fn header(&mut self, number: u32, len: usize) {
        self.key(number, 2);
        self.varint(len as u64);
    }

    /// The same with the length spread over exactly `width` bytes: longer than need be, which every reader accepts.
    pub fn header_of_width(&mut self, number: u32, len: usize, width: usize) {
        self.key(number, 2);
        let mut len = len as u64;
        for _ in 1..width {
            self.0.push(len as u8 | 0x80);
            len >>= 7;
        }
        self.0.push(len as u8 & 0x7f);
    }

    pub fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.header(number, bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub fn text(&mut self, number: u32, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    pub fn message(&mut self, number: u32, message: &Message) {
        self.bytes(number, &message.0);
    }

    pub fn packed(&mut self, number: u32, values: &[i64]) {
        let mut body = Message::default();
        values.iter().for_each(|&v| body.varint(v as u64));
        self.bytes(number, &body.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_with_its_offset() {
        let mut m = Message::default();
        m.int(1, -1);
        m.text(2, "axis");
        m.float(3, 0.5);
        m.packed(4, &[1, 300, -7]);
        let fields: Vec<Field> = Fields::new(&m.0).collect::<Result<_, _>>().unwrap();
        assert_eq!(fields[0].int(), Ok(-1));
        assert_eq!(fields[1].text(), Ok("axis"));
        assert_eq!(&m.0[fields[1].at..fields[1].at + 4], b"axis");
        assert_eq!(fields[2].float(), Ok(0.5));
        let mut ints = vec![];
        fields[3].ints(|v| ints.push(v)).unwrap();
        assert_eq!(ints, [1, 300, -7]);
    }

    #[test]
    fn broken_input_ends_in_an_error_not_in_a_panic() {
        let cases: [&[u8]; 8] = [
            &[0x80],
            &[0x02, 0x00],
            &[0xba, 0x80, 0x80, 0x80, 0x80, 0x01, 0x00],
            &[0x0a, 0x05, 1],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x0d, 1, 2],
            &[0x0b],
            &[0xff; 12],
        ];
        for bytes in cases {
            assert!(Fields::new(bytes).any(|f| f.is_err()), "{bytes:?}");
        }
    }

    #[test]
    fn varint_len_counts_what_is_written() {
        for v in [0, 1, 127, 128, 16383, 16384, u64::MAX] {
            let mut m = Message::default();
            m.varint(v);
            assert_eq!(m.0.len(), varint_len(v), "{v}");
        }
    }
}
