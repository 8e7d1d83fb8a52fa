//! Decisions that all ranks take together, so that none waits for a peer that has already given up.

use comm::Communicator;

use crate::TrainError;

/// Collective: `Ok` on every rank or an error on every rank. The lowest rank that failed keeps its error to report
/// it; the others get [`TrainError::Elsewhere`].
pub(crate) fn agree<T>(comm: &dyn Communicator, result: Result<T, TrainError>) -> Result<T, TrainError> {
    let verdict = match &result {
        Ok(_) => vec![],
        Err(error) => vec![u8::from(error.is_input())],
    };
    let verdicts = comm.all_gather(&verdict);
    match verdicts.iter().position(|verdict| !verdict.is_empty()) {
        None => result,
        Some(rank) if rank == comm.rank() => result,
        Some(rank) => Err(TrainError::Elsewhere { rank, input: verdicts[rank][0] != 0 }),
    }
}

/// Collective: rank 0's value on every rank, or its error.
pub(crate) fn from_first(
    comm: &dyn Communicator,
    make: impl FnOnce() -> Result<Vec<u8>, TrainError>,
) -> Result<Vec<u8>, TrainError> {
    let mut bytes = agree(comm, if comm.rank() == 0 { make() } else { Ok(Vec::new()) })?;
    comm.broadcast(0, &mut bytes);
    Ok(bytes)
}

/// Collective: names the first rank whose facts are not rank 0's. Each fact is a name and a value.
pub(crate) fn same_everywhere(comm: &dyn Communicator, facts: &[(&str, String)]) -> Result<(), TrainError> {
    let mine: Vec<&str> = facts.iter().map(|(_, value)| value.as_str()).collect();
    let all = comm.all_gather(mine.join("\n").as_bytes());
    let Some(rank) = all.iter().position(|facts| *facts != all[0]) else { return Ok(()) };
    let (first, odd) = (String::from_utf8_lossy(&all[0]), String::from_utf8_lossy(&all[rank]));
    let differing = first.lines().zip(odd.lines()).position(|(a, b)| a != b);
    let what = differing.and_then(|at| facts.get(at)).map_or("start", |(name, _)| name);
    let error = TrainError::StartedDifferently { rank, what: what.to_owned() };
    agree(comm, Err(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use comm::Single;

    #[test]
    fn one_rank_agrees_with_itself() {
        assert!(matches!(agree(&Single, Ok(3)), Ok(3)));
        let error: Result<(), _> = agree(&Single, Err(TrainError::NoLabels { step: 1 }));
        assert!(matches!(error, Err(TrainError::NoLabels { step: 1 })));
        assert!(same_everywhere(&Single, &[("model", "a".to_owned())]).is_ok());
    }
}
