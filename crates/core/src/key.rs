//! The limit key: whose tokens, on which model and variant.

use alloc::boxed::Box;
use core::fmt;

/// Longest name of an account, model or variant, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 256;

/// Why a name was refused; nothing was changed, and the caller must send another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// It is empty where a name is needed.
    Empty,
    /// It has more than [`MAX_NAME_BYTES`] bytes.
    TooLong,
    /// It contains a control character (NUL, newline, DEL, C1 ...).
    ControlCharacter,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("must not be empty"),
            Self::TooLong => write!(f, "must have at most {MAX_NAME_BYTES} bytes"),
            Self::ControlCharacter => f.write_str("must not contain control characters"),
        }
    }
}

impl core::error::Error for NameError {}

/// `name` if it can name an account or a model: 1 to 256 bytes of UTF-8 without control characters, otherwise opaque.
///
/// # Errors
/// Says what is wrong with the name.
pub fn parse_name(name: &str) -> Result<&str, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    parse_variant(name)
}

/// `name` if it can name a variant: as [`parse_name`], and it may be empty (the regular variant).
///
/// # Errors
/// Says what is wrong with the name.
pub fn parse_variant(name: &str) -> Result<&str, NameError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong);
    }
    if name.chars().any(char::is_control) {
        return Err(NameError::ControlCharacter);
    }
    Ok(name)
}

/// A borrowed limit key whose names are known to be well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyRef<'a> {
    account: &'a str,
    model: &'a str,
    variant: &'a str,
}

/// For people: `account/model`, and `/variant` where it has one.
impl fmt::Display for KeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.account, self.model)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

/// Which field of a limit key was refused, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyError {
    /// `account`, `model` or `variant`.
    pub field: &'static str,
    /// What is wrong with it.
    pub error: NameError,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.error)
    }
}

impl core::error::Error for KeyError {}

impl<'a> KeyRef<'a> {
    /// The key of these names.
    ///
    /// # Errors
    /// Names the first field that is not well formed.
    pub fn new(account: &'a str, model: &'a str, variant: &'a str) -> Result<Self, KeyError> {
        let field = |field| move |error| KeyError { field, error };
        Ok(Self {
            account: parse_name(account).map_err(field("account"))?,
            model: parse_name(model).map_err(field("model"))?,
            variant: parse_variant(variant).map_err(field("variant"))?,
        })
    }

    /// Whose tokens.
    #[must_use]
    pub const fn account(self) -> &'a str {
        self.account
    }

    /// The model.
    #[must_use]
    pub const fn model(self) -> &'a str {
        self.model
    }

    /// The variant; empty for the regular one.
    #[must_use]
    pub const fn variant(self) -> &'a str {
        self.variant
    }

    /// A fixed, unseeded hash (FNV-1a over the names, each closed by a zero byte), the same in every process. For spreading
    /// load, never for telling keys apart.
    #[must_use]
    pub fn hash(self) -> u64 {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for name in [self.account, self.model, self.variant] {
            for byte in name.bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        hash
    }

    /// The second of the minute at which this key's epochs begin, 0 to 59, so that limits do not all move at once.
    #[must_use]
    pub fn phase_seconds(self) -> u64 {
        (self.hash() >> 32) % 60
    }

    /// The same key, owned.
    #[must_use]
    pub fn to_owned(self) -> LimitKey {
        LimitKey { account: self.account.into(), model: self.model.into(), variant: self.variant.into() }
    }
}

/// An owned limit key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LimitKey {
    account: Box<str>,
    model: Box<str>,
    variant: Box<str>,
}

impl LimitKey {
    /// The same key, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef { account: &self.account, model: &self.model, variant: &self.variant }
    }
}
