//! One limit key as it was written down.

use serde_json::{Value, json};
use tidegate_core::key::LimitKey;
use tidegate_core::law::level;
use tidegate_core::reservation::Reservation;
use tidegate_core::state::KeyState;
use tidegate_core::window::{Tokens, Window};

use super::contents::instant;
use crate::output::{Rows, grouped};

/// Most live reservations that are shown to people; JSON has all.
const MOST_SHOWN: usize = 20;

/// For people.
pub(super) fn text(key: &LimitKey, state: &KeyState) -> String {
    let mut text = format!("{} as of {}\n\n", key.as_ref(), instant(state.as_of()));
    let mut rows = Rows::new(&["WINDOW", "#LEVEL", "#LIMIT TPM", "#RESERVE", "#PROVEN", "#SETTLED", "#USED"]);
    let used = state.used();
    for window in Window::ALL {
        let law = state.law().windows[window];
        rows.push([
            window.name().to_owned(),
            law.p.to_string(),
            grouped(level::tokens(law.p)),
            law.v.to_string(),
            law.q.to_string(),
            grouped(law.u),
            grouped(used[window]),
        ]);
    }
    text.push_str(&rows.to_string());
    text.push_str(&format!(
        "\nLevels are as stored; floor and ceiling of the policy act on them with the next call.\n\
         held for output: {}\nlive reservations: {}, ended and remembered: {}, request ids: {}\n",
        grouped(state.held_tokens()),
        grouped(state.reservations() as u64),
        grouped(state.ended().count() as u64),
        grouped(state.request_ids() as u64),
    ));
    if state.reservations() > 0 {
        let mut rows = Rows::new(&["ADMITTED", "EXPIRES", "#PROMPT", "#UNCACHED", "#RESERVED", "#GENERATED"]);
        for (_, live) in state.live().take(MOST_SHOWN) {
            let Tokens { prompt, uncached_prompt, generated } = live.reserved;
            let tokens = [prompt, uncached_prompt, generated, live.generated].map(grouped);
            rows.push([instant(live.admitted_at), instant(live.expires_at)].into_iter().chain(tokens));
        }
        text.push_str(&format!("\n{rows}"));
    }
    if state.reservations() > MOST_SHOWN {
        text.push_str(&format!("and {} more; --json has all\n", grouped((state.reservations() - MOST_SHOWN) as u64)));
    }
    text
}

/// For programs. Times are RFC 3339.
pub(super) fn json(key: &LimitKey, state: &KeyState) -> Value {
    let used = state.used();
    let windows = Window::ALL.map(|window| {
        let law = state.law().windows[window];
        json!({
            "window": window.name(),
            "level": law.p,
            "level_tpm": level::tokens(law.p),
            "reserve_level": law.v,
            "proven_level": law.q,
            "settled_tokens": law.u,
            "used_tokens": used[window],
        })
    });
    let key = key.as_ref();
    json!({
        "account": key.account(),
        "model": key.model(),
        "variant": key.variant(),
        "as_of": instant(state.as_of()),
        "windows": windows,
        "held_tokens": state.held_tokens(),
        "live_reservations": state.live().map(|(_, live)| reservation(live)).collect::<Vec<_>>(),
        "ended_reservations": state.ended().count(),
        "request_ids": state.request_ids(),
    })
}

fn reservation(live: &Reservation) -> Value {
    json!({
        "admitted_at": instant(live.admitted_at),
        "expires_at": instant(live.expires_at),
        "reserved": {
            "prompt": live.reserved.prompt,
            "uncached_prompt": live.reserved.uncached_prompt,
            "generated": live.reserved.generated,
        },
        "generated_tokens": live.generated,
    })
}
