//! Pages of a list, and the tokens that ask for the next one.
//!
//! A token is the last row's name, so a server keeps nothing for a list in progress, and any replica answers the next page. It
//! carries a checksum of the list and its filters, so that a token of another list is refused instead of misread. The
//! checksum is no secret: a token grants nothing that the caller could not ask for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::convert::InvalidField;

/// Rows of a page for which no size is stated.
const DEFAULT_ROWS: usize = 100;
/// Most rows of a page.
const MOST_ROWS: usize = 1_000;
/// Bytes of the checksum, at the token's beginning.
const CHECKSUM_BYTES: usize = 8;
/// Between names: no name contains it.
const SEPARATOR: char = '\0';

/// One page that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paging {
    /// Most rows, 1 to 1,000.
    pub rows: usize,
    /// The names of the last row of the page before; `None`: this is the first page.
    pub after: Option<Vec<String>>,
    checksum: [u8; CHECKSUM_BYTES],
}

impl Paging {
    /// The page of the list called `list` under `filters` (any bytes that differ where filters do). Rows have `names` names.
    ///
    /// # Errors
    /// Names `page_token` where it is not one of this list with these filters.
    pub fn parse(
        list: &str,
        filters: &[u8],
        names: usize,
        page_size: u32,
        page_token: &str,
    ) -> Result<Self, InvalidField> {
        let rows = match usize::try_from(page_size).unwrap_or(MOST_ROWS) {
            0 => DEFAULT_ROWS,
            rows => rows.min(MOST_ROWS),
        };
        let checksum = checksum(list, filters);
        let after = if page_token.is_empty() {
            None
        } else {
            let malformed = || InvalidField::new("page_token", "must be the next_page_token of the page before");
            Some(decode(page_token, checksum).filter(|after| after.len() == names).ok_or_else(malformed)?)
        };
        Ok(Self { rows, after, checksum })
    }

    /// The token of the page after the row of these names.
    #[must_use]
    pub fn next_page_token(&self, names: &[&str]) -> String {
        let mut bytes = self.checksum.to_vec();
        bytes.extend_from_slice(names.join(&SEPARATOR.to_string()).as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The `index`th name of `after`; empty where there is none.
    #[must_use]
    pub fn name(after: &[String], index: usize) -> &str {
        after.get(index).map_or("", String::as_str)
    }
}

fn decode(token: &str, expected: [u8; CHECKSUM_BYTES]) -> Option<Vec<String>> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (checksum, names) = bytes.split_first_chunk()?;
    if *checksum != expected {
        return None;
    }
    Some(std::str::from_utf8(names).ok()?.split(SEPARATOR).map(str::to_owned).collect())
}

/// FNV-1a over the list's name, closed by a zero byte, and its filters.
fn checksum(list: &str, filters: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let bytes = list.bytes().chain([0]).chain(filters.iter().copied());
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.fold(0xcbf2_9ce4_8422_2325, step).to_be_bytes()
}
