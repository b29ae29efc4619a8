//! The application acknowledgement: the only thing that lets a gateway delete an outbox entry.

use crate::read::{Reader, WireError, Writer};
use crate::{Bytes32, Signature};

/// Encoded length in bytes.
pub const ACK_BYTES: usize = 8 + 8 + 4 + 64;
/// Bytes that the signature covers, after [`DOMAIN`].
pub const SIGNED_BYTES: usize = 32 + 8 + 8 + 32 + 4;
/// Domain prefix of the signature.
pub const DOMAIN: &[u8] = b"loadonce ack v2\0";

/// What became of a contribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// Persisted; it will be applied exactly once.
    Accepted = 1,
    /// It had been persisted before; nothing was added.
    Duplicate = 2,
    /// It will never be applied; the reason says why.
    Refused = 3,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        /// Why a contribution was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $name = $value,)* }

        impl Reason {
            /// Every reason, for counters.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// A stable word for counters and logs.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            fn from_u8(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// Not a refusal.
    None = 0, "none";
    /// The gateway is not admitted; the entry is kept and tried again later.
    UnknownGateway = 1, "unknown_gateway";
    /// The signature does not verify.
    BadSignature = 2, "bad_signature";
    /// Features of another backbone.
    WrongBackbone = 3, "wrong_backbone";
    /// Another module shape or class list.
    WrongShape = 4, "wrong_shape";
    /// The base version is outside the task's staleness window.
    StaleBase = 5, "stale_base";
    /// A parameter is not a finite number.
    NotFinite = 6, "not_finite";
    /// Larger than the task allows.
    TooLarge = 7, "too_large";
    /// The same sequence arrived before with other content; the gateway opens a new epoch.
    SequenceConflict = 8, "sequence_conflict";
    /// No such task here.
    UnknownTask = 9, "unknown_task";
    /// The blob does not decode.
    Malformed = 10, "malformed";
    /// The step is longer than the task's norm bound.
    OverNorm = 11, "over_norm";
    /// The task takes no contribution of this kind now.
    RoundClosed = 12, "round_closed";
    /// Too many come at once. The entry is kept; the gateway waits as long as the answer says.
    Busy = 13, "busy";
}

/// See the module's documentation. Gateway key and blob hash are signed and not sent: the gateway has both, in the
/// outbox entry that it would delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The contribution's epoch.
    pub epoch: u64,
    /// The contribution's sequence.
    pub sequence: u64,
    /// Outcome.
    pub status: Status,
    /// Why, when refused.
    pub reason: Reason,
    /// Seconds to wait before anything is offered again; only with [`Reason::Busy`], else 0.
    pub wait_s: u16,
    /// The aggregator's signature over [`DOMAIN`] and [`signed`](Self::signed).
    pub signature: Signature,
}

impl Ack {
    /// What the signature covers: whose contribution it was, which, and with what content. An acknowledgement
    /// deletes data, so it names what it means.
    ///
    /// # Panics
    /// Never: the array is exactly as long as the fields.
    pub fn signed(&self, key: &Bytes32, blob_hash: &Bytes32) -> [u8; SIGNED_BYTES] {
        let mut out = [0; SIGNED_BYTES];
        let mut w = Writer::new(&mut out);
        let [wait_low, wait_high] = self.wait_s.to_le_bytes();
        let fields: [&[u8]; 5] = [
            key,
            &self.epoch.to_le_bytes(),
            &self.sequence.to_le_bytes(),
            blob_hash,
            &[self.status as u8, self.reason as u8, wait_low, wait_high],
        ];
        for field in fields {
            w.put(field).expect("SIGNED_BYTES is the sum of the fields");
        }
        out
    }

    /// Encodes; the last 64 bytes are the signature.
    ///
    /// # Panics
    /// Never: the array is exactly as long as the fields.
    pub fn encode(&self) -> [u8; ACK_BYTES] {
        let mut out = [0; ACK_BYTES];
        let mut w = Writer::new(&mut out);
        let [wait_low, wait_high] = self.wait_s.to_le_bytes();
        let fields: [&[u8]; 4] = [
            &self.epoch.to_le_bytes(),
            &self.sequence.to_le_bytes(),
            &[self.status as u8, self.reason as u8, wait_low, wait_high],
            &self.signature,
        ];
        for field in fields {
            w.put(field).expect("ACK_BYTES is the sum of the fields");
        }
        out
    }

    /// Decodes exactly one acknowledgement; the signature is not checked here.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader(bytes);
        let (epoch, sequence) = (r.u64()?, r.u64()?);
        let status = match r.u8()? {
            1 => Status::Accepted,
            2 => Status::Duplicate,
            3 => Status::Refused,
            _ => return Err(WireError::BadField("status")),
        };
        let reason = Reason::from_u8(r.u8()?).ok_or(WireError::BadField("reason"))?;
        if (status == Status::Refused) == (reason == Reason::None) {
            return Err(WireError::BadField("reason"));
        }
        let wait_s = r.u16()?;
        if (wait_s > 0) != (reason == Reason::Busy) {
            return Err(WireError::BadField("wait"));
        }
        let signature = r.array()?;
        r.end()?;
        Ok(Self { epoch, sequence, status, reason, wait_s, signature })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_trip_of_every_reason() {
        for &reason in Reason::ALL {
            let status = if reason == Reason::None { Status::Accepted } else { Status::Refused };
            let wait_s = if reason == Reason::Busy { 700 } else { 0 };
            let ack = Ack { epoch: 2, sequence: 3, status, reason, wait_s, signature: [5; 64] };
            assert_eq!(Ack::decode(&ack.encode()), Ok(ack));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Ack::decode(&bytes);
        }
    }
}
