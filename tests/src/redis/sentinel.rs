//! A master and a replica, watched by Sentinels that put the replica in a dead master's place.

use std::collections::HashMap;
use std::time::Duration;

use redis::FromRedisValue;

use super::{Server, Setup, field_of, url};
use crate::patience::until;

/// What the Sentinels call the master that they watch.
const NAME: &str = "tidegate";

/// How often a Sentinel asks its servers who they are and tells the others of itself, in milliseconds: by default every 10
/// and 2 seconds, for which tests would wait. How often it asks whether they live: by default every second, and with a new
/// master it begins a second late, which it takes for dead now and then. And how long it may stand still itself
/// before it trusts nothing for 30 s, which the default of 2 s would make of a loaded machine.
const PACE: [(&str, &str); 4] =
    [("info-period", "500"), ("publish-period", "500"), ("ping-period", "200"), ("tilt-trigger", "20000")];

/// A master and a replica under Sentinels. A master that is silent for a second is taken for dead.
#[derive(Debug)]
pub struct Sentinels {
    servers: [Server; 2],
    sentinels: Vec<Server>,
}

impl Sentinels {
    /// Starts two such servers and `many` Sentinels of which a majority must agree, and waits until a fail-over would work:
    /// the replica has its copy, and all Sentinels know it and each other.
    ///
    /// # Panics
    /// If they do not get there, or are to be none.
    #[must_use]
    pub fn start(setup: &Setup, many: usize) -> Self {
        assert!(many > 0, "somebody must watch");
        let master = setup.clone().start();
        let replica = setup.clone().replica_of(&master).start();
        replica.wait_for_copy();
        let watched = format!("monitor {NAME} 127.0.0.1 {} {}", master.port.number(), many / 2 + 1);
        let mut watcher = Setup { directives: Vec::new(), password: None, sentinel: true, ..setup.clone() }
            .directive("sentinel", &watched)
            .directive("sentinel", &format!("down-after-milliseconds {NAME} 1000"))
            .directive("sentinel", &format!("failover-timeout {NAME} 5000"));
        if let Some(password) = &setup.password {
            watcher = watcher.directive("sentinel", &format!("auth-pass {NAME} {password}"));
        }
        let sentinels = (0..many).map(|_| watcher.clone().start()).collect();
        let group = Self { servers: [master, replica], sentinels };
        group.wait_until_watched();
        group
    }

    /// Waits until every Sentinel knows a living master, a replica in step with it, and every other Sentinel. After a
    /// fail-over, the dead master has to be restarted first.
    ///
    /// # Panics
    /// If they do not.
    pub fn wait_until_watched(&self) {
        let others = (self.sentinels.len() - 1).to_string();
        for sentinel in &self.sentinels {
            for (name, value) in PACE {
                // Not a setting of the file: a restarted Sentinel has forgotten it.
                sentinel.tell(&["SENTINEL", "DEBUG", name, value]);
            }
            until("a Sentinel is ready", || {
                let master: Fields = asked(sentinel, "MASTER")?;
                let replicas: Vec<Fields> = asked(sentinel, "REPLICAS")?;
                let is = |of: &Fields, field: &str, value: &str| of.get(field).is_some_and(|found| found == value);
                let ready = is(&master, "flags", "master")
                    && is(&master, "num-other-sentinels", &others)
                    && replicas.len() == 1
                    && is(&replicas[0], "flags", "slave")
                    && is(&replicas[0], "master-link-status", "ok");
                if ready { Ok(()) } else { Err(format!("{master:?}, {replicas:?}\n{}", self.output())) }
            });
        }
    }

    /// The URL of the master that they know: `redis+sentinel://127.0.0.1:41234,.../tidegate`, with its password; `rediss` behind TLS.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/{NAME}", url("+sentinel", &self.sentinels, self.servers[0].password.as_deref()))
    }

    /// The Sentinels, to ask, pause or kill them.
    #[must_use]
    pub fn sentinels_mut(&mut self) -> &mut [Server] {
        &mut self.sentinels
    }

    /// Both servers: first the one that began as the master. Their roles change; [`Self::master`] says how.
    #[must_use]
    pub fn servers(&self) -> &[Server; 2] {
        &self.servers
    }

    /// Both servers, to kill and restart them.
    #[must_use]
    pub fn servers_mut(&mut self) -> &mut [Server; 2] {
        &mut self.servers
    }

    /// Which of [`Self::servers`] the first Sentinel that answers calls the master; it may be dead.
    ///
    /// # Panics
    /// If no Sentinel answers.
    #[must_use]
    pub fn master(&self) -> usize {
        let mut answers = self.sentinels.iter().map(|sentinel| self.master_of(sentinel));
        answers.find_map(Result::ok).expect("one of the Sentinels answers")
    }

    fn master_of(&self, sentinel: &Server) -> Result<usize, String> {
        let (_, port): (String, u16) = asked(sentinel, "GET-MASTER-ADDR-BY-NAME")?;
        let found = self.servers.iter().position(|server| server.port.number() == port);
        found.ok_or_else(|| format!("the master is on {port}, where no server of ours is"))
    }

    /// Waits until every Sentinel calls this one of [`Self::servers`] the master, and it is one: how long that took.
    ///
    /// # Panics
    /// If they do not.
    pub fn wait_for_master(&self, server: usize) -> Duration {
        let ((), took) = until("a fail-over", || {
            for sentinel in &self.sentinels {
                let master = self.master_of(sentinel)?;
                if master != server {
                    return Err(format!("{} says {master}\n{}", sentinel.address(), self.output()));
                }
            }
            let info: String =
                self.servers[server].try_ask(&["INFO", "replication"]).map_err(|error| error.to_string())?;
            if field_of(&info, "role") == "master" { Ok(()) } else { Err(info) }
        });
        took
    }

    /// All that they printed, servers and Sentinels.
    #[must_use]
    pub fn output(&self) -> String {
        let all = self.servers.iter().chain(&self.sentinels);
        all.map(|server| format!("{}:\n{}\n", server.address(), server.output())).collect()
    }

    /// Makes the replica the master while both live, as an operator does, and waits until it is: how long that took. The
    /// old master follows it some seconds later ([`Self::wait_until_watched`]).
    ///
    /// # Panics
    /// If they do not.
    pub fn fail_over(&self) -> Duration {
        let replica = 1 - self.master();
        self.sentinels[0].tell(&["SENTINEL", "FAILOVER", NAME]);
        self.wait_for_master(replica)
    }
}

/// What a Sentinel knows of a server.
type Fields = HashMap<String, String>;

fn asked<T: FromRedisValue>(sentinel: &Server, what: &str) -> Result<T, String> {
    sentinel.try_ask(&["SENTINEL", what, NAME]).map_err(|error| error.to_string())
}
