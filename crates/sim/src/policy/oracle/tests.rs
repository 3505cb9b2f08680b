use proptest::prelude::*;

use super::*;

/// Whether `admitted` keep every window at or below its limit: prompts at every arrival, output at every whole second. By hand.
fn fits(admitted: &[Arrival], limit: &Tokens) -> bool {
    let prompts = admitted.iter().all(|last| {
        let trailing =
            || admitted.iter().filter(|other| other.at_ms <= last.at_ms && other.at_ms + 60_000 > last.at_ms);
        trailing().map(|other| other.prompt_tokens).sum::<u64>() <= limit.prompt
            && trailing().map(|other| other.uncached_prompt_tokens).sum::<u64>() <= limit.uncached_prompt
    });
    let end = admitted.iter().map(Arrival::end_ms).max().unwrap_or(0) / 1_000 + 62;
    prompts
        && (0..end).all(|second| {
            let by = |second: u64| admitted.iter().map(|other| other.generated_by(second * 1_000)).sum::<u64>();
            by(second) - second.checked_sub(60).map_or(0, by) <= limit.generated
        })
}

proptest! {
    /// Every admission keeps every window within its limit for ever, and every refusal would not have.
    #[test]
    fn the_oracle_admits_exactly_what_fits(
        requests in prop::collection::vec((0_u64..30_000, 1_u64..60, 0_u64..60, 0_u64..80, 0_u32..40_000), 1..25),
    ) {
        let limit = Tokens::new(150, 90, 120);
        let mut key = Oracle { limit, ..Oracle::default() };
        let (mut admitted, mut at_ms) = (Vec::new(), 0);
        for (wait, prompt_tokens, uncached, generated_tokens, duration_ms) in requests {
            at_ms += wait;
            let request = Arrival {
                at_ms,
                key: 0,
                prompt_tokens,
                uncached_prompt_tokens: uncached.min(prompt_tokens),
                generated_tokens,
                duration_ms,
                max_generated_tokens: None,
            };
            admitted.push(request);
            let expected = fits(&admitted, &limit);
            if !expected {
                admitted.pop();
            }
            prop_assert_eq!(key.admit(&request), expected);
        }
    }
}
