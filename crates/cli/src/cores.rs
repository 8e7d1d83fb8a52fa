//! Whether ranks have the cores that their threads need.

use comm::Communicator;

/// Cores that this process may run on, as its launcher bound it. None where the system does not tell.
pub fn bound_cores() -> Option<usize> {
    let set = rustix::thread::sched_getaffinity(None).ok()?;
    Some(set.count() as usize)
}

/// Collective: what to say when ranks have fewer cores than threads.
pub fn warning(threads: usize, comm: &dyn Communicator) -> Option<String> {
    let own = bound_cores().map_or(0, |cores| cores as u64);
    let number = |bytes: &Vec<u8>| bytes.as_slice().try_into().map_or(0, u64::from_le_bytes) as usize;
    let all: Vec<usize> = comm.all_gather(&own.to_le_bytes()).iter().map(number).collect();
    threads_warning(threads, &all)
}

/// The same from each rank's number of cores, 0 where it is not known.
pub fn threads_warning(threads: usize, cores: &[usize]) -> Option<String> {
    let short: Vec<usize> = cores.iter().copied().filter(|cores| (1..threads).contains(cores)).collect();
    let fewest = short.iter().min()?;
    let all = cores.len();
    let who = match short.len() {
        1 if all == 1 => "this process".to_owned(),
        few if few == all => format!("each of the {all} ranks"),
        few => format!("{few} of {all} ranks"),
    };
    let cores = if *fewest == 1 { "1 core".to_owned() } else { format!("{fewest} cores") };
    Some(format!(
        "--threads {threads}, but {who} may run on {cores} only, which is slower than as many threads as cores; \
         give `--bind-to none` to mpirun (it binds each rank to one core by itself) or lower --threads"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_short_of_cores_are_counted() {
        assert_eq!(threads_warning(1, &[1, 1]), None);
        assert_eq!(threads_warning(4, &[4, 8, 0]), None);
        let said = |threads, cores| threads_warning(threads, cores).unwrap_or_default();
        assert!(said(2, &[1]).starts_with("--threads 2, but this process may run on 1 core only"));
        assert!(said(4, &[1, 1]).contains("each of the 2 ranks may run on 1 core only"));
        assert!(said(4, &[8, 3, 2]).contains("2 of 3 ranks may run on 2 cores only"));
        assert!(said(2, &[1]).contains("`--bind-to none`"));
    }
}
