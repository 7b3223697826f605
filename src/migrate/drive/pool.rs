//! What all disks of the VM share: memory, requests, connections, and bytes per second.
//!
//! Shared as it is used, not cut into fixed parts: requests go to the disk that has the most left, so
//! that all end together, and a disk that has ended leaves its part to the others. The rate follows
//! the clock while something runs.

use crate::address::Address;
use crate::buffer::Budget;
use crate::job::{Shared, host_of};
use crate::migrate::plan::{HourOfDay, Limits, Plan};
use crate::pipeline::{RateLimit, Team};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What stands for this machine among hosts; no address has it.
const HERE: &str = "";

/// What all disks of the VM share, for as long as the process runs.
#[derive(Debug)]
pub(super) struct Pool {
    limits: Limits,
    budget: Budget,
    team: Team,
    /// Of all that is copied and read back.
    total: RateLimit,
    /// Of what comes from a host or goes there.
    hosts: Mutex<BTreeMap<String, RateLimit>>,
}

impl Pool {
    pub(super) fn new(limits: &Limits) -> Self {
        let memory = usize::try_from(limits.memory).unwrap_or(usize::MAX);
        Self {
            limits: limits.clone(),
            budget: Budget::new(memory, limits.requests),
            team: Team::new(limits.requests),
            total: RateLimit::new(limits.rate),
            hosts: Mutex::default(),
        }
    }

    /// The rate of this hour, `now` in seconds since 1970. Whoever waits hears of it.
    pub(super) fn follow(&self, now: u64) {
        let rate = self.limits.rate_at(HourOfDay::at(now));
        if rate != self.total.rate() {
            tracing::info!(?rate, "another rate from now on");
            self.total.set(rate);
        }
    }

    /// Bytes per second that disks with these ends may have together.
    pub(super) fn at_most(&self, disks: &[Vec<&Address>]) -> Option<u64> {
        let hosts = |ends: &Vec<&Address>| -> Vec<String> {
            let ends = ends.iter();
            ends.map(|end| host(end)).collect()
        };
        let mut disks = disks.iter().map(hosts);
        let of_one = disks.next().unwrap_or_default();
        let others: Vec<_> = disks.collect();
        let common = |host: &String| others.iter().all(|hosts| hosts.contains(host));
        // Disks without a host in common have as many limits as there are hosts.
        let per_host = self.limits.rate_per_host;
        let per_host = per_host.filter(|_| of_one.iter().any(common));
        self.total.rate().into_iter().chain(per_host).min()
    }

    /// The part of a job between `ends`.
    pub(super) fn shared(&self, ends: &[&Address]) -> Shared {
        let mut rates = vec![self.total.clone()];
        if let Some(rate) = self.limits.rate_per_host {
            let mut hosts: Vec<String> = ends.iter().map(|end| host(end)).collect();
            hosts.sort_unstable();
            // What stays on one host counts there once.
            hosts.dedup();
            let mut known = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            for host in hosts {
                let limit = known.entry(host);
                rates.push(limit.or_insert_with(|| RateLimit::new(Some(rate))).clone());
            }
        }
        Shared {
            budget: Some(self.budget.clone()),
            rates,
            team: Some(self.team.clone()),
        }
    }
}

fn host(address: &Address) -> String {
    host_of(address).unwrap_or_else(|| HERE.to_owned())
}

/// Whether a disk there is reached over connections that are counted.
fn is_connected(address: &Address) -> bool {
    matches!(
        address,
        Address::Nbd(_) | Address::Child(_) | Address::Vddk(_) | Address::Http(_)
    )
}

/// How connections are shared out. Pure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Links {
    /// Disks that are worked on at once.
    pub(super) at_once: usize,
    /// Connections of one disk to each of its ends, at most; `None` is what suits.
    pub(super) each: Option<usize>,
}

impl Links {
    /// For disks with these ends: as many at once as the plan wants and connections allow, and then
    /// as many connections each as there are.
    pub(super) fn of(plan: &Plan, disks: &[Vec<&Address>]) -> Self {
        let ends = |disk: &[&Address]| -> Vec<String> {
            let ends = disk.iter().filter(|end| is_connected(end));
            ends.map(|end| host(end)).collect()
        };
        let disks: Vec<Vec<String>> = disks.iter().map(|disk| ends(disk)).collect();
        let most = plan.workers.min(disks.len()).max(1);
        let fits = |at_once: &usize| Self::each(&plan.limits, &disks, *at_once) != Some(0);
        let at_once = (1..=most).rev().find(fits).unwrap_or(1);
        let each = Self::each(&plan.limits, &disks, at_once);
        Self {
            at_once,
            each: each.map(|each| each.max(1)),
        }
    }

    /// Connections to each end of each of so many disks, whichever they are.
    fn each(limits: &Limits, disks: &[Vec<String>], at_once: usize) -> Option<usize> {
        let most = |count: &dyn Fn(&[String]) -> usize| {
            let mut counts: Vec<usize> = disks.iter().map(|ends| count(ends)).collect();
            counts.sort_unstable_by(|one, other| other.cmp(one));
            counts.iter().take(at_once).sum::<usize>()
        };
        let share = |limit: usize, ends: usize| limit.checked_div(ends);
        let total = limits
            .connections
            .and_then(|limit| share(limit, most(&|ends| ends.len())));
        let hosts = disks.iter().flatten();
        let per_host = limits.connections_per_host.and_then(|limit| {
            let at = |host: &String| most(&|ends| ends.iter().filter(|end| *end == host).count());
            hosts.filter_map(|host| share(limit, at(host))).min()
        });
        total.into_iter().chain(per_host).min()
    }
}

#[cfg(test)]
mod tests {
    use super::{Links, Pool};
    use crate::address::Address;
    use crate::migrate::plan::Plan;

    fn plan(limits: &str) -> Plan {
        let text = format!(
            "vm: v\nguest: {{nbd: {{command: [x]}}}}\n\
             disks: [{{name: a, source: s, target: /dev/a}}, {{name: b, source: t, target: /dev/b}}, \
             {{name: c, source: u, target: /dev/c}}]\nlimits: {limits}\n"
        );
        Plan::parse(&text).unwrap()
    }

    fn address(word: &str) -> Address {
        word.parse().unwrap()
    }

    #[test]
    fn connections_are_shared_by_all_disks_and_fewer_are_copied_at_once_if_there_are_too_few() {
        let (near, far) = (address("nbd://one/x"), address("nbd://two/x"));
        let local = address("/dev/x");
        let both = vec![vec![&near, &far], vec![&near, &far], vec![&near, &local]];
        for (limits, at_once, each) in [
            ("{}", 3, None),
            ("{connections: 15}", 3, Some(3)),
            ("{connections: 4}", 2, Some(1)),
            ("{connections: 2}", 1, Some(1)),
            ("{connections-per-host: 6}", 3, Some(2)),
            ("{connections-per-host: 2}", 2, Some(1)),
            ("{connections: 10, connections-per-host: 3}", 3, Some(1)),
        ] {
            let found = Links::of(&plan(limits), &both);
            assert_eq!((found.at_once, found.each), (at_once, each), "{limits}");
        }
        let paths = vec![vec![&local, &local]; 3];
        let found = Links::of(&plan("{connections: 2}"), &paths);
        assert_eq!((found.at_once, found.each), (3, None), "paths need none");
    }

    #[test]
    fn a_host_has_one_limit_for_all_disks_and_the_clock_changes_that_of_all() {
        let limits =
            "{rate: 5, rate-per-host: 3, windows: [{from: '00:00', to: '12:00', rate: 7}]}";
        let pool = Pool::new(&plan(limits).limits);
        let (one, two) = (address("nbd://one/x"), address("nbd://one/y"));
        let local = address("/dev/x");
        let (a, b) = (pool.shared(&[&one, &local]), pool.shared(&[&two]));
        assert_eq!((a.rates.len(), b.rates.len()), (3, 2));
        assert_eq!(pool.shared(&[&one, &two]).rates.len(), 2, "one host");
        b.rates[1].set(Some(9));
        let theirs = a.rates.iter().filter(|limit| limit.rate() == Some(9));
        assert_eq!(theirs.count(), 1, "it is the same limit");
        let day = 24 * 3600;
        let rates: Vec<_> = (0..24)
            .map(|hour| {
                pool.follow(day + hour * 3600);
                a.rates[0].rate()
            })
            .collect();
        assert_eq!(rates.iter().filter(|rate| **rate == Some(7)).count(), 12);
        assert_eq!(rates.iter().filter(|rate| **rate == Some(5)).count(), 12);
        assert_eq!(pool.at_most(&[vec![&one, &local], vec![&two]]), Some(3));
        let far = address("nbd://far/x");
        assert_eq!(pool.at_most(&[vec![&one, &local], vec![&far]]), Some(5));
        assert_eq!(
            pool.at_most(&[vec![&one, &local], vec![&far, &local]]),
            Some(3)
        );
    }
}
