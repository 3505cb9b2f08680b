//! A Redis Cluster of three masters.

use super::{Server, Setup, field_of, url};
use crate::patience::until;

/// Hash slots of a cluster; a third of them is each master's.
const SLOTS: u16 = 16_384;
const MASTERS: u16 = 3;

/// Three masters and no replicas: what a killed one had is away until it is restarted. A master that is away for 2 s makes
/// the others refuse their keys too, as clusters do by default; `cluster-require-full-coverage no` changes that.
#[derive(Debug)]
pub struct Cluster {
    masters: Vec<Server>,
}

impl Cluster {
    /// Starts three such servers, joins them, and waits until each of them answers for its slots and knows the others.
    ///
    /// # Panics
    /// If they do not get there.
    #[must_use]
    pub fn start(setup: &Setup) -> Self {
        let setup = Setup { bus: true, ..setup.clone() }
            .directive("cluster-enabled", "yes")
            .directive("cluster-config-file", "nodes.conf")
            .directive("cluster-node-timeout", "2000");
        let masters: Vec<Server> = (0..MASTERS).map(|_| setup.clone().start()).collect();
        for (number, master) in (0..).zip(&masters) {
            let (first, last) = range(number);
            master.tell(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            master.tell(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        }
        let cluster = Self { masters };
        until("a cluster is whole", || {
            cluster.introduce();
            cluster.whole()
        });
        cluster
    }

    /// Tells the first master of those that it does not know; they hear of each other from it. It forgets one that did not
    /// answer in the time that a master may be away, as on a busy machine, so once is not always enough.
    fn introduce(&self) {
        let (first, others) = self.masters.split_first().expect("there are three");
        let known = first.ask::<String>(&["CLUSTER", "NODES"]).lines().count();
        for master in others.iter().filter(|_| known < self.masters.len()) {
            let bus = master.bus.as_ref().expect("a cluster's servers have one").number();
            let port = master.port.number();
            first.tell(&["CLUSTER", "MEET", "127.0.0.1", &port.to_string(), &bus.to_string()]);
        }
    }

    /// Waits until all three answer for all their keys, as after a restart of one.
    ///
    /// # Panics
    /// If they do not.
    pub fn wait_until_whole(&self) {
        until("a cluster is whole", || self.whole());
    }

    fn whole(&self) -> Result<(), String> {
        for master in &self.masters {
            let info: String = master.try_ask(&["CLUSTER", "INFO"]).map_err(|error| error.to_string())?;
            let whole = field_of(&info, "cluster_state") == "ok"
                && field_of(&info, "cluster_known_nodes") == MASTERS.to_string()
                && field_of(&info, "cluster_slots_ok") == SLOTS.to_string();
            if !whole {
                return Err(format!("{} says:\n{info}", master.address()));
            }
        }
        Ok(())
    }

    /// Its URL, which names all three: `redis+cluster://127.0.0.1:41234,...`; `rediss` behind TLS.
    #[must_use]
    pub fn url(&self) -> String {
        url("+cluster", &self.masters, self.masters[0].password.as_deref())
    }

    /// The masters, in the order of their slots.
    #[must_use]
    pub fn masters(&self) -> &[Server] {
        &self.masters
    }

    /// The masters, to kill and restart them.
    #[must_use]
    pub fn masters_mut(&mut self) -> &mut [Server] {
        &mut self.masters
    }

    /// Which of the masters keeps `key`. At least one of them must answer.
    ///
    /// # Panics
    /// If none does.
    #[must_use]
    pub fn home_of(&self, key: &str) -> usize {
        let answers = self.masters.iter().map(|master| master.try_ask(&["CLUSTER", "KEYSLOT", key]));
        let slot: u16 = answers.into_iter().find_map(Result::ok).expect("one of the masters answers");
        let numbers = (0..MASTERS).filter(|number| (range(*number).0..=range(*number).1).contains(&slot));
        numbers.map(usize::from).next().expect("every slot is somebody's")
    }

    /// A key that this master keeps: `NAME{N}`, so that every key with `{N}` in it is there too.
    ///
    /// # Panics
    /// If there is no such master.
    #[must_use]
    pub fn key_on(&self, master: usize, name: &str) -> String {
        let mut keys = (0_u32..1000).map(|number| format!("{name}{{{number}}}"));
        keys.find(|key| self.home_of(key) == master).expect("a thousand keys are on all three masters")
    }
}

/// First and last slot of a master.
fn range(master: u16) -> (u16, u16) {
    let third = SLOTS / MASTERS;
    (master * third, if master + 1 == MASTERS { SLOTS - 1 } else { (master + 1) * third - 1 })
}

#[cfg(test)]
mod tests {
    use super::{MASTERS, SLOTS, range};

    #[test]
    fn every_slot_is_one_masters() {
        let slots: Vec<u16> = (0..MASTERS).flat_map(|master| range(master).0..=range(master).1).collect();
        assert_eq!(slots, (0..SLOTS).collect::<Vec<_>>());
    }
}
