//! Protobuf's wire format, as far as ONNX needs it: a bounds-checked field iterator over borrowed bytes, and an appender.
//! <https://protobuf.dev/programming-guides/encoding/>. Nothing is allocated from a length that the input declares.

/// Why bytes are not protobuf as ONNX uses it. `at` is always a byte offset in the whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A varint that does not end within ten bytes or within its message; the byte where reading stopped.
    #[error("a varint runs past byte {0}")]
    Varint(usize),
    /// A field that is longer than the message it stands in.
    #[error("field {field} at byte {at} declares {declared} bytes, only {left} are left")]
    Overrun {
        /// Field number.
        field: u32,
        /// Where its value would start.
        at: usize,
        /// Bytes its length prefix asks for, or 4 or 8 for a fixed-width value.
        declared: u64,
        /// Bytes left in the message.
        left: usize,
    },
    /// A group (wire types 3 and 4) or one of the unassigned types 6 and 7.
    #[error("field {field} at byte {at} has wire type {wire}, which ONNX does not use")]
    WireType {
        /// Field number.
        field: u32,
        /// Where the field's key starts.
        at: usize,
        /// The wire type.
        wire: u8,
    },
    /// A field whose wire type fits the file but not the ONNX schema, met when its value is asked for.
    #[error("field {field} at byte {at} has another wire type than ONNX gives it")]
    Mismatch {
        /// Field number.
        field: u32,
        /// Where its value starts.
        at: usize,
    },
    /// A field number of 0 or above 2²⁹ - 1.
    #[error("field number {number} at byte {at} is beyond those protobuf has")]
    FieldNumber {
        /// The number as it stands in the key.
        number: u64,
        /// Where the key starts.
        at: usize,
    },
    /// Graphs inside attributes of nodes, nested deeper than the reader follows; the limit.
    #[error("graphs nest more than {0} deep")]
    Nesting(usize),
    /// A string that is not UTF-8.
    #[error("text in field {field} at byte {at} is not UTF-8")]
    Utf8 {
        /// Field number.
        field: u32,
        /// Where the string starts.
        at: usize,
    },
}

/// The largest field number protobuf has.
const MOST_FIELD: u32 = (1 << 29) - 1;

/// The payload of a field, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// Wire type 0: integers, enums and booleans; a negative number stands there in two's complement.
    Varint(u64),
    /// Wire type 5, little-endian: floats.
    Fixed32(u32),
    /// Wire type 1, little-endian: doubles.
    Fixed64(u64),
    /// Wire type 2: strings, embedded messages and packed numbers, without their length prefix.
    Bytes(&'a [u8]),
}

/// One field: its number, its value, and where in the whole file the field's value starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field<'a> {
    /// Field number, from 1 to 2²⁹ - 1.
    pub number: u32,
    /// The payload, not yet held against the ONNX schema.
    pub value: FieldValue<'a>,
    /// Absolute offset of the value (of the payload, for length-delimited fields).
    pub at: usize,
}

impl<'a> Field<'a> {
    /// The payload of a length-delimited field.
    ///
    /// # Errors
    /// [`WireError::Mismatch`] for any other wire type.
    pub fn bytes(&self) -> Result<&'a [u8], WireError> {
        match self.value {
            FieldValue::Bytes(b) => Ok(b),
            _ => Err(WireError::Mismatch {
                field: self.number,
                at: self.at,
            }),
        }
    }

    /// Bytes of the value as it stands in the file, without its key and declared length.
    pub fn len(&self) -> usize {
        match self.value {
            FieldValue::Varint(v) => varint_len(v),
            FieldValue::Fixed32(_) => 4,
            FieldValue::Fixed64(_) => 8,
            FieldValue::Bytes(b) => b.len(),
        }
    }

    /// Whether the value takes no bytes, which only a length-delimited field can.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload as a string.
    ///
    /// # Errors
    /// [`WireError::Mismatch`] where it is not length-delimited, [`WireError::Utf8`] where it is not UTF-8.
    pub fn text(&self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Utf8 {
            field: self.number,
            at: self.at,
        })
    }

    /// A varint as int64.
    ///
    /// # Errors
    /// [`WireError::Mismatch`] for any other wire type.
    pub fn int(&self) -> Result<i64, WireError> {
        match self.value {
            FieldValue::Varint(v) => Ok(v as i64),
            _ => Err(WireError::Mismatch {
                field: self.number,
                at: self.at,
            }),
        }
    }

    /// A fixed 32-bit value as f32.
    ///
    /// # Errors
    /// [`WireError::Mismatch`] for any other wire type.
    pub fn float(&self) -> Result<f32, WireError> {
        match self.value {
            FieldValue::Fixed32(v) => Ok(f32::from_bits(v)),
            _ => Err(WireError::Mismatch {
                field: self.number,
                at: self.at,
            }),
        }
    }

    /// Fields of an embedded message.
    ///
    /// # Errors
    /// [`WireError::Mismatch`] where the field is not length-delimited.
    pub fn fields(&self) -> Result<Fields<'a>, WireError> {
        Ok(Fields {
            bytes: self.bytes()?,
            pos: 0,
            base: self.at,
        })
    }

    /// A repeated int64, packed or not, handed one by one to `each`.
    ///
    /// # Errors
    /// [`WireError::Mismatch`] for another wire type, [`WireError::Varint`] where the last number is cut short.
    pub fn ints(&self, mut each: impl FnMut(i64)) -> Result<(), WireError> {
        match self.value {
            FieldValue::Varint(v) => each(v as i64),
            FieldValue::Bytes(bytes) => {
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
    /// The fields of a message that starts at byte 0 of the file.
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
            0 => FieldValue::Varint(varint(self.bytes, &mut self.pos, self.base)?),
            1 => FieldValue::Fixed64(u64::from_le_bytes(self.fixed(number)?)),
            5 => FieldValue::Fixed32(u32::from_le_bytes(self.fixed(number)?)),
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
                    value: FieldValue::Bytes(bytes),
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

    /// Appends an int64, int32, enum or bool as a varint.
    pub fn int(&mut self, number: u32, value: i64) {
        self.key(number, 0);
        self.varint(value as u64);
    }

    /// Appends a float as four little-endian bytes.
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

    /// Appends a length-delimited field: its key, its length and `bytes`.
    pub fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.header(number, bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Appends a string.
    pub fn text(&mut self, number: u32, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    /// Appends an embedded message that is already whole.
    pub fn message(&mut self, number: u32, message: &Message) {
        self.bytes(number, &message.0);
    }

    /// Appends a repeated int64 in its packed form: one length-delimited field of varints.
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
