//! The audit log: what was written, when and by whom.
//!
//! A log keeps the entries as the core has them; the shell turns them into text when somebody asks. Rejected: text made at
//! each write, which would cost memory and time for records that are hardly ever read.

use std::collections::VecDeque;

use minicbor::{Decode, Encode};
use tidegate_core::effect::Turn;
use tidegate_core::policy::Written;
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Window};

/// Most writes that a log in memory keeps.
pub(crate) const MOST_CHANGES: usize = 10_000;
/// About the most memory that they take, in bytes: tiers of a thousand models each are large.
const MOST_BYTES: usize = 64 << 20;
/// About the most memory that a page takes, in bytes, unless its only row is larger: it is copied while nobody can write.
const MOST_PAGE_BYTES: usize = 8 << 20;

/// Who makes a write, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Author {
    /// The call, such as `UpdateTier`.
    #[n(0)]
    pub rpc: String,
    /// Why, as the caller says.
    #[n(1)]
    pub reason: String,
    /// Who, as the server saw it: the peer's address, or uid and pid.
    #[n(2)]
    pub peer: String,
    /// Who, as the caller claims.
    #[n(3)]
    pub unverified_actor: String,
}

/// One write, as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Change {
    /// Counts the writes from 1 on, without gaps.
    #[n(0)]
    pub sequence: u64,
    /// When it was made.
    #[n(1)]
    pub time: Timestamp,
    /// Who made it.
    #[n(2)]
    pub author: Author,
    /// What it changed, such as `tier/enterprise`.
    #[n(3)]
    pub object: String,
    /// The entry before; `None` where it did not exist.
    #[n(4)]
    pub before: Option<Written>,
    /// The entry after; `None` where it no longer exists.
    #[n(5)]
    pub after: Option<Written>,
    /// The limits of the key that it set back, TPM; `None` for every other write.
    #[n(6)]
    pub limits: Option<PerWindow<Turn>>,
}

/// Which writes to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeQuery {
    /// Only writes at or after this.
    pub start: Option<Timestamp>,
    /// Only writes before this.
    pub end: Option<Timestamp>,
    /// Only writes older than that of this sequence.
    pub before_sequence: Option<u64>,
    /// At most this many.
    pub page_size: usize,
}

/// A page of writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangePage {
    /// The newest first.
    pub rows: Vec<Change>,
    /// Whether older ones follow the last row.
    pub more: bool,
    /// Writes that the log no longer keeps.
    pub forgotten: u64,
}

/// A log in memory: the newest 10,000 writes, or fewer where they would take more than 64 MiB.
#[derive(Debug, Default)]
pub struct ChangeLog {
    kept: VecDeque<(Change, usize)>,
    bytes: usize,
    last_sequence: u64,
}

impl ChangeLog {
    /// Adds a write, and forgets the oldest ones where the log is full. The write's own record always stays.
    pub fn push(
        &mut self,
        time: Timestamp,
        author: Author,
        object: String,
        before: Option<Written>,
        after: Option<Written>,
    ) {
        self.append(Change { sequence: self.next(), time, author, object, before, after, limits: None });
    }

    /// As [`ChangeLog::push`], for a key whose limits were set back.
    pub fn push_reset(&mut self, time: Timestamp, author: Author, object: String, limits: PerWindow<Turn>) {
        let sequence = self.next();
        self.append(Change { sequence, time, author, object, before: None, after: None, limits: Some(limits) });
    }

    /// The number of the next write.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.last_sequence + 1
    }

    /// The oldest write that is kept; the next one where none is.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.kept.front().map_or(self.next(), |(change, _)| change.sequence)
    }

    /// All that are kept, the oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Change> {
        self.kept.iter().map(|(change, _)| change)
    }

    /// The newest write.
    #[must_use]
    pub fn newest(&self) -> Option<&Change> {
        self.kept.back().map(|(change, _)| change)
    }

    /// As [`ChangeLog::push`], for a write that has its number: a later one than those before it.
    pub fn append(&mut self, change: Change) {
        self.last_sequence = change.sequence;
        let bytes = change.bytes();
        self.bytes += bytes;
        self.kept.push_back((change, bytes));
        while self.kept.len() > MOST_CHANGES || (self.bytes > MOST_BYTES && self.kept.len() > 1) {
            let Some((_, bytes)) = self.kept.pop_front() else { break };
            self.bytes -= bytes;
        }
    }

    /// A page of it, with fewer rows than asked for where they would take more than 8 MiB.
    #[must_use]
    pub fn page(&self, query: &ChangeQuery) -> ChangePage {
        let wanted = |(change, _): &&(Change, usize)| {
            query.start.is_none_or(|start| change.time >= start)
                && query.end.is_none_or(|end| change.time < end)
                && query.before_sequence.is_none_or(|sequence| change.sequence < sequence)
        };
        let mut page = ChangePage { forgotten: self.forgotten(), ..ChangePage::default() };
        let mut left = MOST_PAGE_BYTES;
        for (change, bytes) in self.kept.iter().rev().filter(wanted) {
            if page.rows.len() >= query.page_size || (*bytes > left && !page.rows.is_empty()) {
                page.more = true;
                break;
            }
            left = left.saturating_sub(*bytes);
            page.rows.push(change.clone());
        }
        page
    }

    /// Writes made so far.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.last_sequence
    }

    /// Writes that it no longer keeps.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.last_sequence - self.kept.len() as u64
    }
}

impl Change {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        let Author { rpc, reason, peer, unverified_actor } = &self.author;
        let texts = [rpc, reason, peer, unverified_actor, &self.object].map(String::len);
        let entries = [&self.before, &self.after].map(|entry| entry.as_ref().map_or(0, entry_bytes));
        size_of::<Self>() + texts.iter().sum::<usize>() + entries.iter().sum::<usize>()
    }
}

fn entry_bytes(entry: &Written) -> usize {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.len()).sum::<usize>();
    match entry {
        Written::Tier(tier) => {
            // Floor and ceiling of each window, and the names.
            let model = Window::ALL.len() * 2 * size_of::<Option<u64>>() + 2 * size_of::<String>();
            let names = tier.models.iter().map(|entry| model + texts(&[&entry.model, &entry.variant]));
            texts(&[&tier.name, &tier.law_profile]) + names.sum::<usize>()
        }
        Written::Account(account) => texts(&[&account.name, &account.tier]),
        Written::Model(model) => texts(&[&model.name, &model.variant, &model.law_profile]),
        Written::Override(entry) => {
            let scope = &entry.scope;
            let part = |part: &Option<String>| part.as_ref().map_or(0, String::len);
            texts(&[&entry.id, &scope.account, &entry.reason]) + part(&scope.model) + part(&scope.variant)
        }
        Written::Enforcement(_) => 0,
        Written::Boost(boost) => {
            let scope = &boost.scope;
            let parts = [Some(&scope.account), scope.model.as_ref(), scope.variant.as_ref()];
            parts.iter().flatten().map(|part| part.len()).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::policy::{ModelBounds, Tier};

    use super::*;

    fn push(log: &mut ChangeLog, seconds: u64) {
        log.push(Timestamp::from_seconds(seconds), Author::default(), "tier/t".into(), None, None);
    }

    #[test]
    fn pages_are_newest_first_and_within_their_times() {
        let mut log = ChangeLog::default();
        (1..=9).for_each(|seconds| push(&mut log, seconds));
        let at = |seconds| Some(Timestamp::from_seconds(seconds));
        let mut query = ChangeQuery { start: at(2), end: at(8), before_sequence: None, page_size: 4 };
        let sequences = |page: &ChangePage| page.rows.iter().map(|row| row.sequence).collect::<Vec<_>>();
        let first = log.page(&query);
        assert_eq!((sequences(&first), first.more), (vec![7, 6, 5, 4], true));
        // A write between two pages shifts nothing.
        push(&mut log, 7);
        query.before_sequence = Some(4);
        let second = log.page(&query);
        assert_eq!((sequences(&second), second.more, second.forgotten), (vec![3, 2], false, 0));
    }

    #[test]
    fn the_newest_ten_thousand_are_kept_and_counted_on_from_one() {
        let mut log = ChangeLog::default();
        (1..=10_003).for_each(|seconds| push(&mut log, seconds));
        let page = log.page(&ChangeQuery { page_size: usize::MAX, ..ChangeQuery::default() });
        assert_eq!((page.rows.len(), page.forgotten), (10_000, 3));
        let ends = [&page.rows[0], &page.rows[9_999]].map(|row| row.sequence);
        assert_eq!(ends, [10_003, 4]);
    }

    #[test]
    fn large_tiers_are_fewer() {
        let model = || ModelBounds { model: "m".repeat(256), variant: "v".repeat(256), bounds: Default::default() };
        let tier = Tier { models: (0..1_000).map(|_| model()).collect(), ..Tier::default() };
        let mut log = ChangeLog::default();
        for _ in 0..200 {
            log.push(Timestamp::ZERO, Author::default(), String::new(), None, Some(Written::Tier(tier.clone())));
        }
        assert!((50..150).contains(&log.kept.len()), "{}", log.kept.len());
        // Whoever reads them copies no more of them than one answer can carry, and misses none.
        let (mut sequences, mut query) = (Vec::new(), ChangeQuery { page_size: 1_000, ..ChangeQuery::default() });
        loop {
            let page = log.page(&query);
            assert!((1..20).contains(&page.rows.len()), "{}", page.rows.len());
            sequences.extend(page.rows.iter().map(|row| row.sequence));
            query.before_sequence = sequences.last().copied();
            if !page.more {
                break;
            }
        }
        assert!(sequences.len() == log.kept.len() && sequences.is_sorted_by(|one, other| one > other));
        assert!(log.bytes <= MOST_BYTES);
    }
}
