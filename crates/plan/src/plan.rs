use mesh::Degrees;
use serde::Serialize;

use crate::PlanError;
use crate::disk::Disk;
use crate::facts::{Dtype, Facts, PartitionKind};
use crate::groups::{FixedPointFormat, GroupSizes};
use crate::measurement::Measured;
use crate::memory::Memory;
use crate::ownership::{self, StagePlan};
use crate::parameters::Parameters;
use crate::ranking::{self, RankedMesh};
use crate::scaling::Scaling;
use crate::sections::{self, Section};
use crate::stage::Layout;
use crate::steps::Steps;
use crate::time::{self, Rates, Timing};
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
    /// Degrees of parallelism.
    #[serde(serialize_with = "ranking::degrees")]
    pub mesh: Degrees,
    /// Ranks compute on GPUs.
    pub is_gpu: bool,
    /// Compute threads a rank.
    pub threads: u64,
    /// Numbers of the model.
    pub parameters: Parameters,
    /// Group sizes.
    pub groups: GroupSizes,
    /// Format of the sums of θ's gradient.
    pub fixed_point: FixedPointFormat,
    /// What the ranks of each pipeline stage own.
    pub stages: Vec<StagePlan>,
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
    /// Seconds of a step by part, with what was given or assumed of machines and links.
    pub timing: Timing,
    /// What was taken from a measurement, where one was given; everything else about time is predicted.
    pub measured: Option<Measured>,
    /// The ranks beside one of them.
    pub scaling: Scaling,
    /// All meshes of so many ranks, the cheapest first.
    pub meshes: Vec<RankedMesh>,
    /// What is wrong or wasteful, worst first.
    pub warnings: Vec<Warning>,
}

impl Plan {
    /// The plan for `facts`. Whatever would make the run fail is a warning in it, so that the rest can be read.
    ///
    /// # Errors
    /// When the mesh is not one of the ranks given ([`PlanError::Mesh`]), or has more stages than the model has blocks
    /// ([`PlanError::Stages`]).
    pub fn new(facts: &Facts) -> Result<Self, PlanError> {
        let layout = Layout::new(facts)?;
        let steps = Steps::new(facts);
        let groups = GroupSizes::new(facts);
        let memory = Memory::of(&layout, facts);
        let rates = Rates::of(facts);
        let timing = Timing::new(facts, &layout, &steps, rates);
        let mut plan = Self {
            dtype: facts.training.dtype,
            d: facts.training.d,
            partition: facts.training.partition,
            isometric: facts.training.isometric,
            ranks: facts.ranks.total,
            mesh: layout.degrees,
            is_gpu: facts.host.is_gpu,
            threads: facts.training.threads,
            parameters: Parameters::new(&facts.model),
            fixed_point: groups.fixed_point(steps.micro_batches),
            groups,
            stages: ownership::of(facts, &layout, &steps, &memory),
            memory,
            traffic: Traffic::new(facts, &layout, &steps),
            disk: Disk::new(facts, &steps),
            work: Work::new(facts, &layout, &steps, &timing),
            measured: time::measured(facts),
            scaling: Scaling::new(facts, &steps, &timing, rates),
            timing,
            meshes: ranking::meshes(facts),
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

    /// The mesh of the plan, among all.
    pub fn ranked(&self) -> Option<&RankedMesh> {
        self.meshes.iter().find(|mesh| mesh.degrees == self.mesh)
    }

    /// The plan as text: sections of labels and values, at most 96 columns with two spaces between.
    pub fn sections(&self) -> Vec<Section> {
        sections::of(self)
    }
}
