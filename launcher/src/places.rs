//! How many ranks, and where.

use crate::args::LaunchArgs;
use crate::backend::{Backend, Kind};
use crate::error::LaunchError;
use crate::hosts::{self, Host};
use crate::{gpus, report};

/// Where a run's ranks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The hosts with the ranks that each takes; none where none were named: this host, or the allocation.
    pub hosts: Vec<Host>,
    /// Hosts were named: where none is left, there is no place for ranks.
    pub named: bool,
    /// How many ranks.
    pub ranks: usize,
    /// Whether there are ranks on other hosts than this one.
    pub others: bool,
}

impl Places {
    /// Decides from what was asked for and what is there. Names of hosts are looked up, and hosts are reached.
    pub fn decide(args: &LaunchArgs, backend: &Backend) -> Result<Self, LaunchError> {
        let mut given = match (&args.hosts, &args.hostfile) {
            (Some(list), _) => hosts::of_list(list)?,
            (None, Some(path)) => hosts::of_file(path)?,
            (None, None) => Vec::new(),
        };
        if given.is_empty() {
            return Ok(if backend.kind == Kind::Slurm { in_allocation(args) } else { here(args) });
        }
        hosts::check_names(&given)?;
        let others = hosts::has_others(&given);
        fill_in_slots(&mut given, args.ranks);
        let slots: usize = given.iter().filter_map(|host| host.slots).sum();
        let ranks = args.ranks.unwrap_or(slots);
        if ranks > slots {
            let place = match given.len() {
                1 => "the host has room".to_owned(),
                count => format!("the {count} hosts have room"),
            };
            return Err(LaunchError::NotEnoughSlots { ranks, place, slots });
        }
        if others {
            hosts::check_reach(&given, &backend.agent())?;
        }
        Ok(Self { hosts: given, named: true, ranks, others })
    }

    /// How many ranks the hosts take; where none were named no limit is known but that of the start.
    pub fn slots(&self) -> usize {
        match self.named {
            true => self.hosts.iter().filter_map(|host| host.slots).sum(),
            false => self.ranks,
        }
    }

    /// Takes hosts out. Gives how many ranks they took.
    pub fn lose(&mut self, lost: &[String]) -> usize {
        let before = self.slots();
        self.hosts.retain(|host| !lost.iter().any(|name| hosts::is_same_name(name, &host.name)));
        before - self.slots()
    }
}

/// Where it was not said how many ranks a host takes: as many as there are GPUs here, or as `-n` needs.
fn fill_in_slots(given: &mut [Host], ranks: Option<usize>) {
    if given.iter().all(|host| host.slots.is_some()) {
        return;
    }
    let found = gpus::count();
    let (slots, why) = match ranks {
        _ if found.count > 0 => (found.count, format!("as many as this machine has GPUs ({})", found.source)),
        Some(ranks) => (ranks.div_ceil(given.len()), "as -n asks for".to_owned()),
        None => (1, "there is no GPU here to go by".to_owned()),
    };
    report::note(&format!("hosts without a number take {} each: {why}", counted(slots)));
    given.iter_mut().for_each(|host| host.slots = host.slots.or(Some(slots)));
}

fn here(args: &LaunchArgs) -> Places {
    let ranks = args.ranks.unwrap_or_else(|| {
        let found = gpus::count();
        match found.count {
            0 => {
                report::note("no GPU found: one rank, on the CPU; -n starts more");
                1
            }
            count => {
                report::note(&format!("{}, one a GPU ({})", counted(count), found.source));
                count
            }
        }
    });
    Places { hosts: Vec::new(), named: false, ranks, others: false }
}

fn in_allocation(args: &LaunchArgs) -> Places {
    let number = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok().filter(|number| *number > 0);
    let nodes = number("SLURM_JOB_NUM_NODES").or_else(|| number("SLURM_NNODES")).unwrap_or(1);
    let of_gpus = || number("SLURM_GPUS_ON_NODE").map(|gpus| gpus * nodes);
    let ranks = args.ranks.or_else(|| number("SLURM_NTASKS")).or_else(of_gpus).unwrap_or(nodes);
    report::note(&format!("{} on {nodes} node(s) of Slurm job {}", counted(ranks), job()));
    Places { hosts: Vec::new(), named: false, ranks, others: nodes > 1 }
}

fn job() -> String {
    std::env::var("SLURM_JOB_ID").unwrap_or_default()
}

/// `1 rank`, `4 ranks`.
pub fn counted(ranks: usize) -> String {
    if ranks == 1 { "1 rank".to_owned() } else { format!("{ranks} ranks") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_host_takes_its_slots() {
        let host = |name: &str, slots| Host { name: name.to_owned(), slots: Some(slots) };
        let given = vec![host("a", 4), host("b.example", 2), host("10.0.0.1", 1)];
        let mut places = Places { hosts: given, named: true, ranks: 7, others: true };
        assert_eq!(places.slots(), 7);
        assert_eq!(places.lose(&["b".to_owned()]), 2);
        assert_eq!((places.slots(), places.hosts.len()), (5, 2));
        assert_eq!(places.lose(&["c".to_owned(), "10.0.0.2".to_owned()]), 0);
        assert_eq!(places.lose(&["a".to_owned(), "10.0.0.1".to_owned()]), 5);
        assert_eq!(places.slots(), 0);
    }
}
