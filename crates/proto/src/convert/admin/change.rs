//! The audit log on the wire: its filters, and the objects of its rows as protobuf JSON.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tidegate_core::policy::Written;
use tidegate_core::time::Timestamp;

use super::{Entry, wire_boost, wire_switch};
use crate::convert::{InvalidField, time};
use crate::v1;

/// The types of this package, as the JSON mapping needs them.
static TYPES: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET).expect("the descriptors were made by our own build")
});

/// Which writes are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeFilters {
    /// Only writes at or after this.
    pub start: Option<Timestamp>,
    /// Only writes before this.
    pub end: Option<Timestamp>,
}

/// The filters of a list of writes.
///
/// # Errors
/// Names the instant that is malformed.
pub fn change_filters(wire: &v1::ListChangesRequest) -> Result<ChangeFilters, InvalidField> {
    let instant =
        |wire: Option<&prost_types::Timestamp>, field| wire.map(|wire| time::timestamp(wire, field)).transpose();
    Ok(ChangeFilters {
        start: instant(wire.start_time.as_ref(), "start_time")?,
        end: instant(wire.end_time.as_ref(), "end_time")?,
    })
}

/// A policy object as protobuf JSON, on one line.
#[must_use]
pub fn written_json(entry: &Written) -> String {
    match entry.clone() {
        Written::Tier(tier) => object_json("Tier", &tier.to_wire()),
        Written::Account(account) => object_json("Account", &account.to_wire()),
        Written::Model(model) => object_json("Model", &model.to_wire()),
        Written::Override(entry) => object_json("Override", &entry.to_wire()),
        Written::Enforcement(switch) => object_json("EnforcementSwitch", &wire_switch(switch)),
        Written::Boost(boost) => object_json("BoostedScope", &wire_boost(&boost)),
    }
}

/// A message of `tidegate.v1` as protobuf JSON, on one line: names in lowerCamelCase, 64-bit numbers as strings, what is
/// unset left out. "" where there is no message called `name`.
#[must_use]
pub fn object_json(name: &str, message: &impl Message) -> String {
    let json = || {
        let descriptor = TYPES.get_message_by_name(&format!("tidegate.v1.{name}"))?;
        let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).ok()?;
        serde_json::to_string(&message).ok()
    };
    json().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tidegate_core::policy::{Override, PartialBounds, Scope, WindowBounds};

    use super::*;

    #[test]
    fn objects_are_protobuf_json() {
        let bounds = PartialBounds { floor_tpm: Some(10), ceiling_tpm: None };
        let entry = Override {
            id: "launch".into(),
            scope: Scope { account: "acme".into(), model: Some("m".into()), variant: Some(String::new()) },
            bounds: WindowBounds { generated: bounds, ..WindowBounds::default() },
            reason: "a \"big\" day".into(),
            expires_at: Some(Timestamp::from_seconds(1)),
            revision: 2,
        };
        let expected = concat!(
            r#"{"overrideId":"launch","scope":{"account":"acme","model":"m","variant":""},"#,
            r#""bounds":{"generated":{"floorTpm":"10"}},"reason":"a \"big\" day","#,
            r#""expireTime":"1970-01-01T00:00:01Z","revision":"2"}"#
        );
        assert_eq!(written_json(&Written::Override(entry)), expected);
        assert_eq!(object_json("NoSuchMessage", &v1::Tier::default()), "");
    }
}
