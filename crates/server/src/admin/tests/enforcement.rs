//! The global switch: read, turned, audited.

use super::*;

async fn turn(
    admin: &Admin<MemoryStore>,
    to: v1::Enforcement,
    options: Option<v1::WriteOptions>,
) -> Result<Response<v1::UpdateEnforcementResponse>, Status> {
    let request = v1::UpdateEnforcementRequest { enforcement: to.into(), options };
    admin.update_enforcement(Request::new(request)).await
}

async fn stands(admin: &Admin<MemoryStore>) -> (v1::Enforcement, u64) {
    let answer = good(admin.get_enforcement(Request::new(v1::GetEnforcementRequest {})).await);
    let switch = answer.enforcement.expect("there is one always");
    (switch.enforcement(), switch.revision)
}

#[tokio::test]
async fn a_turn_is_in_force_and_in_the_log_and_what_is_refused_or_dry_is_neither() {
    let admin = admin();
    assert_eq!(stands(&admin).await, (v1::Enforcement::On, 1));
    let dry = Some(v1::WriteOptions { dry_run: true, ..Default::default() });
    let answer = good(turn(&admin, v1::Enforcement::Shadow, dry).await);
    assert_eq!(answer.enforcement.map(|switch| (switch.enforcement, switch.revision)), Some((2, 2)), "what would be");
    let refused = refusal(turn(&admin, v1::Enforcement::Shadow, expecting(7)).await);
    assert_eq!(refused, is(Code::Aborted, error::STALE_REVISION));
    let refused = refusal(turn(&admin, v1::Enforcement::Unspecified, None).await);
    assert_eq!(refused, is(Code::InvalidArgument, error::INVALID_FIELD));
    assert_eq!(stands(&admin).await, (v1::Enforcement::On, 1));
    assert_eq!(good(admin.list_changes(Request::new(Default::default())).await).changes, []);

    let options = v1::WriteOptions { reason: "denies customers".into(), actor: "kim".into(), ..Default::default() };
    let answer = good(turn(&admin, v1::Enforcement::Shadow, Some(options)).await);
    assert!(!answer.persisted, "there is no durable store");
    assert_eq!(stands(&admin).await, (v1::Enforcement::Shadow, 2));
    let changes = good(admin.list_changes(Request::new(Default::default())).await).changes;
    let [change] = changes.as_slice() else { panic!("one write: {changes:?}") };
    assert_eq!((change.rpc.as_str(), change.object.as_str()), ("UpdateEnforcement", "enforcement"));
    assert_eq!((change.reason.as_str(), change.unverified_actor.as_str()), ("denies customers", "kim"));
    assert_eq!(change.before_json, r#"{"enforcement":"ENFORCEMENT_ON","revision":"1"}"#);
    assert_eq!(change.after_json, r#"{"enforcement":"ENFORCEMENT_SHADOW","revision":"2"}"#);
}
