//! Bounded little-endian reading and writing over caller-owned slices.

use core::fmt;

/// Why bytes from the network were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// Fewer bytes than the format needs.
    Truncated,
    /// More bytes than the format has.
    TrailingBytes,
    /// The first bytes are not this protocol's.
    BadMagic,
    /// A version this build does not speak.
    UnsupportedVersion(u8),
    /// An undefined value in the named field.
    BadField(&'static str),
    /// The checksum does not match: damaged on the way.
    BadChecksum,
    /// The named length exceeds its limit.
    TooLong(&'static str),
    /// The caller's buffer is smaller than the encoded form.
    NoRoom,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("message ends early"),
            Self::TrailingBytes => f.write_str("message has bytes after its end"),
            Self::BadMagic => f.write_str("not a loadonce frame (wrong magic)"),
            Self::UnsupportedVersion(v) => write!(f, "frame version {v} is not supported by this build"),
            Self::BadField(name) => write!(f, "field `{name}` holds an undefined value"),
            Self::BadChecksum => f.write_str("checksum mismatch: the frame was damaged on the way"),
            Self::TooLong(name) => write!(f, "`{name}` exceeds its limit"),
            Self::NoRoom => f.write_str("the buffer is too small for the encoded message"),
        }
    }
}

impl core::error::Error for WireError {}

/// Takes fields off the front of a slice; never reads past it.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(WireError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }
    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }
    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub(crate) fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::TrailingBytes) }
    }
}

/// Appends fields to a slice; never writes past it.
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0 }
    }
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let end = self.at.checked_add(bytes.len()).ok_or(WireError::NoRoom)?;
        self.out.get_mut(self.at..end).ok_or(WireError::NoRoom)?.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }
    pub(crate) fn len(&self) -> usize {
        self.at
    }
}
