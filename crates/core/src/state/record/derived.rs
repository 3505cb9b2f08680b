//! What is written down, by the derived encoders: what the bytes are compared with.

use super::*;

fn add(record: &impl Encode<()>, out: &mut Vec<u8>) {
    minicbor::encode(record, out).expect("memory takes everything, and no type here refuses");
}

impl KeyState {
    /// As [`KeyState::write_head`].
    pub(in crate::state) fn derived_head(&self) -> Vec<u8> {
        let head = Head {
            now: self.now,
            law: self.law,
            history: Cow::Borrowed(&self.history),
            prompt: Cow::Borrowed(&self.prompt),
            generated: Cow::Borrowed(&self.generated),
            figures: self.figures,
            lengths: Cow::Borrowed(&self.lengths),
            prior: (!self.needs_fallback()).then_some(Cow::Borrowed(&self.prior)),
            watch: self.watch,
            denied: Cow::Borrowed(&self.denied),
            issued: Cow::Borrowed(&self.issued),
            forgotten: self.forgotten.as_deref().copied(),
            ids_good_until: self.ids_good_until,
        };
        let mut out = Vec::new();
        add(&head, &mut out);
        out
    }

    /// As [`KeyState::write_items`].
    pub(in crate::state) fn derived_items(&self, items: &[Item]) -> Vec<u8> {
        let part = |item: &Item| match item {
            Item::Cohort(id) => self.cohorts.get(*id).map(|cohort| Part::Cohort(*id, Cow::Borrowed(cohort))),
            Item::Reservation(number) => Some(match (self.live.get(number), self.ended.get(number)) {
                (Some(live), _) => Part::Live(*number, Cow::Borrowed(live)),
                (None, Some(ended)) => Part::Ended(*number, Cow::Borrowed(ended)),
                (None, None) => Part::Gone(*number),
            }),
            Item::Request(id) => self.requests.get(id).map(|known| Part::Request(*id, Cow::Borrowed(known))),
        };
        let mut out = Vec::new();
        items.iter().filter_map(part).for_each(|part| add(&part, &mut out));
        out
    }
}
