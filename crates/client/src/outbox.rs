//! What becomes of reports that nobody waits for: one line of reservations, each with the newest that is known of it.
//!
//! Rejected: `BatchSettle` for those that have piled up. It is a second call beside the stream, so that a settlement could overtake the
//! progress that was sent before it, and it needs headers and trailers of its own. Messages that are ready together leave the stream
//! in one frame (up to 32 KiB), so that back to back on the stream they cost the fewest writes, and each has its own answer all
//! the same.
//!
//! What travels at all is less than what was reported:
//!
//! | queued | then comes | what is sent |
//! |---|---|---|
//! | progress | progress | the larger total |
//! | progress | settlement | the settlement; where it leaves out the generated tokens, they are those of the progress |
//! | progress | release | both: what was reported stays charged |
//! | release | settlement | the settlement: used tokens win |
//! | settlement | anything | the settlement: the first one counts |
//!
//! One report of a reservation is in flight at a time; the next one waits for its answer and gathers what comes meanwhile. So the order
//! within a reservation holds across repeats and new streams.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tidegate_proto::v1::pipeline_request::Call;
use tidegate_proto::v1::{ReleaseRequest, ReportProgressRequest, SettleRequest};
use tokio::time::Instant;

use crate::failure::{NotQueued, Undelivered};

/// A reservation's id.
pub(crate) type Id = Arc<str>;

/// How a reservation ends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Settle(SettleRequest),
    Release,
}

#[derive(Clone, Debug)]
enum Report {
    Progress(u64),
    End(End),
}

/// What came of a report that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The server has it.
    Delivered,
    /// The server will never take it.
    Failed,
    /// It is to be sent again, at that instant or later.
    Again(Instant),
}

/// Of one reservation. In line or resting while nothing of it is in flight.
#[derive(Debug, Default)]
struct Entry {
    /// The newest total; never beside a settlement.
    progress: Option<u64>,
    end: Option<End>,
    in_flight: Option<Report>,
}

impl Entry {
    fn settles(&self) -> bool {
        matches!(self.end, Some(End::Settle(_))) || matches!(self.in_flight, Some(Report::End(End::Settle(_))))
    }

    fn ends(&self) -> bool {
        self.end.is_some() || matches!(self.in_flight, Some(Report::End(_)))
    }

    /// What goes next.
    fn next(&mut self) -> Option<Report> {
        let progress = self.progress.take().map(Report::Progress);
        progress.or_else(|| self.end.take().map(Report::End))
    }

    /// Takes a total in; how many reports that makes needless.
    fn add_progress(&mut self, total: u64) -> u64 {
        if let Some(End::Settle(settle)) = &mut self.end {
            settle.generated_tokens.get_or_insert(total);
            return 1;
        }
        let older = self.progress.replace(self.progress.map_or(total, |older| older.max(total)));
        u64::from(older.is_some())
    }

    /// Takes a settlement in, instead of what is queued; how many reports that makes needless.
    fn add_settlement(&mut self, mut settle: SettleRequest) -> u64 {
        let progress = self.progress.take();
        if let Some(total) = progress {
            settle.generated_tokens.get_or_insert(total);
        }
        let release = self.end.replace(End::Settle(settle));
        u64::from(progress.is_some()) + u64::from(release.is_some())
    }

    /// What was in flight is to be sent again; how many reports have become needless.
    fn take_back(&mut self) -> u64 {
        match self.in_flight.take() {
            Some(Report::Progress(total)) => self.add_progress(total),
            Some(Report::End(End::Settle(settle))) => self.add_settlement(settle),
            Some(Report::End(End::Release)) if self.end.is_some() => 1,
            Some(Report::End(End::Release)) => {
                self.end = Some(End::Release);
                0
            }
            None => 0,
        }
    }
}

/// What an outbox has done, and has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxCounts {
    /// Reservations of which something is not known to be delivered, now.
    pub waiting: usize,
    /// Reports that the server has: it answered APPLIED, LATE or DUPLICATE.
    pub delivered: u64,
    /// Reports that were not sent because another one of the same reservation says it all.
    pub superseded: u64,
    /// Reports that the server refuses for good, such as a settlement that is too late. Their tokens are not counted.
    pub failed: u64,
    /// Reports that were not taken, as the outbox was full.
    pub turned_away: u64,
}

/// Reports that wait for the stream, and those that are on it.
#[derive(Debug)]
pub(crate) struct Outbox {
    most: usize,
    entries: HashMap<Id, Entry>,
    /// In line.
    due: VecDeque<Id>,
    /// The server asked to wait until then.
    resting: BTreeSet<(Instant, Id)>,
    counts: OutboxCounts,
}

impl Outbox {
    /// Of at most `most` reservations.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            entries: HashMap::new(),
            due: VecDeque::new(),
            resting: BTreeSet::new(),
            counts: OutboxCounts::default(),
        }
    }

    /// A total of generated tokens.
    pub(crate) fn progress(&mut self, id: &str, total: u64) -> Result<(), NotQueued> {
        let entry = self.entry(id)?;
        let needless = if entry.ends() { 1 } else { entry.add_progress(total) };
        self.counts.superseded += needless;
        Ok(())
    }

    /// The end of a reservation; `settle.reservation_id` is `id`.
    pub(crate) fn end(&mut self, id: &str, end: End) -> Result<(), NotQueued> {
        let entry = self.entry(id)?;
        let needless = match end {
            End::Settle(settle) if !entry.settles() => entry.add_settlement(settle),
            End::Release if !entry.ends() => {
                entry.end = Some(End::Release);
                0
            }
            End::Settle(_) | End::Release => 1,
        };
        self.counts.superseded += needless;
        Ok(())
    }

    /// The queued total of a reservation that is settled past the outbox.
    pub(crate) fn take_progress(&mut self, id: &str) -> Option<u64> {
        let total = self.entries.get_mut(id)?.progress.take();
        self.counts.superseded += u64::from(total.is_some());
        total
    }

    /// The next report, now in flight.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(Id, Call)> {
        while let Some((_, id)) = self.resting.first().filter(|(until, _)| *until <= now).cloned() {
            self.resting.pop_first();
            self.due.push_back(id);
        }
        loop {
            let id = self.due.pop_front()?;
            let entry = self.entries.get_mut(&id).expect("every reservation in line has an entry");
            let Some(report) = entry.next() else {
                self.entries.remove(&id);
                continue;
            };
            entry.in_flight = Some(report.clone());
            let reservation_id = id.as_ref().to_owned();
            let call = match report {
                Report::Progress(generated_tokens) => {
                    Call::ReportProgress(ReportProgressRequest { reservation_id, generated_tokens })
                }
                Report::End(End::Settle(settle)) => Call::Settle(settle),
                Report::End(End::Release) => Call::Release(ReleaseRequest { reservation_id }),
            };
            return Some((id, call));
        }
    }

    /// When the next one has rested.
    pub(crate) fn rested_at(&self) -> Option<Instant> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// What came of the report in flight.
    pub(crate) fn on_sent(&mut self, id: Id, sent: Sent) {
        let entry = self.entries.get_mut(&id).expect("what is in flight has an entry");
        match sent {
            Sent::Delivered => self.counts.delivered += 1,
            Sent::Failed => self.counts.failed += 1,
            Sent::Again(at) => {
                self.counts.superseded += entry.take_back();
                self.resting.insert((at, id));
                return;
            }
        }
        entry.in_flight = None;
        if entry.progress.is_some() || entry.end.is_some() {
            self.due.push_back(id);
        } else {
            self.entries.remove(&id);
        }
    }

    /// The stream broke: the report in flight may or may not have arrived, and is sent again.
    pub(crate) fn on_broken(&mut self, id: Id) {
        let entry = self.entries.get_mut(&id).expect("what is in flight has an entry");
        self.counts.superseded += entry.take_back();
        self.due.push_back(id);
    }

    /// Whether the server is known to have all that it will take.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether one may be sent at once.
    pub(crate) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    pub(crate) fn counts(&self) -> OutboxCounts {
        OutboxCounts { waiting: self.entries.len(), ..self.counts }
    }

    /// What is not known to be delivered.
    pub(crate) fn undelivered(&self) -> Undelivered {
        let mut left = Undelivered::default();
        for entry in self.entries.values() {
            left.progress_reports += usize::from(entry.progress.is_some());
            let in_flight = match &entry.in_flight {
                Some(Report::Progress(_)) => {
                    left.progress_reports += 1;
                    None
                }
                Some(Report::End(end)) => Some(end),
                None => None,
            };
            for end in in_flight.into_iter().chain(&entry.end) {
                match end {
                    End::Settle(_) => left.settlements += 1,
                    End::Release => left.releases += 1,
                }
            }
        }
        left
    }

    /// The entry of a reservation; a new one is put in line.
    fn entry(&mut self, id: &str) -> Result<&mut Entry, NotQueued> {
        if !self.entries.contains_key(id) {
            if self.entries.len() >= self.most {
                self.counts.turned_away += 1;
                return Err(NotQueued::Full);
            }
            let id: Id = id.into();
            self.due.push_back(Arc::clone(&id));
            self.entries.insert(id, Entry::default());
        }
        Ok(self.entries.get_mut(id).expect("it is there by now"))
    }
}

#[cfg(test)]
mod tests;
