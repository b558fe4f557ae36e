//! Reading what is laid out in bytes, which may be damaged.
//!
//! Invariant: nothing is read that is not there, and nothing is allocated for a length before the bytes are seen; what does
//! not fit is an error that names what was read, where it ended and what was expected. Numbers are little endian.

use crate::error::{ErrorCode, KalamError, Result};

/// Reads bytes from their beginning; see the module's comment.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    /// What the bytes are, for messages: `a delete vector`.
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// A reader of `what`.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    /// How many bytes were read.
    pub fn position(&self) -> usize {
        self.at
    }

    /// What is left to read.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// The error for bytes that are not what they should be.
    pub fn damaged(&self, what: impl std::fmt::Display) -> KalamError {
        let (name, length) = (self.what, self.bytes.len());
        let message = format!("{name} of {length} bytes does not decode at byte {}: {what}", self.at);
        KalamError::new(ErrorCode::DataCorrupted, message)
    }

    /// The next bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let rest = self.rest();
        let taken = rest
            .get(..n)
            .ok_or_else(|| self.damaged(format_args!("{} bytes are left, expected at least {n}", rest.len())))?;
        self.at += n;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N)?;
        Ok(taken.first_chunk().copied().unwrap_or([0; N]))
    }

    pub fn u8(&mut self) -> Result<u8> {
        self.chunk().map(|[b]| b)
    }

    pub fn u16(&mut self) -> Result<u16> {
        self.chunk().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.chunk().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.chunk().map(u64::from_le_bytes)
    }

    pub fn i64(&mut self) -> Result<i64> {
        self.chunk().map(i64::from_le_bytes)
    }

    /// A length or number of things, each of which takes at least one byte.
    pub fn count(&mut self) -> Result<usize> {
        let n = self.u32()? as usize;
        if n > self.rest().len() {
            return Err(self.damaged(format_args!("{n} things in {} bytes", self.rest().len())));
        }
        Ok(n)
    }

    /// Bytes with their length as u32 before them.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.u32()?;
        self.take(n as usize)
    }

    /// Fails if something is left.
    pub fn finish(&self) -> Result<()> {
        match self.rest().len() {
            0 => Ok(()),
            left => Err(self.damaged(format_args!("{left} bytes are left over"))),
        }
    }
}

/// Appends bytes with their length before them.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_an_error_that_says_where() -> Result<()> {
        let mut bytes = vec![7, 1, 2];
        put_bytes(&mut bytes, b"abc");
        let mut cursor = Cursor::new("a sample", &bytes);
        assert_eq!((cursor.u8()?, cursor.u16()?, cursor.bytes()?), (7, 0x0201, &b"abc"[..]));
        cursor.finish()?;
        for end in 0..bytes.len() {
            let mut cursor = Cursor::new("a sample", &bytes[..end]);
            let read = cursor.u8().and_then(|_| cursor.u16()).and_then(|_| cursor.bytes());
            let error = read.expect_err("it is cut");
            assert_eq!(error.code(), ErrorCode::DataCorrupted);
            assert!(
                error.message().starts_with(&format!("a sample of {end} bytes does not decode at byte")),
                "{error}"
            );
        }
        let mut cursor = Cursor::new("a sample", &bytes);
        assert!(cursor.finish().is_err());
        assert!(Cursor::new("a sample", &[0xFF; 4]).count().is_err());
        assert!(cursor.take(usize::MAX).is_err());
        Ok(())
    }
}
