//! Landlock: which files, ports and processes the daemon may still reach, which is nearly none.
//!
//! What is open already is not affected. Called once, by [`super::Sandbox`], before there are threads.

use std::path::Path;

use healthz::server::Address;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CreateRulesetError, LandlockStatus, PathBeneath,
    PathFd, PathFdError, RestrictSelfError, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

use crate::daemon::options::Options;

/// The last version whose rights were read one by one. A later one knows the right to reach a Unix
/// socket by its path, and that is how a service manager is told.
const KNOWN: ABI = ABI::V7;

/// Restricts this thread and those that it will start. As much as the kernel has: on one before 6.7
/// ports are not restricted, on one before 6.12 signals are not; the filter does without those calls
/// anyway.
///
/// # Errors
/// If there is no Landlock at all.
pub fn restrict(options: &Options) -> Result<(), String> {
    let status = apply(options)?;
    match status.landlock {
        LandlockStatus::Available { .. } => Ok(()),
        LandlockStatus::NotEnabled => Err("this kernel has it switched off".to_owned()),
        LandlockStatus::NotImplemented => Err("this kernel has none".to_owned()),
    }
}

fn apply(options: &Options) -> Result<RestrictionStatus, String> {
    let mut scope = BitFlags::from(Scope::Signal);
    // A service manager with such a name is outside.
    if super::manager() != Some(b'@') {
        scope |= Scope::AbstractUnixSocket;
    }
    let create = || {
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::from_all(KNOWN))?;
        ruleset.scope(scope)?.create()
    };
    let add = |mut ruleset: RulesetCreated| {
        for address in &options.listen {
            if let Address::Unix(path) = address {
                // Its file is removed at the end.
                let directory = PathFd::new(directory_of(path))?;
                ruleset = ruleset.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
            }
        }
        Ok(ruleset.restrict_self()?)
    };
    create().map_err(Into::into).and_then(add).map_err(refused)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// In the system's words. (The crate's own are a hundred, and take 8 KiB of program.)
fn refused(error: Error) -> String {
    match error {
        Error::Ruleset(RulesetError::CreateRuleset(CreateRulesetError::CreateRulesetCall {
            source,
            ..
        }))
        | Error::Ruleset(RulesetError::RestrictSelf(RestrictSelfError::RestrictSelfCall {
            source,
            ..
        }))
        | Error::Path(PathFdError::OpenCall { source, .. }) => source.to_string(),
        _ => "this kernel refuses the rules".to_owned(),
    }
}

enum Error {
    Ruleset(RulesetError),
    Path(PathFdError),
}

impl From<RulesetError> for Error {
    fn from(error: RulesetError) -> Self {
        Error::Ruleset(error)
    }
}

impl From<PathFdError> for Error {
    fn from(error: PathFdError) -> Self {
        Error::Path(error)
    }
}
