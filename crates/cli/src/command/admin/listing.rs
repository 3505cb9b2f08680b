//! Lists of one kind of object: page by page, as a table or as one JSON object a line.

use serde_json::Value;
use tonic::Status;

use super::Session;
use crate::failure::Failure;
use crate::output::{Rows, print, print_json};

/// Rows asked for at a time: the most that the service gives.
pub(super) const PAGE_SIZE: u32 = 1_000;

/// How one kind of object is shown.
pub(super) struct Listing<Item> {
    /// Column names; `#` before a name aligns it to the right.
    pub(super) columns: &'static [&'static str],
    /// One cell per column.
    pub(super) cells: fn(&Item) -> Vec<String>,
    /// All of the object, with the names of the wire.
    pub(super) json: fn(&Item) -> Value,
}

impl<Item> Listing<Item> {
    /// Fetches page after page and prints each at once, so that a long list takes bounded memory.
    pub(super) async fn print_pages(
        &self,
        session: &mut Session,
        call: &'static str,
        mut fetch: impl AsyncFnMut(&mut Session, String) -> Result<(Vec<Item>, String), Status>,
    ) -> Result<(), Failure> {
        let mut page_token = String::new();
        let mut first = true;
        loop {
            let (items, next) = fetch(session, page_token).await.map_err(session.explain(call))?;
            if session.json {
                items.iter().try_for_each(|item| print_json(&(self.json)(item)))?;
            } else if first || !items.is_empty() {
                print(&self.table(&items, first).to_string())?;
            }
            first = false;
            page_token = next;
            if page_token.is_empty() {
                return Ok(());
            }
        }
    }

    /// Prints one object, as a table of one row.
    pub(super) fn print_one(&self, session: &Session, item: &Item) -> Result<(), Failure> {
        if session.json {
            print_json(&(self.json)(item))
        } else {
            print(&self.table(std::slice::from_ref(item), true).to_string())
        }
    }

    fn table(&self, items: &[Item], with_header: bool) -> Rows {
        let mut rows = if with_header { Rows::new(self.columns) } else { Rows::without_header(self.columns) };
        for item in items {
            rows.push((self.cells)(item));
        }
        rows
    }
}
