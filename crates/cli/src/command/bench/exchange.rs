//! What is said in one turn of a load: a call, and where it asks for one, the call that follows from its answer.

use bytes::Bytes;

use super::keys::Keys;

/// Decisions, by what they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdicts {
    pub(super) allowed: u64,
    pub(super) denied: u64,
}

impl Verdicts {
    /// One that allowed.
    pub(super) const ALLOWED: Self = Self { allowed: 1, denied: 0 };
    /// One that denied.
    pub(super) const DENIED: Self = Self { allowed: 0, denied: 1 };
    /// None.
    pub(super) const NONE: Self = Self { allowed: 0, denied: 0 };

    /// All of them.
    pub(super) const fn count(self) -> u64 {
        self.allowed + self.denied
    }

    /// With these too.
    pub(super) const fn and(self, more: Self) -> Self {
        Self { allowed: self.allowed + more.allowed, denied: self.denied + more.denied }
    }
}

/// An answer that does not say what its call is to be answered with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoAnswer(pub(super) String);

/// What came of a call that is to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) verdicts: Verdicts,
    /// The gRPC message, framed, that settles what was allowed; `None` where that was nothing, or nothing is settled.
    pub(super) settle: Option<Bytes>,
}

/// A gRPC call that decides, over and over, and the settlement of what it allowed.
pub(super) trait Exchange: 'static {
    /// Path of the call that decides.
    fn path(&self) -> &'static str;

    /// Path of the call that settles.
    fn settle_path(&self) -> &'static str;

    /// A message that asks about the next of `keys`, framed.
    fn ask(&self, keys: &mut Keys) -> Bytes;

    /// Reads the answer to [`ask`](Self::ask).
    ///
    /// # Errors
    /// It is no decision, or not as many as were asked for.
    fn decided(&self, message: &[u8]) -> Result<Decided, NoAnswer>;

    /// Reads the answer to the call that settles: how many settlements were applied.
    ///
    /// # Errors
    /// It is none.
    fn settled(&self, message: &[u8]) -> Result<u64, NoAnswer>;
}
