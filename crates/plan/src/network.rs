//! What joins ranks, and which links a group of them goes over.
//!
//! Ranks are numbered host by host, G on each, so that a group of neighbouring numbers touches as few hosts as it can.
//! A ring over such a group crosses the boundary of two neighbouring hosts once, and once more where it closes: its
//! bandwidth is that of one rank's link between hosts, its latency the sum over the links that a piece passes. That is a
//! cautious bandwidth: a library that lays a ring through every network card of a host has more.

use crate::facts::{Dtype, Facts, Link};

/// Assumed of links where nothing is given, and ranks compute on CPUs: 10 Gbit/s and 0.05 ms, within a host as well.
const CPU_LINK: (f64, f64) = (10.0, 0.05);
/// Of a GPU within a host: 450 GB/s each way, as NVLink 4 has them, and 5 µs. NCCL reckons with 3.4 µs a hop of a ring
/// over NVLink and 14 µs over a network (its `tuning.cc`), and with 8.4 µs once.
const GPU_LOCAL_LINK: (f64, f64) = (3600.0, 0.005);
/// Of a GPU between hosts: a 400 Gbit/s card of its own, and 20 µs.
const GPU_LINK: (f64, f64) = (400.0, 0.02);

/// Assumed of a rank where no throughput is given: 50 billion operations a second of each thread; on a GPU of the
/// Hopper generation, some four tenths of what its data sheet has in half precision, and six tenths in float32.
const THREAD_OPERATIONS: f64 = 5e10;
const GPU_OPERATIONS: f64 = 4e14;
const GPU_FLOAT32_OPERATIONS: f64 = 4e13;

/// Operations a second that are assumed of a rank of which nothing is known.
pub(crate) fn assumed_operations(facts: &Facts) -> f64 {
    match (facts.host.is_gpu, facts.training.dtype) {
        (false, _) => THREAD_OPERATIONS * facts.training.threads.max(1) as f64,
        (true, Dtype::Float32) => GPU_FLOAT32_OPERATIONS,
        (true, Dtype::Bfloat16 | Dtype::Float16) => GPU_OPERATIONS,
    }
}

/// A link, as given or assumed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pace {
    /// 10^9 bits a second.
    pub gbps: f64,
    /// Milliseconds one way.
    pub ms: f64,
    /// Nothing was said of it.
    pub is_assumed: bool,
}

impl Pace {
    fn new(link: Link, (gbps, ms): (f64, f64)) -> Self {
        let link = usable(link);
        Self {
            gbps: link.gbps.unwrap_or(gbps),
            ms: link.ms.unwrap_or(ms),
            is_assumed: link.gbps.is_none() && link.ms.is_none(),
        }
    }

    /// Seconds that so many bytes take.
    pub fn transfer(self, bytes: f64) -> f64 {
        bytes / (self.gbps * 1e9 / 8.0)
    }

    /// Seconds that a message takes however short it is.
    pub fn latency(self) -> f64 {
        self.ms / 1e3
    }
}

/// What is a number that a link can have.
fn usable(link: Link) -> Link {
    Link {
        gbps: link.gbps.filter(|gbps| gbps.is_finite() && *gbps > 0.0),
        ms: link.ms.filter(|ms| ms.is_finite() && *ms >= 0.0),
    }
}

/// The links of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Network {
    /// Within a host.
    pub local: Pace,
    /// Between hosts.
    pub between: Pace,
    /// G, ranks on a host.
    per_host: u64,
}

/// Ranks whose numbers follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    /// How many.
    pub ranks: u64,
    /// Hosts that they are on.
    pub hosts: u64,
}

impl Group {
    /// Links between hosts among the n − 1 that a piece passes on a ring.
    fn crossings(self) -> u64 {
        if self.hosts < 2 { 0 } else { self.hosts.min(self.others()) }
    }

    fn others(self) -> u64 {
        self.ranks.saturating_sub(1)
    }
}

impl Network {
    /// As given, or assumed. What is said of links between hosts holds within a host too, unless more is said of those;
    /// what is said of links within a host does not hold between hosts, which are never faster.
    pub fn of(facts: &Facts) -> Self {
        let (local, between) = (usable(facts.local_link), usable(facts.link));
        let assumed = if facts.host.is_gpu { (GPU_LOCAL_LINK, GPU_LINK) } else { (CPU_LINK, CPU_LINK) };
        let local = Link { gbps: local.gbps.or(between.gbps), ms: local.ms.or(between.ms) };
        Self {
            local: Pace::new(local, assumed.0),
            between: Pace::new(between, assumed.1),
            per_host: facts.ranks.on_host.max(1),
        }
    }

    /// Some rank of so many has a neighbour on its host.
    pub fn is_local_used(&self, ranks: u64) -> bool {
        ranks > 1 && self.per_host > 1
    }

    /// All of so many ranks.
    pub fn all(&self, ranks: u64) -> Group {
        Group { ranks, hosts: ranks.div_ceil(self.per_host) }
    }

    /// The shard group, of all those of a run of so many ranks, that is on the most hosts.
    ///
    /// Groups begin at multiples of S, so at multiples of g = gcd(S, G) within a host, and at worst g ranks before its
    /// end: then ⌈(G − g + S) / G⌉ hosts are touched. Where S divides G, that is one.
    pub fn shard_group(&self, shards: u64, ranks: u64) -> Group {
        let at_worst = self.per_host - greatest_common_divisor(shards.max(1), self.per_host);
        let hosts = at_worst.saturating_add(shards).div_ceil(self.per_host);
        Group { ranks: shards, hosts: hosts.min(self.all(ranks).hosts) }
    }

    /// The slowest link that a group goes over.
    pub fn pace(&self, group: Group) -> Pace {
        if group.hosts > 1 { self.between } else { self.local }
    }

    /// Latency of the n − 1 links that a piece passes on a ring.
    pub fn ring_latency(&self, group: Group) -> f64 {
        let crossings = group.crossings();
        let local = group.others() - crossings;
        local as f64 * self.local.latency() + crossings as f64 * self.between.latency()
    }

    /// Latency of ⌈log2 n⌉ exchanges at distances 1, 2, 4 …: of those within a host where 2·distance divides G.
    pub fn doubling_latency(&self, group: Group) -> f64 {
        let doublings = u64::from(u64::BITS - group.others().leading_zeros());
        let local = match group.hosts {
            0 | 1 => doublings,
            _ => doublings.min(u64::from(self.per_host.trailing_zeros())),
        };
        local as f64 * self.local.latency() + (doublings - local) as f64 * self.between.latency()
    }

    /// The slowest link between a rank of stage `stage` − 1 and its neighbour in `stage`, where a stage has so many ranks.
    ///
    /// Neighbours' numbers differ by R·S. With i from 0 to R·S − 1, (stage − 1)·R·S + i and stage·R·S + i are on two hosts
    /// where a multiple of G is above the first and not above the second.
    pub fn stage_boundary(&self, stage: u64, ranks_a_stage: u64) -> Pace {
        let first = stage.saturating_sub(1).saturating_mul(ranks_a_stage);
        let last = stage.saturating_add(1).saturating_mul(ranks_a_stage).saturating_sub(1);
        if last / self.per_host > first / self.per_host { self.between } else { self.local }
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(per_host: u64) -> Network {
        let pace = |gbps, ms| Pace { gbps, ms, is_assumed: false };
        Network { local: pace(80.0, 1.0), between: pace(8.0, 1000.0), per_host }
    }

    #[test]
    fn rings_cross_as_many_hosts_as_they_touch() {
        for (per_host, ranks, local, between) in [
            (8, 1, 0, 0),
            (8, 8, 7, 0),
            (8, 16, 13, 2),
            // Seven hosts' links within, and eight between: one of the 64 is not passed.
            (8, 64, 55, 8),
            (1, 4, 0, 3),
            (8, 9, 6, 2),
        ] {
            let network = network(per_host);
            let group = network.all(ranks);
            let expected = f64::from(local) * 1e-3 + f64::from(between);
            assert!((network.ring_latency(group) - expected).abs() < 1e-9, "{per_host} {ranks}");
            let gbps = if between > 0 { 8.0 } else { 80.0 };
            assert!(ranks == 1 || network.pace(group).gbps == gbps, "{per_host} {ranks}");
        }
    }

    #[test]
    fn exchanges_at_a_distance_leave_the_host() {
        for (per_host, ranks, local, between) in
            [(8, 8, 3, 0), (8, 64, 3, 3), (6, 12, 1, 3), (1, 4, 0, 2), (8, 1, 0, 0), (8, 5, 3, 0)]
        {
            let network = network(per_host);
            let expected = f64::from(local) * 1e-3 + f64::from(between);
            let latency = network.doubling_latency(network.all(ranks));
            assert!((latency - expected).abs() < 1e-9, "{per_host} {ranks}: {latency}");
        }
    }

    proptest! {
        /// Against every group, rank by rank.
        #[test]
        fn groups_are_where_their_ranks_are(
            per_host in 1_u64..10, copies in 1_u64..5, shards in 1_u64..12, stages in 1_u64..5,
        ) {
            let (network, ranks) = (network(per_host), copies * shards * stages);
            let host = |rank: u64| rank / per_host;
            let touched = (0..ranks / shards).map(|at| host((at + 1) * shards - 1) - host(at * shards) + 1);
            let (most, group) = (touched.max().unwrap_or(0), network.shard_group(shards, ranks));
            // Where there are not enough groups to meet the worst place, a host more may be reckoned with.
            prop_assert_eq!(group.hosts > 1, most > 1);
            prop_assert!((most..=most + 1).contains(&group.hosts), "{} {most}", group.hosts);
            let each = copies * shards;
            for stage in 1..stages {
                let crosses = (0..each).any(|i| host((stage - 1) * each + i) != host(stage * each + i));
                let pace = if crosses { network.between } else { network.local };
                prop_assert_eq!(network.stage_boundary(stage, each), pace);
            }
        }
    }
}
