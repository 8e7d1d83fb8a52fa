use mesh::Mesh;
use serde::Serialize;

use crate::PlanError;
use crate::disk::Disk;
use crate::facts::{Dtype, Facts, PartitionKind};
use crate::groups::{FixedPointFormat, GroupSizes};
use crate::memory::Memory;
use crate::parameters::Parameters;
use crate::sections::{self, Section};
use crate::steps::Steps;
use crate::traffic::Traffic;
use crate::warnings::{self, Level, Warning};
use crate::work::Work;

/// What a run will need, move and take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Compute dtype.
    pub dtype: Dtype,
    /// Length of θ.
    pub d: u64,
    /// How the partition is made.
    pub partition: PartitionKind,
    /// ‖ΔW‖ = ‖θ‖.
    pub isometric: bool,
    /// Ranks of the run.
    pub ranks: u64,
    /// Compute threads a rank.
    pub threads: u64,
    /// Numbers of the model.
    pub parameters: Parameters,
    /// Group sizes.
    pub groups: GroupSizes,
    /// Format of the sums of θ's gradient.
    pub fixed_point: FixedPointFormat,
    /// Bytes of a rank and of the host.
    pub memory: Memory,
    /// Bytes moved in a step.
    pub traffic: Traffic,
    /// Bytes on disk.
    pub disk: Disk,
    /// Length of the run.
    pub steps: Steps,
    /// Arithmetic and time.
    pub work: Work,
    /// What is wrong or wasteful, worst first.
    pub warnings: Vec<Warning>,
}

impl Plan {
    /// The plan for `facts`. Whatever would make the run fail is a warning in it, so that the rest can be read.
    ///
    /// # Errors
    /// When the mesh is not one of the ranks given ([`PlanError::Mesh`]), or has an axis other than replicas.
    pub fn new(facts: &Facts) -> Result<Self, PlanError> {
        let degrees = facts.ranks.mesh;
        Mesh::new(degrees, usize::try_from(facts.ranks.total).unwrap_or(usize::MAX))?;
        if degrees.dp_shard != 1 || degrees.pp != 1 {
            return Err(PlanError::Axis { dp_shard: degrees.dp_shard, pp: degrees.pp });
        }
        let steps = Steps::new(facts);
        let groups = GroupSizes::new(facts);
        let mut plan = Self {
            dtype: facts.training.dtype,
            d: facts.training.d,
            partition: facts.training.partition,
            isometric: facts.training.isometric,
            ranks: facts.ranks.total,
            threads: facts.training.threads,
            parameters: Parameters::new(&facts.model),
            fixed_point: groups.fixed_point(steps.micro_batches),
            groups,
            memory: Memory::new(facts),
            traffic: Traffic::new(facts, &steps),
            disk: Disk::new(facts, &steps),
            work: Work::new(facts, &steps),
            steps,
            warnings: Vec::new(),
        };
        plan.warnings = warnings::of(&plan, facts);
        Ok(plan)
    }

    /// Something in the settings would be refused by a run.
    pub fn is_refused(&self) -> bool {
        self.warnings.iter().any(|warning| warning.level == Level::Refusal)
    }

    /// The plan as text: sections of labels and values, at most 96 columns with two spaces between.
    pub fn sections(&self) -> Vec<Section> {
        sections::of(self)
    }
}
