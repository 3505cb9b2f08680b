//! The policy in force. A decision looks at its revision alone, which costs a tenth of looking at the policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use tidegate_core::policy::Policy;

/// A policy that is published as a whole new value.
pub(crate) struct PublishedPolicy {
    policy: ArcSwap<Policy>,
    /// Of a policy that is published; for a moment, of the one before it.
    revision: AtomicU64,
}

impl PublishedPolicy {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { revision: AtomicU64::new(policy.revision()), policy: ArcSwap::from_pointee(policy) }
    }

    /// The revision of the policy in force.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(crate) fn load(&self) -> Guard<Arc<Policy>> {
        self.policy.load()
    }

    pub(crate) fn load_full(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Puts another in its place; nobody else does at the same time.
    pub(crate) fn store(&self, policy: Arc<Policy>) {
        self.swap(policy);
    }

    /// As [`PublishedPolicy::store`]; returns the one before.
    pub(crate) fn swap(&self, policy: Arc<Policy>) -> Arc<Policy> {
        let revision = policy.revision();
        let before = self.policy.swap(policy);
        self.revision.store(revision, Ordering::Release);
        before
    }
}
