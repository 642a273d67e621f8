//! Where a request for storage goes: over the classes and pools there are, or why each of them refuses.
//!
//! Candidates pass a chain of named filters ([`filters`]) and are then ranked by weighted scorers ([`scorers`]);
//! the best one wins, ties go by name. A refusal is part of the answer: every class and pool that could not serve
//! is there with its reasons, and where no pool of the type exists, every drive is. It never reserves anything:
//! that is one conditional update elsewhere, which may still fail and be tried again.

pub mod filters;
pub mod queue;
pub mod scorers;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    bytes::format_bytes,
    classify::{Judgement, Tier},
    drive::{DriveType, NodeName, PoolName, words},
    volume::{Cost, cost},
};

words! {
    /// What kind of storage is asked for.
    StorageType {
        /// A block device.
        Block = "block",
        /// A file system.
        File = "file",
        /// Buckets.
        Object = "object",
    }
}

words! {
    /// What speed is asked for.
    ServiceTier {
        /// Ultra-fast drives or fast NVMe.
        Hot = "hot",
        /// At least standard SSDs.
        Warm = "warm",
        /// Anything, cheapest first.
        Cold = "cold",
        /// By type and by what is free.
        Auto = "auto",
    }
}

words! {
    /// A program that stores.
    BackendKind {
        /// Block.
        Mayastor = "mayastor",
        /// File.
        Seaweedfs = "seaweedfs",
        /// Object.
        Rustfs = "rustfs",
    }
}

impl StorageType {
    /// The backend that serves the type where nobody says another.
    #[must_use]
    pub const fn default_backend(self) -> BackendKind {
        match self {
            Self::Block => BackendKind::Mayastor,
            Self::File => BackendKind::Seaweedfs,
            Self::Object => BackendKind::Rustfs,
        }
    }
}

impl ServiceTier {
    /// Whether drives of a tier may serve it.
    #[must_use]
    pub fn takes(self, tier: Option<Tier>) -> bool {
        match self {
            Self::Hot => tier.is_some_and(|tier| tier >= Tier::FastNvme),
            Self::Warm => tier.is_some_and(|tier| tier >= Tier::StandardSsd),
            Self::Cold | Self::Auto => true,
        }
    }

    /// What it asks of drives, in words.
    #[must_use]
    pub const fn wants(self) -> &'static str {
        match self {
            Self::Hot => "ultraFast or fastNvme",
            Self::Warm => "standardSsd or faster",
            Self::Cold | Self::Auto => "any",
        }
    }
}

words! {
    /// How data outlives a drive.
    RedundancyKind {
        /// It does not.
        None = "none",
        /// Whole copies.
        Replication = "replication",
        /// Data and parity pieces.
        ErasureCoding = "erasureCoding",
    }
}

/// How many failures data must outlive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Redundancy {
    /// How.
    #[serde(rename = "type")]
    pub kind: RedundancyKind,
    /// Copies, for replication; 0 is read as 1.
    pub replication_factor: u32,
    /// `data+parity`, for erasure coding.
    pub ec_policy: String,
    /// Fewest fault domains that the copies lie in.
    pub min_fault_domains: u32,
}

impl Default for Redundancy {
    fn default() -> Self {
        Self {
            kind: RedundancyKind::None,
            replication_factor: 1,
            ec_policy: String::new(),
            min_fault_domains: 0,
        }
    }
}

impl Redundancy {
    /// Whole copies that are stored.
    #[must_use]
    pub fn copies(&self) -> u32 {
        match self.kind {
            RedundancyKind::Replication => self.replication_factor.max(1),
            RedundancyKind::None | RedundancyKind::ErasureCoding => 1,
        }
    }
}

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Block, file or object.
    pub storage_type: StorageType,
    /// Bytes.
    pub capacity_bytes: u64,
    /// Speed; `Auto` where nothing is said.
    pub tier: ServiceTier,
    /// The class, where one is named.
    pub class: Option<String>,
    /// Redundancy, where it is said; else the class's.
    pub redundancy: Option<Redundancy>,
    /// Labels that the pool must have.
    pub labels: BTreeMap<String, String>,
    /// Name of the volume that it is for; empty where nothing will be made. What is reserved for it is not in its way.
    pub volume: String,
}

/// What users may ask for: a UnifiedStorageClass, or the implicit one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Its name; empty for the implicit class.
    pub name: String,
    /// Its type; none where the claim says which (`auto`).
    pub storage_type: Option<StorageType>,
    /// Its speed.
    pub tier: ServiceTier,
    /// Its backend, where it names one.
    pub backend: Option<BackendKind>,
    /// Labels that the pool must have.
    pub pool_labels: BTreeMap<String, String>,
    /// Redundancy of its volumes.
    pub redundancy: Redundancy,
    /// Type of drives that it asks for.
    pub drive_type: Option<DriveType>,
    /// Whether it serves requests that name no class.
    pub is_default: bool,
}

impl Class {
    /// The class that a request makes for itself where none fits.
    #[must_use]
    pub fn implicit(request: &Request) -> Self {
        Self {
            name: String::new(),
            storage_type: Some(request.storage_type),
            tier: request.tier,
            backend: None,
            pool_labels: BTreeMap::new(),
            redundancy: Redundancy::default(),
            drive_type: None,
            is_default: false,
        }
    }

    /// The class in words.
    #[must_use]
    pub fn words(&self) -> String {
        if self.name.is_empty() {
            "the implicit class".to_owned()
        } else {
            format!("class {}", self.name)
        }
    }
}

/// A pool as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// What it serves.
    pub pool_type: StorageType,
    /// By what.
    pub backend: BackendKind,
    /// Labels of the UnifiedPool.
    pub labels: BTreeMap<String, String>,
    /// Whether it takes new volumes: Ready, Expanding or Degraded with members online.
    pub accepting: bool,
    /// Where it does not accept: why.
    pub not_accepting_because: String,
    /// Types of its drives.
    pub drive_types: Vec<DriveType>,
    /// Tier of its slowest drive; none where some drive has none.
    pub slowest_tier: Option<Tier>,
    /// Members that serve now.
    pub members_online: u32,
    /// Fault domains of those members.
    pub fault_domains: u32,
    /// Bytes that may be promised: the slots of its members times the slot size.
    pub capacity_bytes: u64,
    /// Bytes promised.
    pub promised_bytes: u64,
    /// What of that is reserved for volumes that are not written yet, by name.
    pub reserved: BTreeMap<String, u64>,
    /// Size of a slot in bytes; 1 for a backend without slots.
    pub slot_bytes: u64,
}

impl Pool {
    /// Bytes that can still be promised.
    #[must_use]
    pub const fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.promised_bytes)
    }

    /// Bytes promised to others than this volume.
    #[must_use]
    pub fn promised_to_others(&self, volume: &str) -> u64 {
        let own = self.reserved.get(volume).copied().unwrap_or(0);
        self.promised_bytes.saturating_sub(own)
    }
}

/// A drive as a refusal names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveView {
    /// Its node.
    pub node: NodeName,
    /// Kernel name now.
    pub device: String,
    /// Size in bytes, where it is known.
    pub size_bytes: Option<u64>,
    /// What was judged of it.
    pub judgement: Judgement,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The class; its name is empty for the implicit one.
    pub class: Class,
    /// The backend.
    pub backend: BackendKind,
    /// The pool.
    pub pool: PoolName,
    /// Copies.
    pub replicas: u32,
    /// Redundancy as it will be.
    pub redundancy: Redundancy,
    /// What it takes of the pool.
    pub cost: Cost,
    /// Why this pool, scorer by scorer.
    pub reasons: Vec<String>,
    /// What else was looked at, and why it was not taken.
    pub refusals: Vec<Refusal>,
}

/// A candidate that cannot serve, and every reason why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `pool demo`, `class fast`, `drive worker-1/sda`, or the request itself.
    pub candidate: String,
    /// Reasons in words; each says what was asked, what there is, or what would help.
    pub reasons: Vec<String>,
}

impl Refusal {
    fn one(candidate: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            candidate: candidate.into(),
            reasons: vec![reason.into()],
        }
    }

    /// The refusal on one line.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{}: {}", self.candidate, self.reasons.join("; "))
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// It fits there.
    Placed(Box<Placed>),
    /// Nothing takes it now.
    Refused(Vec<Refusal>),
}

/// A request together with what class and cost it comes to on one pool.
#[derive(Debug, Clone, Copy)]
pub struct Fit<'a> {
    /// The request.
    pub request: &'a Request,
    /// The class that it is served by.
    pub class: &'a Class,
    /// Redundancy of the request, or else of the class.
    pub redundancy: &'a Redundancy,
    /// Speed of the request, or else of the class.
    pub tier: ServiceTier,
}

impl<'a> Fit<'a> {
    /// A request in a class.
    #[must_use]
    pub fn new(request: &'a Request, class: &'a Class) -> Self {
        let redundancy = request.redundancy.as_ref().unwrap_or(&class.redundancy);
        let tier = if request.tier == ServiceTier::Auto {
            class.tier
        } else {
            request.tier
        };
        Self {
            request,
            class,
            redundancy,
            tier,
        }
    }

    /// What it costs on a pool.
    #[must_use]
    pub fn cost(&self, pool: &Pool) -> Cost {
        cost(
            self.request.capacity_bytes,
            self.redundancy.copies(),
            pool.slot_bytes,
        )
    }
}

/// Places a request, or says why nothing takes it.
#[must_use]
pub fn place(request: &Request, classes: &[Class], pools: &[Pool], drives: &[DriveView]) -> Placement {
    let class = match resolve_class(request, classes) {
        Ok(class) => class,
        Err(refusals) => return Placement::Refused(refusals),
    };
    let fit = Fit::new(request, &class);
    let of_type: Vec<&Pool> = pools
        .iter()
        .filter(|pool| pool.pool_type == request.storage_type)
        .collect();
    if of_type.is_empty() {
        return Placement::Refused(no_pool(&fit, drives));
    }
    let mut refusals = Vec::new();
    let mut fitting: Vec<(u32, &Pool, Vec<String>)> = Vec::new();
    for pool in of_type {
        let reasons = filters::refuse(&fit, pool);
        if reasons.is_empty() {
            let (score, why) = scorers::score(&fit, pool);
            fitting.push((score, pool, why));
        } else {
            refusals.push(Refusal {
                candidate: format!("pool {}", pool.name),
                reasons,
            });
        }
    }
    fitting.sort_by(|a, b| (b.0, &a.1.name).cmp(&(a.0, &b.1.name)));
    refusals.sort_by(|a, b| a.candidate.cmp(&b.candidate));
    let Some((score, pool, reasons)) = fitting.first() else {
        return Placement::Refused(refusals);
    };
    let behind = fitting.iter().skip(1).map(|(other, pool, _)| {
        Refusal::one(
            format!("pool {}", pool.name),
            format!("would serve, but scores {other} and not {score}"),
        )
    });
    refusals.extend(behind);
    Placement::Placed(Box::new(Placed {
        backend: pool.backend,
        pool: pool.name.clone(),
        replicas: fit.redundancy.copies(),
        redundancy: fit.redundancy.clone(),
        cost: fit.cost(pool),
        reasons: reasons.clone(),
        refusals,
        class: class.clone(),
    }))
}

/// The class that a request is served by: the one it names; else the default of its type; else the only one that
/// fits; else one made of the request itself.
///
/// # Errors
/// Where the named class does not exist or does not serve the request.
pub fn resolve_class(request: &Request, classes: &[Class]) -> Result<Class, Vec<Refusal>> {
    if let Some(name) = request.class.as_deref().filter(|name| !name.is_empty()) {
        let Some(class) = classes.iter().find(|class| class.name == name) else {
            return Err(vec![Refusal::one(
                format!("class {name}"),
                "there is no class of this name",
            )]);
        };
        let reasons = filters::refuse_class(request, class);
        if reasons.is_empty() {
            return Ok(class.clone());
        }
        return Err(vec![Refusal {
            candidate: format!("class {name}"),
            reasons,
        }]);
    }
    let mut fitting: Vec<&Class> = classes
        .iter()
        .filter(|class| filters::refuse_class(request, class).is_empty())
        .collect();
    // A class for this very type comes before one for any type; then by name, so that two defaults are no dice.
    fitting.sort_by_key(|class| (class.storage_type.is_none(), &class.name));
    if let Some(class) = fitting.iter().find(|class| class.is_default) {
        return Ok((*class).clone());
    }
    match fitting.as_slice() {
        [only] => Ok((*only).clone()),
        _ => Ok(Class::implicit(request)),
    }
}

/// No pool of the type exists: says what drives there are, and why each cannot serve.
fn no_pool(fit: &Fit<'_>, drives: &[DriveView]) -> Vec<Refusal> {
    let kind = fit.request.storage_type;
    let mut refusals = vec![Refusal::one(
        format!(
            "{kind} storage, {} (tier {})",
            format_bytes(fit.request.capacity_bytes),
            fit.tier
        ),
        format!("no UnifiedPool of type {kind} exists; drives by node follow"),
    )];
    let mut sorted: Vec<&DriveView> = drives.iter().collect();
    sorted.sort_by(|a, b| (&a.node, &a.device, &a.judgement.id).cmp(&(&b.node, &b.device, &b.judgement.id)));
    for drive in sorted {
        let mut reasons = filters::refuse_drive(fit, drive);
        if reasons.is_empty() {
            reasons.push(format!(
                "could serve: create a UnifiedPool of type {kind} that selects it"
            ));
        }
        refusals.push(Refusal {
            candidate: filters::drive_words(drive),
            reasons,
        });
    }
    if drives.is_empty() {
        refusals.push(Refusal::one("drives", "no node has reported any drive"));
    }
    refusals
}

#[cfg(test)]
mod tests;
