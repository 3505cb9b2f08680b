//! Protobuf as far as a load needs it: the fields of a message one after the other, none copied.
//!
//! Rejected: the generated messages. Decoding a FULL answer makes forty allocations for the two fields that are looked at here, and
//! the load would take more of the machine than the server does.

/// A field's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A number, an enum or a bool.
    Number(u64),
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
    /// A fixed-size number, of no interest.
    Fixed,
}

/// The fields of `message` in the order they have there, by number. `Err(())` once, at the end, where it is not a message.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Of this message.
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn read(&mut self) -> Option<(u64, Value<'a>)> {
        let key = varint(&mut self.0)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut self.0)?),
            1 => self.skip(8)?,
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            5 => self.skip(4)?,
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn skip(&mut self, bytes: usize) -> Option<Value<'a>> {
        self.0 = self.0.get(bytes..)?;
        Some(Value::Fixed)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), ()>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_none() {
            self.0 = &[];
        }
        Some(read.ok_or(()))
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Appends a number.
pub(super) fn put_varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    to.push(number.to_le_bytes()[0]);
}

/// Appends a field that is a number; zero is left out, as ever in proto3.
pub(super) fn put_number(to: &mut Vec<u8>, field: u64, number: u64) {
    if number != 0 {
        put_varint(to, field << 3);
        put_varint(to, number);
    }
}

/// Appends a field that is a string or a message.
pub(super) fn put_bytes(to: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(to, field << 3 | 2);
    put_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read_back() {
        let mut message = Vec::new();
        put_number(&mut message, 1, 300);
        put_number(&mut message, 2, 0);
        put_bytes(&mut message, 200, b"name");
        put_number(&mut message, 3, u64::MAX);
        let fields: Vec<_> = Fields::of(&message).collect();
        let expected =
            [(1, Value::Number(300)), (200, Value::Bytes(b"name")), (3, Value::Number(u64::MAX))].map(Ok).to_vec();
        assert_eq!(fields, expected);
    }

    #[test]
    fn what_is_no_message_is_an_error_and_not_the_end() {
        for wrong in [&[0x0a, 5, 1][..], &[0x08], &[0x0b, 1], &[0x09, 1, 2], &[0xff; 11]] {
            let read: Vec<_> = Fields::of(wrong).collect();
            assert_eq!(read, [Err(())], "{wrong:?}");
        }
    }
}
