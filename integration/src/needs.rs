//! What a suite needs of the machine, and what happens where it is not there: one SKIPPED line with the reason, or,
//! where the environment variable `REQUIRE` names it, a failure. A skip never looks like a pass.

use std::{env, path::Path, process::Command};

use crate::guest::Kernel;

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// User id 0.
    Root,
    /// A free loop device.
    Loop,
    /// SeaweedFS's program, in `WEED` or on the PATH.
    Weed,
    /// kubectl on the PATH.
    Kubectl,
    /// `/dev/fuse` and fusermount3.
    Fuse,
    /// The venv of `integration/contract/requirements.txt`, with Spectral in it, in `CONTRACT_TOOLS`.
    Contract,
    /// grpcurl on the PATH.
    Grpcurl,
    /// QEMU, and the guest's images, in `SMART_STORAGE_GUEST`.
    Guest,
}

/// What every suite over a whole instance needs.
pub const INSTANCE: [Need; 3] = [Need::Root, Need::Loop, Need::Weed];

/// What every suite over guests needs.
pub const GUEST: [Need; 4] = [Need::Root, Need::Loop, Need::Weed, Need::Guest];

impl Need {
    /// Its name in `REQUIRE`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Loop => "loop",
            Self::Weed => "weed",
            Self::Kubectl => "kubectl",
            Self::Fuse => "fuse",
            Self::Contract => "contract",
            Self::Grpcurl => "grpcurl",
            Self::Guest => "guest",
        }
    }

    /// Why it is not there, or nothing where it is.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let reason = match self {
            Self::Root if nix::unistd::geteuid().is_root() => return None,
            Self::Root => "not root".to_owned(),
            Self::Loop => {
                let free = Command::new("losetup").arg("--find").output();
                match free {
                    Ok(output) if output.status.success() => return None,
                    Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                    Err(error) => format!("losetup: {error}"),
                }
            }
            Self::Weed => {
                let weed = env::var_os("WEED").unwrap_or_else(|| "weed".into());
                return answers(Command::new(weed).arg("version"), "weed (set WEED)");
            }
            Self::Kubectl => {
                return answers(Command::new("kubectl").args(["version", "--client"]), "kubectl");
            }
            Self::Fuse if !Path::new("/dev/fuse").exists() => "there is no /dev/fuse".to_owned(),
            Self::Fuse => return answers(Command::new("fusermount3").arg("-V"), "fusermount3"),
            Self::Contract => {
                let folder = env::var_os("CONTRACT_TOOLS").unwrap_or_default();
                let program = |name| Command::new(Path::new(&folder).join("bin").join(name));
                let name =
                    "schemathesis and spectral (integration/test installs them; CONTRACT_TOOLS says where)";
                return answers(program("schemathesis").arg("--version"), name)
                    .or_else(|| answers(program("spectral").arg("--version"), name));
            }
            Self::Grpcurl => {
                let name = "grpcurl (go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.8.9)";
                return answers(Command::new("grpcurl").arg("-version"), name);
            }
            Self::Guest => {
                let folder = env::var_os("SMART_STORAGE_GUEST").unwrap_or_default();
                let image = |kernel: Kernel| Path::new(&folder).join(kernel.line()).join("stamp");
                let name = "qemu-system-x86_64 (Debian: qemu-system-x86, 8 or newer)";
                match Kernel::ALL.into_iter().map(image).find(|image| !image.exists()) {
                    Some(image) => format!("no {} (integration/guest/build makes it)", image.display()),
                    None => return answers(Command::new("qemu-system-x86_64").arg("--version"), name),
                }
            }
        };
        Some(reason)
    }
}

fn answers(command: &mut Command, name: &str) -> Option<String> {
    match command.output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("{name} ended with {}", output.status)),
        Err(error) => Some(format!("{name}: {error}")),
    }
}

/// Whether `suite` has to be left out here; says so on standard output.
///
/// # Errors
/// What is missing is named in `REQUIRE`.
pub fn skipped(suite: &str, needs: &[Need]) -> anyhow::Result<bool> {
    let required = env::var("REQUIRE").unwrap_or_default();
    for need in needs {
        let Some(reason) = need.missing() else { continue };
        let name = need.name();
        if required.split(',').any(|wanted| wanted.trim() == name) {
            anyhow::bail!("{suite} needs {name}, which REQUIRE names: {reason}");
        }
        println!("SKIPPED {suite}: needs {name}: {reason}");
        return Ok(true);
    }
    Ok(false)
}
