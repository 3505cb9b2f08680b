//! The ledger of a fleet's allotments on Redis or Valkey: its scripts, and what goes in and comes out of them.
//!
//! What they do is `tidegate_core::fleet::Ledger`, next to the data, so that a report and what it is granted are one step for the
//! whole fleet. They use commands of Redis 6.2 and Valkey 7.2 on.

use std::time::Duration;

use tidegate_core::fleet::{Granted, KnownLaw, Lost, Report};
use tidegate_core::key::KeyRef;
use tidegate_core::law::{Law, WindowLaw};
use tidegate_core::reservation::Number;
use tidegate_core::window::{PerWindow, Tokens, Window};

/// Takes in a report, and grants what can be. Two keys: the ledger of the limit key ([`ledger_key`]), and the life of its data
/// ([`life_key`]). Arguments: [`arguments`]; answer: [`granted`].
pub const REPORT: &str = include_str!("redis/report.lua");

/// Writes the law of a limit key. One key: its ledger. Arguments: [`law_arguments`]; answers 1, or 0 where nothing changed.
pub const LAW: &str = include_str!("redis/law.lua");

/// Asks for the life of the data of a slot, or begins one. One key: [`life_key`]. Arguments: run id, a new life, a life that
/// was found lost, the last two as [`named`]; answers the life and its age in milliseconds.
pub const LIFE: &str = include_str!("redis/life.lua");

/// Notes a sidecar among those that there are. One key: [`SIDECARS_KEY`]. Arguments: incarnation, as [`named`], and for how many
/// milliseconds it counts without being noted again, 0: no longer. Answers how many there are.
pub const SIDECARS: &str = include_str!("redis/sidecars.lua");

/// Writes the policy of the fleet. Two keys: [`POLICY_KEY`] and [`CHANGES_KEY`]; its arguments and answer are said there.
pub const POLICY: &str = include_str!("redis/policy.lua");

/// Writes what a request id stands for, unless somebody else has. One key: [`request_key`]. Arguments: what the caller has written
/// there, what is to be there, empty for nothing, and for how many milliseconds; answers what somebody else has written, or nothing.
pub const REQUEST: &str = include_str!("redis/request.lua");

/// Where the policy is, and the audit log.
pub const POLICY_KEY: &str = "tidegate:{fleet}:policy";
/// See [`POLICY_KEY`].
pub const CHANGES_KEY: &str = "tidegate:{fleet}:changes";

/// Where the sidecars are noted.
pub const SIDECARS_KEY: &str = "tidegate:{fleet}:sidecars";

/// Where the key of the checksums of reservation ids is kept.
pub const CHECKSUM_KEY: &str = "tidegate:{fleet}:checksum";

/// In how many slots the keys are kept: what a cluster has to spread, and what one life covers.
pub const SLOTS: u64 = MANY as u64;

const MANY: usize = 64;

/// The words by which a Cluster puts the keys of each slot somewhere (hash tags): number `n` is the first one whose hash slot is in the
/// n-th of as many equal parts, which is how a Cluster's masters begin. The numbers themselves would leave half of 64 masters idle.
static TAGS: [u16; MANY] = tags();

/// Hash slots of a Cluster.
const HASH_SLOTS: u16 = 16_384;

const fn tags() -> [u16; MANY] {
    let (mut tags, mut found, mut tag) = ([0; MANY], [false; MANY], 0);
    let mut missing = MANY;
    while missing > 0 {
        let slot = hash_slot(tag) as usize * MANY / HASH_SLOTS as usize;
        if !found[slot] {
            (tags[slot], found[slot]) = (tag, true);
            missing -= 1;
        }
        tag += 1;
    }
    tags
}

/// Where a Cluster puts a key with this hash tag: CRC16 (XMODEM) of its decimal digits, modulo the hash slots, as the Cluster
/// specification has it.
const fn hash_slot(tag: u16) -> u16 {
    let (mut crc, mut power) = (0_u16, 10_000);
    let mut is_leading = true;
    while power > 0 {
        let digit = tag / power % 10;
        if digit > 0 || !is_leading || power == 1 {
            is_leading = false;
            crc ^= (b'0' as u16 + digit) << 8;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
                bit += 1;
            }
        }
        power /= 10;
    }
    crc % HASH_SLOTS
}

/// The hash tag of a slot.
fn tag(slot: u64) -> u16 {
    TAGS[usize::try_from(slot % SLOTS).unwrap_or(0)]
}

/// The slot of a limit key, below [`SLOTS`].
#[must_use]
pub fn slot(key: KeyRef<'_>) -> u64 {
    key.hash() % SLOTS
}

/// Where the ledger of a limit key is. Names are written as they are, but for bytes that would be ambiguous, which are
/// percent-encoded: no two keys share a ledger.
#[must_use]
pub fn ledger_key(key: KeyRef<'_>) -> String {
    let mut written = format!("tidegate:{{{}}}:key", tag(slot(key)));
    for name in [key.account(), key.model(), key.variant()] {
        written.push('/');
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@') {
                written.push(byte.into());
            } else {
                written.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    written
}

/// Where the life of a slot's data is written.
#[must_use]
pub fn life_key(slot: u64) -> String {
    format!("tidegate:{{{}}}:life", tag(slot))
}

/// Where it is marked that a reservation of a sidecar that is gone was settled.
#[must_use]
pub fn settled_key(slot: u64, number: Number) -> String {
    format!("tidegate:{{{}}}:settled/{}-{}", tag(slot), named(number.incarnation), named(number.sequence))
}

/// Where it is written what a request id stands for; `id` is a hash of it and of its limit key.
#[must_use]
pub fn request_key(slot: u64, id: u128) -> String {
    format!("tidegate:{{{}}}:request/{id:032x}", tag(slot))
}

/// Where a sidecar finds what others write to it.
#[must_use]
pub fn mailbox_key(incarnation: u64) -> String {
    format!("tidegate:mail/{}", named(incarnation))
}

/// Where it is marked that somebody acts on a letter, or does not wait for that any longer.
#[must_use]
pub fn letter_key(number: u64) -> String {
    format!("tidegate:letter/{}", named(number))
}

/// As lives and incarnations are named there.
#[must_use]
pub fn named(number: u64) -> String {
    format!("{number:016x}")
}

/// The arguments of [`REPORT`].
#[must_use]
pub fn arguments(report: &Report<'_>) -> Vec<String> {
    let Report { life, incarnation, sequence, acknowledged, phase_seconds, ttl_ms, needs, wants, least, waits, seen } =
        report;
    let mut arguments = vec![named(*life), named(*incarnation)];
    arguments.extend([sequence, acknowledged, phase_seconds, ttl_ms].map(u64::to_string));
    arguments.push(u8::from(*waits).to_string());
    arguments.extend(wants.iter().chain(least.iter()).map(|(_, tokens)| tokens.to_string()));
    for (_, seen) in seen.iter() {
        let denied = u64::from(seen.denied);
        arguments.extend([seen.settled, seen.arrived, denied, seen.pressure.into()].map(|number| number.to_string()));
    }
    for (_, leaving) in needs.iter() {
        arguments.push(leaving.len().to_string());
        arguments.extend(leaving.iter().flat_map(|(seconds, tokens)| [seconds.to_string(), tokens.to_string()]));
    }
    arguments
}

/// What [`REPORT`] answered; `None` where that is no answer of it.
#[must_use]
pub fn granted(answer: &[i64]) -> Option<Result<Granted, Lost>> {
    if answer == [-1] {
        return Some(Err(Lost));
    }
    let mut numbers = answer.iter().copied();
    let mut positive = || numbers.next().and_then(|number| u64::try_from(number).ok());
    let (version, left_ms, epoch, law_epoch, policy) =
        (positive()?, positive()?, positive()?, positive()?, positive()?);
    let mut granted = Granted { left_ms, epoch, ..Granted::default() };
    for window in Window::ALL {
        granted.allotted[window] = positive()?;
        granted.elsewhere[window] = positive()?;
        granted.waiting[window] = positive()?;
        granted.frees_ms[window] = positive()?;
    }
    let mut limits = Tokens::default();
    let mut law = Law { epoch: law_epoch, windows: PerWindow::from_fn(|_| WindowLaw::EMPTY) };
    for window in Window::ALL {
        let mut level = || numbers.next().and_then(|number| i32::try_from(number).ok());
        let (p, v, q) = (level()?, level()?, level()?);
        let mut positive = || numbers.next().and_then(|number| u64::try_from(number).ok());
        let (u, den, br) = (positive()?, positive()? > 0, u16::try_from(positive()?).ok()?);
        law.windows[window] = WindowLaw { p, v, q, u, den, br };
        limits[window] = positive()?;
    }
    granted.law = (version > 0).then_some(KnownLaw { version, policy, law, limits });
    numbers.next().is_none().then_some(Ok(granted))
}

/// The arguments of [`LAW`]: `known` was made of the law of version `expected`, and nobody misses it after `lasts` without a
/// call.
#[must_use]
pub fn law_arguments(expected: u64, known: &KnownLaw, lasts: Duration) -> Vec<String> {
    let KnownLaw { version, policy, law, limits } = known;
    let lasts = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX).min(1 << 40);
    let mut arguments: Vec<String> =
        [expected, *version, law.epoch, lasts, *policy].map(|number| number.to_string()).into();
    for (window, WindowLaw { p, v, q, u, den, br }) in law.windows.iter() {
        arguments.extend([p, v, q].map(i32::to_string));
        let numbers = [*u, u64::from(*den), u64::from(*br), limits[window]];
        arguments.extend(numbers.map(|number| number.to_string()));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        let mut answer = vec![3, 200, 77, 76, 9, 1, 2, 0, 0, 4, 5, 0, 100, 7, 8, 1, 0];
        answer.extend([-5, 20, 30, 40, 1, 6, 70].repeat(3));
        let granted = granted(&answer).expect("an answer").expect("nothing was lost");
        assert_eq!((granted.left_ms, granted.epoch), (200, 77));
        assert_eq!(granted.allotted, PerWindow::new(1, 4, 7));
        assert_eq!(granted.elsewhere, PerWindow::new(2, 5, 8));
        assert_eq!(granted.waiting, PerWindow::new(0, 0, 1));
        assert_eq!(granted.frees_ms, PerWindow::new(0, 100, 0));
        let state = WindowLaw { p: -5, v: 20, q: 30, u: 40, den: true, br: 6 };
        let law = Law { epoch: 76, windows: PerWindow::from_fn(|_| state) };
        assert_eq!(granted.law, Some(KnownLaw { version: 3, policy: 9, law, limits: PerWindow::new(70, 70, 70) }));
        assert_eq!(super::granted(&[-1]), Some(Err(Lost)));
        for wrong in [&answer[..20], &answer[1..], &[&answer[..], &[1]].concat(), &[]] {
            assert_eq!(super::granted(wrong), None, "{wrong:?}");
        }
        answer[1] = -1;
        assert_eq!(super::granted(&answer), None, "no lease is shorter than none");
    }

    #[test]
    fn a_cluster_of_any_size_has_as_many_slots_on_each_master() {
        // As a Valkey 9 answers `CLUSTER KEYSLOT {0}` and so on.
        assert_eq!([hash_slot(0), hash_slot(7), hash_slot(12), hash_slot(12_345)], [13_907, 1_716, 8_373, 5_228]);
        for masters in [2_u16, 4, 8, 16, 32, 64] {
            let mut on = vec![0; masters.into()];
            for slot in 0..SLOTS {
                on[usize::from(hash_slot(tag(slot)) / (HASH_SLOTS / masters))] += 1;
            }
            assert!(on.iter().all(|slots| *slots == SLOTS / u64::from(masters)), "{masters}: {on:?}");
        }
    }

    #[test]
    fn no_two_keys_share_a_ledger_and_none_leaves_its_slot() {
        let of = |account, model, variant| ledger_key(KeyRef::new(account, model, variant).expect("names"));
        let written = of("a/b}", "c%2F", "");
        assert!(written.ends_with(":key/a%2Fb%7D/c%252F/"), "{written}");
        assert!(written.starts_with("tidegate:{"), "{written}");
        assert_ne!(of("a", "b/c", "d"), of("a/b", "c", "d"));
        assert_ne!(of("a", "b", "c"), of("a", "bc", ""));
    }
}
