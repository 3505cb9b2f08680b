//! A denial that is not enforced: ALLOW, and the denial beside it.

use tidegate_core::decision::Answer;
use tidegate_core::window::Tokens;

use super::{check_and_reserve_response, tokens, window};
use crate::v1;

/// The answer to a request that was let through although `answer` denies it; the arguments are those of
/// [`check_and_reserve_response`].
#[must_use]
pub fn shadow_response(
    answer: &Answer,
    reservation_id: String,
    headers: Vec<v1::HttpHeader>,
    view: v1::ResponseView,
) -> v1::CheckAndReserveResponse {
    let denied = check_and_reserve_response(answer, reservation_id, headers, view);
    let v1::CheckAndReserveResponse { decision, reason, http_status, retry_after, .. } = denied;
    let binding = answer.windows.iter().filter(|(_, status)| status.binding);
    let binding = binding.map(|(name, _)| window(name).into()).collect();
    let mut windows = denied.windows;
    windows.iter_mut().for_each(|status| status.binding = false);
    v1::CheckAndReserveResponse {
        decision: v1::Decision::Allow.into(),
        reason: v1::DenyReason::Unspecified.into(),
        http_status: 200,
        retry_after: None,
        reserved: Some(tokens(Tokens::default())),
        windows,
        shadow_decision: Some(v1::ShadowDecision { decision, reason, http_status, retry_after, binding }),
        ..denied
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_core::decision::{Denial, Denied, WindowStatus};
    use tidegate_core::window::PerWindow;

    use super::*;

    #[test]
    fn it_is_an_allow_with_the_denial_beside_it() {
        let retry_after = Some(Duration::from_secs(7));
        let denied = Denied { denial: Denial::WindowFull, retry_after, ask: Tokens::new(9, 9, 9) };
        let mut windows = PerWindow::<WindowStatus>::default();
        windows.generated.binding = true;
        let answer = Answer { outcome: Err(denied), windows };
        let response = shadow_response(&answer, "id".into(), Vec::new(), v1::ResponseView::Full);
        assert_eq!(response.decision(), v1::Decision::Allow);
        assert_eq!((response.http_status, response.reason(), response.retry_after), (200, Default::default(), None));
        assert_eq!((response.reservation_id.as_str(), response.reserved), ("id", Some(v1::Tokens::default())));
        assert!(response.windows.len() == 3 && response.windows.iter().all(|status| !status.binding));
        let shadow = response.shadow_decision.expect("it says what enforcement would have answered");
        assert_eq!((shadow.decision(), shadow.reason()), (v1::Decision::RateLimited, v1::DenyReason::WindowFull));
        assert_eq!((shadow.http_status, shadow.binding().collect::<Vec<_>>()), (429, vec![v1::Window::Generated]));
        assert_eq!(shadow.retry_after.map(|wait| wait.seconds), Some(7));
        let response = shadow_response(&answer, "id".into(), Vec::new(), v1::ResponseView::Decision);
        assert_eq!(response.shadow_decision.map(|shadow| shadow.binding.len()), Some(1), "in every view");
    }
}
