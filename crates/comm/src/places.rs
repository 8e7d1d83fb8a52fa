//! Which host a rank is on, and its number there.

use serde::{Deserialize, Serialize};

use crate::{Communicator, local_rank_by_launcher};

/// Where a rank is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Name of its host.
    pub host: String,
    /// Number of its host, in the order of each host's first rank.
    pub host_number: usize,
    /// Its number among the ranks of its host.
    pub local_rank: usize,
    /// How many ranks its host has.
    pub ranks_on_host: usize,
}

/// What a rank says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    host: String,
    /// The kernel's own name for its life since it was started: tells hosts apart that share a name.
    boot: String,
    local_rank: Option<usize>,
}

/// Name of this host.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Collective: where every rank is, by rank.
///
/// Local ranks are the launcher's where those of a host are 0, 1, 2, … in some order, and counted otherwise.
pub fn places(comm: &dyn Communicator) -> Vec<Place> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let own = Claim { host: host_name(), boot, local_rank: local_rank_by_launcher() };
    let all = comm.all_gather(&serde_json::to_vec(&own).unwrap_or_default());
    // A claim that cannot be read stands for a host of its own.
    let claim = |(rank, bytes): (usize, &Vec<u8>)| {
        let nameless = Claim { host: format!("rank {rank}"), boot: String::new(), local_rank: None };
        serde_json::from_slice(bytes).unwrap_or(nameless)
    };
    seat(&all.iter().enumerate().map(claim).collect::<Vec<Claim>>())
}

fn seat(claims: &[Claim]) -> Vec<Place> {
    let host_of = |claim: &Claim| (claim.host.clone(), claim.boot.clone());
    let mut hosts = Vec::new();
    for claim in claims {
        if !hosts.contains(&host_of(claim)) {
            hosts.push(host_of(claim));
        }
    }
    let place = |(rank, claim): (usize, &Claim)| {
        let on_host: Vec<usize> =
            (0..claims.len()).filter(|other| host_of(&claims[*other]) == host_of(claim)).collect();
        let mut claimed: Vec<Option<usize>> = on_host.iter().map(|other| claims[*other].local_rank).collect();
        claimed.sort_unstable();
        let is_whole = claimed.iter().enumerate().all(|(number, claimed)| *claimed == Some(number));
        let counted = on_host.iter().position(|other| *other == rank).unwrap_or(0);
        Place {
            host: claim.host.clone(),
            host_number: hosts.iter().position(|host| *host == host_of(claim)).unwrap_or(0),
            local_rank: claim.local_rank.filter(|_| is_whole).unwrap_or(counted),
            ranks_on_host: on_host.len(),
        }
    };
    claims.iter().enumerate().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(claims: &[(&str, &str, Option<usize>)]) -> Vec<(usize, usize, usize)> {
        let claim = |(host, boot, local_rank): &(&str, &str, Option<usize>)| Claim {
            host: (*host).to_owned(),
            boot: (*boot).to_owned(),
            local_rank: *local_rank,
        };
        let places = seat(&claims.iter().map(claim).collect::<Vec<Claim>>());
        places.iter().map(|place| (place.host_number, place.local_rank, place.ranks_on_host)).collect()
    }

    #[test]
    fn ranks_are_numbered_on_their_hosts() {
        let by_launcher =
            [("a", "1", Some(1)), ("b", "2", Some(0)), ("a", "1", Some(0)), ("b", "2", Some(1))];
        assert_eq!(seats(&by_launcher), [(0, 1, 2), (1, 0, 2), (0, 0, 2), (1, 1, 2)]);
        let by_counting = [("a", "1", None), ("b", "2", None), ("a", "1", None)];
        assert_eq!(seats(&by_counting), [(0, 0, 2), (1, 0, 1), (0, 1, 2)]);
    }

    /// Variables that a batch script handed on are the same on every rank; hosts may share a name.
    #[test]
    fn numbers_that_cannot_be_are_not_believed() {
        let inherited = [("a", "1", Some(0)), ("a", "1", Some(0)), ("a", "1", Some(0))];
        assert_eq!(seats(&inherited), [(0, 0, 3), (0, 1, 3), (0, 2, 3)]);
        let same_name = [("localhost", "1", Some(0)), ("localhost", "2", Some(0))];
        assert_eq!(seats(&same_name), [(0, 0, 1), (1, 0, 1)]);
        assert_eq!(seats(&[("a", "1", Some(7))]), [(0, 0, 1)]);
    }

    #[test]
    fn a_lone_rank_is_the_first_of_its_host() {
        let places = places(&crate::Single);
        assert_eq!(places.len(), 1);
        assert_eq!((places[0].local_rank, places[0].ranks_on_host), (0, 1));
        assert_eq!(places[0].host, host_name());
    }
}
