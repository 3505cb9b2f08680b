//! What comes after an ALLOW: find the key that the id names, and book under its lock.

use tidegate_core::forecast::Model;
use tidegate_core::reservation::Ticket;
use tidegate_core::state::{self, KeyState, Rules};
use tidegate_core::time::Timestamp;

use super::{KnownModel, MemoryStore, shadow};
use crate::timers::Fingerprint;
use crate::{Booked, EndError};

/// Most models whose figures are kept for the forecast; requests of others fall back on the defaults. Accounts that nobody
/// configured bring in at most half of them.
const MOST_MODELS: usize = 10_000;

impl MemoryStore {
    /// Runs `step` on the reservation that `id` names. Returns its model too, and whether the account is configured.
    pub(super) fn end<T>(
        &self,
        now: Timestamp,
        id: &str,
        step: impl FnOnce(&mut KeyState, &Rules<'_>, &Ticket) -> Result<T, state::EndError>,
    ) -> Result<(T, Fingerprint, bool), EndError> {
        let (key, ticket) = self.checksum_keys.load().decode(id).ok_or(EndError::Forged)?;
        if shadow::reserved_nothing(&ticket) {
            return Err(EndError::NothingReserved);
        }
        let fingerprint = self.of_key(key.as_ref());
        let mut entry = match self.known(fingerprint) {
            Some(entry) => entry,
            // A process that was killed may have admitted it in its last moments, and with it the key is lost.
            None if self.endings.may_have_lost(ticket.number.incarnation, ticket.admitted_at) => {
                self.key_anew(now, fingerprint, key.as_ref())
            }
            // Another sidecar admitted it. Here nothing of it is known: what was used is charged once, and late (C6).
            None if self.law_is_shared && ticket.number.incarnation != self.incarnation => {
                self.key_anew(now, fingerprint, key.as_ref())
            }
            // It was evicted, with all that it remembered.
            None => return Err(EndError::TooLate),
        };
        self.refresh(now, &mut entry);
        let result = self.call(now, fingerprint, &mut entry, |state, rules| step(state, rules, &ticket));
        let (model, configured) = (entry.model, entry.resolved.configured);
        if result.is_ok() {
            self.mark(fingerprint, &mut entry);
        }
        drop(entry);
        match result {
            Ok(done) => Ok((done, model, configured)),
            Err(state::EndError::Ended) => Err(EndError::Ended),
            Err(state::EndError::TooLate) => Err(EndError::TooLate),
        }
    }

    pub(super) fn book(
        &self,
        now: Timestamp,
        id: &str,
        step: impl FnOnce(&mut KeyState, &Rules<'_>, &Ticket) -> Result<state::Booked, state::EndError>,
    ) -> Result<Booked, EndError> {
        let (booked, model, configured) = self.end(now, id, step)?;
        if let Some(sample) = &booked.sample {
            if let Some(mut known) = self.models.get_mut(&model) {
                known.figures.on_settled(sample, &self.defaults);
                known.changed = true;
            } else if self.models.len() < if configured { MOST_MODELS } else { MOST_MODELS / 2 } {
                let fresh = || KnownModel { figures: Model::new(&self.defaults), changed: true };
                self.models.entry(model).or_insert_with(fresh).figures.on_settled(sample, &self.defaults);
            }
        }
        Ok(Booked { outcome: booked.outcome, clamped: booked.clamped, tokens: booked.tokens })
    }
}
